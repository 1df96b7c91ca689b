//! Which nodes need a daemon next, and which daemons go: one for every node that fits, all of the wanted template.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::daemon::{Daemon, by_age};
use super::nodes::{Fit, Node};
use crate::int_or_percent::scaled;
use crate::pods::{Phase, Pod};

/// Upstream's burst: how many pods one sync creates, and deletes, at most.
const BURST: usize = 250;

pub struct State<'a> {
    pub set: &'a DaemonSet,
    /// Of the wanted template.
    pub hash: &'a str,
    /// In the order of their names.
    pub nodes: &'a [(Arc<Node>, Fit)],
    pub daemons: &'a [Daemon],
    /// How long a node's failed daemon has to stay yet.
    pub wait: &'a dyn Fn(&str) -> Option<Duration>,
}

impl State<'_> {
    /// None: there is no such node.
    fn fit(&self, name: &str) -> Option<Fit> {
        let at = self.nodes.binary_search_by(|(node, _)| (*node.name).cmp(name)).ok()?;
        self.nodes.get(at).map(|(_, fit)| *fit)
    }
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes that get a daemon.
    pub create: Vec<Box<str>>,
    pub delete: Vec<Pod>,
    /// Those of the deleted that are over, with their nodes.
    pub over: Vec<(Pod, Box<str>)>,
    /// When a failed daemon may be replaced.
    pub again: Option<Duration>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

/// The daemons by their node. What is over and going is gone already.
pub fn by_node(daemons: &[Daemon]) -> BTreeMap<&str, Vec<&Daemon>> {
    let mut all: BTreeMap<&str, Vec<&Daemon>> = BTreeMap::new();
    for daemon in daemons.iter().filter(|d| !(d.pod.terminal() && d.deleting())) {
        all.entry(&daemon.node).or_default().push(daemon);
    }
    for daemons in all.values_mut() {
        daemons.sort_by(|a, b| by_age(&a.pod, &b.pod));
    }
    all
}

/// How many may be unavailable, and how many nodes may have two daemons, while the template changes.
struct Limits {
    unavailable: usize,
    surge: usize,
}

impl Limits {
    /// None: daemons are replaced only when somebody deletes them.
    fn of(set: &DaemonSet, wanted: usize) -> Option<Self> {
        let strategy = set.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let total = i32::try_from(wanted).unwrap_or(i32::MAX);
        let number = |value: Option<&IntOrString>| usize::try_from(scaled(value, total, true)).unwrap_or(0);
        let one = IntOrString::Int(1);
        let surge = number(rolling.and_then(|r| r.max_surge.as_ref()));
        let unavailable = number(rolling.map_or(Some(&one), |r| r.max_unavailable.as_ref()));
        // With neither, nothing could ever move.
        let unavailable = if wanted > 0 && surge == 0 { unavailable.max(1) } else { unavailable };
        Some(Self { unavailable, surge })
    }
}

pub fn plan(state: &State<'_>, now: Timestamp) -> Plan {
    let by_node = by_node(state.daemons);
    let wanted = state.nodes.iter().filter(|(_, fit)| fit.run).count();
    let limits = Limits::of(state.set, wanted);
    let surging = limits.as_ref().is_some_and(|limits| limits.surge > 0);
    let mut plan = manage(state, &by_node, surging, now);
    if plan.is_empty()
        && let Some(limits) = limits
    {
        let again = plan.again;
        plan = if limits.surge == 0 {
            replace(state, &by_node, limits.unavailable, now)
        } else {
            surge(state, &by_node, limits.surge, wanted, now)
        };
        plan.again = again;
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// One daemon where there should be one, none elsewhere, and none that is over.
fn manage(state: &State<'_>, by_node: &BTreeMap<&str, Vec<&Daemon>>, surging: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for (node, fit) in state.nodes {
        match by_node.get(&*node.name) {
            None if fit.run => plan.create.push((*node.name).into()),
            None => {}
            Some(daemons) if fit.stay => keep(state, &mut plan, *fit, daemons, surging, now),
            Some(daemons) => {
                plan.delete.extend(daemons.iter().filter(|d| !d.deleting()).map(|d| d.pod.clone()));
            }
        }
    }
    // Pinned to a node that is gone, nothing will ever bind them; those that are bound the pod collector takes.
    let stray = by_node.iter().filter(|(name, _)| state.fit(name).is_none());
    for daemon in stray.flat_map(|(_, daemons)| daemons) {
        if daemon.pod.node.is_empty() && !daemon.deleting() {
            plan.delete.push(daemon.pod.clone());
        }
    }
    plan
}

fn keep(state: &State<'_>, plan: &mut Plan, fit: Fit, daemons: &[&Daemon], surging: bool, now: Timestamp) {
    let mut running = Vec::new();
    for daemon in daemons.iter().filter(|d| !d.deleting()) {
        match daemon.pod.phase {
            Phase::Failed => {
                if let Some(wait) = (state.wait)(&daemon.node) {
                    plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
                    continue;
                }
            }
            Phase::Succeeded => {}
            _ => {
                running.push(*daemon);
                continue;
            }
        }
        plan.over.push((daemon.pod.clone(), daemon.node.clone()));
        plan.delete.push(daemon.pod.clone());
    }
    if !surging {
        plan.delete.extend(running.iter().skip(1).map(|d| d.pod.clone()));
        return;
    }
    if running.is_empty() {
        // One that goes does not hold the next one up.
        if fit.run
            && let Some(daemon) = daemons.first()
        {
            plan.create.push(daemon.node.clone());
        }
        return;
    }
    // The oldest of the new template may stand beside the oldest of an older one that still serves.
    let (new, old): (Vec<&Daemon>, Vec<&Daemon>) =
        running.into_iter().partition(|d| d.updated(state.set, state.hash));
    plan.delete.extend(
        new.iter()
            .chain(&old)
            .filter(|d| !same(d, new.first()) && !same(d, old.first()))
            .map(|d| d.pod.clone()),
    );
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!old.pod.ready() || new.pod.available(min_ready(state.set), now))
    {
        plan.delete.push(old.pod.clone());
    }
}

fn same(daemon: &Daemon, other: Option<&&Daemon>) -> bool {
    other.is_some_and(|other| daemon.pod.uid() == other.pod.uid())
}

/// A node's daemons that are not going: at most one of the new template and one of an older.
enum Pair<'a> {
    /// More than that: first that must be put right.
    Crowd,
    Of {
        new: Option<&'a Daemon>,
        old: Option<&'a Daemon>,
    },
}

fn pair<'a>(state: &State<'_>, daemons: &[&'a Daemon]) -> Pair<'a> {
    let (mut new, mut old) = (None, None);
    for daemon in daemons.iter().copied().filter(|d| !d.deleting()) {
        let place = if daemon.updated(state.set, state.hash) { &mut new } else { &mut old };
        if place.is_some() {
            return Pair::Crowd;
        }
        *place = Some(daemon);
    }
    Pair::Of { new, old }
}

/// Nodes to look at: those with daemons, and those that should have one.
fn looked_at<'a>(
    state: &'a State<'_>,
    by_node: &'a BTreeMap<&'a str, Vec<&'a Daemon>>,
) -> BTreeMap<&'a str, &'a [&'a Daemon]> {
    let mut all: BTreeMap<&str, &[&Daemon]> =
        by_node.iter().map(|(node, daemons)| (*node, daemons.as_slice())).collect();
    for (node, _) in state.nodes.iter().filter(|(_, fit)| fit.run) {
        all.entry(&node.name).or_default();
    }
    all
}

/// Old daemons go as far as enough stay available; what is not available anyway goes at once.
fn replace(
    state: &State<'_>,
    by_node: &BTreeMap<&str, Vec<&Daemon>>,
    max_unavailable: usize,
    now: Timestamp,
) -> Plan {
    let available = |d: &Daemon| d.pod.available(min_ready(state.set), now);
    let mut plan = Plan::default();
    let (mut unavailable, mut candidates) = (0, Vec::new());
    for daemons in looked_at(state, by_node).values() {
        match pair(state, daemons) {
            Pair::Of { new: Some(new), old: None } if available(new) => {}
            Pair::Of { new: None, old: Some(old) } if available(old) => candidates.push(old.pod.clone()),
            Pair::Of { new: None, old: Some(old) } => plan.delete.push(old.pod.clone()),
            _ => unavailable += 1,
        }
    }
    candidates.truncate(max_unavailable.saturating_sub(unavailable));
    plan.delete.append(&mut candidates);
    plan
}

/// New daemons come beside old ones, as many as may surge; an old one goes when the new one is available.
fn surge(
    state: &State<'_>,
    by_node: &BTreeMap<&str, Vec<&Daemon>>,
    max_surge: usize,
    wanted: usize,
    now: Timestamp,
) -> Plan {
    let is_available = |d: &Daemon| d.pod.available(min_ready(state.set), now);
    let runs = |name: &str| state.fit(name).is_some_and(|fit| fit.run);
    let mut plan = Plan::default();
    let (mut surging, mut available) = (0, 0);
    let (mut candidates, mut misplaced) = (Vec::new(), Vec::new());
    for (node, daemons) in looked_at(state, by_node) {
        let Pair::Of { new, old } = pair(state, daemons) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(is_available));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if !runs(node) => {
                if is_available(old) {
                    misplaced.push(old.pod.clone())
                } else {
                    plan.delete.push(old.pod.clone())
                }
            }
            (None, Some(old)) if is_available(old) => candidates.push(node.into()),
            (None, Some(_)) => plan.create.push(node.into()),
            (Some(new), Some(_)) if !is_available(new) => surging += 1,
            (Some(_), Some(old)) => plan.delete.push(old.pod.clone()),
        }
    }
    // Where nodes no longer fit, their daemons serve until others do.
    misplaced.truncate(available.saturating_sub(wanted));
    plan.delete.append(&mut misplaced);
    candidates.truncate(max_surge.saturating_sub(surging));
    plan.create.append(&mut candidates);
    plan
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
