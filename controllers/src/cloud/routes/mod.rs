//! The route controller: the cloud's network knows behind which machine each node's pods are.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, Informer, Key, PatchType, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::provider::{CloudError, Provider};
use crate::Cidr;
use crate::context::Context;

/// The one key there is.
const ALL: &str = "routes";
/// A cloud's routes are looked at this often, as upstream's `--route-reconciliation-period`: nobody says when one goes.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);

pub async fn run(context: Context, provider: Arc<dyn Provider>) {
    if provider.routes().is_none() || !context.options.cloud.configure_cloud_routes {
        return;
    }
    let nodes = context.of::<Node>();
    let queue: WorkQueue<Key> = WorkQueue::new();
    queue.add(Key::new("", ALL));
    let added = queue.clone();
    nodes.on_change(move |change: &Change| {
        let range = |object: &Option<Arc<coracle_client::Object>>| {
            object.as_ref().and_then(|o| o.decode::<Node>().ok()).map(|n| {
                let spec = n.spec.unwrap_or_default();
                (spec.pod_cidr, spec.pod_cidrs)
            })
        };
        if range(&change.old) != range(&change.new) {
            added.add(Key::new("", ALL));
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        provider,
        nodes,
        events: context.recorder("route-controller"),
        cluster: context.options.cluster_cidr.clone(),
        cluster_name: context.options.cloud.cluster_name.clone(),
    };
    // One at a time: two would make the same routes.
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    provider: Arc<dyn Provider>,
    nodes: Informer,
    events: EventRecorder,
    cluster: Vec<Cidr>,
    cluster_name: String,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("error listing routes: {0}")]
    List(#[source] CloudError),
    #[error("{0} of the routes could not be made or removed")]
    Some(usize),
    #[error("{0}")]
    Api(#[from] ApiError),
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = Error;

    fn name(&self) -> &'static str {
        "node-route-controller"
    }

    async fn reconcile(&self, _all: &Key) -> Result<Outcome, Error> {
        let Some(routes) = self.provider.routes() else { return Ok(Outcome::Done) };
        let nodes: Vec<Node> = self.nodes.list().iter().filter_map(|node| node.decode().ok()).collect();
        let present = routes.list().await.map_err(Error::List)?;
        let plan = plan::plan(&nodes, &present, &self.cluster, &self.cluster_name);
        let by_name: BTreeMap<&str, &Node> =
            nodes.iter().filter_map(|node| Some((node.metadata.name.as_deref()?, node))).collect();
        let mut failed = 0;
        // First what is wrong: a range may be another node's by now.
        for route in &plan.delete {
            if let Err(error) = routes.delete(route).await {
                failed += 1;
                tracing::warn!(route = route.name, range = route.destination_cidr, %error, "deleting a route failed");
            }
        }
        let mut complete = plan.complete;
        for route in &plan.create {
            let Some(node) = by_name.get(route.node.as_str()) else { continue };
            let made = routes.create(route, node).await;
            let entry = complete.entry(route.node.clone()).or_default();
            match made {
                Ok(()) => *entry = true,
                Err(error) => {
                    failed += 1;
                    *entry = false;
                    let text = format!(
                        "Could not create route {} {} for node {}: {error}",
                        route.name, route.destination_cidr, route.node
                    );
                    self.events.event(*node, EventType::Warning, "FailedToCreateRoute", text);
                }
            }
        }
        for (name, routed) in complete {
            let Some(node) = by_name.get(name.as_str()) else { continue };
            let Some(condition) = plan::condition(node, routed, Timestamp::now()) else { continue };
            let patch = json!({"status": {"conditions": [condition]}});
            match self.client.patch::<Node>("", &name, Some("status"), PatchType::Strategic, &patch).await {
                Err(error) if error.is_not_found() => {}
                other => drop(other?),
            }
        }
        if failed > 0 { Err(Error::Some(failed)) } else { Ok(Outcome::After(RECONCILE_EVERY)) }
    }
}
