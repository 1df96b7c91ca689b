//! Follows Services and EndpointSlices, and hands the rules of what changed to the backend.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::informer::InformerScope;
use coracle_client::{Change, Informer, Informers, Resource};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::announce::Announcer;
use crate::dns::Family;
use crate::dns::names::{self, ServiceNames};
use crate::health_check::HealthChecks;
use crate::table::{self, Place, ServiceRules};
use crate::{Backend, Error, Options};

const BY_SERVICE: &str = "service";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The one Service that may lead to the loopback of the node: the API's.
const API_SERVICE: &str = "default/kubernetes";
/// A backend that failed is tried again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// `namespace/name` of Services whose rules may have changed. Bounded by the Services there are.
#[derive(Default)]
struct Dirty {
    names: Mutex<BTreeSet<Arc<str>>>,
    some: Notify,
}

impl Dirty {
    fn add(&self, name: Arc<str>) {
        self.names.lock().insert(name);
        self.some.notify_one();
    }
}

fn service_of_slice(object: &coracle_client::Object) -> Option<Box<str>> {
    let name = object.head.label(SERVICE_LABEL)?;
    Some(format!("{}/{name}", object.head.namespace).into())
}

/// What is told of rules beside the backend.
pub struct Beside {
    pub announcer: Announcer,
    pub health: HealthChecks,
}

pub async fn run(
    options: &Options,
    informers: &Informers,
    backend: &mut dyn Backend,
    beside: &Beside,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let dirty = Arc::new(Dirty::default());
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let own = InformerScope {
        field_selector: Some(format!("metadata.name={}", options.node_name)),
        ..InformerScope::default()
    };
    let own = informers.scoped(Resource::of::<Node>(), own);
    slices.add_index(BY_SERVICE, |object| service_of_slice(object).into_iter().collect());
    let marks = dirty.clone();
    services.on_change(move |change| marks.add(change.key().to_string().into()));
    let marks = dirty.clone();
    slices.on_change(move |change: &Change| {
        for object in [&change.old, &change.new].into_iter().flatten() {
            if let Some(name) = service_of_slice(object) {
                marks.add(name.into());
            }
        }
    });
    let (marks, all) = (dirty.clone(), services.clone());
    own.on_change(move |change| {
        let zone = |object: &Option<Arc<coracle_client::Object>>| {
            object.as_ref().and_then(|o| o.head.label(ZONE_LABEL).map(str::to_owned))
        };
        if zone(&change.old) != zone(&change.new) {
            all.list().iter().for_each(|service| marks.add(service.key().to_string().into()));
        }
    });
    tokio::select! {
        // Half a picture would refuse what is only not listed yet.
        () = informers.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let mut retry = RETRY_FIRST;
    loop {
        let names = std::mem::take(&mut *dirty.names.lock());
        if names.is_empty() {
            options.services.names().set_synced();
            tokio::select! {
                () = dirty.some.notified() => continue,
                () = shutdown.cancelled() => return Ok(()),
            }
        }
        let zone = own.get("", &options.node_name);
        let zone = zone.as_ref().and_then(|node| node.head.label(ZONE_LABEL));
        let place = Place { node: &options.node_name, zone };
        let mut changed = Vec::with_capacity(names.len());
        for name in &names {
            let (mut rules, service_names) = current(name, &services, &slices, place, options);
            leave_dns(&mut rules, options);
            rules.ports.retain(|port| port.family == Family::V4 || options.second.is_some());
            options.services.set(name, &rules, service_names);
            beside.announcer.set(name, &rules.announcement);
            beside.health.set(name, rules.health_check);
            changed.push((name.clone(), rules));
        }
        // Everything that was listed has been taken in by now, whatever becomes of the rules.
        options.services.names().set_synced();
        beside.announcer.begin();
        match backend.apply(changed).await {
            Ok(()) => retry = RETRY_FIRST,
            Err(error @ Error::NftMissing) => return Err(error),
            Err(error) => {
                warn!(%error, "putting Service rules into effect failed, again in {retry:?}");
                dirty.names.lock().extend(names);
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// What a Service does on this node, and its names.
fn current(
    name: &str,
    services: &Informer,
    slices: &Informer,
    place: Place<'_>,
    options: &Options,
) -> (ServiceRules, Option<ServiceNames>) {
    let gone = (ServiceRules::default(), None);
    let Some((namespace, short)) = name.split_once('/') else { return gone };
    let Some(service) = services.get(namespace, short) else { return gone };
    let service: Service = match service.decode() {
        Ok(service) => service,
        Err(error) => {
            warn!(service = name, %error, "a Service does not decode");
            return gone;
        }
    };
    let mut slices: Vec<EndpointSlice> =
        slices.by_index(BY_SERVICE, name).iter().filter_map(|slice| slice.decode().ok()).collect();
    if name != API_SERVICE {
        slices.iter_mut().for_each(|slice| confine(slice, options));
    }
    (table::rules(&service, &slices, place), names::of(&service, &slices))
}

/// The cluster's DNS address is served by the node itself.
fn leave_dns(rules: &mut ServiceRules, options: &Options) {
    for port in rules.ports.iter_mut().filter(|port| port.port == crate::dns::PORT) {
        port.addresses.retain(|address| Some(*address) != options.dns_address.map(IpAddr::V4));
    }
}

/// No Service but the API's leads to what listens on the node's loopback, unless a pod does (on the node's network).
fn confine(slice: &mut EndpointSlice, options: &Options) {
    let (network, prefix) = options.pod_cidr;
    let is_pod = |ip: IpAddr| table::contains((network.into(), prefix), ip);
    let of_the_node =
        |address: &String| address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() && !is_pod(ip));
    let is_a_pods = |e: &Endpoint| e.target_ref.as_ref().and_then(|r| r.kind.as_deref()) == Some("Pod");
    if let Some(endpoints) = &mut slice.endpoints {
        endpoints.retain(|e| is_a_pods(e) || !e.addresses.iter().any(of_the_node));
    }
}
