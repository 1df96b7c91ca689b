//! Jobs, cron jobs, their expiry and disruption budgets, with kubectl against the real binary and Wasm samples.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, PATIENCE, eventually};

/// A job whose pods run a shell of the toolbox.
fn job(name: &str, spec: &str, script: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
{spec}
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: main
          image: coracle.dev/samples/toolbox:v1
          command: [sh, -c, '{script}']
"
    )
}

fn until(cluster: &Cluster, what: &str, object: &str, path: &str, wanted: &str) {
    eventually(what, || {
        let found = cluster.field(object, path);
        if found == wanted { Ok(()) } else { Err(format!("{object} {path}: {found:?}, not {wanted:?}")) }
    });
}

/// A field that may not be there yet.
fn eventually_field(cluster: &Cluster, object: &str, path: &str) -> String {
    eventually(path, || {
        let found = cluster.field(object, path);
        if found.is_empty() { Err(format!("{object} has no {path}")) } else { Ok(found) }
    })
}

#[test]
fn jobs() {
    let cluster = Cluster::start_with_samples();

    // Every index once, and each pod knows its own.
    cluster.apply(&job(
        "indexed",
        "  completions: 4\n  parallelism: 2\n  completionMode: Indexed",
        "echo index $JOB_COMPLETION_INDEX on $HOSTNAME",
    ));
    cluster.kubectl("wait --for=condition=Complete job/indexed --timeout=60s");
    assert_eq!(cluster.field("job/indexed", ".status.completedIndexes"), "0-3");
    assert_eq!(cluster.field("job/indexed", ".status.succeeded"), "4");
    let hosts = cluster.kubectl("get pods -l job-name=indexed -o jsonpath={.items[*].spec.hostname}");
    let mut hosts: Vec<&str> = hosts.split(' ').collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["indexed-0", "indexed-1", "indexed-2", "indexed-3"]);
    let held = cluster.kubectl("get pods -l job-name=indexed -o jsonpath={.items[*].metadata.finalizers}");
    assert_eq!(held, "", "counted, and let go");
    let log = cluster.kubectl("logs -l batch.kubernetes.io/job-completion-index=2 --tail=-1");
    assert!(log.starts_with("index 2"), "{log}");

    // The policy ends a job at once where backing off would take minutes.
    cluster.apply(&job(
        "fatal",
        "  backoffLimit: 6
  podFailurePolicy:
    rules:
      - {action: FailJob, onExitCodes: {containerName: main, operator: In, values: [42]}}",
        "exit 42",
    ));
    cluster.kubectl("wait --for=condition=Failed job/fatal --timeout=60s");
    let reason = cluster.field("job/fatal", ".status.conditions[?(@.type==\"Failed\")].reason");
    assert_eq!(
        (reason.as_str(), cluster.field("job/fatal", ".status.failed").as_str()),
        ("PodFailurePolicy", "1")
    );
    let message = cluster.field("job/fatal", ".status.conditions[?(@.type==\"Failed\")].message");
    assert!(message.contains("failed with exit code 42 matching FailJob rule at index 0"), "{message}");

    // An index may fail without the others.
    cluster.apply(&job(
        "some-fail",
        "  completions: 3\n  parallelism: 3\n  completionMode: Indexed\n  backoffLimitPerIndex: 0",
        "test $JOB_COMPLETION_INDEX != 1",
    ));
    cluster.kubectl("wait --for=condition=Failed job/some-fail --timeout=60s");
    assert_eq!(cluster.field("job/some-fail", ".status.failedIndexes"), "1");
    assert_eq!(cluster.field("job/some-fail", ".status.completedIndexes"), "0,2");

    // One success is enough here; the rest is ended, not failed.
    cluster.apply(&job(
        "leader",
        "  completions: 3
  parallelism: 3
  completionMode: Indexed
  successPolicy: {rules: [{succeededIndexes: \"0\"}]}",
        "test $JOB_COMPLETION_INDEX = 0 || sleep 600",
    ));
    cluster.kubectl("wait --for=condition=Complete job/leader --timeout=60s");
    let reason = cluster.field("job/leader", ".status.conditions[?(@.type==\"Complete\")].reason");
    assert_eq!(
        (reason.as_str(), cluster.field("job/leader", ".status.succeeded").as_str()),
        ("SuccessPolicy", "1")
    );
    assert_eq!(cluster.field("job/leader", ".status.failed"), "");

    // Suspended: no pods. Resumed: new ones, and the clock starts anew.
    cluster.apply(&job("paused", "  suspend: true\n  parallelism: 2\n  completions: 2", "sleep 600"));
    cluster.kubectl("wait --for=condition=Suspended job/paused --timeout=60s");
    assert_eq!(cluster.field("job/paused", ".status.startTime"), "");
    cluster.kubectl("patch job paused --type=merge -p {\"spec\":{\"suspend\":false}}");
    until(&cluster, "both run", "job/paused", ".status.ready", "2");
    cluster.kubectl("patch job paused --type=merge -p {\"spec\":{\"suspend\":true}}");
    eventually("no pods", || {
        let pods = cluster.kubectl("get pods -l job-name=paused -o name");
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    assert_eq!(cluster.field("job/paused", ".status.failed"), "");

    // A deadline counts from the start.
    cluster.apply(&job("late", "  activeDeadlineSeconds: 1", "sleep 600"));
    cluster.kubectl("wait --for=condition=Failed job/late --timeout=60s");
    let reason = cluster.field("job/late", ".status.conditions[?(@.type==\"Failed\")].reason");
    assert_eq!(reason, "DeadlineExceeded");

    // Its time is over once it has ended: the job goes, and its pods with it.
    cluster.apply(&job("short-lived", "  ttlSecondsAfterFinished: 0", "exit 0"));
    cluster.kubectl("wait --for=delete job/short-lived --timeout=60s");
    eventually("no pods", || {
        let pods = cluster.kubectl("get pods -l job-name=short-lived -o name");
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });

    // A job's deletion takes its pods along, finalizers or not.
    cluster.apply(&job("deleted", "  parallelism: 2\n  completions: 2", "sleep 600"));
    until(&cluster, "both run", "job/deleted", ".status.ready", "2");
    cluster.kubectl("delete job deleted --timeout=60s");
    eventually("no pods", || {
        let pods = cluster.kubectl("get pods -l job-name=deleted -o name");
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    let events = cluster.kubectl("events --for=job/indexed -o jsonpath={.items[*].reason}");
    assert!(events.contains("SuccessfulCreate") && events.contains("Completed"), "{events}");
}

fn cron_job(name: &str, schedule: &str, more: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: CronJob
metadata: {{name: {name}}}
spec:
  schedule: \"{schedule}\"
{more}
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: main
              image: coracle.dev/samples/toolbox:v1
              command: [sh, -c, 'echo tick']
"
    )
}

#[test]
fn cron_jobs() {
    let cluster = Cluster::start_with_samples();

    // Due within a second, so a run is to be seen without waiting for a minute.
    cluster.apply(&cron_job("tick", "@every 1s", "  timeZone: Asia/Kolkata"));
    let last = eventually_field(&cluster, "cronjob/tick", ".status.lastScheduleTime");
    eventually_field(&cluster, "cronjob/tick", ".status.lastSuccessfulTime");
    let jobs = cluster.kubectl("get jobs -o jsonpath={.items[0].metadata.name}");
    let minutes: i64 =
        jobs.strip_prefix("tick-").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{jobs}"));
    let last: jiff::Timestamp = last.parse().unwrap();
    assert!((last.as_second() / 60 - minutes).abs() <= 1, "{last} {jobs}");
    let path = ".metadata.annotations.batch\\.kubernetes\\.io/cronjob-scheduled-timestamp";
    let scheduled = cluster.field(&format!("job/{jobs}"), path);
    assert!(scheduled.ends_with("+05:30"), "{scheduled}");
    assert_eq!(cluster.field(&format!("job/{jobs}"), ".metadata.ownerReferences[0].kind"), "CronJob");
    cluster.kubectl("patch cronjob tick --type=merge -p {\"spec\":{\"suspend\":true}}");

    // Jobs made by hand are followed, and old ones go.
    cluster.apply(&cron_job("manual", "0 0 29 2 *", "  successfulJobsHistoryLimit: 1"));
    for n in 1..=3 {
        cluster.kubectl(&format!("create job manual-{n} --from=cronjob/manual"));
        cluster.kubectl(&format!("wait --for=condition=Complete job/manual-{n} --timeout=60s"));
    }
    eventually("one is left", || {
        let jobs = cluster.kubectl("get jobs -o name");
        let left: Vec<&str> = jobs.lines().filter(|job| job.contains("/manual-")).collect();
        if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
    });
    eventually_field(&cluster, "cronjob/manual", ".status.lastSuccessfulTime");

    let zoned = cron_job("zoned", "TZ=UTC * * * * *", "");
    let refused = cluster.kubectl_version(33).with_input(&["apply", "-f", "-"], &zoned).failure();
    assert!(
        refused.contains("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
        "{refused}"
    );

    cluster.kubectl("delete cronjob tick manual --timeout=60s");
    eventually("their jobs are gone", || {
        let jobs = cluster.kubectl("get jobs -o name");
        if jobs.is_empty() { Ok(()) } else { Err(jobs) }
    });
}

#[test]
fn drains_keep_budgets() {
    let cluster = Cluster::start_with_samples();
    cluster.apply(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: 'coracle.dev/samples/counter:v1'}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
",
    );
    until(&cluster, "one may go", "pdb/web", ".status.disruptionsAllowed", "1");
    assert_eq!(cluster.field("pdb/web", ".status.conditions[0].reason"), "SufficientPods");

    // The only node is cordoned by the drain, so what is evicted does not come back: one goes, two stay.
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let drained = cluster
        .try_kubectl(&format!("drain {node} --ignore-daemonsets --delete-emptydir-data --timeout=8s"))
        .failure();
    assert!(
        drained.contains("Cannot evict pod as it would violate the pod's disruption budget"),
        "{drained}"
    );
    until(&cluster, "none may go", "pdb/web", ".status.disruptionsAllowed", "0");
    assert_eq!(cluster.field("pdb/web", ".status.currentHealthy"), "2");
    until(&cluster, "two are left", "deployment/web", ".status.readyReplicas", "2");

    // The node takes pods again: the budget follows, by a percentage of what the Deployment asks for too.
    cluster.kubectl(&format!("uncordon {node}"));
    until(&cluster, "one may go again", "pdb/web", ".status.disruptionsAllowed", "1");
    cluster.kubectl(
        "patch pdb web --type=merge -p {\"spec\":{\"minAvailable\":null,\"maxUnavailable\":\"70%\"}}",
    );
    until(&cluster, "three may go", "pdb/web", ".status.disruptionsAllowed", "3");
    assert_eq!(cluster.field("pdb/web", ".status.expectedPods"), "3");
    cluster.kubectl(&format!(
        "drain {node} --ignore-daemonsets --delete-emptydir-data --timeout={}s",
        PATIENCE.as_secs()
    ));
    until(&cluster, "all gone", "pdb/web", ".status.currentHealthy", "0");
}
