//! Indexed jobs: each index is filled, counted, and may fail for itself.

use super::*;

#[test]
fn indexes_are_filled_and_counted() {
    let spec = |more: Value| {
        let mut spec = json!({"parallelism": 3, "completions": 5, "completionMode": "Indexed"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    type Row = (&'static str, Value, Value, &'static [&'static str], &'static str, &'static str);
    let rows: Vec<Row> = vec![
        ("starts", spec(json!({})), json!({}), &[], "create at 0,1,2", ""),
        (
            "goes on",
            spec(json!({})),
            json!({"completedIndexes": "0,2", "succeeded": 2}),
            &["a Running 1"],
            "create at 3,4",
            "0,2",
        ),
        (
            "new successes",
            spec(json!({})),
            json!({}),
            &["a Succeeded 0", "b Running 1", "c Succeeded 2"],
            "create at 3,4",
            "0,2",
        ),
        (
            "the same twice",
            spec(json!({})),
            json!({"completedIndexes": "0", "succeeded": 1}),
            &["a Succeeded 0"],
            "create at 1,2,3",
            "0",
        ),
        (
            "repeated",
            spec(json!({})),
            json!({}),
            &["a Running 0", "b Running 0 ready", "c Running 1"],
            "remove a",
            "",
        ),
        (
            "none or beyond",
            spec(json!({})),
            json!({}),
            &["a Running", "b Running 9", "c Running 1"],
            "remove a b",
            "",
        ),
        (
            "failed are made again",
            spec(json!({})),
            json!({}),
            &["a Failed 0", "b Running 1", "c Running 2"],
            "create at 0",
            "",
        ),
        (
            "smaller",
            spec(json!({"completions": 2, "parallelism": 2})),
            json!({"completedIndexes": "0,4", "succeeded": 2}),
            &["a Running 1", "b Running 3"],
            "remove b",
            "0",
        ),
        (
            "larger",
            spec(json!({"completions": 6, "parallelism": 6})),
            json!({"completedIndexes": "0-4", "succeeded": 5}),
            &[],
            "create at 5",
            "0-4",
        ),
    ];
    for (name, spec, status, pods, work, completed) in rows {
        let outcome = Case { spec, status, pods, ..Case::default() }.run();
        let shown = outcome.settled.status.completed_indexes.clone().unwrap_or_default();
        assert_eq!((outcome.work.as_str(), shown.as_str()), (work, completed), "{name}");
    }
}

#[test]
fn indexes_fail_each_for_itself() {
    let spec = |more: Value| {
        let mut spec = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "backoffLimit": i32::MAX,
            "backoffLimitPerIndex": 1});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let fail_index = json!([{"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}}]);
    let ignore =
        json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    type Row = (
        &'static str,
        Value,
        &'static [&'static str],
        &'static str,
        &'static str,
        &'static str,
        &'static str,
    );
    let rows: Vec<Row> = vec![
        (
            "first failure",
            spec(json!({})),
            &["a Failed 0 failures=0", "b Running 1", "c Running 2"],
            "create at 0",
            "",
            "",
            "",
        ),
        (
            "its replacement runs",
            spec(json!({})),
            &["a Failed 0 failures=0", "x Running 0 failures=1", "b Running 1", "c Running 2"],
            "-",
            "",
            "a",
            "",
        ),
        (
            "the limit",
            spec(json!({})),
            &["a Failed 0 failures=1", "b Running 1", "c Running 2"],
            "-",
            "0",
            "a",
            "",
        ),
        (
            "all ended",
            spec(json!({})),
            &["a Failed 0 failures=1", "b Succeeded 1", "c Succeeded 2"],
            "end",
            "0",
            "a b c",
            "FailedIndexes",
        ),
        (
            "too many failed",
            spec(json!({"maxFailedIndexes": 0})),
            &["a Failed 0 failures=1", "b Running 1", "c Running 2"],
            "end b c",
            "0",
            "a b c",
            "MaxFailedIndexesExceeded",
        ),
        (
            "policy fails the index",
            spec(json!({"podFailurePolicy": {"rules": fail_index}})),
            &["a Failed 0 failures=0 exit=7", "b Running 1", "c Running 2"],
            "-",
            "0",
            "a",
            "",
        ),
        (
            "ignored failures do not count",
            spec(json!({"podFailurePolicy": {"rules": ignore}})),
            &["a Failed 0 failures=1 disrupted", "b Running 1", "c Running 2"],
            "create at 0",
            "",
            "",
            "",
        ),
    ];
    for (name, spec, pods, work, failed, release, want) in rows {
        let outcome = Case { spec, pods, ..Case::default() }.run();
        let shown = outcome.settled.status.failed_indexes.clone().unwrap_or_default();
        assert_eq!(
            (outcome.work.as_str(), shown.as_str(), outcome.release.as_str(), reason(&outcome)),
            (work, failed, release, want),
            "{name}"
        );
    }
    let replaced = Case { spec: spec(json!({})), pods: &["a Failed 0 failures=0"], ..Case::default() }.run();
    let Work::CreateAt(seats) = replaced.plan.work else { panic!("{:?}", replaced.plan.work) };
    let counts: Vec<i32> = seats.iter().map(|seat| seat.failures.unwrap().counted).collect();
    assert_eq!(counts, [1, 0, 0]);
    let soon = Case {
        spec: spec(json!({"backoffLimitPerIndex": 5})),
        pods: &["a Failed 0 failures=1 ended=5", "b Running 1", "c Running 2"],
        ..Case::default()
    };
    let outcome = soon.run();
    assert_eq!((outcome.work.as_str(), outcome.plan.wait.map(|w| w.as_secs())), ("-", Some(15)));
}
