//! How many pods of a selector each domain of a topology has: counted once when a constraint first asks, and kept as pods
//! and nodes come and go, so that a cycle does not walk all nodes to know.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_client::selector::Selector;
use parking_lot::RwLock;

use crate::cache::NodeInfo;
use crate::pod::Load;

/// Selections kept; of more, the one that was asked for longest ago is forgotten.
const KEPT_MAX: usize = 256;

/// The pods of a namespace that a constraint counts, and what their domains are told by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    pub namespace: Arc<str>,
    pub topology_key: String,
    /// As text: [`Selector`] has one for each.
    pub selector: String,
    /// Labels and the values that they must have, beside the selector.
    pub values: Vec<(String, String)>,
}

/// Domains that have nodes, with the pods that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    all: HashMap<String, Domain>,
    /// Numbers of pods to how many domains have so many.
    by_count: BTreeMap<i64, usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Domain {
    nodes: i64,
    pods: i64,
}

impl Domains {
    /// So many nodes and pods more, or fewer; a domain without nodes is none.
    pub fn add(&mut self, name: &str, nodes: i64, pods: i64) {
        let before = self.all.get(name).copied();
        let now = before.unwrap_or_default();
        let now = Domain { nodes: now.nodes + nodes, pods: now.pods + pods };
        if let Some(before) = before
            && let Some(domains) = self.by_count.get_mut(&before.pods)
        {
            *domains -= 1;
            if *domains == 0 {
                self.by_count.remove(&before.pods);
            }
        }
        if now.nodes == 0 {
            self.all.remove(name);
            return;
        }
        *self.by_count.entry(now.pods).or_default() += 1;
        match self.all.get_mut(name) {
            Some(domain) => *domain = now,
            None => drop(self.all.insert(name.to_owned(), now)),
        }
    }

    /// Pods of the domain that count.
    pub fn there(&self, name: &str) -> i64 {
        self.all.get(name).map_or(0, |domain| domain.pods)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The fewest that a domain has; 0 without domains.
    pub fn least(&self) -> i64 {
        self.by_count.keys().next().copied().unwrap_or(0)
    }
}

/// How many pods of the node the selection counts.
pub fn matching(selection: &Selection, selector: &Selector, node: &NodeInfo) -> i64 {
    let pods = node.pods.values().filter(|load| counts(selection, selector, load)).count();
    i64::try_from(pods).unwrap_or(i64::MAX)
}

fn counts(selection: &Selection, selector: &Selector, load: &Load) -> bool {
    !load.deleting
        && load.namespace == selection.namespace
        && selector.matches(&load.labels)
        && selection.values.iter().all(|(key, value)| load.labels.get(key) == Some(value))
}

#[derive(Debug)]
struct Kept {
    selector: Selector,
    domains: Arc<RwLock<Domains>>,
    asked: u64,
}

/// The selections that constraints have asked for, kept true.
#[derive(Debug, Default)]
pub struct Spreads {
    kept: HashMap<Selection, Kept>,
    asked: u64,
}

impl Spreads {
    /// The domains of all nodes that there are.
    pub fn ask<'a>(
        &mut self,
        selection: Selection,
        selector: &Selector,
        nodes: impl Iterator<Item = &'a NodeInfo>,
    ) -> Arc<RwLock<Domains>> {
        self.asked += 1;
        if let Some(kept) = self.kept.get_mut(&selection) {
            kept.asked = self.asked;
            return kept.domains.clone();
        }
        let mut domains = Domains::default();
        for node in nodes {
            if let Some(domain) = node.labels.get(&selection.topology_key) {
                domains.add(domain, 1, matching(&selection, selector, node));
            }
        }
        if self.kept.len() >= KEPT_MAX
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.asked).map(|(s, _)| s.clone())
        {
            self.kept.remove(&oldest);
        }
        let domains = Arc::new(RwLock::new(domains));
        let kept = Kept { selector: selector.clone(), domains: domains.clone(), asked: self.asked };
        self.kept.insert(selection, kept);
        domains
    }

    /// The pod comes to the node (1), or leaves it (-1).
    pub fn pod(&mut self, load: &Load, node: &NodeInfo, by: i64) {
        for (selection, kept) in &self.kept {
            if counts(selection, &kept.selector, load)
                && let Some(domain) = node.labels.get(&selection.topology_key)
            {
                kept.domains.write().add(domain, 0, by);
            }
        }
    }

    /// The node comes with its pods (1), or goes (-1).
    pub fn node(&mut self, node: &NodeInfo, by: i64) {
        for (selection, kept) in &self.kept {
            if let Some(domain) = node.labels.get(&selection.topology_key) {
                kept.domains.write().add(domain, by, by * matching(selection, &kept.selector, node));
            }
        }
    }
}
