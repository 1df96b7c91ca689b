//! Resources come and go: the garbage collector follows all that can be listed, watched and deleted.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_client::{Resource, WorkQueue};

use super::graph::{Graph, Place};
use crate::context::Context;
use crate::served::{Followed, Served, Snapshot};

/// Owns nothing, is owned by nothing that matters, and there is much of it; as upstream.
fn ignored(resource: &Resource) -> bool {
    resource.plural() == "events" && matches!(resource.group(), "" | "events.k8s.io")
}

fn collected(snapshot: &Snapshot) -> Vec<Arc<Followed>> {
    let can = |f: &&Arc<Followed>| f.watched() && f.served.can("delete") && !ignored(f.resource());
    snapshot.all.iter().filter(can).cloned().collect()
}

/// Takes in what is served now; resolves when all of it is known, as only then can an owner be missed. False at shutdown.
pub async fn start(context: &Context, served: &mut Served, graph: &Graph) -> bool {
    let first = tokio::select! {
        first = served.wait_for(Option::is_some) => first.ok().and_then(|s| s.clone()),
        () = context.shutdown.cancelled() => None,
    };
    let Some(first) = first else { return false };
    for followed in collected(&first) {
        let informer = followed.informer();
        graph.add(informer.clone());
        tokio::select! {
            () = informer.synced() => {}
            () = followed.gone().cancelled() => graph.remove(informer.resource()),
            () = context.shutdown.cancelled() => return false,
        }
    }
    true
}

/// From then on.
pub fn follow(context: &Context, mut served: Served, graph: &Graph, queue: &WorkQueue<Place>) {
    let (graph, queue) = (graph.clone(), queue.clone());
    let shutdown = context.shutdown.clone();
    tokio::spawn(async move {
        loop {
            let snapshot = served.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                apply(&snapshot, &graph, &queue);
            }
            tokio::select! {
                changed = served.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    });
}

fn apply(snapshot: &Snapshot, graph: &Graph, queue: &WorkQueue<Place>) {
    let wanted = collected(snapshot);
    let names: HashSet<&Resource> = wanted.iter().map(|f| f.resource()).collect();
    let present: HashSet<Resource> = graph.informers().iter().map(|i| i.resource().clone()).collect();
    for old in present.iter().filter(|r| !names.contains(r)) {
        graph.remove(old);
    }
    for followed in wanted.iter().filter(|f| !present.contains(f.resource())) {
        let informer = followed.informer();
        graph.add(informer.clone());
        super::watch(&informer, graph, queue);
        let (graph, queue, gone) = (graph.clone(), queue.clone(), followed.gone().clone());
        tokio::spawn(async move {
            tokio::select! {
                () = informer.synced() => {}
                () = gone.cancelled() => return,
            }
            // Until now nobody could say whether owners of this kind are there.
            graph.owned_by(informer.resource()).into_iter().for_each(|place| queue.add(place));
        });
    }
}
