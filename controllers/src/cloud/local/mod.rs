//! The provider `local`: machines are what the nodes say, load balancers have addresses of a pool or of the nodes.
//!
//! With a pool each Service gets an address of its own, and an annotation names the node that answers for it: the proxy
//! there makes the address its own and says so on the network. Without one, Services are served on the nodes' own
//! addresses, as long as they do not want the same port. Routes between nodes are the proxies' business in any case.

mod announce;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::{Change, Informer, Key, Object};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

use super::provider::{CloudError, Instance, Instances, LoadBalancers, Provider};
use crate::context::Context;
use pool::{Ledger, Ports};

pub use pool::Pool;

/// The node whose proxy answers for the Service's load balancer address; the proxy knows it by this name too.
pub const ANNOUNCED_BY: &str = "coracle.dev/announced-by";
const BY_SERVICE: &str = "service";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

pub struct Local {
    pool: Option<Pool>,
    /// TCP ports of the nodes' addresses that no Service gets.
    reserved: Vec<i32>,
    services: Informer,
    slices: Informer,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    addresses: Ledger,
    ports: Ports,
    /// What Services had before this process began is noted.
    complete: bool,
}

impl Local {
    pub fn new(context: &Context, pool: Option<Pool>, reserved: Vec<i32>) -> Self {
        let slices = context.of::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice| {
            service_of(slice).into_iter().map(|key| key.to_string().into()).collect()
        });
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let services = context.of::<Service>();
        let books = taken.clone();
        services.on_change(move |change: &Change| {
            // With its finalizer taken off by hand, nobody else hears of it.
            if change.new.is_none() {
                let mut taken = books.lock();
                taken.addresses.release(&change.key());
                taken.ports.release(&change.key());
            }
        });
        Self { pool, reserved, services, slices, taken }
    }

    fn addresses(&self, service: &Service, nodes: &[Node]) -> Result<Vec<String>, CloudError> {
        let key = key(service);
        let wanted = wanted_address(service).map_err(CloudError::Refused)?;
        let mut taken = self.taken.lock();
        if !taken.complete {
            self.note_present(&mut taken);
        }
        if let Some(pool) = &self.pool {
            let address = taken.addresses.assign(pool, &key, wanted).map_err(CloudError::Refused)?;
            return Ok(vec![address.to_string()]);
        }
        taken.ports.assign(&key, &ports(service), &self.reserved).map_err(CloudError::Refused)?;
        drop(taken);
        let all: BTreeSet<Ipv4Addr> =
            self.candidates(service, nodes).into_iter().filter_map(address_of).collect();
        match wanted {
            Some(wanted) if !all.contains(&wanted) => {
                Err(CloudError::Refused(format!("{wanted} is not the address of a node that can serve")))
            }
            Some(wanted) => Ok(vec![wanted.to_string()]),
            None => Ok(all.iter().map(ToString::to_string).collect()),
        }
    }

    fn note_present(&self, taken: &mut Taken) {
        for object in self.services.list() {
            let Ok(service) = object.decode::<Service>() else { continue };
            for address in shown(&service).iter().filter_map(|ip| ip.parse().ok()) {
                if self.pool.as_ref().is_some_and(|pool| pool.contains(address)) {
                    taken.addresses.note(&object.key(), address);
                } else if self.pool.is_none() {
                    // In use twice: the second is told when its turn comes.
                    let _ = taken.ports.assign(&object.key(), &ports(&service), &self.reserved);
                }
            }
        }
        taken.complete = true;
    }

    fn candidates<'a>(&self, service: &Service, nodes: &'a [Node]) -> Vec<&'a Node> {
        let local = is_local(service).then(|| {
            let slices = self.slices.by_index(BY_SERVICE, &key(service).to_string());
            let slices: Vec<EndpointSlice> = slices.iter().filter_map(|slice| slice.decode().ok()).collect();
            announce::serving(&slices)
        });
        announce::candidates(nodes, local.as_ref())
    }
}

fn key(service: &Service) -> Key {
    let meta = &service.metadata;
    Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn service_of(slice: &Object) -> Option<Key> {
    slice.head.label(SERVICE_LABEL).map(|name| Key::new(&slice.head.namespace, name))
}

fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local")
}

/// The IPs that the Service shows.
fn shown(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    status.into_iter().flat_map(|s| s.ingress.iter().flatten()).filter_map(|i| i.ip.clone()).collect()
}

fn ports(service: &Service) -> Vec<(String, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)).collect()
}

/// What the Service asks for; what cannot be had is said.
fn wanted_address(service: &Service) -> Result<Option<Ipv4Addr>, String> {
    let spec = service.spec.clone().unwrap_or_default();
    if let Some((protocol, _)) = ports(service).iter().find(|(protocol, _)| protocol == "SCTP") {
        return Err(format!("{protocol} is not carried"));
    }
    if spec.cluster_ip.as_deref().is_none_or(|ip| ip.parse::<Ipv4Addr>().is_err()) {
        return Err("only Services with an IPv4 cluster IP have load balancers".into());
    }
    match spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty()) {
        None => Ok(None),
        Some(ip) => {
            ip.parse().map(Some).map_err(|_| format!("spec.loadBalancerIP {ip:?} is no IPv4 address"))
        }
    }
}

/// The address by which others reach the node: its external one, where it has one.
fn address_of(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    ["ExternalIP", "InternalIP"]
        .iter()
        .find_map(|kind| addresses.iter().filter(|a| a.type_ == *kind).find_map(|a| a.address.parse().ok()))
}

fn status_of(addresses: Vec<String>) -> LoadBalancerStatus {
    let ingress = addresses.into_iter().map(|ip| LoadBalancerIngress {
        ip: Some(ip),
        // The nodes' rules take what is sent there.
        ip_mode: Some("VIP".into()),
        ..LoadBalancerIngress::default()
    });
    LoadBalancerStatus { ingress: Some(ingress.collect()).filter(|all: &Vec<_>| !all.is_empty()) }
}

impl Provider for Local {
    fn name(&self) -> &str {
        "coracle"
    }

    fn instances(&self) -> Option<&dyn Instances> {
        Some(self)
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        Some(self)
    }
}

#[async_trait]
impl Instances for Local {
    /// A node that says it is there is there: nobody else would know.
    async fn instance(&self, node: &Node) -> Result<Option<Instance>, CloudError> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let addresses = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
        Ok(Some(Instance {
            provider_id: format!("coracle://{name}"),
            instance_type: "coracle".into(),
            addresses,
            ..Instance::default()
        }))
    }
}

#[async_trait]
impl LoadBalancers for Local {
    async fn get(&self, service: &Service) -> Result<Option<LoadBalancerStatus>, CloudError> {
        let present = !shown(service).is_empty() || self.taken.lock().addresses.of(&key(service)).is_some();
        Ok(present.then(|| status_of(shown(service))))
    }

    async fn ensure(&self, service: &Service, nodes: &[Node]) -> Result<LoadBalancerStatus, CloudError> {
        self.addresses(service, nodes).map(status_of)
    }

    async fn update(
        &self,
        service: &Service,
        nodes: &[Node],
    ) -> Result<Option<LoadBalancerStatus>, CloudError> {
        self.ensure(service, nodes).await.map(Some)
    }

    async fn delete(&self, service: &Service) -> Result<(), CloudError> {
        let mut taken = self.taken.lock();
        taken.addresses.release(&key(service));
        taken.ports.release(&key(service));
        Ok(())
    }

    fn annotations(&self, service: &Service, nodes: &[Node]) -> BTreeMap<&'static str, Option<String>> {
        let announcer = self.pool.as_ref().and_then(|_| {
            let present = service.metadata.annotations.as_ref().and_then(|a| a.get(ANNOUNCED_BY));
            announce::announcer(&key(service), &self.candidates(service, nodes), present.map(String::as_str))
        });
        [(ANNOUNCED_BY, announcer)].into()
    }

    fn follow(&self, changed: Arc<dyn Fn(Key) + Send + Sync>) {
        let services = self.services.clone();
        self.slices.on_change(move |change: &Change| {
            let Some(key) = service_of(change.object()) else { return };
            let local = services.get_key(&key).is_some_and(|service| {
                service.head.field("spec.type").is_none_or(|kind| kind == "LoadBalancer")
                    && service.decode::<Service>().is_ok_and(|service| is_local(&service))
            });
            if local {
                changed(key);
            }
        });
    }
}
