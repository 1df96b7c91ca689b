//! Follows Services and EndpointSlices, and hands the rules of what changed to the backend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Change, Informer, Informers};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::table::{self, ServiceRules};
use crate::{Backend, Error};

const BY_SERVICE: &str = "service";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
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

pub async fn run(
    node: &str,
    informers: &Informers,
    backend: &mut dyn Backend,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let dirty = Arc::new(Dirty::default());
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
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
    tokio::select! {
        // Half a picture would refuse what is only not listed yet.
        () = informers.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let mut retry = RETRY_FIRST;
    loop {
        let names = std::mem::take(&mut *dirty.names.lock());
        if names.is_empty() {
            tokio::select! {
                () = dirty.some.notified() => continue,
                () = shutdown.cancelled() => return Ok(()),
            }
        }
        let changed =
            names.iter().map(|name| (name.clone(), current(name, &services, &slices, node))).collect();
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

fn current(name: &str, services: &Informer, slices: &Informer, node: &str) -> ServiceRules {
    let Some((namespace, short)) = name.split_once('/') else { return ServiceRules::default() };
    let Some(service) = services.get(namespace, short) else { return ServiceRules::default() };
    let service: Service = match service.decode() {
        Ok(service) => service,
        Err(error) => {
            warn!(service = name, %error, "a Service does not decode");
            return ServiceRules::default();
        }
    };
    let slices: Vec<EndpointSlice> =
        slices.by_index(BY_SERVICE, name).iter().filter_map(|slice| slice.decode().ok()).collect();
    table::rules(&service, &slices, node)
}
