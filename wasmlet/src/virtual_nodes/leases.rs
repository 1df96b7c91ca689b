//! Renews the virtual nodes' leases, spread over the interval so that the API sees a stream and no bursts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;

use super::fleet::{Fleet, Member, Name};
use crate::node::{Heartbeat, LEASES};

/// Renewals under way at once: they must get through while pods are written by the thousand.
pub const WRITERS: usize = 16;
const RETRY: Duration = Duration::from_secs(1);

pub struct Leases {
    pub fleet: Arc<Fleet>,
    pub heartbeat: Heartbeat,
}

impl Reconciler for Leases {
    type Key = Name;
    type Error = Infallible;

    fn name(&self) -> &'static str {
        "virtual-leases"
    }

    async fn reconcile(&self, name: &Name) -> Result<Outcome, Infallible> {
        let Some(member) = self.fleet.member(name).filter(|member| member.is_live()) else {
            return Ok(Outcome::Done);
        };
        let every = self.heartbeat.lease_every;
        if member.lease_made() {
            let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
            match member.client.patch::<Lease>(LEASES, name, None, PatchType::Merge, &patch).await {
                Ok(_) => return Ok(Outcome::After(every)),
                Err(error) if error.is_not_found() => member.set_lease_made(false),
                Err(error) => {
                    tracing::warn!(node = %name, %error, "renewing a virtual node's lease failed");
                    return Ok(Outcome::After(RETRY.min(every)));
                }
            }
        }
        match self.make(name, member).await {
            Ok(()) => {
                member.set_lease_made(true);
                // Where a node begins in the interval is its own.
                let share = f64::from(u32::try_from(member.index % 1024).unwrap_or(0)) / 1024.0;
                Ok(Outcome::After(every.mul_f64(share).max(Duration::from_millis(1))))
            }
            Err(error) => {
                tracing::warn!(node = %name, %error, "making a virtual node's lease failed");
                Ok(Outcome::After(RETRY.min(every)))
            }
        }
    }
}

impl Leases {
    async fn make(&self, name: &Name, member: &Member) -> Result<(), ApiError> {
        let owner = member.uid().map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_string(),
            uid,
            ..OwnerReference::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_string()),
                namespace: Some(LEASES.into()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.to_string()),
                lease_duration_seconds: i32::try_from(self.heartbeat.lease_lasts.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        match member.client.create(&lease).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => {
                let patch = json!({
                    "metadata": {"ownerReferences": lease.metadata.owner_references},
                    "spec": lease.spec,
                });
                member.client.patch::<Lease>(LEASES, name, None, PatchType::Merge, &patch).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }
}
