//! Endpoints controller: the older form of the same, one object per Service.

use std::collections::BTreeMap;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::HEADLESS;
use super::backends::{self, Backend, Port};
use crate::context::Context;

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// More addresses than this are left out, as upstream.
const ADDRESSES_MAX: usize = 1000;

pub async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = Controller {
        client: context.client.clone(),
        services: context.of::<Service>(),
        pods: context.of::<Pod>(),
        endpoints: context.of::<Endpoints>(),
        events: context.recorder("endpoint-controller"),
    };
    super::watch(&context, &queue);
    let touched = queue.clone();
    // Deleted ones come back, and what is left of services that went while nobody watched goes.
    controller.endpoints.on_change(move |change: &Change| {
        if change.old.is_none() || change.new.is_none() {
            touched.add(change.key());
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    services: Informer,
    pods: Informer,
    endpoints: Informer,
    events: EventRecorder,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let present = self.endpoints.get_key(key);
        let Some(object) = self.services.get_key(key) else {
            // Someone else's Endpoints without a Service stay.
            if present.is_some_and(|e| e.head.label(MANAGED_BY) == Some(MANAGER)) {
                let gone =
                    self.client.delete::<Endpoints>(&key.namespace, &key.name, DeleteOptions::default());
                return match gone.await {
                    Ok(()) => Ok(Outcome::Done),
                    Err(error) if error.is_not_found() => Ok(Outcome::Done),
                    Err(error) => Err(error),
                };
            }
            return Ok(Outcome::Done);
        };
        let service: Service = object.decode()?;
        let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.clone()).filter(|s| !s.is_empty())
        else {
            return Ok(Outcome::Done);
        };
        if service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            return Ok(Outcome::Done);
        }
        let mut behind = Vec::new();
        for pod in self.pods.select(&key.namespace, &Selector::from_map(&selector)) {
            behind.extend(backends::backend(&service, &pod)?);
        }
        let current: Option<Endpoints> = present.map(|o| o.decode()).transpose()?;
        let wanted = wanted(&service, &behind, current.as_ref());
        let result = match &current {
            Some(current) if same(current, &wanted) => return Ok(Outcome::Done),
            Some(_) => self.client.update(&wanted).await.map(drop),
            None => self.client.create(&wanted).await.map(drop),
        };
        match result {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) => {
                let (reason, verb) = match current {
                    Some(_) => ("FailedToUpdateEndpoint", "update"),
                    None => ("FailedToCreateEndpoint", "create"),
                };
                let message = format!("Failed to {verb} endpoint {key}: {error}");
                if !error.is_conflict() && !error.is_already_exists() {
                    self.events.event(&service, EventType::Warning, reason, message);
                }
                Err(error)
            }
        }
    }
}

fn same(current: &Endpoints, wanted: &Endpoints) -> bool {
    let annotations = |e: &Endpoints| e.metadata.annotations.clone().unwrap_or_default();
    current.subsets.as_deref().unwrap_or_default() == wanted.subsets.as_deref().unwrap_or_default()
        && current.metadata.labels == wanted.metadata.labels
        && annotations(current) == annotations(wanted)
}

fn wanted(service: &Service, backends: &[Backend], current: Option<&Endpoints>) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ipv6 = spec.ip_families.iter().flatten().next().is_some_and(|f| f == "IPv6");
    let has_ports = spec.ports.iter().flatten().next().is_some();
    let mut subsets: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut truncated = false;
    // Ready ones first, so that they are the last to be left out.
    let mut order: Vec<&Backend> = backends.iter().filter(|b| publish || !b.terminating).collect();
    order.sort_by_key(|b| !(publish || b.serving));
    let mut count = 0;
    for backend in order {
        let Some(ip) = backend.addresses.iter().find(|a| a.is_ipv6() == ipv6) else { continue };
        if backend.ports.is_empty() && (has_ports || !headless) {
            continue;
        }
        if count == ADDRESSES_MAX {
            truncated = true;
            break;
        }
        count += 1;
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: backend.hostname.clone(),
            node_name: backend.node.clone(),
            target_ref: Some(backend.pod.clone()),
        };
        let subset = subsets.entry(backend.ports.clone()).or_default();
        if publish || backend.serving { subset.0.push(address) } else { subset.1.push(address) }
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let mut annotations = current.and_then(|c| c.metadata.annotations.clone()).unwrap_or_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    let mut metadata = current.map(|c| c.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone(),
        ..ObjectMeta::default()
    });
    metadata.labels = Some(labels);
    metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(addresses).filter(|a| !a.is_empty())
    };
    let subsets: Vec<EndpointSubset> = subsets
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(ports.into_iter().map(port).collect()).filter(|p: &Vec<_>| !p.is_empty()),
        })
        .collect();
    Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) }
}

fn port(port: Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|n| !n.is_empty()),
        port: port.number,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    fn backend(n: u8, serving: bool, terminating: bool, port: i32) -> Backend {
        Backend {
            addresses: vec![[10, 0, 0, n].into()],
            node: Some("n1".into()),
            hostname: None,
            pod: from(json!({"kind": "Pod", "uid": format!("u{n}")})),
            serving,
            terminating,
            ports: vec![Port { name: "".into(), protocol: "TCP".into(), number: port, app_protocol: None }],
        }
    }

    #[test]
    fn ready_and_unready_addresses_share_a_subset_of_their_ports() {
        let service: Service = from(json!({"metadata": {"namespace": "ns", "name": "web"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}));
        let got = wanted(
            &service,
            &[
                backend(2, true, false, 80),
                backend(1, false, false, 80),
                backend(3, true, false, 81),
                backend(4, true, true, 80),
            ],
            None,
        );
        let shape: Vec<_> = got
            .subsets
            .iter()
            .flatten()
            .map(|s| {
                let ips = |a: &Option<Vec<EndpointAddress>>| {
                    a.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>().join(",")
                };
                (ips(&s.addresses), ips(&s.not_ready_addresses))
            })
            .collect();
        assert_eq!(shape, [("10.0.0.2".into(), "10.0.0.1".into()), ("10.0.0.3".into(), String::new())]);
        assert!(same(
            &got,
            &wanted(
                &service,
                &[backend(1, false, false, 80), backend(3, true, false, 81), backend(2, true, false, 80)],
                Some(&got)
            )
        ));
    }

    #[test]
    fn more_than_a_thousand_are_truncated() {
        let service: Service = from(
            json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
        );
        let many: Vec<Backend> = (0..1500_u32)
            .map(|n| Backend {
                addresses: vec![std::net::Ipv4Addr::from(n).into()],
                ..backend(1, n >= 500, false, 80)
            })
            .collect();
        let got = wanted(&service, &many, None);
        let count = got.subsets.iter().flatten().flat_map(|s| s.addresses.iter().flatten()).count();
        assert_eq!(count, 1000, "the ready ones");
        assert_eq!(got.metadata.annotations.clone().unwrap_or_default()[OVER_CAPACITY], "truncated");
        assert!(got.metadata.labels.clone().unwrap_or_default().contains_key(HEADLESS));
    }
}
