//! What a job needs, case by case.

mod ending;
mod failure_policies;
mod indexes;
mod pods;

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
