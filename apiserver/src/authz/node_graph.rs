//! What the pods of each node refer to, kept up to date by a watch: the node authorizer's memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use coracle_client::persistent_volumes::claim_of;
use coracle_client::{Client, Informers, Object};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Kinds of objects that pods refer to, by the plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Referred {
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
}

/// Node, namespace, kind and name.
type Edge = (Box<str>, Box<str>, Referred, Box<str>);

/// How many pods make each edge. Bounded by the pods there are.
#[derive(Default)]
struct Edges(HashMap<Edge, usize>);

/// Watches pods from the first question on: a cluster without nodes of its own needs none of it.
pub struct NodeGraph {
    client: Client,
    edges: Arc<Mutex<Edges>>,
    watching: OnceLock<Informers>,
    ending: CancellationToken,
}

impl Drop for NodeGraph {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl NodeGraph {
    pub fn new(client: Client) -> Self {
        Self { client, edges: Arc::default(), watching: OnceLock::new(), ending: CancellationToken::new() }
    }

    /// Whether a pod bound to the node refers to the object.
    pub async fn refers(&self, node: &str, namespace: &str, kind: Referred, name: &str) -> bool {
        let informers = self.watching.get_or_init(|| self.watch());
        informers.synced().await;
        let edge = (node.into(), namespace.into(), kind, name.into());
        self.edges.lock().0.contains_key(&edge)
    }

    fn watch(&self) -> Informers {
        let informers = Informers::new(self.client.clone(), self.ending.clone());
        let edges = self.edges.clone();
        informers.of::<Pod>().on_change(move |change| {
            let (old, new) = (edges_of(change.old.as_deref()), edges_of(change.new.as_deref()));
            if old != new {
                edges.lock().replace(old, new);
            }
        });
        informers
    }
}

impl Edges {
    fn replace(&mut self, old: Vec<Edge>, new: Vec<Edge>) {
        for edge in new {
            *self.0.entry(edge).or_default() += 1;
        }
        for edge in old {
            if let Some(count) = self.0.get_mut(&edge) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&edge);
                }
            }
        }
    }
}

/// None before the pod is bound, and none after it has ended: an ended pod needs nothing any more.
fn edges_of(object: Option<&Object>) -> Vec<Edge> {
    let Some(pod) = object.and_then(|object| object.decode::<Pod>().ok()) else { return Vec::new() };
    let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let Some(spec) = pod.spec.filter(|_| !matches!(ended, Some("Succeeded" | "Failed"))) else {
        return Vec::new();
    };
    let Some(node) = spec.node_name.as_deref() else { return Vec::new() };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut references = references(pod_name, &spec);
    references.sort_unstable();
    references.dedup();
    references.into_iter().map(|(kind, name)| (node.into(), namespace.into(), kind, (*name).into())).collect()
}

/// `pod`: its name, which the claims of ephemeral volumes are called after.
pub fn references<'a>(pod: &str, spec: &'a PodSpec) -> Vec<(Referred, Cow<'a, str>)> {
    let mut all: Vec<_> = named(spec).into_iter().map(|(kind, name)| (kind, Cow::Borrowed(name))).collect();
    let claims = spec.volumes.iter().flatten().filter_map(|volume| claim_of(pod, volume));
    all.extend(claims.map(|claim| (Referred::Claim, Cow::Owned(claim.name))));
    all
}

fn named(spec: &PodSpec) -> Vec<(Referred, &str)> {
    use Referred::{ConfigMap, Secret, ServiceAccount};
    let mut all = Vec::new();
    all.extend(spec.service_account_name.as_deref().map(|name| (ServiceAccount, name)));
    all.extend(spec.image_pull_secrets.iter().flatten().map(|s| (Secret, s.name.as_str())));
    for volume in spec.volumes.iter().flatten() {
        let secret = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref());
        all.extend(secret.map(|name| (Secret, name)));
        all.extend(volume.config_map.as_ref().map(|c| (ConfigMap, c.name.as_str())));
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in sources {
            all.extend(source.secret.as_ref().map(|s| (Secret, s.name.as_str())));
            all.extend(source.config_map.as_ref().map(|c| (ConfigMap, c.name.as_str())));
        }
    }
    let containers: Vec<&Container> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    for container in containers {
        for from in container.env_from.iter().flatten() {
            all.extend(from.secret_ref.as_ref().map(|s| (Secret, s.name.as_str())));
            all.extend(from.config_map_ref.as_ref().map(|c| (ConfigMap, c.name.as_str())));
        }
        for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            all.extend(from.secret_key_ref.as_ref().map(|s| (Secret, s.name.as_str())));
            all.extend(from.config_map_key_ref.as_ref().map(|c| (ConfigMap, c.name.as_str())));
        }
    }
    all.retain(|(_, name)| !name.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, phase: &str) -> Arc<Object> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "nodeName": node, "serviceAccountName": "account",
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "volume"}},
                    {"name": "b", "configMap": {"name": "map"}},
                    {"name": "c", "projected": {"sources": [
                        {"secret": {"name": "projected"}}, {"configMap": {"name": "map"}}
                    ]}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "e", "ephemeral": {}}
                ],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "from"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "keys", "key": "k"}}}
                ]}]
            },
            "status": {"phase": phase}
        });
        Object::parse(serde_json::to_vec(&pod).unwrap().into(), &[]).unwrap()
    }

    #[test]
    fn every_reference_of_a_bound_pod_is_an_edge() {
        use Referred::{Claim, ConfigMap, Secret, ServiceAccount};
        let edges = edges_of(Some(&pod("a", "Running")));
        let found: Vec<_> = edges.iter().map(|(_, _, kind, name)| (*kind, &**name)).collect();
        let want = [
            (Secret, "from"),
            (Secret, "key"),
            (Secret, "projected"),
            (Secret, "pull"),
            (Secret, "volume"),
            (ConfigMap, "keys"),
            (ConfigMap, "map"),
            (ServiceAccount, "account"),
            (Claim, "claim"),
            (Claim, "p-e"),
        ];
        assert_eq!(found, want);
        assert!(edges.iter().all(|(node, namespace, ..)| &**node == "a" && &**namespace == "ns"));
        assert!(edges_of(Some(&pod("a", "Succeeded"))).is_empty());
        assert!(edges_of(None).is_empty());
    }

    #[test]
    fn an_edge_lasts_as_long_as_a_pod_that_makes_it() {
        let mut edges = Edges::default();
        let of = |object: &Object| edges_of(Some(object));
        let one = pod("a", "Running");
        edges.replace(Vec::new(), of(&one));
        edges.replace(Vec::new(), of(&one));
        edges.replace(of(&one), Vec::new());
        assert_eq!(edges.0.len(), 10);
        edges.replace(of(&one), of(&pod("a", "Failed")));
        assert!(edges.0.is_empty());
    }
}
