//! Custom resources come and go: the garbage collector follows those whose definitions are established.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_client::{Change, Informers, Resource, WorkQueue};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Place};
use crate::context::Context;
use crate::custom;

#[derive(Clone)]
struct Customs {
    context: Context,
    graph: Graph,
    queue: WorkQueue<Place>,
    /// By the name of the definition.
    followed: Arc<Mutex<HashMap<Box<str>, Followed>>>,
}

struct Followed {
    resource: Resource,
    stop: CancellationToken,
}

/// Adds custom resources to the graph, and takes them out again, as their definitions say.
pub fn follow(context: &Context, graph: &Graph, queue: &WorkQueue<Place>) {
    let customs = Customs {
        context: context.clone(),
        graph: graph.clone(),
        queue: queue.clone(),
        followed: Arc::default(),
    };
    context.of::<CustomResourceDefinition>().on_change(move |change: &Change| customs.changed(change));
}

impl Customs {
    fn changed(&self, change: &Change) {
        let name = &change.object().head.name;
        let wanted = change.new.as_deref().and_then(custom::resource_of);
        let mut followed = self.followed.lock();
        if followed.get(&**name).map(|f| &f.resource) == wanted.as_ref() {
            return;
        }
        if let Some(old) = followed.remove(&**name) {
            old.stop.cancel();
            self.graph.remove(&old.resource);
        }
        if let Some(resource) = wanted {
            let stop = self.context.shutdown.child_token();
            self.start(resource.clone(), stop.clone());
            followed.insert((&**name).into(), Followed { resource, stop });
        }
    }

    fn start(&self, resource: Resource, stop: CancellationToken) {
        let informer =
            Informers::new(self.context.client.clone(), stop.clone()).of_resource(resource.clone());
        self.graph.add(informer.clone());
        super::watch(&informer, &self.graph, &self.queue);
        let (graph, queue) = (self.graph.clone(), self.queue.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = informer.synced() => {}
                () = stop.cancelled() => return,
            }
            // Until now nobody could say whether owners of this kind are there.
            graph.owned_by(&resource).into_iter().for_each(|place| queue.add(place));
        });
    }
}
