//! EndpointSlice mirroring: Endpoints that people write for services without a selector become slices.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::mirror_plan::{self, ADDRESSES_MAX, MIRROR_MANAGER};
use super::own_writes::{OwnWrites, PATIENCE};
use super::slice_plan::{Action, MANAGED_BY, SERVICE_NAME};
use crate::context::Context;

const BY_ENDPOINTS: &str = "endpointslice.mirrors";

pub async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = Controller {
        client: context.client.clone(),
        services: context.of::<Service>(),
        endpoints: context.of::<Endpoints>(),
        slices: context.of::<EndpointSlice>(),
        events: context.recorder("endpoint-slice-mirroring-controller"),
        own: OwnWrites::default(),
    };
    controller.slices.add_index(BY_ENDPOINTS, |slice| {
        mirror_of(slice).map(|key| key.to_string().into()).into_iter().collect()
    });
    // A service's events count only where it has Endpoints: the others have nothing to mirror.
    let (added, there) = (queue.clone(), controller.endpoints.clone());
    controller.services.on_change(move |change: &Change| {
        if there.get_key(&change.key()).is_some() {
            added.add(change.key());
        }
    });
    let added = queue.clone();
    controller.endpoints.on_change(move |change: &Change| added.add(change.key()));
    let added = queue.clone();
    controller.slices.on_change(move |change: &Change| {
        let sides = [&change.old, &change.new];
        sides.into_iter().flatten().filter_map(|slice| mirror_of(slice)).for_each(|key| added.add(key));
    });
    context.work(controller, queue).await;
}

/// The Endpoints that a slice mirrors.
fn mirror_of(slice: &Object) -> Option<Key> {
    let ours = slice.head.label(MANAGED_BY) == Some(MIRROR_MANAGER);
    let name = slice.head.label(SERVICE_NAME).filter(|name| ours && !name.is_empty())?;
    Some(Key::new(&slice.head.namespace, name))
}

struct Controller {
    client: Client,
    services: Informer,
    endpoints: Informer,
    slices: Informer,
    events: EventRecorder,
    own: OwnWrites,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        if self.own.pending(key, &self.slices) {
            return Ok(Outcome::After(PATIENCE));
        }
        let mut existing = Vec::new();
        for slice in self.slices.by_index(BY_ENDPOINTS, &key.to_string()) {
            if !slice.head.deleting {
                existing.push(slice.decode::<EndpointSlice>()?);
            }
        }
        let Some(endpoints) = self.to_mirror(key)? else {
            for slice in existing {
                self.own.execute(&self.client, key, Action::Delete(slice)).await?;
            }
            if self.endpoints.get_key(key).is_none() {
                self.own.forget(key);
            }
            return Ok(Outcome::Done);
        };
        let plan = mirror_plan::plan(&endpoints, existing);
        if plan.actions.is_empty() {
            return Ok(Outcome::Done);
        }
        if plan.invalid > 0 {
            let message =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.invalid);
            self.events.event(&endpoints, EventType::Warning, "InvalidIPAddress", message);
        }
        if plan.skipped > plan.invalid {
            let message = format!(
                "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                plan.skipped
            );
            self.events.event(&endpoints, EventType::Warning, "TooManyAddressesToMirror", message);
        }
        for action in plan.actions {
            if let Err(error) = self.own.execute(&self.client, key, action).await {
                if error.is_namespace_terminating() {
                    return Ok(Outcome::Done);
                }
                let message = format!("Error updating Endpoint Slices for Endpoints {key}: {error}");
                self.events.event(&endpoints, EventType::Warning, "FailedToUpdateEndpointSlices", message);
                return Err(error);
            }
        }
        Ok(Outcome::Done)
    }
}

impl Controller {
    /// The Endpoints, where they are to be mirrored: those of a service that selects no pods itself.
    fn to_mirror(&self, key: &Key) -> Result<Option<Endpoints>, ApiError> {
        let Some(service) = self.services.get_key(key) else { return Ok(None) };
        let service: Service = service.decode()?;
        if service.spec.and_then(|s| s.selector).is_some_and(|selector| !selector.is_empty()) {
            return Ok(None);
        }
        let Some(object) = self.endpoints.get_key(key) else { return Ok(None) };
        Ok(Some(object.decode::<Endpoints>()?).filter(mirror_plan::mirrored))
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::fake::Fake;
    use coracle_client::{DeleteOptions, PatchType};
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    fn addresses(fake: &Fake) -> Vec<String> {
        let slices = fake.list::<EndpointSlice>("ns").into_iter();
        slices.flat_map(|s| s.endpoints.unwrap_or_default()).flat_map(|e| e.addresses).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn slices_follow_endpoints_until_the_service_selects_or_goes() {
        let cluster = Cluster::new();
        cluster.start(|c| Box::pin(super::run(c)));
        let client = &cluster.context.client;
        let endpoints: Endpoints = from(json!({"metadata": {"namespace": "ns", "name": "db"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]}));
        client.create(&endpoints).await.unwrap();
        cluster.settle().await;
        assert!(addresses(&cluster.fake).is_empty(), "there is no service");
        let service: Service =
            from(json!({"metadata": {"namespace": "ns", "name": "db"}, "spec": {"ports": [{"port": 5432}]}}));
        client.create(&service).await.unwrap();
        cluster.until("mirrored", |f| addresses(f) == ["192.0.2.1"]).await;
        let patch = json!({"subsets": [{"addresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]});
        client.patch::<Endpoints>("ns", "db", None, PatchType::Merge, &patch).await.unwrap();
        cluster.until("followed", |f| addresses(f) == ["192.0.2.2"]).await;
        let name = cluster.fake.list::<EndpointSlice>("ns")[0].metadata.name.clone().unwrap();
        client.delete::<EndpointSlice>("ns", &name, DeleteOptions::default()).await.unwrap();
        cluster.until("made again", |f| addresses(f) == ["192.0.2.2"]).await;
        let selects = json!({"spec": {"selector": {"app": "db"}}});
        client.patch::<Service>("ns", "db", None, PatchType::Merge, &selects).await.unwrap();
        cluster.until("gone with the selector", |f| addresses(f).is_empty()).await;
        let selects = json!({"spec": {"selector": null}});
        client.patch::<Service>("ns", "db", None, PatchType::Merge, &selects).await.unwrap();
        cluster.until("back without", |f| addresses(f) == ["192.0.2.2"]).await;
        let skip = json!({"metadata": {"labels": {mirror_plan::SKIP: "true"}}});
        client.patch::<Endpoints>("ns", "db", None, PatchType::Merge, &skip).await.unwrap();
        cluster.until("gone when asked", |f| addresses(f).is_empty()).await;
    }
}
