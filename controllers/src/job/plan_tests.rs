//! What a job needs, case by case.

use coracle_client::{Object, Resource};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

use crate::job::backoff::Backoff;
use crate::job::plan::{self, Plan, State, Work};
use crate::job::pod::{FINALIZER, INDEX, INDEX_FAILURES, JobPod};
use crate::job::removals::Uids;
use crate::job::rules::Rules;
use crate::job::tracking::{self, Done, Settled};

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn ago(seconds: i64) -> String {
    Timestamp::from_second(NOW - seconds).unwrap().to_string()
}

/// `name phase [index] [-tracked] [deleting] [exit=N] [failures=N] [ended=seconds ago] [restarts=N] [ready] [disrupted]`
fn pod(text: &str) -> JobPod {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap();
    let phase = words.next().unwrap();
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": ago(600), "resourceVersion": "1",
            "finalizers": [FINALIZER], "annotations": {}},
        "spec": {"nodeName": if phase == "Pending" { "" } else { "n" }},
        "status": {"phase": phase, "conditions": []},
    });
    let ended = matches!(phase, "Failed" | "Succeeded");
    let mut exit = if phase == "Failed" { 1 } else { 0 };
    let (mut at, mut restarts) = (3600, 0);
    for word in words {
        let (key, rest) = word.split_once('=').unwrap_or((word, ""));
        let number = || rest.parse::<i64>().unwrap();
        match key {
            "-tracked" => value["metadata"]["finalizers"] = json!([]),
            "deleting" => value["metadata"]["deletionTimestamp"] = json!(ago(60)),
            "exit" => exit = number(),
            "failures" => value["metadata"]["annotations"][INDEX_FAILURES] = json!(rest),
            "ended" => at = number(),
            "restarts" => restarts = number(),
            "ready" => {
                value["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "True", "lastTransitionTime": ago(60)}]);
            }
            "disrupted" => {
                value["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
            }
            index => value["metadata"]["annotations"][INDEX] = json!(index),
        }
    }
    let state =
        if ended { json!({"terminated": {"exitCode": exit, "finishedAt": ago(at)}}) } else { json!({}) };
    value["status"]["containerStatuses"] =
        json!([{"name": "main", "restartCount": restarts, "state": state}]);
    let fields = Resource::of::<v1::Pod>().selectable_fields();
    JobPod::parse(&Object::parse(value.to_string().into(), fields).unwrap()).unwrap()
}

struct Case {
    spec: Value,
    status: Value,
    pods: &'static [&'static str],
    removing: &'static [&'static str],
    satisfied: bool,
    deleting: bool,
    backoff: Backoff,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            spec: json!({}),
            status: json!({}),
            pods: &[],
            removing: &[],
            satisfied: true,
            deleting: false,
            backoff: Backoff::default(),
        }
    }
}

struct Outcome {
    work: String,
    plan: Plan,
    settled: Settled,
    release: String,
}

impl Case {
    fn run(&self) -> Outcome {
        let mut value = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "u"},
            "spec": {"template": {"spec": {"containers": []}}}, "status": self.status});
        for (field, given) in self.spec.as_object().unwrap() {
            value["spec"][field] = given.clone();
        }
        if self.deleting {
            value["metadata"]["deletionTimestamp"] = json!(ago(1));
        }
        let job: Job = serde_json::from_value(value).unwrap();
        let pods: Vec<JobPod> = self.pods.iter().map(|text| pod(text)).collect();
        let removing: Uids = self.removing.iter().map(|uid| Box::from(*uid)).collect();
        let state = State {
            job: &job,
            rules: Rules::of(&job).unwrap(),
            status: tracking::normal(job.status.as_ref()),
            pods: &pods,
            removing: &removing,
            satisfied: self.satisfied,
            backoff: self.backoff,
        };
        let plan = plan::plan(&state, now());
        let names = |places: &[usize]| {
            let mut names: Vec<&str> = places.iter().map(|at| pods[*at].name()).collect();
            names.sort_unstable();
            names.join(" ")
        };
        let ready = |places: &[usize]| plan::length(places.iter().filter(|at| pods[**at].ready()).count());
        let deleted = |places: &[usize]| Done {
            deleted: plan::length(places.len()),
            deleted_ready: ready(places),
            created: 0,
        };
        let (work, done) = match &plan.work {
            Work::Nothing => ("-".to_owned(), Done::default()),
            Work::End(places) => (format!("end {}", names(places)).trim().to_owned(), deleted(places)),
            Work::Remove(places) => (format!("remove {}", names(places)), deleted(places)),
            Work::Create(count) => {
                (format!("create {count}"), Done { created: plan::length(*count), ..Done::default() })
            }
            Work::CreateAt(seats) => {
                let list: Vec<String> = seats.iter().map(|seat| seat.index.to_string()).collect();
                let done = Done { created: plan::length(seats.len()), ..Done::default() };
                (format!("create at {}", list.join(",")), done)
            }
        };
        let settled = tracking::settle(&state, &plan, done, now());
        let release = names(&settled.release);
        Outcome { work, plan, settled, release }
    }
}

fn reason(outcome: &Outcome) -> &str {
    outcome.settled.verdict.as_ref().map_or("", |verdict| &verdict.reason)
}

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
