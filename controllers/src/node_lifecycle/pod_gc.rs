//! Pod garbage collector: pods of nodes that no longer exist, pods deleted before they were bound, and too many
//! finished ones.

use std::fmt;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{eviction, health};
use crate::context::Context;
use crate::pods;

/// How long a node must be missing before its pods are given up; upstream's figure.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Finished pods are counted at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// A pod that is being deleted and was never bound.
    Unbound(Key),
    /// A node that some pod names and the informer lacks.
    Missing(Box<str>),
    Finished,
    /// A node that someone said is out of service.
    OutOfService(Box<str>),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound(key) => write!(f, "unbound pod {key}"),
            Self::Missing(node) => write!(f, "missing node {node}"),
            Self::Finished => f.write_str("finished pods"),
            Self::OutOfService(node) => write!(f, "node {node} out of service"),
        }
    }
}

fn node_of(pod: &Object) -> &str {
    pod.head.field("spec.nodeName").unwrap_or_default()
}

fn finished(pod: &Object) -> bool {
    matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed"))
}

/// Whether someone said that the node is shut down and comes no more, and nothing speaks against it.
fn out_of_service(node: &Object) -> bool {
    // Cheap: hardly any node is.
    if !node.contains(OUT_OF_SERVICE) {
        return false;
    }
    let Ok(node) = node.decode::<Node>() else { return false };
    let tainted = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE);
    let ready = health::condition(&node, health::READY).is_some_and(|c| c.status == "True");
    tainted && !ready
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
            name => match nodes.get("", name) {
                None => added.add_after(Task::Missing(name.into()), QUARANTINE),
                Some(node) if pod.head.deleting && out_of_service(&node) => {
                    added.add(Task::OutOfService(name.into()));
                }
                Some(_) => {}
            },
        }
    });
    let added = queue.clone();
    controller.nodes.on_change(move |change: &Change| {
        let name = || Box::from(&*change.object().head.name);
        match &change.new {
            None => added.add_after(Task::Missing(name()), QUARANTINE),
            Some(node) if out_of_service(node) => added.add(Task::OutOfService(name())),
            Some(_) => {}
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
                    self.end(&pod, None).await?;
                }
            }
            Task::Missing(node) => self.abandon(node).await?,
            Task::OutOfService(node) => {
                if self.nodes.get("", node).is_some_and(|node| out_of_service(&node)) {
                    for pod in self.pods.by_index(pods::BY_NODE, node).iter().filter(|p| p.head.deleting) {
                        self.end(pod, None).await?;
                    }
                }
            }
            Task::Finished if self.threshold > 0 => {
                for pod in surplus(self.pods.list(), self.threshold) {
                    self.end(&pod, None).await?;
                }
            }
            Task::Finished => {}
        }
        Ok(Outcome::Done)
    }
}

/// Those that a node evicted tell the least, so they go first, as upstream.
fn evicted(pod: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct View {
        status: Status,
    }
    #[derive(serde::Deserialize)]
    struct Status {
        reason: Option<String>,
    }
    pod.decode::<View>().is_ok_and(|view| view.status.reason.as_deref() == Some("Evicted"))
}

/// The finished pods beyond the threshold, evicted ones and then the oldest first.
fn surplus(mut all: Vec<std::sync::Arc<Object>>, threshold: usize) -> Vec<std::sync::Arc<Object>> {
    all.retain(|pod| finished(pod) && !pod.head.deleting);
    let surplus = all.len().saturating_sub(threshold);
    if surplus > 0 {
        all.sort_by_cached_key(|pod| {
            (!evicted(pod), pods::Pod::parse(pod).ok().and_then(|pod| pod.created), pod.key())
        });
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
        for pod in self.pods.by_index(pods::BY_NODE, node) {
            self.end(&pod, Some("PodGC: node no longer exists")).await?;
        }
        Ok(())
    }

    /// Fails a pod that has not ended, saying why where it was not asked for, and deletes it.
    async fn end(&self, object: &Object, disruption: Option<&str>) -> Result<(), ApiError> {
        if !finished(object) {
            let mut pod: Pod = object.decode()?;
            if let Some(message) = disruption {
                eviction::disrupt(&mut pod, "DeletionByPodGC", message, Timestamp::now());
            }
            pod.status.get_or_insert_default().phase = Some("Failed".into());
            match self.client.update_status(&pod).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.delete(object).await
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_client::Resource;
    use serde_json::{Value, json};

    use super::*;

    fn object<K: coracle_client::client::Kind>(value: Value) -> Arc<Object> {
        Object::parse(value.to_string().into(), Resource::of::<K>().selectable_fields()).unwrap()
    }

    #[test]
    fn evicted_and_old_pods_are_too_many_first() {
        let pod = |name: &str, hour: u8, phase: &str, reason: &str| {
            object::<Pod>(json!({"metadata": {"namespace": "ns", "name": name,
                "creationTimestamp": format!("2026-01-01T{hour:02}:00:00Z")},
                "status": {"phase": phase, "reason": reason}}))
        };
        let all = vec![
            pod("new", 9, "Succeeded", ""),
            pod("old", 1, "Failed", ""),
            pod("evicted", 5, "Failed", "Evicted"),
            pod("running", 0, "Running", ""),
        ];
        for (threshold, want) in [
            (3, vec![]),
            (2, vec!["evicted"]),
            (1, vec!["evicted", "old"]),
            (0, vec!["evicted", "old", "new"]),
        ] {
            let gone = surplus(all.clone(), threshold);
            let names: Vec<&str> = gone.iter().map(|p| &*p.head.name).collect();
            assert_eq!(names, want, "{threshold}");
        }
    }

    #[test]
    fn a_node_is_out_of_service_when_it_is_said_and_silent() {
        let node = |key: &str, ready: &str| {
            object::<Node>(
                json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": key, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
            )
        };
        for (key, ready, want) in [
            (OUT_OF_SERVICE, "Unknown", true),
            (OUT_OF_SERVICE, "False", true),
            (OUT_OF_SERVICE, "True", false),
            ("node.kubernetes.io/unreachable", "Unknown", false),
        ] {
            assert_eq!(out_of_service(&node(key, ready)), want, "{key} {ready}");
        }
    }
}
