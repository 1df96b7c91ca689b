//! Pod affinity and anti-affinity come with a later issue: a pod that requires them waits, and says why.

use crate::cache::Cache;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

pub struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    /// Placing such a pod without regard to its terms would break a promise; preferred terms are only wishes.
    fn pre_filter(&self, pod: &PodInfo, _cache: &Cache, _state: &mut CycleState) -> Result<(), Rejection> {
        let Some(affinity) = &pod.affinity else { return Ok(()) };
        let required = affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .is_some_and(|terms| !terms.is_empty())
            || affinity
                .pod_anti_affinity
                .as_ref()
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .is_some_and(|terms| !terms.is_empty());
        if required {
            return Err(Rejection::unresolvable(
                "node(s) cannot be checked for required pod (anti-)affinity by this scheduler yet",
            ));
        }
        Ok(())
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        event == ClusterEvent::PodChanged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn required_terms_wait_and_wishes_do_not() {
        let term = r#"{"topologyKey":"kubernetes.io/hostname"}"#;
        for (affinity, want) in [
            (
                format!(
                    r#"{{"podAntiAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":[{term}]}}}}"#
                ),
                false,
            ),
            (
                format!(r#"{{"podAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":[{term}]}}}}"#),
                false,
            ),
            (
                format!(
                    r#"{{"podAffinity":{{"preferredDuringSchedulingIgnoredDuringExecution":[{{"weight":1,"podAffinityTerm":{term}}}]}}}}"#
                ),
                true,
            ),
            ("{}".to_owned(), true),
        ] {
            let pod = pod(&format!(r#"{{"affinity":{affinity}}}"#));
            let got = InterPodAffinity.pre_filter(&pod, &Cache::default(), &mut CycleState::default());
            assert_eq!(got.is_ok(), want, "{affinity}");
        }
    }
}
