//! Whether there is room for a charge in the quotas, and what they show afterwards. Pure but for the clock of pods.

use std::collections::BTreeMap;

use coracle_client::amounts::{self, Amounts};
use coracle_client::quantity::Quantity;
use coracle_client::quota::{self, Subject};
use coracle_client::{ApiError, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

/// What a write adds to what is used.
pub(super) struct Charge {
    pub resource: Resource,
    pub name: String,
    pub new: Subject,
    pub old: Option<Subject>,
    /// Charged even if there is no room: it tells what has happened.
    pub always: bool,
    pub dry_run: bool,
}

/// The quotas that change, by place, and what of them is used then.
type Changes = Vec<(usize, BTreeMap<String, Wire>)>;

pub(super) fn charge(quotas: &[ResourceQuota], charge: &Charge) -> Result<Changes, ApiError> {
    let forbidden = |why: String| ApiError::forbidden(&charge.resource, &charge.name, why);
    let now = Timestamp::now();
    let total = quota::usage(&charge.resource, &charge.new, now);
    let before = charge.old.as_ref().map(|old| quota::usage(&charge.resource, old, now));
    let mut interesting = Vec::new();
    for (at, quota) in quotas.iter().enumerate() {
        if !holds(quota, &charge.resource, &charge.new) {
            continue;
        }
        let name = quota.metadata.name.as_deref().unwrap_or_default();
        let status = quota.status.clone().unwrap_or_default();
        let hard = amounts::of(status.hard.as_ref());
        let used = amounts::of(status.used.as_ref());
        let limited: Vec<&str> =
            hard.keys().map(String::as_str).filter(|n| quota::covers(&charge.resource, n)).collect();
        if let Subject::Pod(pod) = &charge.new
            && let Some(missing) = quota::unnamed(pod, limited.iter().copied())
        {
            return Err(forbidden(format!("failed quota: {name}: must specify {missing}")));
        }
        if limited.iter().any(|n| !used.contains_key(*n)) {
            let resources = limited.join(",");
            return Err(forbidden(format!("status unknown for quota: {name}, resources: {resources}")));
        }
        interesting.push((at, name, hard, used));
    }
    let mut changes = Changes::new();
    for (at, name, hard, used) in interesting {
        let known = charge
            .old
            .as_ref()
            .is_some_and(|old| quotas.get(at).is_some_and(|quota| holds(quota, &charge.resource, old)));
        let delta = match &before {
            Some(before) if known => grown(&total, before),
            _ => total.clone(),
        };
        let asked: Amounts =
            delta.into_iter().filter(|(n, amount)| !amount.is_zero() && hard.contains_key(n)).collect();
        if asked.is_empty() {
            continue;
        }
        let mut after = used.clone();
        amounts::add(&mut after, &asked);
        let exceeded = |n: &str| matches!((after.get(n), hard.get(n)), (Some(a), Some(h)) if a > h);
        if !charge.always && asked.keys().any(|n| exceeded(n)) {
            let shown = |list: &Amounts| {
                let part = list.iter().filter(|(n, _)| asked.contains_key(*n) && exceeded(n));
                part.map(|(n, amount)| format!("{n}={amount}")).collect::<Vec<_>>().join(",")
            };
            return Err(forbidden(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                shown(&asked),
                shown(&used),
                shown(&hard)
            )));
        }
        changes.push((at, amounts::to_wire(&after)));
    }
    Ok(changes)
}

/// The quota limits something of the resource, and the object is in its scopes.
fn holds(quota: &ResourceQuota, resource: &Resource, subject: &Subject) -> bool {
    let hard = quota.status.as_ref().and_then(|s| s.hard.as_ref());
    hard.is_some_and(|hard| hard.keys().any(|name| quota::covers(resource, name)))
        && quota.spec.as_ref().is_none_or(|spec| quota::in_scopes(spec, subject))
}

/// What is more than before. Less is found by the controller.
fn grown(now: &Amounts, before: &Amounts) -> Amounts {
    let more = now.iter().map(|(name, amount)| {
        let before = before.get(name).copied().unwrap_or(Quantity::ZERO);
        (name.clone(), if *amount > before { *amount - before } else { Quantity::ZERO })
    });
    more.collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn quota(spec: Value, hard: Value, used: Value) -> ResourceQuota {
        serde_json::from_value(
            json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}}),
        )
        .unwrap()
    }

    fn pod(cpu: Value) -> Charge {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers":
            [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap();
        Charge {
            resource: Resource::of::<Pod>(),
            name: "p".into(),
            new: Subject::Pod(Box::new(pod)),
            old: None,
            always: false,
            dry_run: false,
        }
    }

    fn used(changes: Result<Changes, ApiError>) -> Value {
        match changes {
            Ok(changes) => json!(changes.into_iter().map(|(_, used)| used).collect::<Vec<_>>()),
            Err(error) => json!(error.message()),
        }
    }

    #[test]
    fn room_is_given_until_there_is_none() {
        let hard = json!({"pods": "2", "requests.cpu": "2", "services": "1"});
        for (taken, cpu, want) in [
            (
                json!({"pods": "0", "requests.cpu": "0"}),
                json!("500m"),
                json!([{"pods": "1", "requests.cpu": "500m"}]),
            ),
            (
                json!({"pods": "1", "requests.cpu": "1500m"}),
                json!("1"),
                json!(
                    "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=1500m, limited: requests.cpu=2"
                ),
            ),
            (
                json!({"pods": "2", "requests.cpu": "1500m"}),
                json!("1"),
                json!(
                    "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=2,requests.cpu=1500m, limited: pods=2,requests.cpu=2"
                ),
            ),
            (
                json!({"pods": "1"}),
                json!("1"),
                json!("pods \"p\" is forbidden: status unknown for quota: q, resources: pods,requests.cpu"),
            ),
        ] {
            let quota = quota(json!({}), hard.clone(), taken);
            assert_eq!(used(charge(&[quota], &pod(cpu))), want);
        }
    }

    #[test]
    fn what_is_limited_must_be_asked_for() {
        let quota = quota(json!({}), json!({"limits.cpu": "1"}), json!({"limits.cpu": "0"}));
        assert_eq!(
            used(charge(&[quota], &pod(json!("1")))),
            json!("pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: c")
        );
    }

    #[test]
    fn quotas_of_other_things_and_scopes_do_not_matter() {
        let services = quota(json!({}), json!({"services": "0"}), json!({"services": "0"}));
        let idle = quota(json!({"scopes": ["BestEffort"]}), json!({"pods": "0"}), json!({"pods": "0"}));
        let unset = quota(json!({"hard": {"pods": "0"}}), json!(null), json!(null));
        assert_eq!(used(charge(&[services, idle, unset], &pod(json!("1")))), json!([]));
    }

    #[test]
    fn changes_are_charged_by_the_difference() {
        let book = quota(json!({}), json!({"requests.cpu": "3"}), json!({"requests.cpu": "2"}));
        let mut change = pod(json!("1500m"));
        change.old = Some(pod(json!("1")).new);
        assert_eq!(used(charge(std::slice::from_ref(&book), &change)), json!([{"requests.cpu": "2500m"}]));
        let mut less = pod(json!("1"));
        less.old = Some(pod(json!("1500m")).new);
        assert_eq!(used(charge(&[book], &less)), json!([]));
    }
}
