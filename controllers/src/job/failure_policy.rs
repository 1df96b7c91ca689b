//! What a job's pod failure policy says about a failed pod.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyRule};

use crate::job::pod::JobPod;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// With what the job then says.
    FailJob(String),
    FailIndex,
    Ignore,
    Count,
}

impl Action {
    /// Whether the failure counts towards a backoff limit.
    pub fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// The action of the first rule that matches. Without one the failure counts.
pub fn action(policy: Option<&PodFailurePolicy>, pod: &JobPod) -> Action {
    let rules = policy.map(|p| p.rules.as_slice()).unwrap_or_default();
    let matched = rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule, what_matches(rule, pod)?)));
    let Some((at, rule, what)) = matched else { return Action::Count };
    match rule.action.as_str() {
        "FailJob" => Action::FailJob(format!("{what} matching FailJob rule at index {at}")),
        "FailIndex" => Action::FailIndex,
        "Ignore" => Action::Ignore,
        _ => Action::Count,
    }
}

/// What of the pod the rule matches, in words.
fn what_matches(rule: &PodFailurePolicyRule, pod: &JobPod) -> Option<String> {
    let (namespace, name) = (&pod.object.head.namespace, pod.name());
    if let Some(codes) = &rule.on_exit_codes {
        let container = pod.containers.iter().find(|container| {
            let listed = container.exit_code.is_some_and(|code| codes.values.contains(&code));
            let asked = codes.container_name.as_ref().is_none_or(|wanted| *wanted == container.name);
            let failed = container.exit_code.is_some_and(|code| code != 0);
            asked && failed && listed == (codes.operator == "In")
        })?;
        let code = container.exit_code.unwrap_or_default();
        let container = &container.name;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let condition = pod.conditions.iter().find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.r#type
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", condition.r#type))
}
