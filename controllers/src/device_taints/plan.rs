//! When the users of a claim have to leave: at the earliest end of what is tolerated of its devices' taints.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRuleSpec, DeviceToleration,
};

pub const NO_EXECUTE: &str = "NoExecute";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stay,
    Leave(Timestamp),
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

/// Whether those who use the devices have to go because of the rule, sooner or later.
pub fn drives_away(
    rule: &DeviceTaintRuleSpec,
    allocated: &[DeviceRequestAllocationResult],
    now: Timestamp,
) -> bool {
    fate(allocated, |_, _, _| None, std::slice::from_ref(rule), now) != Fate::Stay
}

/// `find`: a device by driver, pool and name, where it is offered at present.
pub fn fate<'a>(
    allocated: &[DeviceRequestAllocationResult],
    find: impl Fn(&str, &str, &str) -> Option<&'a Device>,
    rules: &[DeviceTaintRuleSpec],
    now: Timestamp,
) -> Fate {
    let mut leave: Option<Timestamp> = None;
    for result in allocated {
        let device = find(&result.driver, &result.pool, &result.device);
        let own = device.iter().flat_map(|device| device.taints.iter().flatten());
        let ruled = rules.iter().filter(|rule| selects(rule, result)).map(|rule| &rule.taint);
        for taint in own.chain(ruled).filter(|t| t.effect == NO_EXECUTE) {
            let begins = taint.time_added.as_ref().map_or(now, |t| t.0);
            let tolerations = result.tolerations.iter().flatten();
            let ends = match tolerations.into_iter().find(|t| tolerates(t, taint)) {
                None => begins,
                Some(toleration) => {
                    let Some(seconds) = toleration.toleration_seconds else { continue };
                    begins.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX)
                }
            };
            leave = Some(leave.map_or(ends, |at| at.min(ends)));
        }
    }
    leave.map_or(Fate::Stay, Fate::Leave)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    #[test]
    fn users_leave_when_a_taint_is_no_longer_tolerated() {
        let at = |second: i64| Timestamp::from_second(1_767_225_600 + second).unwrap();
        let taint = |key: &str, effect: &str, added: i64| json!({"key": key, "value": "v", "effect": effect, "timeAdded": at(added)});
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
            assert_eq!(fate(&[result], find, &[], at(100)), want, "{taints} {tolerations}");
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
            let fate = fate(std::slice::from_ref(&result), |_, _, _| None, &[rule], Timestamp::UNIX_EPOCH);
            assert_eq!(matches!(fate, Fate::Leave(_)), want, "{selector}");
        }
    }
}
