//! Decides how many pods to create, or which to delete.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::pods::Pod;
use crate::replicaset::rank;

/// Upstream's burst: how many pods one sync creates or deletes at most.
pub const BURST: usize = 500;

#[derive(Debug)]
pub enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Pod>),
}

/// `neighbours`: active pods per node of this set and its siblings.
pub fn plan(active: &[Pod], desired: usize, neighbours: &HashMap<Box<str>, usize>, now: Timestamp) -> Plan {
    if active.len() < desired {
        return Plan::Create((desired - active.len()).min(BURST));
    }
    let surplus = (active.len() - desired).min(BURST);
    if surplus == 0 {
        return Plan::Nothing;
    }
    let mut pods = active.to_vec();
    if surplus < active.len() {
        rank::sort(&mut pods, neighbours, now);
    }
    pods.truncate(surplus);
    Plan::Delete(pods)
}
