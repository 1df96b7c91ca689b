//! A Deployment's status: counts, conditions, and the progress deadline.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets::{Sets, Wanted, actual, name};

pub const AVAILABLE: &str = "Available";
pub const PROGRESSING: &str = "Progressing";
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub const PAUSED: &str = "DeploymentPaused";

/// A deadline of the largest number means none.
pub fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    deployment
        .spec
        .progress_deadline_seconds
        .filter(|seconds| *seconds != i32::MAX)
        .map(|seconds| SignedDuration::from_secs(seconds.into()))
}

pub fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind))
}

pub fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets the condition; one with the same status and reason stays as it is.
pub fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let kind = condition.type_.clone().unwrap_or_default();
    if let Some(present) = find(status, &kind) {
        if present.status == condition.status && present.reason == condition.reason {
            return;
        }
        if present.status == condition.status {
            condition.last_transition_time = present.last_transition_time.clone();
        }
    }
    remove(status, &kind);
    status.conditions.get_or_insert_default().push(condition);
}

pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// The counts, and whether enough is available.
pub fn counted(deployment: &Deployment, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let wanted = Wanted::of(deployment);
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| sets.all().map(of).sum::<i32>();
    let ready = sum(&|set| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0));
    let positive = |count: i32| Some(count).filter(|c| *c > 0);
    let terminating: Option<Vec<i32>> =
        sets.all().map(|set| set.status.as_ref().and_then(|s| s.terminating_replicas)).collect();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: positive(sum(&actual)),
        updated_replicas: positive(sets.new.as_ref().map_or(0, actual)),
        ready_replicas: positive(ready),
        available_replicas: positive(sets.available()),
        unavailable_replicas: positive((sets.total() - sets.available()).max(0)),
        terminating_replicas: terminating.map(|all| all.iter().sum()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = sets.available() >= wanted.replicas - wanted.max_unavailable;
    set(
        &mut status,
        if enough {
            let message = "Deployment has minimum availability.";
            condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
        } else {
            let message = "Deployment does not have minimum availability.";
            condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
        },
    );
    status
}

/// Everything that was asked for is of the new template and available.
pub fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    let left = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || left(new) < left(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(status: &DeploymentStatus, deadline: SignedDuration, now: Timestamp) -> bool {
    let Some(condition) = find(status, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition.last_update_time.as_ref().is_some_and(|t| now.duration_since(t.0) > deadline),
    }
}

/// The status during a rollout: counts, progress, and the failures of the sets.
pub fn rollout(deployment: &Deployment, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = counted(deployment, sets, now);
    let current = find(&old, PROGRESSING).cloned();
    let done = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    match deadline(deployment) {
        None => remove(&mut status, PROGRESSING),
        Some(_) if done => {}
        Some(deadline) => {
            let subject = match &sets.new {
                Some(new) => format!("ReplicaSet \"{}\"", name(new)),
                None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
            };
            if complete(deployment, &status) {
                let message = format!("{subject} has successfully progressed.");
                set(&mut status, condition(PROGRESSING, "True", NEW_SET_AVAILABLE, &message, now));
            } else if progressing(&old, &status) {
                // Replaced even where it says the same: the deadline counts from its update time.
                let message = format!("{subject} is progressing.");
                let mut next = condition(PROGRESSING, "True", "ReplicaSetUpdated", &message, now);
                if let Some(current) = current.filter(|c| c.status.as_deref() == Some("True")) {
                    next.last_transition_time = current.last_transition_time;
                }
                remove(&mut status, PROGRESSING);
                status.conditions.get_or_insert_default().push(next);
            } else if timed_out(&status, deadline, now) {
                let message = format!("{subject} has timed out progressing.");
                set(&mut status, condition(PROGRESSING, "False", TIMED_OUT, &message, now));
            }
        }
    }
    match failure(sets) {
        Some(failure) => set(&mut status, failure),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

/// The new set's failure, else one of an old set.
fn failure(sets: &Sets) -> Option<DeploymentCondition> {
    sets.all()
        .flat_map(|set| set.status.iter().flat_map(|s| s.conditions.iter().flatten()))
        .find(|c| c.type_.as_deref() == Some(REPLICA_FAILURE) && c.status.as_deref() == Some("True"))
        .map(|c| DeploymentCondition {
            type_: c.type_.clone(),
            status: c.status.clone(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_update_time: c.last_transition_time.clone(),
            last_transition_time: c.last_transition_time.clone(),
        })
}

/// When the progress deadline is to be looked at again.
pub fn check_after(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let condition = find(status, PROGRESSING)?;
    if complete(deployment, status)
        || matches!(condition.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE | PAUSED))
    {
        return None;
    }
    let left = condition.last_update_time.as_ref()?.0.duration_since(now) + deadline;
    // A second more: times in conditions are whole seconds.
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO) + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    fn deployment(replicas: i32, status: DeploymentStatus) -> Deployment {
        let mut deployment: Deployment = from(json!({"metadata": {"name": "web", "generation": 1},
            "spec": {"replicas": replicas, "progressDeadlineSeconds": 600, "selector": {}, "template": {}}}));
        deployment.status = Some(status);
        deployment
    }

    fn sets(new: (i32, i32), old: (i32, i32)) -> Sets {
        let set = |name: &str, (size, available): (i32, i32)| {
            from::<ReplicaSet>(json!({"metadata": {"name": name}, "spec": {"replicas": size, "selector": {}},
                "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available}}))
        };
        Sets { new: Some(set("web-new", new)), old: vec![set("web-old", old)] }
    }

    fn reason(status: &DeploymentStatus) -> &str {
        find(status, PROGRESSING).and_then(|c| c.reason.as_deref()).unwrap_or("-")
    }

    #[test]
    fn a_rollout_progresses_completes_or_times_out() {
        let mut d = deployment(2, DeploymentStatus::default());
        let first = rollout(&d, &sets((1, 0), (2, 2)), at(0));
        assert_eq!(reason(&first), "ReplicaSetUpdated");
        assert_eq!(find(&first, AVAILABLE).and_then(|c| c.status.as_deref()), Some("True"));
        assert_eq!(first.unavailable_replicas, Some(1));

        d.status = Some(first.clone());
        let quiet = rollout(&d, &sets((1, 0), (2, 2)), at(300));
        assert_eq!(quiet, first, "nothing happened");
        assert_eq!(check_after(&d, &quiet, at(300)), Some(Duration::from_secs(301)));
        let late = rollout(&d, &sets((1, 0), (2, 2)), at(601));
        assert_eq!(reason(&late), TIMED_OUT);
        assert_eq!(
            find(&late, PROGRESSING).and_then(|c| c.message.as_deref()),
            Some("ReplicaSet \"web-new\" has timed out progressing.")
        );
        assert_eq!(check_after(&d, &late, at(601)), None);

        d.status = Some(late);
        let done = rollout(&d, &sets((2, 2), (0, 0)), at(700));
        assert_eq!(reason(&done), NEW_SET_AVAILABLE);
        d.status = Some(done);
        let broken = rollout(&d, &sets((2, 1), (0, 0)), at(9000));
        assert_eq!(reason(&broken), NEW_SET_AVAILABLE, "what has completed never times out");
        d.spec.progress_deadline_seconds = None;
        assert_eq!(reason(&rollout(&d, &sets((2, 1), (0, 0)), at(9000))), "-");
    }
}
