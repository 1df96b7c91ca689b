//! When and why a job ends, waits or is suspended.

use super::*;

#[test]
fn jobs_end_for_upstreams_reasons() {
    let one = |more: Value| {
        let mut spec = json!({"parallelism": 1, "completions": 1});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let policy = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let target =
        json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]});
    type Row = (&'static str, Value, Value, &'static [&'static str], &'static str, &'static str);
    let rows: Vec<Row> = vec![
        ("complete", one(json!({})), json!({"succeeded": 1}), &[], "-", "CompletionsReached"),
        ("complete with the last", one(json!({})), json!({}), &["a Succeeded"], "-", "CompletionsReached"),
        ("no completions asked", one(json!({"completions": 0})), json!({}), &[], "-", "CompletionsReached"),
        (
            "work queue",
            one(json!({"completions": null})),
            json!({}),
            &["a Succeeded"],
            "-",
            "CompletionsReached",
        ),
        (
            "work queue still runs",
            one(json!({"completions": null})),
            json!({}),
            &["a Succeeded", "b Running"],
            "-",
            "",
        ),
        (
            "a pod too many still runs",
            one(json!({"parallelism": 2, "completions": 2})),
            json!({"succeeded": 2}),
            &["a Running"],
            "remove a",
            "CompletionsReached",
        ),
        (
            "backoff limit",
            one(json!({"backoffLimit": 0})),
            json!({}),
            &["a Failed"],
            "end",
            "BackoffLimitExceeded",
        ),
        (
            "backoff limit with others running",
            one(json!({"parallelism": 2, "completions": 2, "backoffLimit": 0})),
            json!({}),
            &["a Failed", "b Running ready"],
            "end b",
            "BackoffLimitExceeded",
        ),
        ("backoff limit not yet", one(json!({"backoffLimit": 1})), json!({}), &["a Failed"], "create 1", ""),
        (
            "backoff limit by status",
            one(json!({"backoffLimit": 1})),
            json!({"failed": 1}),
            &["a Failed"],
            "end",
            "BackoffLimitExceeded",
        ),
        (
            "restarts count",
            one(json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure",
            "containers": []}}})),
            json!({}),
            &["a Running restarts=2"],
            "end a",
            "BackoffLimitExceeded",
        ),
        (
            "restarts do not reach it",
            one(json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure",
            "containers": []}}})),
            json!({}),
            &["a Running restarts=1"],
            "-",
            "",
        ),
        (
            "restarts of Never do not count",
            one(json!({"backoffLimit": 0})),
            json!({}),
            &["a Running restarts=3"],
            "-",
            "",
        ),
        (
            "deadline",
            one(json!({"activeDeadlineSeconds": 10})),
            json!({"startTime": ago(10)}),
            &["a Running"],
            "end a",
            "DeadlineExceeded",
        ),
        (
            "deadline to come",
            one(json!({"activeDeadlineSeconds": 10})),
            json!({"startTime": ago(9)}),
            &["a Running"],
            "-",
            "",
        ),
        (
            "deadline while suspended",
            one(json!({"activeDeadlineSeconds": 10, "suspend": true})),
            json!({"startTime": ago(99)}),
            &[],
            "-",
            "",
        ),
        (
            "policy",
            one(json!({"podFailurePolicy": {"rules": policy}})),
            json!({}),
            &["a Failed exit=42"],
            "end",
            "PodFailurePolicy",
        ),
        (
            "policy does not match",
            one(json!({"podFailurePolicy": {"rules": policy}})),
            json!({}),
            &["a Failed exit=1"],
            "create 1",
            "",
        ),
        ("announced before", one(json!({})), target, &["a Running"], "end a", "DeadlineExceeded"),
    ];
    for (name, spec, status, pods, work, want) in rows {
        let outcome = Case { spec, status, pods, ..Case::default() }.run();
        assert_eq!((outcome.work.as_str(), reason(&outcome)), (work, want), "{name}");
    }
}

#[test]
fn the_end_is_announced_first_and_comes_when_all_is_accounted_for() {
    let spec = || json!({"parallelism": 2, "completions": 2, "backoffLimit": 0});
    let outcome = Case { spec: spec(), pods: &["a Failed", "b Running ready"], ..Case::default() }.run();
    let mut status = outcome.settled.status.clone();
    let kinds = |status: &k8s_openapi::api::batch::v1::JobStatus| -> Vec<String> {
        status.conditions.iter().flatten().map(|c| c.type_.clone()).collect()
    };
    assert_eq!(kinds(&status), ["FailureTarget"]);
    assert_eq!((status.active, status.ready, status.terminating), (None, Some(0), Some(1)));
    assert_eq!(outcome.release, "a b");
    assert!(!tracking::finish(&mut status, outcome.settled.verdict.as_ref(), true, now()), "noted pods");
    tracking::count(&mut status, &[].into());
    assert_eq!(status.failed, Some(2), "what ran when the job failed has failed");
    assert!(
        !tracking::finish(&mut status, outcome.settled.verdict.as_ref(), true, now()),
        "b is still going"
    );
    let status = serde_json::to_value(&status).unwrap();
    let next = Case { spec: spec(), status, pods: &["b Running deleting -tracked"], ..Case::default() }.run();
    assert_eq!(next.settled.status.terminating, Some(1));
    let status = serde_json::to_value(&next.settled.status).unwrap();
    let last = Case { spec: spec(), status, ..Case::default() }.run();
    let mut status = last.settled.status.clone();
    assert!(tracking::finish(&mut status, last.settled.verdict.as_ref(), last.settled.all, now()));
    assert_eq!(kinds(&status), ["FailureTarget", "Failed"]);
    assert_eq!((status.failed, status.completion_time), (Some(2), None));

    let outcome =
        Case { spec: json!({"completions": 1}), status: json!({"succeeded": 1}), ..Case::default() }.run();
    let mut status = outcome.settled.status;
    assert!(tracking::finish(&mut status, outcome.settled.verdict.as_ref(), true, now()));
    assert_eq!(kinds(&status), ["SuccessCriteriaMet", "Complete"]);
    assert!(status.completion_time.is_some());
}

#[test]
fn a_job_does_not_end_while_the_informer_is_behind() {
    let case = Case {
        spec: json!({"parallelism": 1, "completions": 1, "backoffLimit": 0}),
        pods: &["a Failed"],
        satisfied: false,
        ..Case::default()
    };
    let outcome = case.run();
    assert!(outcome.settled.verdict.is_none());
    assert_eq!(outcome.settled.status.conditions, None);
}

#[test]
fn backoff_doubles_and_a_success_ends_it() {
    let spec = || json!({"parallelism": 1, "completions": 3, "backoffLimit": 99});
    type Row = (&'static [&'static str], u32, Option<u64>, &'static str);
    let rows: &[Row] = &[
        (&["a Failed ended=3"], 0, Some(7), "-"),
        (&["a Failed ended=11"], 0, None, "create 1"),
        (&["a Failed ended=3"], 1, Some(17), "-"),
        (&["a Failed ended=3", "b Failed ended=9"], 0, Some(17), "-"),
        (&["a Failed ended=3"], 5, Some(317), "-"),
        (&["a Failed ended=3"], 40, Some(597), "-"),
        (&["a Failed ended=3", "b Succeeded ended=2"], 5, None, "create 1"),
        (&["a Failed ended=3", "b Succeeded ended=5"], 5, Some(7), "-"),
        (&["b Succeeded ended=5"], 5, None, "create 1"),
    ];
    for (pods, failures, wait, work) in rows {
        let backoff = Backoff { failures: *failures, last: Timestamp::from_second(NOW - 1000).ok() };
        let outcome = Case { spec: spec(), pods, backoff, ..Case::default() }.run();
        assert_eq!(
            (outcome.plan.wait.map(|wait| wait.as_secs()), outcome.work.as_str()),
            (*wait, *work),
            "{pods:?} after {failures}"
        );
    }
}

#[test]
fn suspension_removes_pods_and_resuming_starts_the_clock_anew() {
    let spec = |suspend: bool| json!({"parallelism": 2, "completions": 2, "suspend": suspend});
    let fresh = Case { spec: spec(true), ..Case::default() }.run();
    assert_eq!((fresh.work.as_str(), fresh.settled.suspension), ("-", Some("Suspended")));
    assert_eq!(fresh.settled.status.start_time, None);

    let started = json!({"startTime": ago(50), "active": 2});
    let outcome = Case {
        spec: spec(true),
        status: started,
        pods: &["a Running ready", "b Pending"],
        ..Case::default()
    }
    .run();
    assert_eq!((outcome.work.as_str(), outcome.settled.suspension), ("remove a b", Some("Suspended")));
    let status = &outcome.settled.status;
    assert_eq!((status.active, status.ready, status.terminating), (None, Some(0), Some(2)));
    let noted = status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!((noted.failed, outcome.release.as_str()), (None, ""), "they do not count");

    let status = serde_json::to_value(&outcome.settled.status).unwrap();
    let again = Case { spec: spec(true), status: status.clone(), ..Case::default() }.run();
    assert_eq!(again.settled.suspension, None, "told once");
    let resumed = Case { spec: spec(false), status, ..Case::default() }.run();
    assert_eq!((resumed.work.as_str(), resumed.settled.suspension), ("create 2", Some("Resumed")));
    assert_eq!(resumed.settled.status.start_time.unwrap().0, now());
    let condition = &resumed.settled.status.conditions.unwrap()[0];
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("JobResumed")));
}

#[test]
fn a_success_policy_ends_the_rest() {
    let spec = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let pods = &["a Succeeded 0", "b Running 1 ready", "c Running 2"];
    let outcome = Case { spec, pods, ..Case::default() }.run();
    assert_eq!((outcome.work.as_str(), reason(&outcome)), ("end b c", "SuccessPolicy"));
    assert_eq!(outcome.release, "a b c");
    let status = outcome.settled.status;
    assert_eq!(status.completed_indexes.as_deref(), Some("0"));
    assert_eq!(status.uncounted_terminated_pods.unwrap().failed, None, "those ended did not fail");
    let condition = &status.conditions.unwrap()[0];
    assert_eq!(
        (condition.type_.as_str(), condition.message.as_deref()),
        ("SuccessCriteriaMet", Some("Matched rules at index 0"))
    );
}
