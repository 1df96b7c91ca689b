//! How many of a budget's pods may be disrupted now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::disruption::members::Member;
use crate::int_or_percent::scaled;

/// How long an eviction may take until its pod is seen to go.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

/// How many pods there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// What is there.
    Present,
    /// What the pods' controllers ask for.
    Scale,
}

pub fn expected(spec: &PodDisruptionBudgetSpec) -> Expected {
    match (&spec.max_unavailable, &spec.min_available) {
        (None, Some(IntOrString::Int(_)) | None) => Expected::Present,
        _ => Expected::Scale,
    }
}

pub struct Plan {
    pub status: PodDisruptionBudgetStatus,
    /// Look again after this long.
    pub recheck: Option<Duration>,
    /// Pods whose eviction was granted, and that are still there.
    pub not_deleted: Vec<Arc<str>>,
}

pub fn plan(
    budget: &PodDisruptionBudget,
    members: &BTreeMap<Arc<str>, Member>,
    expected_pods: i32,
    now: Timestamp,
) -> Plan {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (expected_pods - scaled(Some(most), expected_pods, true)).max(0),
        (None, least) => scaled(least.as_ref(), expected_pods, true),
    };
    let mut disrupted = BTreeMap::new();
    let mut not_deleted = Vec::new();
    let mut recheck: Option<Duration> = None;
    for (name, time) in old.disrupted_pods.iter().flatten() {
        let Some((name, _)) = members.get_key_value(&**name).filter(|(_, member)| !member.deleting) else {
            continue;
        };
        let passed = Duration::try_from(now.duration_since(time.0)).unwrap_or(Duration::ZERO);
        if passed > DELETION_TIMEOUT {
            not_deleted.push(name.clone());
            continue;
        }
        // A moment later, when it is over for certain.
        let left = DELETION_TIMEOUT - passed + Duration::from_millis(10);
        recheck = Some(recheck.map_or(left, |recheck| recheck.min(left)));
        disrupted.insert(name.to_string(), time.clone());
    }
    let healthy = |(name, member): &(&Arc<str>, &Member)| {
        member.ready && !member.deleting && !disrupted.contains_key(&***name)
    };
    let healthy = i32::try_from(members.iter().filter(healthy).count()).unwrap_or(i32::MAX);
    // A budget without pods allows nothing: its first may come before it is looked at again.
    let allowed = if expected_pods <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected_pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: old.conditions,
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set_condition(&mut status, allowed > 0, reason, "", now);
    Plan { status, recheck, not_deleted }
}

/// Nothing may go while it is unknown what there should be.
pub fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    set_condition(&mut status, false, "SyncFailed", why, now);
    // The API asks for these.
    status.current_healthy.get_or_insert(0);
    status.desired_healthy.get_or_insert(0);
    status.expected_pods.get_or_insert(0);
    status
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    on: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let value = if on { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let at = conditions.iter().position(|c| c.type_ == ALLOWED);
    let old = at.and_then(|at| conditions.get(at)).filter(|old| old.status == value);
    let next = Condition {
        type_: ALLOWED.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: status.observed_generation,
        last_transition_time: old.map_or_else(
            || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            |old| old.last_transition_time.clone(),
        ),
    };
    match at.and_then(|at| conditions.get_mut(at)) {
        Some(old) => *old = next,
        None => conditions.push(next),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// `r`: ready, `u`: not, `d`: ready and going. They are called p0, p1, …
    fn members(text: &str) -> BTreeMap<Arc<str>, Member> {
        let one = |(n, c): (usize, char)| {
            let name: Arc<str> = format!("p{n}").into();
            let member =
                Member { uid: (&*name).into(), ready: c != 'u', deleting: c == 'd', controller: None };
            (name, member)
        };
        text.chars().enumerate().map(one).collect()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    #[test]
    fn numbers_and_percentages() {
        let least = |value: Value| json!({"minAvailable": value});
        let most = |value: Value| json!({"maxUnavailable": value});
        for (spec, pods, expected, want) in [
            (least(json!(2)), "rrr", 3, (3, 2, 1)),
            (least(json!(3)), "rrr", 3, (3, 3, 0)),
            (least(json!(5)), "rrr", 3, (3, 5, 0)),
            (least(json!(2)), "rru", 3, (2, 2, 0)),
            (least(json!(1)), "rrd", 3, (2, 1, 1)),
            (least(json!(0)), "rr", 2, (2, 0, 2)),
            (least(json!(0)), "", 0, (0, 0, 0)),
            (least(json!("50%")), "rrr", 3, (3, 2, 1)),
            (least(json!("28%")), "rrrrrrr", 7, (7, 2, 5)),
            (least(json!("100%")), "rrr", 3, (3, 3, 0)),
            (least(json!("50%")), "rr", 10, (2, 5, 0)),
            (most(json!(1)), "rrr", 3, (3, 2, 1)),
            (most(json!(1)), "rr", 3, (2, 2, 0)),
            (most(json!(5)), "rrr", 3, (3, 0, 3)),
            (most(json!(0)), "rrr", 3, (3, 3, 0)),
            (most(json!("30%")), "rrrrrrrrrr", 10, (10, 7, 3)),
            (most(json!("1%")), "rrr", 3, (3, 2, 1)),
            (most(json!("100%")), "rru", 3, (2, 0, 2)),
            (json!({}), "rr", 2, (2, 0, 2)),
        ] {
            let status = plan(&budget(spec.clone(), json!({})), &members(pods), expected, at(NOW)).status;
            let found = (
                status.current_healthy.unwrap(),
                status.desired_healthy.unwrap(),
                status.disruptions_allowed.unwrap(),
            );
            assert_eq!(found, want, "{spec} {pods} of {expected}");
            let condition = &status.conditions.unwrap()[0];
            let (value, reason) =
                if want.2 > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), (value, reason));
            assert_eq!((condition.observed_generation, status.observed_generation), (Some(3), Some(3)));
        }
    }

    #[test]
    fn what_the_expected_number_comes_from() {
        for (spec, want) in [
            (json!({"minAvailable": 2}), Expected::Present),
            (json!({"minAvailable": "20%"}), Expected::Scale),
            (json!({"maxUnavailable": 2}), Expected::Scale),
            (json!({"maxUnavailable": "20%"}), Expected::Scale),
            (json!({}), Expected::Present),
        ] {
            assert_eq!(expected(&serde_json::from_value(spec.clone()).unwrap()), want, "{spec}");
        }
    }

    #[test]
    fn granted_evictions_count_until_the_pod_goes_or_two_minutes_have_passed() {
        let granted = |pods: &[(&str, i64)]| -> Value {
            let map: serde_json::Map<String, Value> =
                pods.iter().map(|(name, ago)| ((*name).to_owned(), json!(at(NOW - ago)))).collect();
            json!({"disruptedPods": map})
        };
        for (pods, list, kept, healthy, late, recheck) in [
            ("rrr", vec![("p0", 10)], vec!["p0"], 2, vec![], Some(110)),
            ("rrr", vec![("p0", 10), ("p1", 60)], vec!["p0", "p1"], 1, vec![], Some(60)),
            ("drr", vec![("p0", 10)], vec![], 2, vec![], None),
            ("rrr", vec![("gone", 10)], vec![], 3, vec![], None),
            ("rrr", vec![("p0", 121)], vec![], 3, vec!["p0"], None),
            ("rrr", vec![("p0", 119)], vec!["p0"], 2, vec![], Some(1)),
        ] {
            let budget = budget(json!({"minAvailable": 1}), granted(&list));
            let plan = plan(&budget, &members(pods), 3, at(NOW));
            let found: Vec<String> = plan.status.disrupted_pods.unwrap_or_default().into_keys().collect();
            let late_found: Vec<&str> = plan.not_deleted.iter().map(|name| &**name).collect();
            assert_eq!(
                (found, late_found),
                (kept.iter().map(|s| (*s).to_owned()).collect(), late),
                "{list:?}"
            );
            assert_eq!(plan.status.current_healthy, Some(healthy), "{list:?}");
            assert_eq!(plan.recheck.map(|r| r.as_secs()), recheck, "{list:?}");
        }
    }

    #[test]
    fn failures_allow_nothing_and_say_why() {
        let before = json!({"disruptionsAllowed": 2, "currentHealthy": 3, "desiredHealthy": 1, "expectedPods": 3,
            "observedGeneration": 2});
        let status = failed(&budget(json!({"maxUnavailable": 1}), before), "found no controllers", at(NOW));
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!((status.disruptions_allowed, status.current_healthy), (Some(0), Some(3)));
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SyncFailed", "found no controllers")
        );
        assert_eq!(condition.observed_generation, Some(2));
    }

    #[test]
    fn the_time_of_a_condition_is_that_of_its_change() {
        let mut first = budget(json!({"minAvailable": 1}), json!({}));
        first.status = Some(plan(&first, &members("rr"), 2, at(NOW)).status);
        let again = plan(&first, &members("rrr"), 3, at(NOW + 50)).status.conditions.unwrap();
        assert_eq!(again[0].last_transition_time.0, at(NOW));
        let other = plan(&first, &members("r"), 1, at(NOW + 50)).status.conditions.unwrap();
        assert_eq!(other[0].last_transition_time.0, at(NOW + 50));
    }
}
