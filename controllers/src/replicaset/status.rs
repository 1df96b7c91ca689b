//! The status of what keeps a number of pods, in a ReplicaSet's form.

use coracle_client::ApiError;
use coracle_client::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::kinds::Replicated;
use crate::pods::Pod;

const FAILURE: &str = "ReplicaFailure";

/// `failure`: why this sync could not create or delete.
pub fn status<K: Replicated>(
    set: &K,
    active: &[Pod],
    terminating: usize,
    failure: Option<&ApiError>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let old = set.status().unwrap_or_default();
    let template = set.template().and_then(|t| t.metadata.as_ref()?.labels.clone());
    let template = Selector::from_map(template.iter().flatten());
    let min_ready = set.min_ready_seconds();
    let desired = i64::from(set.replicas());
    let mut conditions = old.conditions.unwrap_or_default();
    match failure {
        Some(error) if !conditions.iter().any(|c| c.type_.as_deref() == Some(FAILURE)) => {
            let too_few = i64::try_from(active.len()).is_ok_and(|have| have < desired);
            conditions.push(ReplicaSetCondition {
                type_: Some(FAILURE.into()),
                status: Some("True".into()),
                reason: Some(if too_few { "FailedCreate".into() } else { "FailedDelete".into() }),
                message: Some(error.message().into()),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
        None => conditions.retain(|c| c.type_.as_deref() != Some(FAILURE)),
    }
    let count = |of: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|pod| of(pod)).count());
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: positive(count(&|pod| template.matches(&pod.object.head))),
        ready_replicas: positive(count(&|pod| pod.ready())),
        available_replicas: positive(count(&|pod| pod.available(min_ready, now))),
        terminating_replicas: Some(number(terminating)),
        observed_generation: set.metadata().generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The API leaves zeros of these fields out.
fn positive(count: i32) -> Option<i32> {
    Some(count).filter(|c| *c > 0)
}
