//! Pod garbage collector: pods of nodes that no longer exist, pods deleted before they were bound, and too many
//! finished ones.

use std::fmt;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::eviction;
use crate::context::Context;
use crate::pods;

/// How long a node must be missing before its pods are given up; upstream's figure.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Finished pods are counted at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// A pod that is being deleted and was never bound.
    Unbound(Key),
    /// A node that some pod names and the informer lacks.
    Missing(Box<str>),
    Finished,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound(key) => write!(f, "unbound pod {key}"),
            Self::Missing(node) => write!(f, "missing node {node}"),
            Self::Finished => f.write_str("finished pods"),
        }
    }
}

fn node_of(pod: &Object) -> &str {
    pod.head.field("spec.nodeName").unwrap_or_default()
}

fn finished(pod: &Object) -> bool {
    matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed"))
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        nodes: context.of::<Node>(),
        pods: context.of::<Pod>(),
        threshold: context.options.terminated_pod_gc_threshold,
    };
    pods::index(&controller.pods);
    let queue = WorkQueue::new();
    let (added, nodes) = (queue.clone(), controller.nodes.clone());
    controller.pods.on_change(move |change: &Change| {
        let Some(pod) = &change.new else { return };
        if finished(pod) {
            added.add_after(Task::Finished, COUNT_EVERY);
        }
        match node_of(pod) {
            "" if pod.head.deleting => added.add(Task::Unbound(pod.key())),
            "" => {}
            node if nodes.get("", node).is_none() => added.add_after(Task::Missing(node.into()), QUARANTINE),
            _ => {}
        }
    });
    let added = queue.clone();
    controller.nodes.on_change(move |change: &Change| {
        if change.new.is_none() {
            added.add_after(Task::Missing(Box::from(&*change.object().head.name)), QUARANTINE);
        }
    });
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    nodes: Informer,
    pods: Informer,
    threshold: usize,
}

impl Reconciler for Controller {
    type Key = Task;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    async fn reconcile(&self, task: &Task) -> Result<Outcome, ApiError> {
        match task {
            Task::Unbound(key) => {
                if let Some(pod) = self.pods.get_key(key).filter(|p| p.head.deleting && node_of(p).is_empty())
                {
                    self.delete(&pod).await?;
                }
            }
            Task::Missing(node) => self.abandon(node).await?,
            Task::Finished if self.threshold > 0 => {
                for pod in surplus(self.pods.list(), self.threshold) {
                    self.delete(&pod).await?;
                }
            }
            Task::Finished => {}
        }
        Ok(Outcome::Done)
    }
}

/// The finished pods beyond the threshold, oldest first.
fn surplus(mut all: Vec<std::sync::Arc<Object>>, threshold: usize) -> Vec<std::sync::Arc<Object>> {
    all.retain(|pod| finished(pod) && !pod.head.deleting);
    let surplus = all.len().saturating_sub(threshold);
    if surplus > 0 {
        all.sort_by_cached_key(|pod| pods::Pod::parse(pod).ok().and_then(|pod| pod.created));
    }
    all.truncate(surplus);
    all
}

impl Controller {
    /// The node may have come back, or the informer be behind: the API is asked before pods are given up.
    async fn abandon(&self, node: &str) -> Result<(), ApiError> {
        if self.nodes.get("", node).is_some() || self.client.find::<Node>("", node).await?.is_some() {
            return Ok(());
        }
        for object in self.pods.by_index(pods::BY_NODE, node) {
            let mut pod: Pod = object.decode()?;
            let message = "PodGC: node no longer exists";
            let mut changed = eviction::disrupt(&mut pod, "DeletionByPodGC", message, Timestamp::now());
            let status = pod.status.get_or_insert_default();
            if !finished(&object) {
                status.phase = Some("Failed".into());
                changed = true;
            }
            if changed {
                match self.client.update_status(&pod).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                }
            }
            self.delete(&object).await?;
        }
        Ok(())
    }

    /// Nobody is there to end the pod gracefully.
    async fn delete(&self, pod: &Object) -> Result<(), ApiError> {
        let options = DeleteOptions::grace(0).uid(&pod.head.uid);
        match self.client.delete::<Pod>(&pod.head.namespace, &pod.head.name, options).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
