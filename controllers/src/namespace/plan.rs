//! What a namespace under deletion says about what is left in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What one look at the namespace's content found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Objects left, by resource (`deployments.apps`).
    pub left: BTreeMap<String, usize>,
    /// Objects that each finalizer holds.
    pub finalizers: BTreeMap<String, usize>,
    /// Deletions that failed, by resource.
    pub failures: BTreeMap<String, String>,
    /// Groups and versions of which nobody can say now what is in them.
    pub stale: Vec<String>,
}

impl Content {
    pub fn is_empty(&self) -> bool {
        self.left.is_empty() && self.failures.is_empty() && self.stale.is_empty()
    }
}

/// What could not be discovered, as client-go words it.
pub fn undiscovered(stale: &[String]) -> Option<String> {
    let each: Vec<String> =
        stale.iter().map(|gv| format!("{gv}: stale GroupVersion discovery: {gv}")).collect();
    (!each.is_empty())
        .then(|| format!("unable to retrieve the complete list of server APIs: {}", each.join(", ")))
}

/// The conditions, as upstream words them; times stay where nothing changed.
pub fn conditions(
    content: &Content,
    old: Option<&Vec<NamespaceCondition>>,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let failed = content.failures.values().cloned().collect::<Vec<_>>().join(", ");
    let left: Vec<String> = content
        .left
        .iter()
        .map(|(resource, count)| {
            let name = if resource.contains('.') { resource.clone() } else { format!("{resource}.") };
            format!("{name} has {count} resource instances")
        })
        .collect();
    let held: Vec<String> = content
        .finalizers
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let table = [
        (
            "NamespaceDeletionDiscoveryFailure",
            undiscovered(&content.stale).map(|failed| {
                ("DiscoveryFailed", format!("Discovery failed for some groups, 1 failing: {failed}"))
            }),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!content.failures.is_empty()).then(|| {
                let count = content.failures.len();
                let message = format!("Failed to delete all resource types, {count} remaining: {failed}");
                ("ContentDeletionFailed", message)
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!left.is_empty()).then(|| {
                ("SomeResourcesRemain", format!("Some resources are remaining: {}", left.join(", ")))
            }),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!held.is_empty()).then(|| {
                let list = held.join(", ");
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {list}"),
                )
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    table
        .into_iter()
        .map(|(kind, problem, (fine, fine_message))| {
            let (status, reason, message) = match problem {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", fine, fine_message.to_owned()),
            };
            let same = old
                .into_iter()
                .flatten()
                .find(|c| c.type_ == kind && c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            NamespaceCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(same.unwrap_or(Time(now))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let content = Content {
            left: [("pods".to_owned(), 2), ("deployments.apps".to_owned(), 1)].into(),
            finalizers: [("a/b".to_owned(), 1)].into(),
            ..Content::default()
        };
        let first = conditions(&content, None, now);
        let find = |all: &[NamespaceCondition], kind: &str| {
            all.iter().find(|c| c.type_ == kind).cloned().unwrap_or_default()
        };
        let remaining = find(&first, "NamespaceContentRemaining");
        assert_eq!(remaining.status, "True");
        assert_eq!(
            remaining.message.as_deref(),
            Some(
                "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances"
            )
        );
        let held = find(&first, "NamespaceFinalizersRemaining");
        assert_eq!(
            held.message.as_deref(),
            Some("Some content in the namespace has finalizers remaining: a/b in 1 resource instances")
        );
        let stale = Content { stale: vec!["metrics.k8s.io/v1beta1".into()], ..Content::default() };
        let failing = find(&conditions(&stale, None, now), "NamespaceDeletionDiscoveryFailure");
        assert_eq!((failing.status.as_str(), failing.reason.as_deref()), ("True", Some("DiscoveryFailed")));
        assert_eq!(
            failing.message.as_deref(),
            Some(
                "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1beta1: stale GroupVersion discovery: metrics.k8s.io/v1beta1"
            )
        );
        let then = conditions(&Content::default(), Some(&first), later);
        assert_eq!(find(&then, "NamespaceContentRemaining").last_transition_time, Some(Time(later)));
        assert_eq!(find(&then, "NamespaceDeletionDiscoveryFailure").last_transition_time, Some(Time(now)));
        assert!(then.iter().all(|c| c.status == "False"));
    }
}
