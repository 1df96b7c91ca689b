//! Whether an indexed job has succeeded before all its indexes have.

use k8s_openapi::api::batch::v1::SuccessPolicy;

use crate::job::indexes::Indexes;

/// What the job then says.
pub fn met(policy: Option<&SuccessPolicy>, completions: u32, succeeded: &Indexes) -> Option<String> {
    if succeeded.total() == 0 {
        return None;
    }
    let rules = policy?.rules.iter().enumerate();
    let at = rules.into_iter().find(|(_, rule)| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(wanted), count) => {
            let wanted = Indexes::parse(wanted, completions);
            succeeded.common(&wanted) >= count.unwrap_or_else(|| wanted.total())
        }
        (None, Some(count)) => succeeded.total() >= count,
        (None, None) => false,
    });
    at.map(|(at, _)| format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rules_match_by_indexes_and_counts() {
        let policy =
            |rules: Value| -> SuccessPolicy { serde_json::from_value(json!({"rules": rules})).unwrap() };
        for (rules, succeeded, want) in [
            (json!([{"succeededCount": 2}]), "0", None),
            (json!([{"succeededCount": 2}]), "0,4", Some("Matched rules at index 0")),
            (json!([{"succeededIndexes": "0"}]), "1-4", None),
            (json!([{"succeededIndexes": "0"}]), "0", Some("Matched rules at index 0")),
            (json!([{"succeededIndexes": "0-2"}]), "0,1", None),
            (
                json!([{"succeededIndexes": "0-2", "succeededCount": 2}]),
                "0,1",
                Some("Matched rules at index 0"),
            ),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), "0,4", None),
            (
                json!([{"succeededIndexes": "0"}, {"succeededCount": 3}]),
                "1-3",
                Some("Matched rules at index 1"),
            ),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let found = met(Some(&policy(rules.clone())), 5, &Indexes::parse(succeeded, 5));
            assert_eq!(found.as_deref(), want, "{rules} {succeeded}");
        }
        assert_eq!(met(None, 5, &Indexes::parse("0-4", 5)), None);
    }
}
