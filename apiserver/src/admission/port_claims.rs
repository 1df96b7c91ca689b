//! Node ports are claimed in the store, each by one service: several servers over one store cannot give out one twice.
//!
//! A claim is made before its service is written and withdrawn after the service has let go of the port. What a crash
//! leaves between is taken over by the next that wants the port, once the claim is old enough and its service lacks it.

use std::time::Duration;

use coracle_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::api::Api;
use crate::kinds;
use crate::storage::{self, Entry, Expected, Operation, Outcome, Store, Write};

const PREFIX: &str = "/registry/ranges/servicenodeports/";
/// A claim is there before its service: so long nobody asks where that is.
const GRACE: Duration = Duration::from_secs(60);
/// How often a claim is tried that others change meanwhile.
const TRIES_MAX: usize = 8;

/// Whose a port is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Namespace and name of the service.
    pub owner: String,
    pub uid: String,
    pub since: Timestamp,
}

impl Claim {
    pub fn of(service: &Service, now: Timestamp) -> Self {
        Self {
            owner: kinds::service_owner(service),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            since: now,
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.owner == other.owner && self.uid == other.uid
    }
}

/// What to do about a port that is claimed already.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ours,
    Theirs,
    /// Its service is not there, or does not have the port: nobody's any more.
    Left,
}

/// `held`: the claim's service is stored, and has the port.
fn judge(present: &Claim, wanted: &Claim, held: bool, now: Timestamp) -> Found {
    if present.same(wanted) {
        return Found::Ours;
    }
    let age = Duration::try_from(now.duration_since(present.since)).unwrap_or_default();
    if held || age < GRACE { Found::Theirs } else { Found::Left }
}

fn key(port: u16) -> String {
    format!("{PREFIX}{port}")
}

fn read(entry: &Entry) -> Option<Claim> {
    serde_json::from_slice(&entry.value).ok()
}

/// Whether the service is stored and has the port, as far as this server has seen.
pub fn holds(api: &Api, owner: &str, port: u16) -> bool {
    let Ok(kind) = api.kind(&Resource::of::<Service>()) else { return false };
    let service = kind.cache.get(owner).and_then(|object| object.decode::<Service>().ok());
    service.is_some_and(|service| kinds::service_ports(&service).contains(&port))
}

/// None: the port is the service's from now on. Some: whose it is.
pub async fn claim(api: &Api, port: u16, wanted: &Claim) -> Result<Option<String>, storage::Error> {
    let value = || serde_json::to_vec(wanted).unwrap_or_default().into();
    let mut expected = Expected::Absent;
    for _ in 0..TRIES_MAX {
        let operation = Operation::Put { value: value(), ttl: None };
        let current = match api.store.write(Write { key: key(port), expected, operation }).await? {
            Outcome::Written { .. } => return Ok(None),
            Outcome::Conflict { current } => current,
        };
        let Some(entry) = current else {
            expected = Expected::Absent;
            continue;
        };
        let Some(present) = read(&entry) else {
            expected = Expected::Revision(entry.revision);
            continue;
        };
        // Whether a service lacks the port is only known when all that was written is seen here.
        let held = || async {
            let seen = api.cache.catch_up(&*api.store).await.is_ok();
            !seen || holds(api, &present.owner, port)
        };
        match judge(&present, wanted, held().await, wanted.since) {
            Found::Ours => return Ok(None),
            Found::Theirs => return Ok(Some(present.owner)),
            Found::Left => expected = Expected::Revision(entry.revision),
        }
    }
    Ok(Some(String::new()))
}

/// Withdraws the service's claims; those of others stay.
pub async fn withdraw(store: &dyn Store, ports: &[u16], owner: &Claim) {
    for port in ports {
        if let Err(error) = withdraw_one(store, *port, owner).await {
            warn!(port, %error, "giving a node port back");
        }
    }
}

async fn withdraw_one(store: &dyn Store, port: u16, owner: &Claim) -> Result<(), storage::Error> {
    let (entry, _) = store.get(&key(port)).await?;
    let Some(entry) = entry.filter(|entry| read(entry).is_some_and(|claim| claim.same(owner))) else {
        return Ok(());
    };
    let expected = Expected::Revision(entry.revision);
    store.write(Write { key: key(port), expected, operation: Operation::Delete }).await.map(drop)
}

/// Claims the ports of services that were stored before ports were claimed.
pub async fn ensure(api: &Api) -> Result<(), storage::Error> {
    let Ok(kind) = api.kind(&Resource::of::<Service>()) else { return Ok(()) };
    let page = kind.cache.list(&Default::default(), None, None, None, 0).unwrap_or_default();
    let services: Vec<Service> = page.objects.iter().filter_map(|o| o.decode().ok()).collect();
    if services.iter().all(|service| kinds::service_ports(service).is_empty()) {
        return Ok(());
    }
    let claimed = api.store.load(PREFIX).await?;
    for service in &services {
        for port in kinds::service_ports(service) {
            if claimed.entries.iter().any(|entry| *entry.key == *key(port)) {
                continue;
            }
            if let Some(other) = claim(api, port, &Claim::of(service, Timestamp::now())).await? {
                warn!(
                    port,
                    service = kinds::service_owner(service),
                    other,
                    "two services have one node port"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_left_when_it_is_old_and_its_service_lacks_the_port() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let claim = |owner: &str, uid: &str, second| Claim {
            owner: owner.into(),
            uid: uid.into(),
            since: at(second),
        };
        let wanted = claim("a/s", "1", 1000);
        for (present, held, want) in [
            (claim("a/s", "1", 0), false, Found::Ours),
            (claim("a/s", "0", 0), false, Found::Left),
            (claim("a/s", "0", 990), false, Found::Theirs),
            (claim("a/t", "2", 990), false, Found::Theirs),
            (claim("a/t", "2", 900), true, Found::Theirs),
            (claim("a/t", "2", 900), false, Found::Left),
            (claim("a/t", "2", 2000), false, Found::Theirs),
        ] {
            assert_eq!(judge(&present, &wanted, held, at(1000)), want, "{present:?} {held}");
        }
    }
}
