//! The cron job controller against a fake API.

use coracle_client::PatchType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use serde_json::{Value, json};

use crate::testing::{Cluster, from};

fn status(fake: &coracle_client::fake::Fake) -> CronJobStatus {
    fake.get::<CronJob>("ns", "tick").and_then(|cron| cron.status).unwrap_or_default()
}

/// As if it had been made a while ago.
fn cron(cluster: &Cluster, minutes: i64, spec: Value) {
    let mut whole = json!({"schedule": "* * * * *", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}});
    for (field, given) in spec.as_object().unwrap() {
        whole[field] = given.clone();
    }
    let made = Timestamp::now() - SignedDuration::from_mins(minutes);
    let cron: CronJob = from(
        json!({"metadata": {"namespace": "ns", "name": "tick", "creationTimestamp": made}, "spec": whole}),
    );
    cluster.fake.put(&cron).unwrap();
}

async fn finish(cluster: &Cluster, name: &str, condition: &str) {
    let patch = json!({"status": {"completionTime": Timestamp::now(), "conditions": [{"type": condition, "status": "True"}]}});
    cluster.context.client.patch::<Job>("ns", name, Some("status"), PatchType::Merge, &patch).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_missed_time_is_made_up_for_once_and_the_job_is_followed() {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    cron(&cluster, 5, json!({"timeZone": "Asia/Tokyo"}));
    cluster.until("a job", |f| status(f).active.is_some_and(|active| active.len() == 1)).await;
    let jobs = cluster.fake.list::<Job>("ns");
    assert_eq!(jobs.len(), 1);
    let job = &jobs[0];
    let at = status(&cluster.fake).last_schedule_time.unwrap().0;
    let name = job.metadata.name.clone().unwrap();
    assert_eq!(name, format!("tick-{}", at.as_second() / 60));
    assert_eq!(job.metadata.labels.as_ref().unwrap()["a"], "b");
    let scheduled = &job.metadata.annotations.as_ref().unwrap()[super::SCHEDULED];
    assert!(scheduled.ends_with("+09:00"), "{scheduled}");
    assert_eq!(scheduled.parse::<Timestamp>().unwrap(), at);
    finish(&cluster, &name, "Complete").await;
    cluster.until("seen", |f| status(f).active.is_none() && status(f).last_successful_time.is_some()).await;
    let reasons: Vec<String> = cluster.events().into_iter().map(|(reason, _)| reason).collect();
    assert!(reasons.contains(&"SawCompletedJob".to_owned()), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_status_write_was_lost_is_taken_up_again() {
    let cluster = Cluster::new();
    let failing = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(2));
    cluster.fake.react(move |request| {
        let status = request.resource.plural() == "cronjobs" && request.subresource.is_some();
        let left = &failing;
        (status && left.load(std::sync::atomic::Ordering::Relaxed) > 0).then(|| {
            left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            coracle_client::ApiError::internal("lost")
        })
    });
    cluster.start(|c| Box::pin(super::run(c)));
    cron(&cluster, 3, json!({}));
    cluster.until("in the status", |f| status(f).active.is_some_and(|active| active.len() == 1)).await;
    assert_eq!(cluster.fake.list::<Job>("ns").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn old_jobs_are_deleted() {
    let cluster = Cluster::new();
    cron(&cluster, 1, json!({"suspend": true, "successfulJobsHistoryLimit": 1}));
    let owner = cluster.fake.get::<CronJob>("ns", "tick").unwrap();
    for n in 0..3 {
        let job: Job = from(
            json!({"metadata": {"namespace": "ns", "name": format!("tick-{n}"), "ownerReferences":
            [crate::ownership::controller_of::<CronJob>(&owner.metadata)]}, "status": {"startTime": format!("2026-01-01T00:0{n}:00Z"),
            "conditions": [{"type": "Complete", "status": "True"}]}}),
        );
        cluster.fake.put(&job).unwrap();
    }
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.until("one is left", |f| f.list::<Job>("ns").len() == 1).await;
    assert_eq!(cluster.fake.list::<Job>("ns")[0].metadata.name.as_deref(), Some("tick-2"));
}
