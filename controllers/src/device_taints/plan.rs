//! When the users of a claim have to leave: at the earliest end of what is tolerated of its devices' taints.

use std::time::Duration;

use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRuleSpec, DeviceToleration,
};
use tokio::time::Instant;

pub const NO_EXECUTE: &str = "NoExecute";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stay,
    Leave(Instant),
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

/// Whether an administrator's rule is about the device.
pub fn selects(rule: &DeviceTaintRuleSpec, result: &DeviceRequestAllocationResult) -> bool {
    selects_device(rule, (&result.driver, &result.pool, &result.device))
}

/// By driver, pool and name.
pub fn selects_device(rule: &DeviceTaintRuleSpec, (driver, pool, device): (&str, &str, &str)) -> bool {
    let Some(selector) = &rule.device_selector else { return false };
    let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
    fits(&selector.driver, driver) && fits(&selector.pool, pool) && fits(&selector.device, device)
}

/// How long a taint that drives away is borne; None: for ever.
fn patience(result: &DeviceRequestAllocationResult, taint: &DeviceTaint) -> Option<Duration> {
    match result.tolerations.iter().flatten().find(|t| tolerates(t, taint)) {
        None => Some(Duration::ZERO),
        Some(toleration) => {
            toleration.toleration_seconds.map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
        }
    }
}

/// Whether those who use the devices have to go because of the rule, sooner or later.
pub fn drives_away(rule: &DeviceTaintRuleSpec, allocated: &[DeviceRequestAllocationResult]) -> bool {
    let rules = std::slice::from_ref(rule);
    taints(allocated, |_, _, _| None, rules).iter().any(|(result, taint)| patience(result, taint).is_some())
}

/// The taints that drive users of the devices away who do not tolerate them.
/// `find`: a device by driver, pool and name, where it is offered at present.
pub fn taints<'a>(
    allocated: &'a [DeviceRequestAllocationResult],
    find: impl Fn(&str, &str, &str) -> Option<&'a Device>,
    rules: &'a [DeviceTaintRuleSpec],
) -> Vec<(&'a DeviceRequestAllocationResult, &'a DeviceTaint)> {
    let mut all = Vec::new();
    for result in allocated {
        let device = find(&result.driver, &result.pool, &result.device);
        let own = device.into_iter().flat_map(|device| device.taints.iter().flatten());
        let ruled = rules.iter().filter(|rule| selects(rule, result)).map(|rule| &rule.taint);
        all.extend(own.chain(ruled).filter(|t| t.effect == NO_EXECUTE).map(|taint| (result, taint)));
    }
    all
}

/// Of the taints, each with its beginning.
pub fn fate<'a>(
    taints: impl Iterator<Item = (&'a DeviceRequestAllocationResult, &'a DeviceTaint, Instant)>,
) -> Fate {
    let ends = taints.filter_map(|(result, taint, begins)| begins.checked_add(patience(result, taint)?));
    ends.min().map_or(Fate::Stay, Fate::Leave)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    #[test]
    fn users_leave_when_a_taint_is_no_longer_tolerated() {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let at = |second: u64| *BEGIN + Duration::from_secs(second);
        let began = |taint: &DeviceTaint| at(taint.time_added.as_ref().unwrap().0.as_second().unsigned_abs());
        let taint = |key: &str, effect: &str, added: i64| {
            let added = jiff::Timestamp::from_second(added).unwrap();
            json!({"key": key, "value": "v", "effect": effect, "timeAdded": added})
        };
        let exists = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        for (taints, tolerations, want) in [
            (json!([]), json!([]), Fate::Stay),
            (json!([taint("a", "NoSchedule", 0)]), json!([]), Fate::Stay),
            (json!([taint("a", "None", 0)]), json!([]), Fate::Stay),
            (json!([taint("a", "NoExecute", 10)]), json!([]), Fate::Leave(at(10))),
            (json!([taint("a", "NoExecute", 10)]), json!([exists("a", None)]), Fate::Stay),
            (json!([taint("a", "NoExecute", 10)]), json!([exists("a", Some(30))]), Fate::Leave(at(40))),
            (json!([taint("a", "NoExecute", 10)]), json!([exists("a", Some(-1))]), Fate::Leave(at(10))),
            (json!([taint("a", "NoExecute", 10)]), json!([exists("b", None)]), Fate::Leave(at(10))),
            (json!([taint("a", "NoExecute", 10)]), json!([{"operator": "Exists"}]), Fate::Stay),
            (json!([taint("a", "NoExecute", 10)]), json!([{"key": "a", "value": "v"}]), Fate::Stay),
            (json!([taint("a", "NoExecute", 10)]), json!([{"key": "a", "value": "w"}]), Fate::Leave(at(10))),
            (
                json!([taint("a", "NoExecute", 10), taint("b", "NoExecute", 20)]),
                json!([exists("a", Some(60)), exists("b", Some(5))]),
                Fate::Leave(at(25)),
            ),
        ] {
            let device: Device = from(json!({"name": "d", "taints": Value::clone(&taints)}));
            let result: DeviceRequestAllocationResult = from(
                json!({"driver": "x", "pool": "p", "device": "d", "request": "r", "tolerations": tolerations}),
            );
            let find = |driver: &str, pool: &str, name: &str| {
                (driver == "x" && pool == "p" && name == "d").then_some(&device)
            };
            let of_devices = super::taints(std::slice::from_ref(&result), find, &[]);
            let found = fate(of_devices.into_iter().map(|(result, taint)| (result, taint, began(taint))));
            assert_eq!(found, want, "{taints} {tolerations}");
        }
    }

    #[test]
    fn rules_taint_the_devices_they_select() {
        let result: DeviceRequestAllocationResult =
            from(json!({"driver": "x", "pool": "p", "device": "d", "request": "r"}));
        for (selector, want) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"driver": "x"}), true),
            (json!({"driver": "x", "pool": "p", "device": "d"}), true),
            (json!({"driver": "y"}), false),
            (json!({"driver": "x", "device": "e"}), false),
        ] {
            let rule: DeviceTaintRuleSpec = from(json!({"deviceSelector": selector,
                "taint": {"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}}));
            assert_eq!(drives_away(&rule, std::slice::from_ref(&result)), want, "{selector}");
        }
    }
}
