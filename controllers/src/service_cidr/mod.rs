//! Service CIDRs: a range for services' addresses is ready to be used, and is not gone before its addresses are.

mod plan;

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use crate::context::Context;
use plan::{Action, FINALIZER, apply, plan};

/// So long after the deletion servers may still be handing out addresses of the range.
const GRACE: Duration = Duration::from_secs(10);

pub async fn run(context: Context) {
    if !context.serves::<ServiceCIDR>().await {
        return;
    }
    let controller = Controller {
        client: context.client.clone(),
        ranges: context.of::<ServiceCIDR>(),
        addresses: context.of::<IPAddress>(),
    };
    let queue = WorkQueue::new();
    // What happens to one range or address may decide over another range that is being deleted.
    let (added, ranges) = (queue.clone(), controller.ranges.clone());
    controller.ranges.on_change(move |change: &Change| {
        added.add(change.key());
        ranges.list().iter().filter(|r| r.head.deleting).for_each(|r| added.add(r.key()));
    });
    let (added, ranges) = (queue.clone(), controller.ranges.clone());
    controller.addresses.on_change(move |change: &Change| {
        if change.new.is_none() {
            ranges.list().iter().filter(|r| r.head.deleting).for_each(|r| added.add(r.key()));
        }
    });
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    ranges: Informer,
    addresses: Informer,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.ranges.get_key(key) else { return Ok(Outcome::Done) };
        let mut range: ServiceCIDR = object.decode()?;
        let now = Timestamp::now();
        if let Some(deleted) = &range.metadata.deletion_timestamp {
            let age = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
            if age < GRACE {
                return Ok(Outcome::After(GRACE - age));
            }
        }
        let others: Vec<ServiceCIDR> = self
            .ranges
            .list()
            .iter()
            .filter(|other| other.head.name != object.head.name && !other.head.deleting)
            .filter_map(|other| other.decode().ok())
            .collect();
        let addresses = self.addresses.list();
        let addresses = addresses.iter().filter_map(|address| address.head.name.parse().ok());
        let wanted = plan(&range, &others, addresses);
        match wanted {
            Action::Nothing => return Ok(Outcome::Done),
            Action::Protect => {
                range.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
                self.client.update(&range).await?;
            }
            Action::Release => {
                range.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
                match self.client.update(&range).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            Action::Say(state) => {
                apply(&mut range, state, now);
                self.client.update_status(&range).await?;
            }
        }
        Ok(Outcome::Done)
    }
}
