//! Spreads pods over domains: explicit constraints, else by default those of one controller over nodes and zones.

use std::sync::Arc;

use coracle_client::selector::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use parking_lot::RwLock;

use super::node_affinity;
use crate::cache::{Cache, NodeInfo, ZONE_LABEL};
use crate::framework::{ClusterEvent, CycleState, DefaultSpread, Plugin, Rejection, SCORE_MAX, SpreadCounts};
use crate::pod::PodInfo;
use crate::spread::{self, Domains, Selection};

pub struct PodTopologySpread;

/// Upstream's default constraints, both soft: over nodes, and over zones.
const HOSTNAME_SKEW: i64 = 3;
const ZONE_SKEW: i64 = 5;

fn hard(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable == "DoNotSchedule"
}

/// Whether every node counts that has the topology key. A pod that goes to some nodes only counts those.
fn counts_all_nodes(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> bool {
    let required = pod.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = required
        .is_some_and(|affinity| affinity.required_during_scheduling_ignored_during_execution.is_some());
    let choosy = required || !pod.node_selector.is_empty();
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    constraint.node_taints_policy.as_deref() != Some("Honor") && !(honours_affinity && choosy)
}

/// The domains of the nodes that the pod may go to.
fn walk(
    constraint: &TopologySpreadConstraint,
    selection: &Selection,
    selector: &Selector,
    pod: &PodInfo,
    cache: &Cache,
) -> Domains {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let mut domains = Domains::default();
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
        domains.add(domain, 1, spread::matching(selection, selector, node));
    }
    domains
}

fn count(constraint: &TopologySpreadConstraint, pod: &PodInfo, cache: &Cache) -> SpreadCounts {
    let mut counts = SpreadCounts {
        topology_key: constraint.topology_key.clone(),
        max_skew: constraint.max_skew.into(),
        ..SpreadCounts::default()
    };
    let Ok(selector) = Selector::from_label_selector(constraint.label_selector.as_ref()) else {
        return counts;
    };
    // The selector is narrowed to the pod's own values of `matchLabelKeys`.
    let keys = constraint.match_label_keys.iter().flatten();
    let own = |key: &String| Some((key.clone(), pod.load.labels.get(key)?.clone()));
    let selection = Selection {
        namespace: pod.load.namespace.clone(),
        topology_key: constraint.topology_key.clone(),
        selector: selector.to_string(),
        values: keys.filter_map(own).collect(),
    };
    counts.self_match = i64::from(selector.matches(&pod.load.labels));
    counts.domains = match counts_all_nodes(constraint, pod) {
        true => cache.spread(selection, &selector),
        false => Arc::new(RwLock::new(walk(constraint, &selection, &selector, pod, cache))),
    };
    let there = counts.domains.read();
    let domains = i32::try_from(there.len()).unwrap_or(i32::MAX);
    let too_few = constraint.min_domains.is_some_and(|least| domains < least);
    counts.least = if too_few { 0 } else { there.least() };
    drop(there);
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
            let there = counts.domains.read().there(domain);
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
                let domains = counts.domains.read();
                sum += crowd(domains.there(domain), domains.len(), counts.max_skew);
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

    /// What is kept as pods and nodes come and go is what a walk over the nodes counts.
    #[test]
    fn counts_that_are_kept_are_those_of_a_walk() {
        let mut random = 7u64;
        let mut below = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let mut cache = Cache::default();
        let asking: Vec<PodInfo> = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
            .into_iter()
            .flat_map(|key| {
                let spec = |extra: &str| constraint(1, extra).replace("topology.kubernetes.io/zone", key);
                [spec(""), spec(r#","matchLabelKeys":["tier"]"#)].map(|spec| {
                    let mut asking = pod(&spec);
                    let load = Arc::get_mut(&mut asking.load).unwrap();
                    load.labels.insert("tier".into(), "1".into());
                    asking
                })
            })
            .collect();
        let mut counted = 0;
        for step in 0..3_000 {
            let name = format!("n{}", below(6));
            let uid = format!("u{}", below(40));
            match below(12) {
                0..=2 => {
                    let zone = format!(r#","topology.kubernetes.io/zone":"z{}""#, below(3));
                    let zone = if below(5) == 0 { String::new() } else { zone };
                    cache.set_node(&labelled_node(&name, "8", &zone, "")).unwrap();
                }
                3 => cache.remove_node(&name),
                4..=8 => {
                    let json = format!(
                        r#"{{"metadata":{{"name":"p","namespace":"{}","uid":"{uid}","labels":{{"app":"{}","tier":"{}"}}{}}}}}"#,
                        ["ns", "other"][below(8) as usize / 7],
                        ["web", "db"][below(4) as usize / 3],
                        below(2),
                        if below(6) == 0 { r#","deletionTimestamp":"2026-01-01T00:00:00Z""# } else { "" },
                    );
                    let there =
                        PodInfo::decode(&coracle_client::Object::parse(json.into(), &[]).unwrap()).unwrap();
                    if below(2) == 0 { cache.assume(&there, &name) } else { cache.confirm(&there, &name) }
                }
                9 => cache.forget(&uid),
                _ => {
                    cache.remove(&uid);
                }
            }
            for pod in &asking {
                let [constraint] = &pod.spread[..] else { panic!("one constraint") };
                let kept = count(constraint, pod, &cache).domains.read().clone();
                let selector = Selector::from_label_selector(constraint.label_selector.as_ref()).unwrap();
                let keys = constraint.match_label_keys.iter().flatten();
                let selection = Selection {
                    namespace: pod.load.namespace.clone(),
                    topology_key: constraint.topology_key.clone(),
                    selector: selector.to_string(),
                    values: keys.filter_map(|k| Some((k.clone(), pod.load.labels.get(k)?.clone()))).collect(),
                };
                let walked = walk(constraint, &selection, &selector, pod, &cache);
                assert_eq!(kept, walked, "step {step}");
                counted += usize::from(walked.least() > 0);
            }
        }
        assert!(counted > 100, "there was something to count");
    }
}
