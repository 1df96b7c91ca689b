//! Keeps pods off nodes whose taints they do not tolerate; prefers nodes without taints that ask to be avoided.

use coracle_client::tolerations::{NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE, tolerates, untolerated};

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection, normalize};
use crate::pod::PodInfo;

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        match untolerated(&node.taints, &pod.tolerations, &[NO_SCHEDULE, NO_EXECUTE]) {
            None => Ok(()),
            Some(taint) => Err(Rejection::unresolvable(format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            ))),
        }
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> i64 {
        let avoided = node
            .taints
            .iter()
            .filter(|t| t.effect == PREFER_NO_SCHEDULE && !pod.tolerations.iter().any(|o| tolerates(o, t)))
            .count();
        i64::try_from(avoided).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }

    fn weight(&self) -> i64 {
        3
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(change) if change.added || change.taints)
            || event == ClusterEvent::PodChanged
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Taint;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn taints_filter_and_score() {
        let node = |effect: &str| NodeInfo {
            taints: vec![Taint {
                key: "k".into(),
                value: Some("v".into()),
                effect: effect.into(),
                time_added: None,
            }],
            ..NodeInfo::default()
        };
        let tolerant = r#"{"tolerations":[{"key":"k","operator":"Exists"}]}"#;
        for (spec, effect, passes, score) in [
            ("{}", "NoSchedule", false, 0),
            ("{}", "NoExecute", false, 0),
            ("{}", "PreferNoSchedule", true, 1),
            (tolerant, "NoSchedule", true, 0),
            (tolerant, "PreferNoSchedule", true, 0),
        ] {
            let (pod, node) = (pod(spec), node(effect));
            assert_eq!(
                TaintToleration.filter(&pod, &node, &CycleState::default()).is_ok(),
                passes,
                "{spec} {effect}"
            );
            assert_eq!(TaintToleration.score(&pod, &node, &CycleState::default()), score, "{spec} {effect}");
        }
        let mut scores = [0, 2, 1];
        TaintToleration.normalize(&mut scores);
        assert_eq!(scores, [100, 0, 50]);
    }
}
