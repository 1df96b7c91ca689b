//! Pod failure policies.

use super::*;

#[test]
fn failure_policies_decide_by_exit_codes_and_conditions() {
    let rule = |action: &str, on: Value| {
        let mut rule = json!({"action": action});
        rule.as_object_mut().unwrap().extend(on.as_object().unwrap().clone());
        rule
    };
    let codes =
        |operator: &str, values: Value| json!({"onExitCodes": {"operator": operator, "values": values}});
    let named = json!({"onExitCodes": {"containerName": "other", "operator": "In", "values": [3]}});
    let disrupted = json!({"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    type Row = (&'static str, Value, &'static [&'static str], i32, Option<&'static str>);
    let rows: Vec<Row> = vec![
        (
            "in",
            json!([rule("FailJob", codes("In", json!([3, 4])))]),
            &["a Failed exit=3"],
            1,
            Some("Container main for pod ns/a failed with exit code 3 matching FailJob rule at index 0"),
        ),
        (
            "not in",
            json!([rule("FailJob", codes("NotIn", json!([3])))]),
            &["a Failed exit=9"],
            1,
            Some("Container main for pod ns/a failed with exit code 9 matching FailJob rule at index 0"),
        ),
        (
            "zero never matches",
            json!([rule("FailJob", codes("NotIn", json!([3])))]),
            &["a Failed exit=0"],
            1,
            None,
        ),
        ("another container", json!([rule("FailJob", named)]), &["a Failed exit=3"], 1, None),
        (
            "first rule wins",
            json!([rule("Ignore", codes("In", json!([3]))), rule("FailJob", codes("In", json!([3])))]),
            &["a Failed exit=3"],
            0,
            None,
        ),
        ("count", json!([rule("Count", codes("In", json!([3])))]), &["a Failed exit=3"], 1, None),
        ("ignored", json!([rule("Ignore", disrupted.clone())]), &["a Failed disrupted", "b Failed"], 1, None),
        (
            "condition",
            json!([rule("FailJob", disrupted)]),
            &["a Failed disrupted"],
            1,
            Some("Pod ns/a has condition DisruptionTarget matching FailJob rule at index 0"),
        ),
        (
            "running pods are not looked at",
            json!([rule(
                "FailJob",
                json!({"onPodConditions":
            [{"type": "DisruptionTarget", "status": "True"}]})
            )]),
            &["a Running disrupted deleting"],
            0,
            None,
        ),
    ];
    for (name, rules, pods, failed, message) in rows {
        let spec = json!({"parallelism": 1, "completions": 1, "podFailurePolicy": {"rules": rules}});
        let outcome = Case { spec, pods, ..Case::default() }.run();
        let verdict = outcome.plan.verdict.as_ref().map(|v| v.message.as_str());
        assert_eq!((outcome.plan.counts.failed, verdict), (failed, message), "{name}");
        let noted = outcome.settled.status.uncounted_terminated_pods.unwrap().failed.map_or(0, |l| l.len());
        assert_eq!(plan::length(noted), failed, "{name}");
    }
}
