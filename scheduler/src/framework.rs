//! What a scheduler plug-in is, and what plug-ins share during one cycle.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::cache::{Cache, NodeChange, NodeInfo};
use crate::pod::PodInfo;
use crate::spread::Domains;
use crate::volumes::Asked;

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reasons: Vec<Cow<'static, str>>,
    /// Removing pods would not help.
    pub unresolvable: bool,
}

impl Rejection {
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: false }
    }

    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: true }
    }
}

/// What plug-ins worked out once for the pod, by what is worked out.
#[derive(Debug, Default)]
pub struct CycleState {
    /// Topology spread: per hard constraint, the matching pods in each domain and the least of them.
    pub spread: Vec<SpreadCounts>,
    /// Soft constraints, for scoring.
    pub soft_spread: Vec<SpreadCounts>,
    /// In their absence, how a controller's pods are spread by default.
    pub default_spread: Option<DefaultSpread>,
    /// What the pod's claims need; None: it has none.
    pub volumes: Option<Asked>,
    /// Nodes that may not have another volume of a driver that the pod needs.
    pub nodes_full: HashSet<String>,
    /// A claim for one pod only has another one.
    pub claim_in_use: bool,
    /// Labels of bound volumes (of today and of before), and the values that will do.
    pub volume_zones: Vec<(&'static str, &'static str, Vec<String>)>,
}

#[derive(Debug, Default)]
pub struct DefaultSpread {
    pub controller: coracle_client::Uid,
    pub nodes: usize,
    /// Its pods in each zone that has some.
    pub zones: HashMap<String, i64>,
}

#[derive(Debug, Default)]
pub struct SpreadCounts {
    pub topology_key: String,
    pub max_skew: i64,
    /// Shared with the cache, which changes nothing during a cycle.
    pub domains: Arc<RwLock<Domains>>,
    pub least: i64,
    pub self_match: i64,
}

/// Something that happened in the cluster and may let a waiting pod fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    Node(NodeChange),
    /// A pod that took room is gone or has ended.
    PodRemoved,
    /// A pod was placed: spreading may look different.
    PodPlaced,
    /// The pod itself changed.
    PodChanged,
    /// A claim is new or has changed.
    Claim,
    /// A volume is new or has changed.
    Volume,
    StorageClass,
    /// What a node may attach has changed.
    CsiNode,
}

impl ClusterEvent {
    /// As upstream's metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node(change) if change.added => "NodeAdd",
            Self::Node(change) if change.taints => "NodeTaintChange",
            Self::Node(change) if change.labels => "NodeLabelChange",
            Self::Node(_) => "NodeAllocatableChange",
            Self::PodRemoved => "AssignedPodDelete",
            Self::PodPlaced => "AssignedPodAdd",
            Self::PodChanged => "UnscheduledPodUpdate",
            Self::Claim => "PvcUpdate",
            Self::Volume => "PvUpdate",
            Self::StorageClass => "StorageClassUpdate",
            Self::CsiNode => "CSINodeUpdate",
        }
    }
}

/// The order a plug-in's hooks run in is the order of the methods. All are pure.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Works out what filters need; a rejection ends the cycle before any node is looked at.
    fn pre_filter(&self, _pod: &PodInfo, _cache: &Cache, _state: &mut CycleState) -> Result<(), Rejection> {
        Ok(())
    }

    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        Ok(())
    }

    /// Works out what scores need, for the nodes that passed.
    fn pre_score(&self, _pod: &PodInfo, _cache: &Cache, _state: &mut CycleState) {}

    /// 0 to 100 after `normalize`; not asked where the weight is 0.
    fn score(&self, _pod: &PodInfo, _node: &NodeInfo, _state: &CycleState) -> i64 {
        0
    }

    fn normalize(&self, _scores: &mut [i64]) {}

    /// How much the score counts.
    fn weight(&self) -> i64 {
        0
    }

    /// Whether a pod that this plug-in rejected may fit after the event.
    fn helps(&self, event: ClusterEvent) -> bool;
}

pub const SCORE_MAX: i64 = 100;

/// Scales scores to 0..=100 by the highest; `reverse` makes the lowest raw score the best.
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if most == 0 { 0 } else { *score * SCORE_MAX / most };
        *score = if reverse { SCORE_MAX - scaled } else { scaled };
    }
}
