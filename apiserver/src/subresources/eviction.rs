//! `pods/eviction`: a delete that its disruption budget allows.

use coracle_client::selector::Selector;
use coracle_client::status::Cause;
use coracle_client::{ApiError, Propagation, Resource, WriteOptions};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, DeleteOptions, Time};

use super::document;
use crate::authn::Identity;
use crate::verbs::delete::{self, Options};
use crate::verbs::modify::{Part, Versions, modify_as};
use crate::verbs::{Answer, Call, metadata};
use crate::watch_cache::Filter;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
const ALLOWED: &str = "DisruptionAllowed";
/// Evictions that the budget's controller has not seen yet.
const UNCONFIRMED_MAX: usize = 2000;
/// How often an eviction is tried anew where somebody else got ahead.
const TRIES_MAX: usize = 20;
const RETRY_SECONDS: u32 = 10;

pub async fn create(call: &Call) -> Result<Answer, ApiError> {
    let eviction = document::<Eviction>(call, "policy/v1", "Eviction")?;
    let name = eviction.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.name() {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = options(call, eviction.delete_options.unwrap_or_default());
    let pod = match past_any_budget(call, &options).await? {
        None => return Answer::success(201),
        Some(pod) => pod,
    };
    let budget = match budgets(call, &pod)?.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        _ => {
            return Err(ApiError::new(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    // A pod that is not ready may go without being counted; should it have become ready meanwhile, it stays.
    let pinned = budget.as_ref().is_some_and(|budget| !ready(&pod) && spares_unready(budget));
    if let Some(budget) = budget.as_ref().filter(|_| !pinned) {
        spend(call, name_of(budget), options.dry_run).await?;
    }
    let own_version = pinned && options.resource_version.is_none();
    let mut options = options;
    if own_version {
        options.resource_version.clone_from(&pod.metadata.resource_version);
    }
    match take_away(call, &options).await {
        Err(error) if error.is_conflict() && own_version => Err(busy(budget.as_ref().map_or("", name_of))),
        result => {
            result?;
            Answer::success(201)
        }
    }
}

fn name_of(budget: &PodDisruptionBudget) -> &str {
    budget.metadata.name.as_deref().unwrap_or_default()
}

fn options(call: &Call, asked: DeleteOptions) -> Options {
    let preconditions = asked.preconditions.unwrap_or_default();
    Options {
        grace_seconds: asked.grace_period_seconds,
        propagation: match asked.propagation_policy.as_deref() {
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Background") => Some(Propagation::Background),
            _ => None,
        },
        orphan_dependents: asked.orphan_dependents,
        uid: preconditions.uid,
        resource_version: preconditions.resource_version,
        dry_run: call.options.dry_run || asked.dry_run.is_some_and(|d| d.iter().any(|v| v == "All")),
    }
}

/// Takes away a pod that no budget counts: one that has ended, has not begun or is going already. Some: it counts.
async fn past_any_budget(call: &Call, options: &Options) -> Result<Option<Pod>, ApiError> {
    let mut tries = 0;
    loop {
        let object = call.current().await?;
        let pod: Pod = object.decode()?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let over = matches!(phase, "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some();
        if !over && phase != "Pending" {
            return Ok(Some(pod));
        }
        let mut options = options.clone();
        let own_version = !over && options.resource_version.is_none();
        if own_version {
            options.resource_version.clone_from(&pod.metadata.resource_version);
        }
        tries += 1;
        match take_away(call, &options).await {
            Ok(()) => return Ok(None),
            Err(error) if own_version && error.is_conflict() && tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Marks the pod as evicted and deletes it.
async fn take_away(call: &Call, options: &Options) -> Result<(), ApiError> {
    let mut options = options.clone();
    let marking = Call {
        subresource: Some("status".into()),
        options: WriteOptions { dry_run: options.dry_run, ..call.options.clone() },
        ..call.on(call.namespace.as_deref(), call.name())
    };
    if !options.dry_run {
        let wanted = (options.uid.clone(), options.resource_version.clone());
        let marked = modify_as(&marking, Part::Whole, Versions::Inherit, |current| {
            delete::preconditions(call, &options, &current.object)?;
            let Some(pod) = current.typed.as_any().downcast_ref::<Pod>() else {
                return Err(ApiError::internal("only pods are evicted"));
            };
            let mut pod = pod.clone();
            mark(&mut pod);
            if wanted.1.is_some() {
                pod.metadata.resource_version.clone_from(&wanted.1);
            }
            Ok(Box::new(pod))
        })
        .await?;
        if options.resource_version.is_some() {
            let marked = coracle_client::Head::parse(&marked.json, &[])?;
            options.resource_version = Some(marked.resource_version.to_string());
        }
    }
    let deletion =
        Call { subresource: Some("eviction".into()), ..call.on(call.namespace.as_deref(), call.name()) };
    delete::delete(&deletion, &options).await.map(drop)
}

fn mark(pod: &mut Pod) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let at = conditions.iter().position(|c| c.type_ == "DisruptionTarget");
    let since = at.and_then(|at| conditions.get(at)).filter(|c| c.status == "True");
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("EvictionByEvictionAPI".into()),
        message: Some("Eviction API: evicting".into()),
        last_transition_time: since
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(metadata::now())),
        ..PodCondition::default()
    };
    match at.and_then(|at| conditions.get_mut(at)) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// The budgets that count the pod.
fn budgets(call: &Call, pod: &Pod) -> Result<Vec<PodDisruptionBudget>, ApiError> {
    let Ok(kind) = call.api.kind(&Resource::of::<PodDisruptionBudget>()) else { return Ok(Vec::new()) };
    let filter = Filter { namespace: call.namespace.clone(), ..Filter::default() };
    let listed = kind.cache.list(&filter, None, None, None, 0).map(|page| page.objects);
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let mut found = Vec::new();
    for object in listed.unwrap_or_default() {
        let budget: PodDisruptionBudget = object.decode()?;
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        // A selector that does not parse selects nothing, like one that is not there.
        if selector.is_some_and(|s| Selector::from_label_selector(Some(s)).is_ok_and(|s| s.matches(&labels)))
        {
            found.push(budget);
        }
    }
    Ok(found)
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether a pod that is not ready may go without being counted.
fn spares_unready(budget: &PodDisruptionBudget) -> bool {
    let policy = budget.spec.as_ref().and_then(|s| s.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let desired = status.desired_healthy.unwrap_or_default();
    policy == Some("AlwaysAllow") || (desired > 0 && status.current_healthy.unwrap_or_default() >= desired)
}

/// Takes one disruption off the budget, and notes for whom.
async fn spend(call: &Call, budget: &str, dry_run: bool) -> Result<(), ApiError> {
    let kind = call.api.kind(&Resource::of::<PodDisruptionBudget>())?;
    let spending = Call {
        namespace: call.namespace.clone(),
        name: Some(budget.to_owned()),
        subresource: Some("status".into()),
        options: WriteOptions {
            field_manager: Some("kube-apiserver".into()),
            dry_run,
            ..WriteOptions::default()
        },
        ..Call::new(&call.api, &kind, Identity::new("system:apiserver", &["system:masters"]))
    };
    let pod = call.name().to_owned();
    for _ in 0..TRIES_MAX {
        let spent = modify_as(&spending, Part::Status, Versions::Inherit, |current| {
            let Some(budget) = current.typed.as_any().downcast_ref::<PodDisruptionBudget>() else {
                return Err(ApiError::internal("only disruption budgets are spent"));
            };
            let mut budget = budget.clone();
            decrement(&mut budget, &pod, metadata::now())?;
            Ok(Box::new(budget))
        })
        .await;
        match spent {
            Err(error) if error.is_conflict() => {}
            result => return result.map(drop),
        }
    }
    let message = format!("couldn't update PodDisruptionBudget {budget:?} due to conflicts");
    let mut error = ApiError::timeout(format!("Timeout: {message}"));
    error.details_mut().retry_after_seconds = Some(RETRY_SECONDS);
    Err(error)
}

/// The controller has not got to the newest state of the budget.
fn busy(budget: &str) -> ApiError {
    let mut error = ApiError::too_many_requests(REFUSED, RETRY_SECONDS);
    let message = format!("The disruption budget {budget} is still being processed by the server.");
    error.details_mut().causes = vec![Cause { reason: CAUSE.into(), message, field: String::new() }];
    error
}

fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: Time) -> Result<(), ApiError> {
    let name = name_of(budget).to_owned();
    let generation = budget.metadata.generation.unwrap_or_default();
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or_default() < generation {
        return Err(busy(&name));
    }
    let resource = Resource::new("policy", "v1", "poddisruptionbudget", "PodDisruptionBudget", true);
    let allowed = status.disruptions_allowed.unwrap_or_default();
    if allowed < 0 {
        return Err(ApiError::forbidden(&resource, &name, "pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > UNCONFIRMED_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(&resource, &name, why));
    }
    if allowed == 0 {
        let mut error = ApiError::new(429, "TooManyRequests", REFUSED);
        let message = exhausted(&name, status);
        error.details_mut().causes = vec![Cause { reason: CAUSE.into(), message, field: String::new() }];
        return Err(error);
    }
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        none_left(status, generation, &now);
    }
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), now);
    Ok(())
}

/// Why nothing may be taken away.
fn exhausted(name: &str, status: &PodDisruptionBudgetStatus) -> String {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = conditions
        .iter()
        .find(|c| c.type_ == ALLOWED)
        .filter(|c| c.status == "False" && !c.message.is_empty());
    let (desired, current) =
        (status.desired_healthy.unwrap_or_default(), status.current_healthy.unwrap_or_default());
    let start = format!("The disruption budget {name}");
    match condition {
        Some(c) if c.reason == "SyncFailed" => {
            format!("{start} does not allow evicting pods currently because it failed sync: {}", c.message)
        }
        _ if current <= desired => {
            format!("{start} needs {desired} healthy pods and has {current} currently")
        }
        Some(c) => format!("{start} does not allow evicting pods currently ({}): {}", c.reason, c.message),
        None => format!("{start} does not allow evicting pods currently"),
    }
}

/// What the condition says once the last disruption is taken.
fn none_left(status: &mut PodDisruptionBudgetStatus, generation: i64, now: &Time) {
    let conditions = status.conditions.get_or_insert_default();
    let since = conditions
        .iter()
        .find(|c| c.type_ == ALLOWED && c.status == "False")
        .map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.into(),
        status: "False".into(),
        reason: "InsufficientPods".into(),
        message: String::new(),
        last_transition_time: since.unwrap_or_else(|| now.clone()),
        observed_generation: Some(generation),
    };
    match conditions.iter_mut().find(|c| c.type_ == ALLOWED) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 1}, "spec": {}, "status": status}),
        )
        .unwrap()
    }

    #[test]
    fn a_budget_is_spent_until_nothing_is_left() {
        let mut some = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 2}));
        decrement(&mut some, "p", metadata::now()).unwrap();
        let status = some.status.as_ref().unwrap();
        assert_eq!(status.disruptions_allowed, Some(1));
        assert!(status.disrupted_pods.as_ref().unwrap().contains_key("p") && status.conditions.is_none());
        decrement(&mut some, "q", metadata::now()).unwrap();
        let conditions = some.status.as_ref().unwrap().conditions.clone().unwrap();
        assert_eq!(
            (conditions[0].status.as_str(), conditions[0].reason.as_str()),
            ("False", "InsufficientPods")
        );
        let error = decrement(&mut some, "r", metadata::now()).unwrap_err();
        assert_eq!((error.code(), error.message()), (429, REFUSED));
    }

    #[test]
    fn refusals_say_why() {
        let condition = |reason: &str| json!([{"type": ALLOWED, "status": "False", "reason": reason, "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        for (status, want) in [
            (
                json!({"observedGeneration": 0, "disruptionsAllowed": 1}),
                "The disruption budget b is still being processed by the server.",
            ),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 2, "currentHealthy": 2}),
                "The disruption budget b needs 2 healthy pods and has 2 currently",
            ),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": 0, "conditions": condition("SyncFailed")}),
                "The disruption budget b does not allow evicting pods currently because it failed sync: why",
            ),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 3, "conditions": condition("Other")}),
                "The disruption budget b does not allow evicting pods currently (Other): why",
            ),
        ] {
            let error = decrement(&mut budget(status), "p", metadata::now()).unwrap_err();
            assert_eq!(error.details().unwrap().causes[0].message, want);
            assert_eq!(error.details().unwrap().causes[0].reason, CAUSE);
        }
    }

    #[test]
    fn pods_that_are_not_ready_may_be_spared() {
        let with = |policy: Value, status: Value| -> PodDisruptionBudget {
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"unhealthyPodEvictionPolicy": policy}, "status": status}),
            )
            .unwrap()
        };
        assert!(spares_unready(&with(json!("AlwaysAllow"), json!({}))));
        assert!(spares_unready(&with(json!(null), json!({"desiredHealthy": 1, "currentHealthy": 1}))));
        assert!(!spares_unready(&with(json!(null), json!({"desiredHealthy": 0, "currentHealthy": 1}))));
        assert!(!spares_unready(&with(
            json!("IfHealthyBudget"),
            json!({"desiredHealthy": 2, "currentHealthy": 1})
        )));
    }
}
