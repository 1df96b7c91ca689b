//! Namespace lifecycle: empties a namespace that is being deleted, then lets it go; keeps the default ones there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Key, ListOptions, Object, Propagation, Resource,
    WorkQueue,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::served::{Followed, Served, Snapshot};

pub mod defaults;
mod plan;

use plan::Content;

/// What cannot be watched is looked at again so often; upstream's estimate where it knows nothing better.
const RECHECK: Duration = Duration::from_secs(15);

pub async fn run(context: Context) {
    let namespaces = context.of::<Namespace>();
    let queue = WorkQueue::new();
    let added = queue.clone();
    namespaces.on_change(move |change: &Change| {
        let gone = change.new.is_none() && defaults::NAMES.contains(&&*change.object().head.name);
        if gone || change.object().head.deleting {
            added.add(change.key());
        }
    });
    let mut served = context.served();
    tokio::select! {
        _ = served.wait_for(Option::is_some) => {}
        () = context.shutdown.cancelled() => return,
    }
    tokio::spawn(watch_all(served.clone(), namespaces.clone(), queue.clone(), context.shutdown.clone()));
    let controller = Controller { client: context.client.clone(), namespaces, served };
    context.work(controller, queue).await;
}

/// Follows the content of namespaces, of whatever kind it is.
async fn watch_all(
    mut served: Served,
    namespaces: Informer,
    queue: WorkQueue<Key>,
    shutdown: CancellationToken,
) {
    let mut watched: HashMap<Resource, Arc<Followed>> = HashMap::new();
    loop {
        let snapshot = served.borrow_and_update().clone();
        watched.retain(|_, followed| !followed.gone().is_cancelled());
        for followed in snapshot.iter().flat_map(|s| s.all.iter()).filter(|f| tells(f)) {
            if watched.insert(followed.resource().clone(), followed.clone()).is_none() {
                watch_content(&followed.informer(), &namespaces, &queue);
            }
        }
        // What was not discovered may be now.
        namespaces.list().iter().filter(|n| n.head.deleting).for_each(|n| queue.add(n.key()));
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Whether its deletions are followed. Events are many, and nothing holds them: they go at the first call.
fn tells(followed: &Followed) -> bool {
    followed.resource().namespaced() && followed.watched() && followed.resource().kind() != "Event"
}

/// Whatever goes from a namespace under deletion may be the last of it; what comes has to go.
fn watch_content(content: &Informer, namespaces: &Informer, queue: &WorkQueue<Key>) {
    let (namespaces, queue) = (namespaces.clone(), queue.clone());
    content.on_change(move |change: &Change| {
        let news = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.head.has_finalizers != new.head.has_finalizers,
            _ => true,
        };
        let key = Key::new("", &change.object().head.namespace);
        if news && namespaces.get_key(&key).is_some_and(|n| n.head.deleting) {
            queue.add(key);
        }
    });
}

struct Controller {
    client: Client,
    namespaces: Informer,
    served: Served,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.namespaces.get_key(key) else {
            if defaults::NAMES.contains(&&*key.name) {
                defaults::create(&self.client, &key.name).await?;
            }
            return Ok(Outcome::Done);
        };
        if !object.head.deleting {
            return Ok(Outcome::Done);
        }
        // Nothing may be created in it any more once its phase says Terminating, so the state is read afresh.
        let Some(mut namespace) = self.client.find::<Namespace>("", &key.name).await? else {
            return Ok(Outcome::Done);
        };
        if namespace.metadata.deletion_timestamp.is_none()
            || namespace.spec.as_ref().is_none_or(|s| s.finalizers.as_ref().is_none_or(Vec::is_empty))
        {
            return Ok(Outcome::Done);
        }
        if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".into());
            namespace = self.client.update_status(&namespace).await?.decode()?;
        }
        let snapshot = self.served.borrow().clone().unwrap_or_default();
        let content = self.empty(&snapshot, &key.name).await;
        let status = namespace.status.get_or_insert_default();
        let conditions = plan::conditions(&content, status.conditions.as_ref(), Timestamp::now());
        if status.conditions.as_ref() != Some(&conditions) {
            status.conditions = Some(conditions);
            namespace = self.client.update_status(&namespace).await?.decode()?;
        }
        if content.is_empty() {
            let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
            finalizers.retain(|f| f != "kubernetes");
            return match self.client.update_subresource(&namespace, "finalize").await {
                Ok(_) => Ok(Outcome::Done),
                Err(error) if error.is_not_found() => Ok(Outcome::Done),
                Err(error) => Err(error),
            };
        }
        if let Some(failure) = content.failures.into_values().next().or(plan::undiscovered(&content.stale)) {
            return Err(ApiError::internal(failure));
        }
        let unseen = |followed: &&Arc<Followed>| {
            !tells(followed) && content.left.contains_key(&followed.resource().qualified())
        };
        Ok(if snapshot.all.iter().any(|f| unseen(&f)) { Outcome::After(RECHECK) } else { Outcome::Done })
    }
}

impl Controller {
    /// Deletes everything in the namespace and says what is left. Pods go first, and only when they are gone
    /// what they may need: their NetworkPolicies, their Secrets.
    async fn empty(&self, snapshot: &Snapshot, namespace: &str) -> Content {
        let mut content = Content { stale: snapshot.stale.clone(), ..Content::default() };
        let pods = Resource::of::<Pod>();
        let (first, rest): (Vec<_>, Vec<_>) =
            snapshot.all.iter().filter(|f| deletable(f)).partition(|f| *f.resource() == pods);
        for followed in first {
            self.empty_of(followed, namespace, &mut content).await;
        }
        if !content.left.is_empty() || !content.failures.is_empty() {
            return content;
        }
        for followed in rest {
            self.empty_of(followed, namespace, &mut content).await;
        }
        content
    }

    async fn empty_of(&self, followed: &Followed, namespace: &str, content: &mut Content) {
        let resource = followed.resource();
        let mut left = match self.client.list_objects(resource, namespace, ListOptions::default()).await {
            Ok(list) => list.items,
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                content.failures.insert(resource.qualified(), error.to_string());
                return;
            }
        };
        if left.iter().any(|o| !o.head.deleting) {
            let deleted = self.delete_all(followed, namespace, &left).await;
            let listed = self.client.list_objects(resource, namespace, ListOptions::default()).await;
            match deleted.and(listed) {
                Ok(list) => left = list.items,
                Err(error) if error.is_not_found() => return,
                Err(error) => {
                    content.failures.insert(resource.qualified(), error.to_string());
                }
            }
        }
        if left.is_empty() {
            return;
        }
        content.left.insert(resource.qualified(), left.len());
        for object in left.iter().filter(|o| o.head.has_finalizers) {
            for finalizer in object.decode::<Held>().map(|h| h.metadata.finalizers).unwrap_or_default() {
                *content.finalizers.entry(finalizer).or_default() += 1;
            }
        }
    }

    /// As a collection where that can be, else one by one.
    async fn delete_all(
        &self,
        followed: &Followed,
        namespace: &str,
        objects: &[Arc<Object>],
    ) -> Result<(), ApiError> {
        let (resource, options) = (followed.resource(), DeleteOptions::propagation(Propagation::Background));
        if followed.served.can("deletecollection") {
            return self.client.delete_collection(resource, namespace, ListOptions::default(), options).await;
        }
        for object in objects.iter().filter(|o| !o.head.deleting) {
            match self.client.delete_object(resource, namespace, &object.head.name, options.clone()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether objects of this kind are in namespaces, and can be found and deleted there.
fn deletable(followed: &Followed) -> bool {
    followed.resource().namespaced() && followed.served.can("list") && followed.served.can("delete")
}

#[derive(Deserialize)]
struct Held {
    metadata: HeldMeta,
}

#[derive(Deserialize)]
struct HeldMeta {
    #[serde(default)]
    finalizers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    #[tokio::test(start_paused = true)]
    async fn a_deleted_namespace_is_emptied_pods_first_and_goes() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        defaults::ensure(client).await.unwrap();
        assert_eq!(cluster.fake.list::<Namespace>("").len(), 4);
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.kubelet("n1", |_| true);
        defaults::create(client, "ns").await.unwrap();
        let pod: Pod =
            from(json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": []}}));
        client.create(&pod).await.unwrap();
        let map: ConfigMap =
            from(json!({"metadata": {"namespace": "ns", "name": "held", "finalizers": ["a/b"]}}));
        client.create(&map).await.unwrap();
        let other: ConfigMap = from(json!({"metadata": {"namespace": "default", "name": "stays"}}));
        client.create(&other).await.unwrap();

        client.delete::<Namespace>("", "ns", DeleteOptions::default()).await.unwrap();
        cluster
            .until("the finalizer is named", |f| {
                f.get::<Namespace>("", "ns").and_then(|n| n.status?.conditions).is_some_and(|c| {
                    c.iter().any(|c| c.message.as_deref().unwrap_or_default().contains("a/b in 1"))
                })
            })
            .await;
        assert!(cluster.fake.list::<Pod>("ns").is_empty());
        let patch = json!({"metadata": {"finalizers": null}});
        client
            .patch::<ConfigMap>("ns", "held", None, coracle_client::PatchType::Merge, &patch)
            .await
            .unwrap();
        cluster.until("gone", |f| f.get::<Namespace>("", "ns").is_none()).await;
        assert!(cluster.fake.get::<ConfigMap>("default", "stays").is_some());

        client.delete::<Namespace>("", "kube-public", DeleteOptions::default()).await.unwrap();
        cluster
            .until("kube-public is back", |f| {
                f.get::<Namespace>("", "kube-public").is_some_and(|n| n.metadata.deletion_timestamp.is_none())
            })
            .await;
    }
}
