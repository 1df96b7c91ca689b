//! The server's own range is there as an object, every service's addresses are, and no other service's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Informers, Key, Resource, WorkQueue,
};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRSpec, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::made;
use crate::admission::port_claims;
use crate::admission::service_addresses::{MANAGED_BY, address_object};
use crate::api::Api;
use crate::kinds::{self, AddressRange};

/// How the server's own range is called.
const DEFAULT_NAME: &str = "kubernetes";
/// An address is there before its service: so long nobody asks where that is.
const GRACE: Duration = Duration::from_secs(60);

pub(super) async fn ensure(api: &Api, client: &Client, service_cidr: &str) -> Result<(), ApiError> {
    ensure_range(client, service_cidr).await?;
    port_claims::ensure(api).await.map_err(ApiError::internal)?;
    let Ok(kind) = api.kind(&Resource::of::<Service>()) else { return Ok(()) };
    let page = kind.cache.list(&Default::default(), None, None, None, 0).unwrap_or_default();
    let services: Vec<Service> = page.objects.iter().filter_map(|o| o.decode().ok()).collect();
    try_join_all(services.iter().map(|service| ensure_addresses(client, service))).await.map(drop)
}

async fn ensure_range(client: &Client, service_cidr: &str) -> Result<(), ApiError> {
    let parsed = AddressRange::parse_own(service_cidr).map_err(ApiError::internal)?;
    let cidrs: Vec<String> = parsed.iter().map(|range| range.cidr().to_owned()).collect();
    let mut range = match client.find::<ServiceCIDR>("", DEFAULT_NAME).await? {
        Some(range) => range,
        None => {
            let range = ServiceCIDR {
                metadata: ObjectMeta { name: Some(DEFAULT_NAME.into()), ..ObjectMeta::default() },
                spec: Some(ServiceCIDRSpec { cidrs: Some(cidrs.clone()) }),
                status: None,
            };
            made(client.create(&range).await.map(drop))?;
            client.get::<ServiceCIDR>("", DEFAULT_NAME).await?
        }
    };
    match kinds::service_cidrs(&range) {
        stored if stored == cidrs => {}
        // The cluster has got its second family.
        [first] if cidrs.len() == 2 && cidrs.first() == Some(first) => {
            range.spec = Some(ServiceCIDRSpec { cidrs: Some(cidrs) });
            client.update(&range).await?;
            range = client.get::<ServiceCIDR>("", DEFAULT_NAME).await?;
        }
        stored => {
            warn!(configured = service_cidr, ?stored, "the service range is another than the stored one");
        }
    }
    let conditions = range.status.get_or_insert_with(ServiceCIDRStatus::default);
    let conditions = conditions.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == "Ready") {
        return Ok(());
    }
    conditions.push(Condition {
        type_: "Ready".into(),
        status: "True".into(),
        message: "Kubernetes default Service CIDR is ready".into(),
        reason: String::new(),
        last_transition_time: Time(Timestamp::now()),
        observed_generation: None,
    });
    client.update_status(&range).await.map(drop)
}

async fn ensure_addresses(client: &Client, service: &Service) -> Result<(), ApiError> {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (namespace, name) = (text(&service.metadata.namespace), text(&service.metadata.name));
    for ip in kinds::service_addresses(service) {
        if client.find::<IPAddress>("", &ip.to_string()).await?.is_none() {
            made(client.create(&address_object(ip, &namespace, &name)).await.map(drop))?;
        }
    }
    Ok(())
}

pub(super) async fn run(client: Client, informers: &Informers, shutdown: CancellationToken) {
    let upkeep =
        Upkeep { client, services: informers.of::<Service>(), addresses: informers.of::<IPAddress>() };
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    // By address: those that a service has or had, and those that there are objects of.
    upkeep.services.on_change(move |change: &Change| {
        let sides = [&change.old, &change.new].map(|side| side.as_ref().map(|o| addresses_of(o)));
        let [old, new] = sides.map(Option::unwrap_or_default);
        old.symmetric_difference(&new).for_each(|ip| added.add(Key::new("", &ip.to_string())));
    });
    let added = queue.clone();
    upkeep.addresses.on_change(move |change: &Change| added.add(change.key()));
    upkeep.services.add_index(BY_ADDRESS, |service| {
        addresses_of(service).iter().map(|ip| ip.to_string().into()).collect()
    });
    upkeep.services.synced().await;
    upkeep.addresses.synced().await;
    controller::run(Arc::new(upkeep), queue, 1, shutdown).await;
}

const BY_ADDRESS: &str = "address";

fn addresses_of(object: &coracle_client::Object) -> BTreeSet<IpAddr> {
    object.decode::<Service>().map(|s| kinds::service_addresses(&s).into_iter().collect()).unwrap_or_default()
}

struct Upkeep {
    client: Client,
    services: Informer,
    addresses: Informer,
}

impl Reconciler for Upkeep {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "service-address-upkeep"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let holders = self.services.by_index(BY_ADDRESS, &key.name);
        let Some(object) = self.addresses.get_key(key) else {
            let Some(service) = holders.first() else { return Ok(Outcome::Done) };
            let service: Service = service.decode()?;
            ensure_addresses(&self.client, &service).await?;
            return Ok(Outcome::Done);
        };
        let managed = object.head.labels.iter().any(|(k, v)| (&**k, &**v) == MANAGED_BY);
        if !holders.is_empty() || !managed || object.head.deleting {
            return Ok(Outcome::Done);
        }
        let address: IPAddress = object.decode()?;
        let created = address.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let age = Timestamp::now().duration_since(created);
        match Duration::try_from(age).ok().filter(|age| *age < GRACE) {
            Some(age) => return Ok(Outcome::After(GRACE - age)),
            None if age.is_negative() => return Ok(Outcome::After(GRACE)),
            None => {}
        }
        match self.client.delete::<IPAddress>("", &key.name, DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}
