//! Which nodes a pod's node selector and node affinity allow.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, NodeSelectorRequirement, NodeSelectorTerm};

use crate::selector::{Labels, Operator, Requirement};

/// Whether a node is one that the selector and the required terms of the affinity allow.
pub fn allows(
    selector: Option<&BTreeMap<String, String>>,
    affinity: Option<&Affinity>,
    node: &str,
    labels: &impl Labels,
) -> bool {
    if !selector.into_iter().flatten().all(|(key, value)| labels.label(key) == Some(value)) {
        return false;
    }
    let required = affinity
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches_term(term, node, labels)))
}

/// A term without requirements matches nothing, as upstream.
pub fn matches_term(term: &NodeSelectorTerm, node: &str, labels: &impl Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| matches_expression(r, labels))
        && fields.iter().all(|r| matches_expression(r, &Name(node)))
}

/// One that does not parse matches nothing.
fn matches_expression(requirement: &NodeSelectorRequirement, labels: &impl Labels) -> bool {
    let values = requirement.values.clone().unwrap_or_default();
    let bound = || values.first().and_then(|v| v.parse::<i64>().ok());
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => match bound() {
            Some(bound) => Operator::GreaterThan(bound),
            None => return false,
        },
        "Lt" => match bound() {
            Some(bound) => Operator::LessThan(bound),
            None => return false,
        },
        _ => return false,
    };
    Requirement { key: requirement.key.clone(), operator }.matches(labels)
}

struct Name<'a>(&'a str);

impl Labels for Name<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        (key == "metadata.name").then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_terms_and_selectors() {
        let labels: BTreeMap<String, String> =
            [("disk", "ssd"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let required = |terms: &str| {
            format!(
                r#"{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{terms}]}}}}}}"#
            )
        };
        let fields = |name: &str| {
            format!(r#"{{"matchFields":[{{"key":"metadata.name","operator":"In","values":["{name}"]}}]}}"#)
        };
        let disk = r#"{"matchExpressions":[{"key":"disk","operator":"In","values":["ssd"]}]}"#;
        let none = r#"{"matchExpressions":[{"key":"gpu","operator":"Exists"}]}"#;
        for (affinity, want) in [
            (required(disk), true),
            (required(none), false),
            (required(&format!("{none},{disk}")), true),
            (required("{}"), false),
            (required(&fields("n1")), true),
            (required(&fields("n2")), false),
            ("{}".to_owned(), true),
        ] {
            let affinity: Affinity = serde_json::from_str(&affinity).unwrap();
            assert_eq!(allows(None, Some(&affinity), "n1", &labels), want, "{affinity:?}");
        }
        let selector = |value: &str| BTreeMap::from([("disk".to_owned(), value.to_owned())]);
        assert!(allows(Some(&selector("ssd")), None, "n1", &labels));
        assert!(!allows(Some(&selector("hdd")), None, "n1", &labels));
    }
}
