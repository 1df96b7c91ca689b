//! One cycle: filter the nodes, score those that pass, take the best.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::cache::{Cache, NodeInfo};
use crate::framework::{CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

/// A cluster of up to this many nodes is searched whole.
const NODES_SEARCHED_MIN: usize = 100;

/// Where the last search ended, so that the next begins there and all nodes get their share.
#[derive(Debug, Default)]
pub struct Position {
    next: usize,
}

/// Why no node takes the pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    pub nodes: usize,
    /// Reason to how many nodes gave it.
    pub reasons: BTreeMap<Cow<'static, str>, usize>,
    pub unresolvable: usize,
    /// Plug-ins that rejected somewhere.
    pub plugins: Vec<&'static str>,
    /// Nothing could be looked at.
    pub before: Option<String>,
    /// The reasons are about the pod itself, so no node is counted.
    pub whole: bool,
}

/// The name of the node that the pod fits best.
pub fn schedule(
    pod: &PodInfo,
    cache: &Cache,
    plugins: &[Box<dyn Plugin>],
    position: &mut Position,
    tie_break: &mut impl FnMut(usize) -> usize,
) -> Result<String, Unschedulable> {
    let mut state = CycleState::default();
    let known = cache.known_count();
    if known == 0 {
        return Err(Unschedulable {
            before: Some("no nodes available to schedule pods".into()),
            ..Unschedulable::default()
        });
    }
    for plugin in plugins {
        if let Err(rejection) = plugin.pre_filter(pod, cache, &mut state) {
            return Err(rejected_before(known, plugin.name(), &rejection));
        }
    }
    let feasible = filter(pod, cache, plugins, &state, position, searched(known))?;
    if let [only] = feasible.as_slice() {
        return Ok(only.name.clone());
    }
    for plugin in plugins {
        plugin.pre_score(pod, cache, &mut state);
    }
    let totals = score(pod, &feasible, plugins, &state);
    let best = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..feasible.len()).filter(|i| totals[*i] == best).collect();
    Ok(feasible[winners[tie_break(winners.len())]].name.clone())
}

fn rejected_before(nodes: usize, plugin: &'static str, rejection: &Rejection) -> Unschedulable {
    Unschedulable {
        nodes,
        reasons: rejection.reasons.iter().map(|r| (r.clone(), nodes)).collect(),
        unresolvable: if rejection.unresolvable { nodes } else { 0 },
        plugins: vec![plugin],
        before: None,
        whole: true,
    }
}

/// How many feasible nodes are enough, as upstream's adaptive percentage.
fn searched(nodes: usize) -> usize {
    if nodes < NODES_SEARCHED_MIN {
        return nodes;
    }
    let percentage = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percentage / 100).max(NODES_SEARCHED_MIN)
}

fn filter<'a>(
    pod: &PodInfo,
    cache: &'a Cache,
    plugins: &[Box<dyn Plugin>],
    state: &CycleState,
    position: &mut Position,
    enough: usize,
) -> Result<Vec<&'a NodeInfo>, Unschedulable> {
    let slots = cache.slots();
    let mut feasible = Vec::with_capacity(enough);
    let mut failed = Unschedulable::default();
    let start = position.next % slots.len();
    let mut walked = 0;
    for at in (start..slots.len()).chain(0..start) {
        walked += 1;
        let node = &slots[at];
        if !node.known {
            continue;
        }
        match plugins.iter().find_map(|p| p.filter(pod, node, state).err().map(|r| (p.name(), r))) {
            None => {
                feasible.push(node);
                if feasible.len() == enough {
                    break;
                }
            }
            Some((plugin, rejection)) => failed.add(plugin, rejection),
        }
    }
    position.next = (start + walked) % slots.len();
    if feasible.is_empty() { Err(failed) } else { Ok(feasible) }
}

fn score(pod: &PodInfo, nodes: &[&NodeInfo], plugins: &[Box<dyn Plugin>], state: &CycleState) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for plugin in plugins.iter().filter(|p| p.weight() > 0) {
        let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(pod, node, state)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    totals
}

impl Unschedulable {
    fn add(&mut self, plugin: &'static str, rejection: Rejection) {
        self.nodes += 1;
        self.unresolvable += usize::from(rejection.unresolvable);
        for reason in rejection.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if !self.plugins.contains(&plugin) {
            self.plugins.push(plugin);
        }
    }

    fn part(&self, reason: &str, nodes: usize) -> String {
        if self.whole { reason.to_owned() } else { format!("{nodes} {reason}") }
    }

    /// Upstream's form: `0/3 nodes are available: 1 node(s) …, 2 Insufficient cpu. preemption: …`.
    pub fn message(&self) -> String {
        if let Some(before) = &self.before {
            return before.clone();
        }
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| self.part(reason, *count)).collect();
        parts.sort();
        let nodes = self.nodes;
        let mut preemption = Vec::new();
        if nodes > self.unresolvable {
            preemption
                .push(format!("{} No preemption victims found for incoming pod", nodes - self.unresolvable));
        }
        if self.unresolvable > 0 {
            preemption.push(format!("{} Preemption is not helpful for scheduling", self.unresolvable));
        }
        preemption.sort();
        format!(
            "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {}.",
            parts.join(", "),
            preemption.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins;
    use crate::testing::{node, pod};

    fn place(pod_json: &str, cache: &Cache) -> Result<String, Unschedulable> {
        schedule(&pod(pod_json), cache, &plugins::all(), &mut Position::default(), &mut |_| 0)
    }

    #[test]
    fn a_pod_goes_where_it_fits_and_else_the_reasons_are_counted() {
        let mut cache = Cache::default();
        assert_eq!(place("{}", &cache).unwrap_err().message(), "no nodes available to schedule pods");
        for (name, cpu, extra) in [
            ("small", "100m", ""),
            ("tainted", "8", r#","spec":{"taints":[{"key":"k","value":"v","effect":"NoSchedule"}]}"#),
            ("big", "8", ""),
        ] {
            cache.set_node(&node(name, cpu, extra)).unwrap();
        }
        let one_cpu = r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}"#;
        assert_eq!(place(one_cpu, &cache).unwrap(), "big");
        let nine = r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"9"}}}]}"#;
        assert_eq!(
            place(nine, &cache).unwrap_err().message(),
            "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn no_node_is_overcommitted_and_pods_of_a_controller_spread() {
        let mut cache = Cache::default();
        for name in ["a", "b", "c"] {
            cache.set_node(&node(name, "1", "")).unwrap();
        }
        let mut position = Position::default();
        let plugins = plugins::all();
        for n in 0..12 {
            let mut next = pod(r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"250m"}}}]}"#);
            next.uid = format!("{n}").into();
            let place = schedule(&next, &cache, &plugins, &mut position, &mut |_| 0).unwrap();
            cache.assume(&next, &place);
        }
        assert!(
            cache.nodes().all(|n| n.pods.len() == 4),
            "{:?}",
            cache.nodes().map(|n| n.pods.len()).collect::<Vec<_>>()
        );
        let late = pod(r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"250m"}}}]}"#);
        assert!(schedule(&late, &cache, &plugins, &mut position, &mut |_| 0).is_err());
    }

    #[test]
    fn large_clusters_are_sampled() {
        for (nodes, want) in [(1, 1), (99, 99), (100, 100), (1000, 420), (5000, 500), (10_000, 500)] {
            assert_eq!(searched(nodes), want, "{nodes}");
        }
    }
}
