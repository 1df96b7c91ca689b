//! EndpointSlice controller: keeps each Service's slices.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

use super::own_writes::{OwnWrites, PATIENCE};
use super::slice_plan::{self, Action, MANAGED_BY, MANAGER, SERVICE_NAME, Wanted};
use super::topology::{Capacities, Capacity};
use super::{ZONE, backends, topology};
use crate::context::Context;

const BY_SERVICE: &str = "endpointslice.service";
/// Index of the Services that ask for hints by topology.
const BY_TOPOLOGY: &str = "service.topology";

pub async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = Controller {
        client: context.client.clone(),
        services: context.of::<Service>(),
        pods: context.of::<Pod>(),
        nodes: context.of::<Node>(),
        slices: context.of::<EndpointSlice>(),
        events: context.recorder("endpoint-slice-controller"),
        own: OwnWrites::default(),
        capacities: Arc::default(),
        hinted: Mutex::default(),
    };
    controller.slices.add_index(BY_SERVICE, |slice| service_of(slice).into_iter().collect());
    controller.services.add_index(BY_TOPOLOGY, |service| {
        let asked = service.contains(topology::ANNOTATIONS)
            && service.decode::<Service>().is_ok_and(|service| topology::asked_for(&service));
        if asked { vec!["".into()] } else { Vec::new() }
    });
    super::watch(&context, &queue);
    let touched = queue.clone();
    controller.slices.on_change(move |change: &Change| {
        for slice in [&change.old, &change.new].into_iter().flatten() {
            if ours(slice)
                && let Some(service) = slice.head.label(SERVICE_NAME)
            {
                touched.add(Key::new(&slice.head.namespace, service));
            }
        }
    });
    let (added, capacities, services) =
        (queue.clone(), controller.capacities.clone(), controller.services.clone());
    controller.nodes.on_change(move |change: &Change| {
        let now = change.new.as_ref().map(|node| Capacity::of(node));
        if !capacities.lock().note(&change.object().head.name, now) {
            return;
        }
        services.by_index(BY_TOPOLOGY, "").iter().for_each(|service| added.add(service.key()));
    });
    context.work(controller, queue).await;
}

fn ours(slice: &Object) -> bool {
    slice.head.label(MANAGED_BY) == Some(MANAGER)
}

fn service_of(slice: &Object) -> Option<Box<str>> {
    let name = slice.head.label(SERVICE_NAME).filter(|_| ours(slice))?;
    Some(format!("{}/{name}", slice.head.namespace).into())
}

struct Controller {
    client: Client,
    services: Informer,
    pods: Informer,
    nodes: Informer,
    slices: Informer,
    events: EventRecorder,
    own: OwnWrites,
    /// The CPUs of the zones.
    capacities: Arc<Mutex<Capacities>>,
    /// Services whose endpoints have hints by topology. Bounded by the services.
    hinted: Mutex<HashSet<Key>>,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.services.get_key(key) else {
            // Its slices go with it, by the garbage collector.
            self.own.forget(key);
            self.hinted.lock().remove(key);
            return Ok(Outcome::Done);
        };
        if self.own.pending(key, &self.slices) {
            // The slice's event comes; the wait is for the case that it never does.
            return Ok(Outcome::After(PATIENCE));
        }
        let service: Service = object.decode()?;
        let Some(spec) = &service.spec else { return Ok(Outcome::Done) };
        let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else {
            return Ok(Outcome::Done);
        };
        if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let mut behind = Vec::new();
        let publish = spec.publish_not_ready_addresses.unwrap_or(false);
        let mut lost = None;
        for pod in self.pods.select(&key.namespace, &Selector::from_map(selector)) {
            // A pod on a node that is not there is left out: it must not keep the others from being shown.
            let node = pod.head.field("spec.nodeName").unwrap_or_default();
            if !publish && !node.is_empty() && self.nodes.get("", node).is_none() {
                lost = Some(node.to_owned());
                continue;
            }
            behind.extend(backends::backend(&service, &pod)?);
        }
        let mut existing = Vec::new();
        for slice in self.slices.by_index(BY_SERVICE, &key.to_string()) {
            if !slice.head.deleting {
                existing.push(slice.decode::<EndpointSlice>()?);
            }
        }
        let zone = |node: &str| Some(self.nodes.get("", node)?.head.label(ZONE)?.to_owned());
        let families =
            spec.ip_families.clone().filter(|f| !f.is_empty()).unwrap_or_else(|| vec!["IPv4".into()]);
        let mut actions = Vec::new();
        for family in &families {
            let mut wanted = slice_plan::wanted(&service, &behind, family == "IPv6", zone);
            let (of_family, rest): (Vec<_>, _) =
                existing.into_iter().partition(|slice| slice.address_type == *family);
            existing = rest;
            self.hint(key, &service, family, &mut wanted, &of_family);
            actions.extend(slice_plan::plan(&service, family, of_family, wanted));
        }
        actions.extend(existing.into_iter().map(Action::Delete));
        for action in actions {
            if let Err(error) = self.own.execute(&self.client, key, action).await {
                if error.is_namespace_terminating() {
                    return Ok(Outcome::Done);
                }
                let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                self.events.event(&service, EventType::Warning, "FailedToUpdateEndpointSlices", message);
                return Err(error);
            }
        }
        match lost {
            // The node may yet show; until then the wait grows.
            Some(node) => Err(ApiError::internal(format!(
                "skipping Pods on Node {node:?} for Service {key}: node {node:?} not found"
            ))),
            None => Ok(Outcome::Done),
        }
    }
}

impl Controller {
    /// Hints by topology where the service asks for them, and Events when that begins, ends or does not work.
    fn hint(
        &self,
        key: &Key,
        service: &Service,
        family: &str,
        wanted: &mut Wanted,
        slices: &[EndpointSlice],
    ) {
        let event = |kind: EventType, reason: &str, message: &str| {
            self.events.event(service, kind, reason, format!("{message}, addressType: {family}"));
        };
        if !topology::asked_for(service) {
            if self.hinted.lock().remove(key) {
                event(EventType::Warning, "TopologyAwareHintsDisabled", topology::DISABLED);
            }
            return;
        }
        let before: Vec<_> = slices.iter().flat_map(|s| s.endpoints.iter().flatten()).cloned().collect();
        let ratios = self.capacities.lock().ratios();
        match topology::hint(wanted, &before, ratios.as_ref()) {
            Ok(()) => {
                if self.hinted.lock().insert(key.clone()) {
                    event(EventType::Normal, "TopologyAwareHintsEnabled", topology::ENABLED);
                }
            }
            Err(why) => {
                self.hinted.lock().remove(key);
                event(EventType::Warning, "TopologyAwareHintsDisabled", &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coracle_client::DeleteOptions;
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from, template};

    fn pod(n: usize) -> Pod {
        let mut pod: Pod = from(template("a"));
        pod.metadata = from(json!({"namespace": "ns", "name": format!("p{n:03}"), "labels": {"app": "web"}}));
        pod
    }

    #[tokio::test(start_paused = true)]
    async fn hints_by_topology_come_and_go() {
        let cluster = Cluster::new();
        cluster.start(|c| Box::pin(super::run(c)));
        for (name, zone) in [("n1", "a"), ("n2", "b")] {
            let node = json!({"metadata": {"name": name, "labels": {ZONE: zone}}, "status": {
                "allocatable": {"cpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]}});
            cluster.fake.put(&from::<Node>(node)).unwrap();
        }
        for n in 0..4 {
            let mut pod = pod(n);
            pod.spec.get_or_insert_default().node_name = Some("n1".into());
            pod.status = Some(from(json!({"phase": "Running", "podIP": format!("10.0.0.{}", n + 1),
                "podIPs": [{"ip": format!("10.0.0.{}", n + 1)}], "conditions": [{"type": "Ready", "status": "True"}]})));
            cluster.fake.put(&pod).unwrap();
        }
        let service: Service = from(json!({"metadata": {"namespace": "ns", "name": "web",
            "annotations": {"service.kubernetes.io/topology-mode": "Auto"}},
            "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}));
        let client = &cluster.context.client;
        client.create(&service).await.unwrap();
        let hints = |f: &coracle_client::fake::Fake| -> Vec<String> {
            let endpoints =
                f.list::<EndpointSlice>("ns").into_iter().flat_map(|s| s.endpoints.unwrap_or_default());
            let mut zones: Vec<_> =
                endpoints.filter_map(|e| e.hints?.for_zones?.pop().map(|zone| zone.name)).collect();
            zones.sort();
            zones
        };
        cluster.until("half for each zone", |f| hints(f) == ["a", "a", "b", "b"]).await;
        // A zone is lost: nobody is told whom to use.
        client.delete::<Node>("", "n2", DeleteOptions::default()).await.unwrap();
        cluster.until("no hints", |f| hints(f).is_empty()).await;
        let reasons: BTreeSet<String> = cluster.events().into_iter().map(|(reason, _)| reason).collect();
        assert!(
            reasons.contains("TopologyAwareHintsEnabled") && reasons.contains("TopologyAwareHintsDisabled")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_have_the_zones_of_their_nodes() {
        let cluster = Cluster::new();
        cluster.start(|c| Box::pin(super::run(c)));
        let node = |name: &str, zone: &str| {
            from::<Node>(json!({"metadata": {"name": name, "labels": {ZONE: zone}}}))
        };
        cluster.fake.put(&node("n1", "a")).unwrap();
        cluster.kubelet("n1", |_| true);
        let service: Service = from(json!({"metadata": {"namespace": "ns", "name": "web"},
            "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80}]}}));
        let client = &cluster.context.client;
        client.create(&service).await.unwrap();
        client.create(&pod(1)).await.unwrap();
        let zones = |f: &coracle_client::fake::Fake| -> Vec<String> {
            let slices = f.list::<EndpointSlice>("ns").into_iter();
            slices.flat_map(|s| s.endpoints.unwrap_or_default()).filter_map(|e| e.zone).collect()
        };
        cluster.until("the node's zone", |f| zones(f) == ["a"]).await;
        // The cloud said the wrong zone at first.
        cluster.fake.put(&node("n1", "b")).unwrap();
        cluster.until("the new zone", |f| zones(f) == ["b"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn slices_follow_the_pods_without_duplicates() {
        let cluster = Cluster::new();
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.start(|c| Box::pin(crate::endpoints::classic::run(c)));
        cluster.fake.put(&from::<Node>(json!({"metadata": {"name": "n1"}}))).unwrap();
        cluster.kubelet("n1", |_| true);
        let service: Service = from(json!({"metadata": {"namespace": "ns", "name": "web"},
            "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}));
        let client = &cluster.context.client;
        client.create(&service).await.unwrap();
        cluster.until("a placeholder", |f| f.list::<EndpointSlice>("ns").len() == 1).await;
        for n in 0..150 {
            client.create(&pod(n)).await.unwrap();
        }
        let addresses = |f: &coracle_client::fake::Fake| {
            let all: Vec<String> = f
                .list::<EndpointSlice>("ns")
                .into_iter()
                .flat_map(|s| s.endpoints.unwrap_or_default())
                .flat_map(|e| e.addresses)
                .collect();
            let distinct: BTreeSet<String> = all.iter().cloned().collect();
            assert_eq!(all.len(), distinct.len(), "no address twice");
            distinct.len()
        };
        cluster.until("150 endpoints", |f| addresses(f) == 150).await;
        cluster.settle().await;
        let slices = cluster.fake.list::<EndpointSlice>("ns");
        assert!(slices.len() <= 3, "{} slices", slices.len());
        assert_eq!(slices[0].ports.iter().flatten().next().and_then(|p| p.port), Some(8080));
        let subsets = |f: &coracle_client::fake::Fake| {
            f.get::<k8s_openapi::api::core::v1::Endpoints>("ns", "web")
                .and_then(|e| e.subsets)
                .unwrap_or_default()
        };
        cluster
            .until("Endpoints too", |f| {
                subsets(f).iter().flat_map(|s| s.addresses.iter().flatten()).count() == 150
            })
            .await;
        for n in 1..150 {
            let name = format!("p{n:03}");
            client.delete::<Pod>("ns", &name, DeleteOptions::default()).await.unwrap();
        }
        cluster.until("one endpoint", |f| addresses(f) == 1).await;
        client.delete::<Pod>("ns", "p000", DeleteOptions::default()).await.unwrap();
        cluster.until("none", |f| addresses(f) == 0 && subsets(f).is_empty()).await;
        cluster.settle().await;
        assert_eq!(cluster.fake.list::<EndpointSlice>("ns").len(), 1, "the placeholder");
        client.delete::<Service>("ns", "web", DeleteOptions::default()).await.unwrap();
        cluster
            .until("Endpoints gone", |f| f.list::<k8s_openapi::api::core::v1::Endpoints>("ns").is_empty())
            .await;
    }
}
