//! ServiceAddresses: a service gets its cluster address and node ports, each of which one service has.
//!
//! An address is a service's once an IPAddress object says so. That object is made before the service is written, so
//! several servers over one store cannot hand out an address twice; [`crate::upkeep`] mends what a crash left between.
//! Node ports are claimed likewise, by [`port_claims`]; which ones are known to be taken is kept in memory, made from the
//! stored services at the first use, so that a free one is found at the first try.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::{ApiError, Client, DeleteOptions, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tracing::warn;

use super::port_claims::{self, Claim as PortClaim};
use super::{Attributes, Operation, Plugin, Reserved};
use crate::api::Api;
use crate::authn::{Identity, MASTERS_GROUP};
use crate::direct::Direct;
use crate::field_error::Errors;
use crate::kinds::{self, AddressRange, Reservation, ServiceAllocator, Surroundings};
use crate::object::ApiObject;

/// Where nothing else is said; as kubeadm's.
pub const DEFAULT_CIDR: &str = "10.96.0.0/12";
/// Says that this server made an IPAddress for a service.
pub const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const READY: &str = "Ready";
/// How often another address is tried when other servers are faster.
const TRIES_MAX: usize = 64;

pub struct ServiceAddresses {
    books: Arc<Mutex<Books>>,
}

struct Books {
    allocator: ServiceAllocator,
    /// The stored services' ports are in.
    complete: bool,
}

struct Taken {
    books: Arc<Mutex<Books>>,
    reservation: Option<Reservation>,
    /// None where nothing was claimed (a dry run).
    client: Option<Client>,
    api: Arc<Api>,
    new: Service,
    old: Option<Service>,
}

/// What became of the claim of an address.
enum Claim {
    Ours,
    SomebodyElses,
}

impl ServiceAddresses {
    pub fn new(allocator: ServiceAllocator) -> Self {
        Self { books: Arc::new(Mutex::new(Books { allocator, complete: false })) }
    }

    fn allocate(
        &self,
        api: &Api,
        service: &mut Service,
        old: Option<&Service>,
    ) -> Result<Reservation, Errors> {
        let ranges = further_ranges(api);
        let holder = |ip: IpAddr| holder(api, ip);
        let mut books = self.books.lock();
        books.complete(api);
        let has_port = |owner: &str, port: u16| port_claims::holds(api, owner, port);
        let around = Surroundings { holder: &holder, ranges: &ranges, has_port: &has_port };
        books.allocator.allocate(service, old, &around)
    }
}

impl Books {
    fn complete(&mut self, api: &Api) {
        if std::mem::replace(&mut self.complete, true) {
            return;
        }
        let Ok(kind) = api.kind(&Resource::of::<Service>()) else { return };
        let page = kind.cache.list(&Default::default(), None, None, None, 0).unwrap_or_default();
        let services: Vec<Service> = page.objects.iter().filter_map(|o| o.decode().ok()).collect();
        self.allocator.rebuild(&services);
    }
}

/// The service that an address belongs to by its IPAddress, or what else does.
fn holder(api: &Api, ip: IpAddr) -> Option<String> {
    let kind = api.kind(&Resource::of::<IPAddress>()).ok()?;
    let object = kind.cache.get(&ip.to_string())?;
    Some(object.decode::<IPAddress>().map_or_else(|_| String::new(), |address| parent_of(&address)))
}

fn parent_of(address: &IPAddress) -> String {
    let parent = &address.spec.parent_ref;
    format!("{}/{}", parent.namespace.as_deref().unwrap_or_default(), parent.name)
}

/// The ranges that users added and that are ready.
fn further_ranges(api: &Api) -> Vec<AddressRange> {
    let Ok(kind) = api.kind(&Resource::of::<ServiceCIDR>()) else { return Vec::new() };
    let page = kind.cache.list(&Default::default(), None, None, None, 0).unwrap_or_default();
    let ready = |range: &ServiceCIDR| {
        let mut conditions = range.status.iter().flat_map(|s| s.conditions.iter().flatten());
        range.metadata.deletion_timestamp.is_none()
            && conditions.any(|c| c.type_ == READY && c.status == "True")
    };
    let ranges = page.objects.iter().filter_map(|o| o.decode::<ServiceCIDR>().ok()).filter(ready);
    ranges
        .flat_map(|range| kinds::service_cidrs(&range).to_vec())
        .filter_map(|cidr| AddressRange::parse(&cidr).ok())
        .collect()
}

/// Reaches the API as the server itself.
fn own_client(api: &Arc<Api>) -> Client {
    let identity = Identity::new("system:apiserver", &[MASTERS_GROUP]);
    Client::new(Direct::new(api.clone(), identity), "kube-apiserver")
}

/// The object that makes an address a service's.
pub fn address_object(ip: IpAddr, namespace: &str, name: &str) -> IPAddress {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = [(FAMILY, family), MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_string()),
            labels: Some(BTreeMap::from(labels)),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                resource: "services".into(),
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            },
        },
    }
}

async fn claim(client: &Client, ip: IpAddr, service: &Service) -> Result<Claim, ApiError> {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (namespace, name) = (text(&service.metadata.namespace), text(&service.metadata.name));
    let object = address_object(ip, &namespace, &name);
    match client.create(&object).await {
        Ok(_) => Ok(Claim::Ours),
        Err(error) if error.is_already_exists() => {
            // What an earlier try of the same service left counts as its own.
            let found = client.find::<IPAddress>("", &ip.to_string()).await?;
            let ours = found.is_some_and(|address| parent_of(&address) == format!("{namespace}/{name}"));
            Ok(if ours { Claim::Ours } else { Claim::SomebodyElses })
        }
        Err(error) => Err(error),
    }
}

async fn give_back(client: &Client, addresses: &[IpAddr]) {
    for ip in addresses {
        match client.delete::<IPAddress>("", &ip.to_string(), DeleteOptions::default()).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => warn!(%ip, %error, "giving an address back"),
        }
    }
}

impl Taken {
    async fn give_back(mut self: Box<Self>) {
        let Some(reservation) = self.reservation.take() else { return };
        if let Some(client) = self.client.take() {
            give_back(&client, reservation.addresses()).await;
            let claim = PortClaim::of(&self.new, Timestamp::now());
            port_claims::withdraw(&*self.api.store, reservation.ports(), &claim).await;
        }
        self.books.lock().allocator.undo(&reservation);
    }
}

impl Reserved for Taken {
    fn confirm(mut self: Box<Self>) {
        let Some(reservation) = self.reservation.take() else { return };
        let mut books = self.books.lock();
        books.allocator.stored(&reservation);
        let Some(old) = &self.old else { return };
        books.allocator.settle(old, &self.new);
        drop(books);
        let kept = kinds::service_ports(&self.new);
        let mut dropped = kinds::service_ports(old);
        dropped.retain(|port| !kept.contains(port));
        if self.client.is_some() && !dropped.is_empty() {
            let (api, claim) = (self.api.clone(), PortClaim::of(old, Timestamp::now()));
            tokio::spawn(async move { port_claims::withdraw(&*api.store, &dropped, &claim).await });
        }
        let kept = kinds::service_addresses(&self.new);
        let mut dropped = kinds::service_addresses(old);
        dropped.retain(|ip| !kept.contains(ip));
        if let Some(client) = self.client.take().filter(|_| !dropped.is_empty()) {
            tokio::spawn(async move { give_back(&client, &dropped).await });
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        let claimed = !reservation.addresses().is_empty() || !reservation.ports().is_empty();
        let Some(client) = self.client.take().filter(|_| claimed) else {
            return self.books.lock().allocator.undo(&reservation);
        };
        // Until the claim is withdrawn, nobody else is given the address.
        let (books, api) = (self.books.clone(), self.api.clone());
        let claim = PortClaim::of(&self.new, Timestamp::now());
        tokio::spawn(async move {
            give_back(&client, reservation.addresses()).await;
            port_claims::withdraw(&*api.store, reservation.ports(), &claim).await;
            books.lock().allocator.undo(&reservation);
        });
    }
}

#[async_trait]
impl Plugin for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    async fn reserve(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn ApiObject,
    ) -> Result<Option<Box<dyn Reserved>>, Errors> {
        let call = attributes.call;
        if attributes.operation == Operation::Delete || call.subresource.is_some() {
            return Ok(None);
        }
        let Some(service) = object.as_any_mut().downcast_mut::<Service>() else { return Ok(None) };
        let old = attributes.old.and_then(|old| old.as_any().downcast_ref::<Service>()).cloned();
        let asked = service.spec.clone();
        let mut ports_lost = false;
        for _ in 0..TRIES_MAX {
            service.spec.clone_from(&asked);
            let reservation = self.allocate(&call.api, service, old.as_ref())?;
            let claimed: Vec<IpAddr> = reservation.addresses().to_vec();
            let ports: Vec<u16> = reservation.ports().to_vec();
            let mut taken = Box::new(Taken {
                books: self.books.clone(),
                reservation: Some(reservation),
                client: None,
                api: call.api.clone(),
                new: service.clone(),
                old: old.clone(),
            });
            if call.options.dry_run {
                return Ok(Some(taken));
            }
            let client = own_client(&call.api);
            let mut lost = false;
            for ip in claimed {
                match claim(&client, ip, service).await {
                    Ok(Claim::Ours) => {}
                    // By now the store says so, and the next try passes it by, or refuses it by name.
                    Ok(Claim::SomebodyElses) => lost = true,
                    Err(error) => {
                        let mut errors = Errors::default();
                        let detail = format!("failed to allocate IP {ip}: {error}");
                        errors.invalid("spec.clusterIPs", [ip.to_string()], detail);
                        return Err(errors);
                    }
                }
            }
            if lost {
                continue;
            }
            // From here on, what was claimed is given back where the service does not come to be.
            taken.client = Some(client);
            let wanted = PortClaim::of(service, Timestamp::now());
            let mut learned = Vec::new();
            for port in ports {
                match port_claims::claim(&call.api, port, &wanted).await {
                    Ok(None) => {}
                    Ok(Some(other)) => learned.push((port, other)),
                    Err(error) => {
                        let mut errors = Errors::default();
                        let detail = format!("failed to allocate requested port {port}: {error}");
                        errors.invalid("spec.ports", [port], detail);
                        return Err(errors);
                    }
                }
            }
            if learned.is_empty() {
                return Ok(Some(taken));
            }
            taken.give_back().await;
            // The next try passes them by, or refuses them by name.
            let mut books = self.books.lock();
            learned.into_iter().for_each(|(port, owner)| books.allocator.learn(port, owner));
            ports_lost = true;
        }
        let mut errors = Errors::default();
        let none: [&str; 0] = [];
        let (field, what) =
            if ports_lost { ("spec.ports", "nodePort") } else { ("spec.clusterIPs", "serviceIP") };
        errors.invalid(field, none, format!("failed to allocate a {what}: other servers took them"));
        Err(errors)
    }

    async fn removed(&self, attributes: &Attributes<'_>, object: &dyn ApiObject) {
        let Some(service) = object.as_any().downcast_ref::<Service>() else { return };
        self.books.lock().allocator.release(service);
        let ports = kinds::service_ports(service);
        let claim = PortClaim::of(service, Timestamp::now());
        port_claims::withdraw(&*attributes.call.api.store, &ports, &claim).await;
        let addresses = kinds::service_addresses(service);
        if addresses.is_empty() {
            return;
        }
        let owner = kinds::service_owner(service);
        let api = &attributes.call.api;
        let own: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|ip| holder(api, *ip).is_some_and(|holder| holder == owner))
            .collect();
        give_back(&own_client(api), &own).await;
    }
}
