//! Where a Service's traffic goes: EndpointSlices, and Endpoints for clients that still read those.

pub mod classic;
pub mod mirroring;
pub mod slices;

mod backends;
mod mirror_plan;
mod own_writes;
mod selection;
mod slice_plan;
mod topology;

use crate::context::Context;
use crate::pods;
use coracle_client::{Change, Key, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use std::sync::Arc;

use selection::Selections;

const ZONE: &str = "topology.kubernetes.io/zone";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Queues the services that a change of a service, a pod or a node's zone concerns.
fn watch(context: &Context, queue: &WorkQueue<Key>) {
    let selections = Arc::new(Selections::default());
    let services = context.of::<Service>();
    let (known, added) = (selections.clone(), queue.clone());
    services.on_change(move |change: &Change| {
        known.observe(change);
        added.add(change.key());
    });
    let (known, added) = (selections.clone(), queue.clone());
    let pods = context.of::<Pod>();
    pods.index_labels();
    pods::index(&pods);
    pods.on_change(move |change: &Change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.head.labels != new.head.labels
        {
            known.selecting(&old.head).into_iter().for_each(|key| added.add(key));
        }
        known.selecting(&change.object().head).into_iter().for_each(|key| added.add(key));
    });
    let added = queue.clone();
    context.of::<Node>().on_change(move |change: &Change| {
        let zone = |o: &Option<Arc<coracle_client::Object>>| {
            o.as_ref().and_then(|o| o.head.label(ZONE).map(str::to_owned))
        };
        if zone(&change.old) != zone(&change.new) {
            let on_it = pods.by_index(pods::BY_NODE, &change.object().head.name);
            let keys = on_it.iter().flat_map(|pod| selections.selecting(&pod.head));
            keys.for_each(|key| added.add(key));
        }
    });
}
