//! One bad job per rule; what may change; what its status may become.

use serde_json::{Value, json};

use crate::kinds::testing::{self, defaulted, parse};

use super::*;

fn job() -> Value {
    json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"selector": {"matchLabels": {UID_LABEL: "u"}}, "template":
        {"metadata": {"labels": {UID_LABEL: "u", OLD_UID_LABEL: "u", NAME_LABEL: "j", OLD_NAME_LABEL: "j"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}})
}

fn with(field: &str, value: Value) -> Value {
    let mut job = job();
    job["spec"][field] = value;
    job
}

fn indexed(more: Value) -> Value {
    let mut job = with("completionMode", json!("Indexed"));
    job["spec"]["completions"] = json!(6);
    job["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

#[test]
fn defaults() {
    let spec = |job: Value| serde_json::to_value(defaulted::<Job>(job).spec).unwrap();
    let plain = spec(job());
    for (field, want) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("manualSelector", json!(false)),
    ] {
        assert_eq!(plain[field], want, "{field}");
    }
    assert_eq!(spec(with("parallelism", json!(3)))["completions"], json!(null));
    assert_eq!(spec(indexed(json!({"backoffLimitPerIndex": 1})))["backoffLimit"], json!(i32::MAX));
    assert_eq!(spec(with("podFailurePolicy", json!({"rules": []})))["podReplacementPolicy"], json!("Failed"));
}

#[test]
fn selectors_are_made_up() {
    let mut job: Job = defaulted(json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template":
        {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}));
    job.prepare_create();
    let spec = serde_json::to_value(&job.spec).unwrap();
    assert_eq!(spec["selector"], json!({"matchLabels": {UID_LABEL: "u"}}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({UID_LABEL: "u", OLD_UID_LABEL: "u", NAME_LABEL: "j", OLD_NAME_LABEL: "j"})
    );
    // What has no labels of its own has its pods'.
    assert_eq!(json!(job.metadata.labels), spec["template"]["metadata"]["labels"]);
    let mut errors = Errors::default();
    job.validate(&mut errors);
    job.validate_create(&mut errors);
    assert!(errors.is_empty(), "{errors:?}");
    for (own, count) in [(json!({"a": "b"}), 1), (json!({"x": "y"}), 1)] {
        let mut job: Job = defaulted(
            json!({"metadata": {"name": "j", "uid": "u", "labels": own}, "spec": {"template":
            {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
        );
        job.prepare_create();
        assert_eq!(job.metadata.labels.map(|labels| labels.len()), Some(count), "{own}");
    }
}

#[test]
fn made_up_labels_are_not_the_client_s() {
    let mut job: Job = defaulted(job());
    let labels = job.spec.as_mut().unwrap().template.metadata.as_mut().unwrap().labels.as_mut().unwrap();
    labels.insert(NAME_LABEL.into(), "other".into());
    let mut errors = Errors::default();
    job.validate_create(&mut errors);
    let causes = errors.into_causes();
    assert_eq!(causes[0].field, "spec.template.metadata.labels[batch.kubernetes.io/job-name]");
    assert!(causes[0].message.ends_with(": must be 'j'"), "{causes:?}");
}

#[test]
fn one_bad_job_per_rule() {
    let restart = |policy: &str| {
        let mut job = job();
        job["spec"]["template"]["spec"]["restartPolicy"] = json!(policy);
        job
    };
    let failure = |rule: Value| with("podFailurePolicy", json!({"rules": [rule]}));
    let codes = |codes: Value| failure(json!({"action": "FailJob", "onExitCodes": codes}));
    let success = |rule: Value| indexed(json!({"successPolicy": {"rules": [rule]}}));
    testing::valid::<Job>(&[
        job(),
        indexed(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 2})),
        codes(json!({"operator": "In", "values": [1, 2]})),
        success(json!({"succeededIndexes": "0,2-4", "succeededCount": 2})),
        with("managedBy", json!("example.com/controller")),
    ]);
    testing::invalid::<Job>(&[
        (
            with("parallelism", json!(-1)),
            "spec.parallelism",
            "Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            with("ttlSecondsAfterFinished", json!(-1)),
            "spec.ttlSecondsAfterFinished",
            "Invalid value: -1: must be",
        ),
        (
            with("completionMode", json!("X")),
            "spec.completionMode",
            "Unsupported value: \"X\": supported values: \"NonIndexed\", \"Indexed\"",
        ),
        (
            indexed(json!({"completions": null, "parallelism": 1})),
            "spec.completions",
            "Required value: when completion mode is Indexed",
        ),
        (
            indexed(json!({"parallelism": 100_001})),
            "spec.parallelism",
            "Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
        ),
        (
            indexed(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 7})),
            "spec.maxFailedIndexes",
            "Invalid value: 7: must be less than or equal to completions",
        ),
        (
            indexed(json!({"maxFailedIndexes": 1})),
            "spec.backoffLimitPerIndex",
            "Required value: when maxFailedIndexes is specified",
        ),
        (
            with("backoffLimitPerIndex", json!(1)),
            "spec.backoffLimitPerIndex",
            "Invalid value: 1: requires indexed completion mode",
        ),
        (
            with("managedBy", json!("x")),
            "spec.managedBy",
            "Invalid value: \"x\": must be a domain-prefixed path",
        ),
        (
            restart("Always"),
            "spec.template.spec.restartPolicy",
            "Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            with("podReplacementPolicy", json!("X")),
            "spec.podReplacementPolicy",
            "Unsupported value: \"X\": supported values: \"Failed\", \"TerminatingOrFailed\"",
        ),
        (
            with("selector", json!({"matchLabels": {"a": "b"}})),
            "spec.template.metadata.labels",
            "Invalid value: {",
        ),
        (
            failure(json!({"action": "", "onPodConditions": [{"type": "X"}]})),
            "spec.podFailurePolicy.rules[0].action",
            "Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
        ),
        (
            failure(json!({"action": "FailIndex", "onPodConditions": [{"type": "X"}]})),
            "spec.podFailurePolicy.rules[0].action",
            "Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        ),
        (
            failure(json!({"action": "Count"})),
            "spec.podFailurePolicy.rules[0]",
            "Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            codes(json!({"operator": "X", "values": [1]})),
            "spec.podFailurePolicy.rules[0].onExitCodes.operator",
            "Unsupported value: \"X\": supported values: \"In\", \"NotIn\"",
        ),
        (
            codes(json!({"operator": "In", "values": [0]})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]",
            "Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            codes(json!({"operator": "In", "values": [2, 1]})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values",
            "Invalid value: [2,1]: must be ordered",
        ),
        (
            codes(json!({"operator": "In", "values": []})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values",
            "Invalid value: []: at least one value is required",
        ),
        (
            codes(json!({"operator": "In", "values": [1], "containerName": "x"})),
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName",
            "Invalid value: \"x\": must be one of the container",
        ),
        (
            with("successPolicy", json!({"rules": [{"succeededCount": 1}]})),
            "spec.successPolicy",
            "Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode",
        ),
        (
            success(json!({})),
            "spec.successPolicy.rules[0]",
            "Required value: at least one of succeededCount or succeededIndexes must be specified",
        ),
        (
            success(json!({"succeededIndexes": "3,2"})),
            "spec.successPolicy.rules[0].succeededIndexes",
            "Invalid value: \"3,2\": error parsing succeededIndexes: non-increasing order, previous: 3, current: 2",
        ),
        (
            success(json!({"succeededIndexes": "9"})),
            "spec.successPolicy.rules[0].succeededIndexes",
            "Invalid value: \"9\": error parsing succeededIndexes: too large index: \"9\"",
        ),
        (
            success(json!({"succeededIndexes": "1", "succeededCount": 2})),
            "spec.successPolicy.rules[0].succeededCount",
            "Invalid value: 2: must be less than or equal to 1 (the number of indexes",
        ),
    ]);
}

#[test]
fn most_of_a_job_stays() {
    let image = |mut job: Value| {
        job["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:2");
        job
    };
    let cpu = |mut job: Value| {
        job["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        job["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        job
    };
    let suspended = with("suspend", json!(true));
    testing::updates::<Job>(&[
        (job(), with("parallelism", json!(3)), "spec.completions", "Invalid value: null: field is immutable"),
        (job(), with("suspend", json!(true)), "", ""),
        (job(), with("backoffLimit", json!(1)), "", ""),
        (job(), image(job()), "spec.template", "Invalid value: {"),
        (job(), cpu(job()), "spec.template", "Invalid value: {"),
        (suspended.clone(), cpu(suspended.clone()), "", ""),
        (suspended.clone(), image(suspended), "spec.template", "Invalid value: {"),
        (indexed(json!({"parallelism": 6})), indexed(json!({"parallelism": 8, "completions": 8})), "", ""),
        (
            indexed(json!({"parallelism": 6})),
            indexed(json!({"parallelism": 6, "completions": 8})),
            "spec.completions",
            "Invalid value: 8: can only be modified in tandem with spec.parallelism",
        ),
        (
            job(),
            indexed(json!({"completions": 1})),
            "spec.completionMode",
            "Invalid value: \"Indexed\": field is immutable",
        ),
    ]);
}

#[test]
fn a_status_agrees_with_itself() {
    let job = |status: Value| {
        let mut job = job();
        job["status"] = status;
        defaulted::<Job>(job)
    };
    let conditions = |names: &[&str]| -> Value {
        names.iter().map(|name| json!({"type": name, "status": "True"})).collect()
    };
    let done = json!({"conditions": conditions(&["SuccessCriteriaMet", "Complete"]), "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T01:00:00Z", "succeeded": 1});
    let changed = |field: &str, value: Value| {
        let mut status = done.clone();
        status[field] = value;
        status
    };
    for (old, new, want) in [
        (json!({}), done.clone(), None),
        (
            json!({}),
            changed("completionTime", json!(null)),
            Some("status.completionTime: Required value: completionTime is required for Complete jobs"),
        ),
        (
            json!({}),
            changed("startTime", json!(null)),
            Some("status.startTime: Required value: startTime is required for finished job"),
        ),
        (
            json!({}),
            changed("active", json!(1)),
            Some("status.active: Invalid value: 1: active>0 is invalid for finished job"),
        ),
        (
            json!({}),
            changed("conditions", conditions(&["Complete"])),
            Some(
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
        ),
        (
            json!({}),
            json!({"active": -1}),
            Some("status.active: Invalid value: -1: must be greater than or equal to 0"),
        ),
        (
            json!({}),
            json!({"ready": 2, "active": 1}),
            Some("status.ready: Invalid value: 2: cannot set more ready pods than active"),
        ),
        (
            json!({}),
            json!({"completedIndexes": "0"}),
            Some(
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
            ),
        ),
        (
            json!({"failed": 2}),
            json!({"failed": 1}),
            Some("status.failed: Invalid value: 1: cannot decrease the failed counter"),
        ),
        (
            done.clone(),
            json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 1}),
            Some("status.conditions: Invalid value: cannot disable the terminal Complete=True condition"),
        ),
    ] {
        let mut errors = Errors::default();
        job(new.clone()).validate_status_update(&job(old), &mut errors);
        let found: Vec<String> =
            errors.into_causes().into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        match want {
            None => assert_eq!(found, [""; 0], "{new}"),
            Some(want) => assert!(found.iter().any(|f| f.starts_with(want)), "{new}: {found:#?}"),
        }
    }
}

#[test]
fn columns() {
    let mut shown = with("completions", json!(3));
    shown["status"] = json!({"succeeded": 1, "startTime": "2026-01-01T11:59:00Z"});
    assert_eq!(
        testing::cells::<Job>(shown),
        ["j", "Running", "1/3", "60s", "<unknown>", "c", "i:1", "batch.kubernetes.io/controller-uid=u"]
    );
    let mut over = job();
    over["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    assert_eq!(state(&parse(over)), "Complete");
}
