//! What a cluster that is left in peace must look like: as its specs say, with nothing left over.

use std::collections::{BTreeMap, BTreeSet};

use coracle_client::{ApiError, Client, Resource};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;

use crate::bindings;

struct State {
    /// Plural to objects.
    objects: BTreeMap<String, Vec<Value>>,
}

impl State {
    async fn read(client: &Client) -> Result<Self, ApiError> {
        let mut objects = BTreeMap::new();
        for resource in [
            Resource::of::<Namespace>(),
            Resource::of::<Node>(),
            Resource::of::<Pod>(),
            Resource::of::<Service>(),
            Resource::of::<EndpointSlice>(),
            Resource::of::<PersistentVolumeClaim>(),
            Resource::of::<PersistentVolume>(),
            Resource::of::<Deployment>(),
            Resource::of::<ReplicaSet>(),
            Resource::of::<StatefulSet>(),
            Resource::of::<DaemonSet>(),
            Resource::of::<ControllerRevision>(),
            Resource::of::<Job>(),
            Resource::of::<CronJob>(),
            Resource::of::<PodDisruptionBudget>(),
        ] {
            let list = client.list_objects(&resource, "", Default::default()).await?;
            let decoded: Result<Vec<Value>, _> = list.items.iter().map(|item| item.decode()).collect();
            objects.insert(resource.plural().to_owned(), decoded?);
        }
        Ok(Self { objects })
    }

    fn of(&self, plural: &str) -> &[Value] {
        self.objects.get(plural).map_or(&[], Vec::as_slice)
    }
}

fn name(object: &Value) -> String {
    let meta = &object["metadata"];
    format!(
        "{}/{}",
        meta["namespace"].as_str().unwrap_or_default(),
        meta["name"].as_str().unwrap_or_default()
    )
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Everything that is not as it should be; empty when the cluster has converged.
pub async fn faults(client: &Client) -> Result<Vec<String>, ApiError> {
    let state = State::read(client).await?;
    let mut faults = Vec::new();
    let uids: BTreeSet<&str> =
        state.objects.values().flatten().filter_map(|o| o["metadata"]["uid"].as_str()).collect();
    for (plural, objects) in &state.objects {
        for object in objects {
            let meta = &object["metadata"];
            if !meta["deletionTimestamp"].is_null() {
                faults.push(format!(
                    "{plural} {} is still going (finalizers {})",
                    name(object),
                    meta["finalizers"]
                ));
            }
            let owners = meta["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
            let known = [
                "Deployment",
                "ReplicaSet",
                "StatefulSet",
                "DaemonSet",
                "Job",
                "CronJob",
                "Service",
                "Node",
                "Pod",
            ];
            let mut judged =
                owners.iter().filter(|o| known.contains(&o["kind"].as_str().unwrap_or_default()));
            if !owners.is_empty()
                && judged.clone().count() == owners.len()
                && !judged.any(|owner| owner["uid"].as_str().is_some_and(|uid| uids.contains(uid)))
            {
                faults.push(format!("{plural} {} is an orphan", name(object)));
            }
        }
    }
    for namespace in state.of("namespaces") {
        if namespace["status"]["phase"] != "Active" {
            faults.push(format!("namespace {} is {}", name(namespace), namespace["status"]["phase"]));
        }
    }
    nodes_and_pods(&state, &mut faults);
    for (plural, fields) in [
        ("deployments", &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"][..]),
        ("replicasets", &["replicas", "readyReplicas", "availableReplicas"][..]),
        ("statefulsets", &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"][..]),
    ] {
        for object in state.of(plural) {
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
            for field in fields {
                let there = object["status"][*field].as_i64().unwrap_or(0);
                if there != wanted {
                    faults.push(format!("{plural} {}: {field} is {there} of {wanted}", name(object)));
                }
            }
            observed(plural, object, &mut faults);
        }
    }
    daemon_sets(&state, &mut faults);
    jobs(&state, &mut faults);
    slices(&state, &mut faults);
    budgets(&state, &mut faults);
    let (claims, volumes) = (state.of("persistentvolumeclaims"), state.of("persistentvolumes"));
    faults.extend(bindings::faults(claims, volumes, state.of("pods")));
    Ok(faults)
}

fn observed(plural: &str, object: &Value, faults: &mut Vec<String>) {
    let (seen, made) = (&object["status"]["observedGeneration"], &object["metadata"]["generation"]);
    if seen != made {
        faults.push(format!("{plural} {}: generation {seen} of {made} observed", name(object)));
    }
}

fn nodes_and_pods(state: &State, faults: &mut Vec<String>) {
    let nodes: BTreeSet<&str> =
        state.of("nodes").iter().filter_map(|node| node["metadata"]["name"].as_str()).collect();
    for node in state.of("nodes") {
        let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
        if !ready(node) || taints > 0 {
            faults.push(format!("node {} is not ready, or tainted: {}", name(node), node["spec"]["taints"]));
        }
    }
    for pod in state.of("pods") {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        // Who orphaned a daemon's pod has it, and knows that it waits for a node that never comes.
        let abandoned = pod["metadata"]["ownerReferences"].is_null() && !pod["spec"]["affinity"].is_null();
        if node.is_empty() && !over && !abandoned {
            faults.push(format!("pod {} is not bound", name(pod)));
        }
        if !node.is_empty() && !nodes.contains(node) {
            faults.push(format!("pod {} is on {node}, which is gone", name(pod)));
        }
    }
}

fn daemon_sets(state: &State, faults: &mut Vec<String>) {
    let nodes = state.of("nodes").len() as i64;
    for set in state.of("daemonsets") {
        for field in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "updatedNumberScheduled",
            "numberReady",
            "numberAvailable",
        ] {
            let there = set["status"][field].as_i64().unwrap_or(0);
            if there != nodes {
                faults.push(format!("daemonset {}: {field} is {there} of {nodes}", name(set)));
            }
        }
        observed("daemonset", set, faults);
    }
}

fn jobs(state: &State, faults: &mut Vec<String>) {
    for job in state.of("jobs") {
        let conditions = job["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        let ended: Vec<&Value> = conditions
            .iter()
            .filter(|c| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True")
            .collect();
        if ended.len() != 1 {
            faults.push(format!("job {} has not ended once: {}", name(job), job["status"]));
            continue;
        }
        let wanted = job["spec"]["completions"].as_i64().unwrap_or(1);
        let succeeded = job["status"]["succeeded"].as_i64().unwrap_or(0);
        // One that is evicted may still succeed beside the one made in its place.
        if ended[0]["type"] == "Complete" && succeeded < wanted {
            faults.push(format!("job {} is complete with {succeeded} of {wanted}", name(job)));
        }
        if job["status"]["uncountedTerminatedPods"].as_object().is_some_and(|u| !u.is_empty()) {
            faults.push(format!("job {} has uncounted pods", name(job)));
        }
    }
    for pod in state.of("pods") {
        let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let kept = pod["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if over && kept {
            faults.push(format!("pod {} ended and keeps {}", name(pod), pod["metadata"]["finalizers"]));
        }
    }
}

/// A budget knows how many of its pods are healthy.
fn budgets(state: &State, faults: &mut Vec<String>) {
    for budget in state.of("poddisruptionbudgets") {
        let (meta, status) = (&budget["metadata"], &budget["status"]);
        let app = &budget["spec"]["selector"]["matchLabels"]["app"];
        let healthy = state.of("pods").iter().filter(|pod| {
            pod["metadata"]["namespace"] == meta["namespace"]
                && pod["metadata"]["labels"]["app"] == *app
                && ready(pod)
        });
        let healthy = healthy.count() as i64;
        if status["currentHealthy"].as_i64().unwrap_or(0) != healthy {
            faults.push(format!("budget {}: {healthy} pods are healthy, not {}", name(budget), status));
        }
        observed("budget", budget, faults);
    }
}

/// A Service's slices hold exactly its ready pods.
fn slices(state: &State, faults: &mut Vec<String>) {
    for service in state.of("services") {
        let Some(app) = service["spec"]["selector"]["app"].as_str() else { continue };
        let namespace = &service["metadata"]["namespace"];
        let wanted: BTreeSet<&str> = state
            .of("pods")
            .iter()
            .filter(|pod| pod["metadata"]["namespace"] == *namespace)
            .filter(|pod| pod["metadata"]["labels"]["app"] == app && ready(pod))
            .filter_map(|pod| pod["status"]["podIP"].as_str())
            .collect();
        let there: BTreeSet<&str> = state
            .of("endpointslices")
            .iter()
            .filter(|slice| slice["metadata"]["namespace"] == *namespace)
            .filter(|slice| {
                slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
            })
            .filter_map(|slice| slice["endpoints"].as_array())
            .flatten()
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["addresses"][0].as_str())
            .collect();
        if wanted != there {
            faults.push(format!("service {}: slices have {there:?}, ready are {wanted:?}", name(service)));
        }
    }
}
