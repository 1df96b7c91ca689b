//! How many pods a job makes, removes and replaces, and what has ended is noted once.

use super::*;

#[test]
fn pods_are_created_and_removed_to_the_number_wanted() {
    let spec = |parallelism: i32, completions: Value| json!({"parallelism": parallelism, "completions": completions});
    let succeeded = |n: i32| json!({"succeeded": n});
    type Row = (&'static str, Value, Value, &'static [&'static str], &'static str);
    let rows: Vec<Row> = vec![
        ("starts", spec(2, json!(5)), json!({}), &[], "create 2"),
        ("work queue starts", spec(2, json!(null)), json!({}), &[], "create 2"),
        ("too few", spec(2, json!(5)), json!({}), &["a Running"], "create 1"),
        ("enough", spec(2, json!(5)), json!({}), &["a Running", "b Pending"], "-"),
        ("never more than are left", spec(5, json!(5)), succeeded(3), &["a Running"], "create 1"),
        (
            "too many",
            spec(2, json!(5)),
            json!({}),
            &["a Running", "b Pending", "c Running ready"],
            "remove b",
        ),
        ("unready before ready", spec(1, json!(5)), json!({}), &["a Running ready", "b Running"], "remove b"),
        ("parallelism zero", spec(0, json!(5)), json!({}), &["a Running", "b Running"], "remove a b"),
        (
            "more than are left",
            spec(5, json!(3)),
            succeeded(2),
            &["a Running ready", "b Running"],
            "remove b",
        ),
        ("the ones that succeeded count", spec(2, json!(2)), json!({}), &["a Succeeded"], "create 1"),
        (
            "noted ones count",
            spec(1, json!(1)),
            json!({"uncountedTerminatedPods": {"succeeded": ["a"]}}),
            &["a Succeeded"],
            "-",
        ),
        ("work queue after a success", spec(3, json!(null)), succeeded(1), &["a Running"], "-"),
        (
            "work queue too many before",
            spec(1, json!(null)),
            json!({}),
            &["a Running", "b Pending"],
            "remove b",
        ),
        ("at most 500 at once", spec(900, json!(900)), json!({}), &[], "create 500"),
        ("failed ones are replaced", spec(2, json!(2)), json!({}), &["a Running", "b Failed"], "create 1"),
        ("going ones are replaced", spec(1, json!(1)), json!({}), &["a Running deleting"], "create 1"),
    ];
    for (name, spec, status, pods, want) in rows {
        let outcome = Case { spec, status, pods, ..Case::default() }.run();
        assert_eq!(outcome.work, want, "{name}");
    }
}

#[test]
fn nothing_is_created_while_the_informer_is_behind_or_the_job_goes() {
    let spec = || json!({"parallelism": 1, "completions": 1});
    let behind = Case { spec: spec(), satisfied: false, ..Case::default() }.run();
    assert_eq!((behind.work.as_str(), behind.plan.managed), ("-", false));
    let going = Case { spec: spec(), deleting: true, pods: &["a Running"], ..Case::default() }.run();
    assert_eq!((going.work.as_str(), going.release.as_str()), ("-", "a"), "its pods may go too");
}

#[test]
fn what_has_ended_is_noted_once_and_let_go() {
    let spec = || json!({"parallelism": 2, "completions": 4});
    let pods =
        &["a Succeeded", "b Failed", "c Running", "d Succeeded -tracked", "e Succeeded", "f Failed deleting"];
    let outcome =
        Case { spec: spec(), status: json!({"succeeded": 1}), pods, removing: &["e"], ..Case::default() }
            .run();
    assert_eq!(outcome.release, "a b f");
    let noted = outcome.settled.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(noted.succeeded.as_deref(), Some(&["a".to_owned()][..]));
    assert_eq!(noted.failed.as_deref(), Some(&["b".to_owned(), "f".to_owned()][..]));
    assert_eq!(outcome.settled.status.succeeded, Some(1), "counted when they are let go");
    let mut status = outcome.settled.status.clone();
    assert!(tracking::count(&mut status, &["b"].into()));
    assert_eq!((status.succeeded, status.failed), (Some(2), Some(1)));
    assert!(!tracking::count(&mut status, &["b"].into()), "once");

    // Noted, then the process died before the pod was let go.
    let noted = json!({"uncountedTerminatedPods": {"succeeded": ["a"], "failed": ["b"]}});
    let again =
        Case { spec: spec(), status: noted.clone(), pods: &["a Succeeded", "b Failed"], ..Case::default() };
    let outcome = again.run();
    assert_eq!(outcome.release, "a b");
    let lists = outcome.settled.status.uncounted_terminated_pods.unwrap();
    assert_eq!((lists.succeeded.map(|l| l.len()), lists.failed.map(|l| l.len())), (Some(1), Some(1)));

    // Let go, then the process died before they were counted.
    let gone = Case { spec: spec(), status: noted, pods: &["a Succeeded -tracked"], ..Case::default() }.run();
    assert_eq!((gone.settled.status.succeeded, gone.settled.status.failed), (Some(1), Some(1)));
    assert_eq!(gone.plan.counts.succeeded, 1);
}

#[test]
fn pods_are_replaced_when_the_policy_says() {
    let spec = |policy: &str| json!({"parallelism": 2, "completions": 2, "podReplacementPolicy": policy});
    let pods = &["a Running deleting", "b Running"];
    let both = Case { spec: spec("TerminatingOrFailed"), pods, ..Case::default() }.run();
    assert_eq!((both.work.as_str(), both.release.as_str(), both.plan.counts.failed), ("create 1", "a", 1));
    let ended = Case { spec: spec("Failed"), pods, ..Case::default() }.run();
    assert_eq!((ended.work.as_str(), ended.release.as_str(), ended.plan.counts.failed), ("-", "", 0));
    assert_eq!(ended.settled.status.terminating, Some(1));
    let now_failed = &["a Failed deleting", "b Running"];
    let ended = Case { spec: spec("Failed"), pods: now_failed, ..Case::default() }.run();
    assert_eq!((ended.work.as_str(), ended.release.as_str()), ("create 1", "a"));
    let indexed = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "podReplacementPolicy": "Failed"});
    let pods = &["a Running deleting 0"];
    let outcome = Case { spec: indexed, pods, ..Case::default() }.run();
    assert_eq!(outcome.work, "create at 1", "index 0 is still taken");
}
