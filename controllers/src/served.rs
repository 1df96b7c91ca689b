//! What the API serves, followed as definitions and API services come and go: for controllers that work on everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::discovery::{Discovered, ServedResource};
use coracle_client::{Change, Client, Informer, Informers, Resource};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::custom;

/// Discovery may be a moment behind the definitions; it is asked again until it is not.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A resource, for as long as it is served in this form.
pub struct Followed {
    pub served: ServedResource,
    /// It comes from a definition, or from another server.
    pub custom: bool,
    informers: Informers,
    stop: CancellationToken,
}

impl Followed {
    pub fn resource(&self) -> &Resource {
        &self.served.resource
    }

    pub fn watched(&self) -> bool {
        self.served.can("list") && self.served.can("watch")
    }

    /// Shared by all who ask; started by the first.
    pub fn informer(&self) -> Informer {
        self.informers.of_resource(self.served.resource.clone())
    }

    /// Ends when the resource is no longer served.
    pub fn gone(&self) -> &CancellationToken {
        &self.stop
    }
}

#[derive(Default)]
pub struct Snapshot {
    pub all: Vec<Arc<Followed>>,
    /// Groups and versions whose server does not answer.
    pub stale: Vec<String>,
}

/// None until the API has been asked for the first time.
pub type Served = watch::Receiver<Option<Arc<Snapshot>>>;

/// Starts to follow; ends with `shutdown`.
pub fn follow(client: Client, informers: Informers, shutdown: CancellationToken) -> Served {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let follower = Follower {
            definitions: informers.of::<CustomResourceDefinition>(),
            services: informers.of::<APIService>(),
            client,
            informers,
            shutdown: shutdown.clone(),
        };
        tokio::select! {
            () = follower.run(sender) => {}
            () = shutdown.cancelled() => {}
        }
    });
    receiver
}

struct Follower {
    client: Client,
    informers: Informers,
    definitions: Informer,
    services: Informer,
    shutdown: CancellationToken,
}

impl Follower {
    async fn run(self, sender: watch::Sender<Option<Arc<Snapshot>>>) {
        let changed = Arc::new(Notify::new());
        for informer in [&self.definitions, &self.services] {
            let changed = changed.clone();
            informer.on_change(move |change: &Change| {
                if tells(change) {
                    changed.notify_one();
                }
            });
        }
        self.definitions.synced().await;
        let mut known: HashMap<Resource, Arc<Followed>> = HashMap::new();
        let mut wait = RETRY_MIN;
        loop {
            let asked = self.client.discover().await;
            let settled = match asked {
                Ok(discovered) => {
                    let settled = discovered.stale.is_empty()
                        && agrees(&custom::resources(&self.definitions), &discovered);
                    let snapshot = self.take_in(&mut known, discovered);
                    let dynamic = self.dynamic_groups();
                    let left_over = snapshot.all.iter().any(|f| f.custom && !dynamic(f.resource()));
                    sender.send_replace(Some(Arc::new(snapshot)));
                    settled && !left_over
                }
                Err(error) => {
                    warn!(%error, "asking what the API serves failed, again in {wait:?}");
                    false
                }
            };
            if settled {
                wait = RETRY_MIN;
                changed.notified().await;
                continue;
            }
            tokio::select! {
                () = changed.notified() => wait = RETRY_MIN,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
    }

    fn take_in(&self, known: &mut HashMap<Resource, Arc<Followed>>, discovered: Discovered) -> Snapshot {
        let mut next = HashMap::new();
        let mut all = Vec::with_capacity(discovered.resources.len());
        let dynamic = self.dynamic_groups();
        // What is built in is there from the beginning; of what comes later, discovery may know before the informers do.
        let later = !known.is_empty();
        for served in discovered.resources {
            let old = known.remove(&served.resource);
            let followed = old.unwrap_or_else(|| {
                debug!(resource = %served.resource, "served from now on");
                let stop = self.shutdown.child_token();
                // What can go has informers that end with it.
                let custom = later || dynamic(&served.resource);
                let informers = if custom {
                    Informers::new(self.client.clone(), stop.clone())
                } else {
                    self.informers.clone()
                };
                Arc::new(Followed { served, custom, informers, stop })
            });
            next.insert(followed.resource().clone(), followed.clone());
            all.push(followed);
        }
        // A server that does not answer is no reason to forget what it serves.
        let silent = |resource: &Resource| discovered.stale.contains(&resource.api_version());
        for (resource, followed) in known.drain() {
            if silent(&resource) {
                next.insert(resource, followed.clone());
                all.push(followed);
            } else {
                followed.stop.cancel();
            }
        }
        *known = next;
        Snapshot { all, stale: discovered.stale }
    }

    /// Whether a resource comes from a definition, or from another server.
    fn dynamic_groups(&self) -> impl Fn(&Resource) -> bool {
        let defined = custom::named(&self.definitions);
        let elsewhere: Vec<String> = self
            .services
            .list()
            .iter()
            .filter_map(|object| object.decode::<ServiceView>().ok())
            .filter(|view| view.spec.service.is_some())
            .map(|view| format!("{}/{}", view.spec.group, view.spec.version))
            .collect();
        move |resource: &Resource| {
            defined.iter().any(|(group, plural)| group == resource.group() && plural == resource.plural())
                || elsewhere.contains(&resource.api_version())
        }
    }
}

#[derive(Deserialize)]
struct ServiceView {
    spec: ServiceSpec,
}

#[derive(Deserialize)]
struct ServiceSpec {
    service: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
}

/// Whether a change may change what is served. Definitions' and services' objects change for other reasons too, but
/// seldom: to ask is cheap.
fn tells(change: &Change) -> bool {
    let same = |old: &coracle_client::Object, new: &coracle_client::Object| {
        old.head.uid == new.head.uid && old.json == new.json
    };
    !matches!((&change.old, &change.new), (Some(old), Some(new)) if same(old, new))
}

/// Whether discovery knows all established definitions.
fn agrees(defined: &[Resource], discovered: &Discovered) -> bool {
    defined.iter().all(|d| {
        discovered
            .resources
            .iter()
            .any(|s| s.resource.group() == d.group() && s.resource.plural() == d.plural())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    fn names(served: &Served) -> Vec<String> {
        let snapshot = served.borrow().clone();
        snapshot.iter().flat_map(|s| s.all.iter()).map(|f| f.resource().qualified()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn definitions_come_and_go() {
        let cluster = Cluster::new();
        let mut served = cluster.context.served();
        served.wait_for(Option::is_some).await.unwrap();
        assert!(names(&served).contains(&"pods".to_owned()));
        let boats: CustomResourceDefinition = from(json!({"metadata": {"name": "boats.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "boats", "kind": "Boat"},
                "versions": [{"name": "v1", "served": true, "storage": true}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]}}));
        let boat = "boats.example.com".to_owned();
        cluster.context.client.create(&boats).await.unwrap();
        cluster.until("served", |_| names(&served).contains(&boat)).await;
        let followed = served.borrow().clone().unwrap().all.last().cloned().unwrap();
        assert_eq!(followed.resource().kind(), "Boat");
        assert!(followed.custom && !followed.gone().is_cancelled());
        cluster
            .context
            .client
            .delete::<CustomResourceDefinition>("", "boats.example.com", Default::default())
            .await
            .unwrap();
        cluster.until("no longer", |_| !names(&served).contains(&boat)).await;
        assert!(followed.gone().is_cancelled());
    }

    #[test]
    fn discovery_is_waited_for() {
        let resource = |name: &str| Resource::new("example.com", "v1", name, "X", true);
        let discovered = Discovered {
            resources: vec![ServedResource { resource: resource("a"), verbs: Vec::new() }],
            stale: Vec::new(),
        };
        for (defined, want) in [(vec![], true), (vec![resource("a")], true), (vec![resource("b")], false)] {
            assert_eq!(agrees(&defined, &discovered), want);
        }
    }
}
