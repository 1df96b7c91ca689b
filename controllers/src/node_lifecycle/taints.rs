//! The taints that a node's conditions call for.

use coracle_client::tolerations::{NO_EXECUTE, NO_SCHEDULE};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::health::READY;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// (condition, status, taint)
const BY_CONDITION: [(&str, &str, &str); 6] = [
    (READY, "False", NOT_READY),
    (READY, "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// What the node's taints should be now.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// All taints, with those of ours brought up to date, but NoExecute ones not added. None: as they are.
    pub taints: Option<Vec<Taint>>,
    /// The NoExecute taint to add on top, which is rationed.
    pub evict: Option<Taint>,
}

/// `all_lost`: nobody is given up, as it is rather this process that hears nothing.
pub fn plan(node: &Node, conditions: &[NodeCondition], all_lost: bool, now: Timestamp) -> Plan {
    let spec = node.spec.clone().unwrap_or_default();
    let present = spec.taints.unwrap_or_default();
    let holds = |(kind, status, _): &&(&str, &str, &str)| {
        conditions.iter().any(|c| c.type_ == *kind && c.status == *status)
    };
    let mut keys: Vec<&str> = BY_CONDITION.iter().filter(holds).map(|(_, _, key)| *key).collect();
    if spec.unschedulable == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    let executing =
        keys.iter().copied().find(|key| matches!(*key, NOT_READY | UNREACHABLE)).filter(|_| !all_lost);
    let ours = |taint: &Taint| match taint.effect.as_str() {
        NO_SCHEDULE => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| taint.key == *key),
        NO_EXECUTE => matches!(taint.key.as_str(), NOT_READY | UNREACHABLE),
        _ => false,
    };
    let wanted = |taint: &Taint| match taint.effect.as_str() {
        NO_EXECUTE => executing == Some(taint.key.as_str()),
        _ => keys.contains(&taint.key.as_str()),
    };
    let mut taints: Vec<Taint> = present.iter().filter(|t| !ours(t) || wanted(t)).cloned().collect();
    let has =
        |taints: &[Taint], key: &str, effect: &str| taints.iter().any(|t| t.key == key && t.effect == effect);
    let make = |key: &str, effect: &str| Taint {
        key: key.into(),
        value: None,
        effect: effect.into(),
        time_added: Some(Time(now)),
    };
    for key in &keys {
        if !has(&taints, key, NO_SCHEDULE) {
            taints.push(make(key, NO_SCHEDULE));
        }
    }
    // From not-ready to unreachable and back the pods' time goes on: no rationing, no new time.
    let swapped = present.iter().find(|t| ours(t) && t.effect == NO_EXECUTE && !wanted(t));
    let mut evict = executing.filter(|key| !has(&taints, key, NO_EXECUTE)).map(|key| make(key, NO_EXECUTE));
    if let (Some(old), Some(taint)) = (swapped, &mut evict) {
        taint.time_added = old.time_added.clone();
        taints.extend(evict.take());
    }
    Plan { taints: (taints != present).then_some(taints), evict }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    #[test]
    fn nobody_is_given_up_when_all_are_lost() {
        let node: Node = from(json!({"spec": {"taints": [
            {"key": UNREACHABLE, "effect": NO_SCHEDULE}, {"key": UNREACHABLE, "effect": NO_EXECUTE}]}}));
        let silent: NodeCondition = from(json!({"type": "Ready", "status": "Unknown"}));
        let plan = plan(&node, &[silent], true, Timestamp::UNIX_EPOCH);
        let effects: Vec<_> = plan.taints.iter().flatten().map(|t| t.effect.as_str()).collect();
        assert_eq!((effects, plan.evict), (vec![NO_SCHEDULE], None));
    }

    #[test]
    fn taints_follow_conditions() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let both = |key: &str| json!([[key, NO_SCHEDULE], [key, NO_EXECUTE]]);
        let s = |key: &str| json!([[key, NO_SCHEDULE]]);
        for (conditions, unschedulable, present, want, evict) in [
            (json!([["Ready", "True"]]), false, json!([]), json!([]), None),
            (json!([["Ready", "False"]]), false, json!([]), s(NOT_READY), Some(NOT_READY)),
            (json!([["Ready", "Unknown"]]), false, json!([]), s(UNREACHABLE), Some(UNREACHABLE)),
            (json!([["Ready", "Unknown"]]), false, both(UNREACHABLE), both(UNREACHABLE), None),
            (json!([["Ready", "Unknown"]]), false, both(NOT_READY), both(UNREACHABLE), None),
            (json!([["Ready", "True"]]), false, both(UNREACHABLE), json!([]), None),
            (json!([["Ready", "True"]]), true, json!([]), s(UNSCHEDULABLE), None),
            (json!([["Ready", "True"]]), false, s(UNSCHEDULABLE), json!([]), None),
            (
                json!([["Ready", "True"], ["DiskPressure", "True"]]),
                false,
                json!([["mine", NO_EXECUTE]]),
                json!([["mine", NO_EXECUTE], ["node.kubernetes.io/disk-pressure", NO_SCHEDULE]]),
                None,
            ),
        ] {
            let taints: Vec<Value> =
                present.as_array().unwrap().iter().map(|t| json!({"key": t[0], "effect": t[1]})).collect();
            let node: Node = from(json!({"spec": {"unschedulable": unschedulable, "taints": taints}}));
            let conditions: Vec<NodeCondition> = conditions
                .as_array()
                .unwrap()
                .iter()
                .map(|c| from(json!({"type": c[0], "status": c[1]})))
                .collect();
            let plan = plan(&node, &conditions, false, now);
            let got = plan
                .taints
                .unwrap_or_else(|| node.spec.clone().unwrap_or_default().taints.unwrap_or_default());
            let got: Vec<Value> = got.iter().map(|t| json!([t.key, t.effect])).collect();
            assert_eq!(json!(got), want, "{conditions:?} {present}");
            assert_eq!(plan.evict.as_ref().map(|t| t.key.as_str()), evict, "{conditions:?} {present}");
        }
    }
}
