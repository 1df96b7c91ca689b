//! Spreads pods over domains: explicit constraints, else by default those of one controller over nodes and zones.

use coracle_client::selector::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::node_affinity;
use crate::cache::{Cache, NodeInfo, ZONE_LABEL};
use crate::framework::{ClusterEvent, CycleState, DefaultSpread, Plugin, Rejection, SCORE_MAX, SpreadCounts};
use crate::pod::PodInfo;

pub struct PodTopologySpread;

/// Upstream's default constraints, both soft: over nodes, and over zones.
const HOSTNAME_SKEW: i64 = 3;
const ZONE_SKEW: i64 = 5;

fn hard(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable == "DoNotSchedule"
}

/// The constraint's selector, narrowed to the pod's own values of `matchLabelKeys`.
fn selects<'a>(
    constraint: &TopologySpreadConstraint,
    pod: &'a PodInfo,
) -> Option<(Selector, Vec<(String, &'a str)>)> {
    let selector = Selector::from_label_selector(constraint.label_selector.as_ref()).ok()?;
    let keys = constraint
        .match_label_keys
        .iter()
        .flatten()
        .filter_map(|key| pod.load.labels.get(key).map(|value| (key.clone(), value.as_str())))
        .collect();
    Some((selector, keys))
}

fn count(constraint: &TopologySpreadConstraint, pod: &PodInfo, cache: &Cache) -> SpreadCounts {
    let mut counts = SpreadCounts {
        topology_key: constraint.topology_key.clone(),
        max_skew: constraint.max_skew.into(),
        ..SpreadCounts::default()
    };
    let Some((selector, keys)) = selects(constraint, pod) else { return counts };
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    for node in cache.nodes() {
        let Some(domain) = node.labels.get(&constraint.topology_key) else { continue };
        let tainted = || {
            coracle_client::tolerations::untolerated(
                &node.taints,
                &pod.tolerations,
                &[coracle_client::tolerations::NO_SCHEDULE, coracle_client::tolerations::NO_EXECUTE],
            )
            .is_some()
        };
        if (honours_affinity && !node_affinity::allows(pod, node)) || (honours_taints && tainted()) {
            continue;
        }
        let matching = node
            .pods
            .values()
            .filter(|load| {
                !load.deleting
                    && load.namespace == pod.load.namespace
                    && selector.matches(&load.labels)
                    && keys.iter().all(|(key, value)| load.labels.get(key).is_some_and(|v| v == value))
            })
            .count();
        *counts.per_domain.entry(domain.clone()).or_default() += i64::try_from(matching).unwrap_or(i64::MAX);
    }
    let domains = i32::try_from(counts.per_domain.len()).unwrap_or(i32::MAX);
    let too_few = constraint.min_domains.is_some_and(|least| domains < least);
    counts.least = if too_few { 0 } else { counts.per_domain.values().copied().min().unwrap_or(0) };
    counts.self_match = i64::from(selector.matches(&pod.load.labels));
    counts
}

/// Pods of the same controller; they are what a ReplicaSet's or Service's selector would match. Those of a node are
/// counted at the node, so that nothing here grows with the number of nodes.
fn default_spread(pod: &PodInfo, cache: &Cache) -> Option<DefaultSpread> {
    let controller = pod.load.controller_uid.clone()?;
    let zones = cache.zones_of(&controller).cloned().unwrap_or_default();
    Some(DefaultSpread { controller, nodes: cache.known_count(), zones })
}

/// How much a domain with `there` matching pods counts: many domains weigh more than few, as upstream's topology
/// weight.
#[allow(clippy::cast_precision_loss, reason = "counts of pods and domains")]
fn crowd(there: i64, domains: usize, max_skew: i64) -> f64 {
    there as f64 * (domains as f64 + 2.0).ln() + (max_skew - 1) as f64
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn pre_filter(&self, pod: &PodInfo, cache: &Cache, state: &mut CycleState) -> Result<(), Rejection> {
        state.spread = pod.spread.iter().filter(|c| hard(c)).map(|c| count(c, pod, cache)).collect();
        Ok(())
    }

    fn filter(&self, _pod: &PodInfo, node: &NodeInfo, state: &CycleState) -> Result<(), Rejection> {
        for counts in &state.spread {
            let Some(domain) = node.labels.get(&counts.topology_key) else {
                return Err(Rejection::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let there = counts.per_domain.get(domain).copied().unwrap_or(0);
            if there + counts.self_match - counts.least > counts.max_skew {
                return Err(Rejection::new("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn pre_score(&self, pod: &PodInfo, cache: &Cache, state: &mut CycleState) {
        if pod.spread.is_empty() {
            state.default_spread = default_spread(pod, cache);
        }
        state.soft_spread = pod.spread.iter().filter(|c| !hard(c)).map(|c| count(c, pod, cache)).collect();
    }

    /// How crowded the node's domains are: fewer is better after `normalize`.
    #[allow(clippy::cast_possible_truncation, reason = "counts of pods")]
    fn score(&self, _pod: &PodInfo, node: &NodeInfo, state: &CycleState) -> i64 {
        let mut sum = 0.0;
        if let Some(spread) = &state.default_spread {
            let there = node.per_controller.get(&spread.controller).copied().unwrap_or(0);
            sum += crowd(there, spread.nodes, HOSTNAME_SKEW);
            if !spread.zones.is_empty()
                && let Some(zone) = node.labels.get(ZONE_LABEL)
            {
                let there = spread.zones.get(zone).copied().unwrap_or(0);
                sum += crowd(there, spread.zones.len(), ZONE_SKEW);
            }
        }
        for counts in &state.soft_spread {
            if let Some(domain) = node.labels.get(&counts.topology_key) {
                let there = counts.per_domain.get(domain).copied().unwrap_or(0);
                sum += crowd(there, counts.per_domain.len(), counts.max_skew);
            }
        }
        sum.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else {
            return;
        };
        for score in scores {
            *score = if most == 0 { SCORE_MAX } else { SCORE_MAX * (most + least - *score) / most };
        }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        match event {
            ClusterEvent::Node(change) => change.added || change.labels || change.taints,
            ClusterEvent::PodRemoved | ClusterEvent::PodPlaced | ClusterEvent::PodChanged => true,
            ClusterEvent::Claim
            | ClusterEvent::Volume
            | ClusterEvent::StorageClass
            | ClusterEvent::CsiNode => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{labelled_node, pod};

    fn zones(counts: &[(&str, usize)]) -> Cache {
        let mut cache = Cache::default();
        for (zone, pods) in counts {
            let label = format!(r#","topology.kubernetes.io/zone":"{zone}""#);
            cache.set_node(&labelled_node(zone, "8", &label, "")).unwrap();
            for n in 0..*pods {
                let mut there = pod("{}");
                there.uid = format!("{zone}{n}").into();
                cache.confirm(&there, zone);
            }
        }
        cache
    }

    fn constraint(skew: u8, extra: &str) -> String {
        format!(
            r#"{{"topologySpreadConstraints":[{{"maxSkew":{skew},"topologyKey":"topology.kubernetes.io/zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{{"matchLabels":{{"app":"web"}}}}{extra}}}]}}"#
        )
    }

    #[test]
    fn hard_constraints_keep_the_skew() {
        for (counts, spec, allowed) in [
            (&[("a", 1), ("b", 0)][..], constraint(1, ""), &["b"][..]),
            (&[("a", 1), ("b", 1)], constraint(1, ""), &["a", "b"]),
            (&[("a", 2), ("b", 0)], constraint(2, ""), &["b"]),
            (&[("a", 1)], constraint(1, r#","minDomains":2"#), &[]),
            (&[("a", 1)], constraint(1, r#","minDomains":1"#), &["a"]),
        ] {
            let cache = zones(counts);
            let pod = pod(&spec);
            let mut state = CycleState::default();
            PodTopologySpread.pre_filter(&pod, &cache, &mut state).unwrap();
            let mut got: Vec<_> = cache
                .nodes()
                .filter(|n| PodTopologySpread.filter(&pod, n, &state).is_ok())
                .map(|n| n.name.as_str())
                .collect();
            got.sort_unstable();
            assert_eq!(got, allowed, "{counts:?} {spec}");
        }
    }

    #[test]
    fn by_default_a_controllers_pods_prefer_emptier_nodes() {
        let cache = zones(&[("a", 3), ("b", 0)]);
        let pod = pod("{}");
        let mut state = CycleState::default();
        PodTopologySpread.pre_score(&pod, &cache, &mut state);
        let mut scores: Vec<i64> =
            ["a", "b"].map(|n| PodTopologySpread.score(&pod, cache.node(n).unwrap(), &state)).into();
        PodTopologySpread.normalize(&mut scores);
        assert!(scores[1] > scores[0], "{scores:?}");
    }
}
