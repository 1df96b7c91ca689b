//! PodDisruptionBudget: says how many pods of an application may be evicted at present.

use std::sync::Arc;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Client, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};

use crate::context::Context;

mod members;
mod plan;
mod scales;
mod stale;

use members::Members;
use plan::Expected;
use scales::Scales;

pub async fn run(context: Context) {
    let pods = context.of::<Pod>();
    let controller = Controller {
        client: context.client.clone(),
        budgets: context.of::<PodDisruptionBudget>(),
        events: context.recorder("controllermanager"),
        members: Members::default(),
        scales: Scales {
            client: context.client.clone(),
            deployments: context.of::<Deployment>(),
            replica_sets: context.of::<ReplicaSet>(),
            stateful_sets: context.of::<StatefulSet>(),
            replication_controllers: context.of::<ReplicationController>(),
            served: context.served(),
        },
    };
    let (queue, suspects) = (WorkQueue::new(), WorkQueue::new());
    let (members, changed, all_pods) = (controller.members.clone(), queue.clone(), pods.clone());
    controller.budgets.on_change(move |change| {
        members.budget(change, &all_pods);
        changed.add(change.key());
    });
    let (members, changed, suspicious) = (controller.members.clone(), queue.clone(), suspects.clone());
    pods.on_change(move |change| {
        members.pod(change).into_iter().for_each(|budget| changed.add(budget));
        if change.new.as_ref().is_some_and(|pod| stale::suspicious(pod)) {
            suspicious.add(change.key());
        }
    });
    if context.synced().await {
        let stale = Arc::new(stale::Stale { client: context.client.clone(), pods });
        let conditions = controller::run(stale, suspects, 1, context.shutdown.clone());
        tokio::join!(context.work(controller, queue), conditions);
    }
}

struct Controller {
    client: Client,
    budgets: Informer,
    events: EventRecorder,
    members: Members,
    scales: Scales,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.budgets.get_key(key) else { return Ok(Outcome::Done) };
        let budget: PodDisruptionBudget = object.decode()?;
        let members = self.members.of(key);
        if members.is_empty() {
            self.events.event(&budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let spec = budget.spec.clone().unwrap_or_default();
        let expected = match plan::expected(&spec) {
            Expected::Present => Ok(i32::try_from(members.len()).unwrap_or(i32::MAX)),
            Expected::Scale => {
                let pods = members.iter().map(|(name, member)| (&**name, member));
                self.scales.sum(&key.namespace, pods).await.map(|sum| {
                    if sum.unmanaged > 0 {
                        self.tell_unmanaged(&budget);
                    }
                    sum.pods
                })
            }
        };
        let now = Timestamp::now();
        let expected = match expected {
            Ok(expected) => expected,
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error}");
                self.events.event(&budget, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                self.write(&budget, plan::failed(&budget, error.message(), now)).await?;
                return Ok(Outcome::Done);
            }
        };
        let plan = plan::plan(&budget, &members, expected, now);
        for name in &plan.not_deleted {
            let uid = members.get(name).map(|member| member.uid.to_string());
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.events.event_for(pod(key, name, uid), EventType::Warning, "NotDeleted", message);
        }
        self.write(&budget, plan.status).await?;
        Ok(plan.recheck.map_or(Outcome::Done, Outcome::After))
    }
}

impl Controller {
    /// With the version that was read: an eviction granted meanwhile must not be forgotten.
    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), ApiError> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        match self.client.update_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn tell_unmanaged(&self, budget: &PodDisruptionBudget) {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let selector = serde_json::to_string(&selector).unwrap_or_default();
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, \
             the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
             for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        self.events.event(budget, EventType::Warning, "UnmanagedPods", message);
    }
}

fn pod(budget: &Key, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(budget.namespace.to_string()),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests;
