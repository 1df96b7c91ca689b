//! Namespace lifecycle: empties a namespace that is being deleted, then lets it go; keeps the default ones there.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Key, ListOptions, Propagation, Resource, WorkQueue,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Deserialize;

use crate::context::Context;
use crate::{custom, resources};

pub mod defaults;
mod plan;

use plan::Content;

/// Deletions of content wake the controller; this is for resources that nothing watches.
const RECHECK: Duration = Duration::from_secs(5);

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
    let resources: Vec<Resource> = tokio::select! {
        served = resources::served(&context.client) => served,
        () = context.shutdown.cancelled() => return,
    };
    let resources: Vec<Resource> = resources.into_iter().filter(Resource::namespaced).collect();
    for resource in &resources {
        watch_content(&context.of_resource(resource.clone()), &namespaces, &queue);
    }
    let definitions = context.of::<CustomResourceDefinition>();
    let controller =
        Controller { client: context.client.clone(), namespaces, resources: resources.into(), definitions };
    context.work(controller, queue).await;
}

/// Whatever goes from a namespace under deletion may be the last of it.
fn watch_content(content: &Informer, namespaces: &Informer, queue: &WorkQueue<Key>) {
    let (namespaces, queue) = (namespaces.clone(), queue.clone());
    content.on_change(move |change: &Change| {
        if change.new.is_none() {
            let key = Key::new("", &change.object().head.namespace);
            if namespaces.get_key(&key).is_some_and(|n| n.head.deleting) {
                queue.add(key);
            }
        }
    });
}

struct Controller {
    client: Client,
    namespaces: Informer,
    resources: Arc<[Resource]>,
    definitions: Informer,
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
        let content = self.empty(&key.name).await?;
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
        match content.failures.into_values().next() {
            Some(failure) => Err(ApiError::internal(failure)),
            None => Ok(Outcome::After(RECHECK)),
        }
    }
}

impl Controller {
    /// Deletes everything in the namespace and says what is left. Pods go first, and only when they are gone
    /// what they may need: their NetworkPolicies, their Secrets.
    async fn empty(&self, namespace: &str) -> Result<Content, ApiError> {
        let mut content = Content::default();
        let pods = Resource::of::<Pod>();
        if self.resources.contains(&pods) {
            self.empty_of(&pods, namespace, &mut content).await;
            if !content.is_empty() {
                return Ok(content);
            }
        }
        // Custom resources first: their operators may still need what else is there.
        for resource in custom::resources(&self.definitions).iter().filter(|r| r.namespaced()) {
            self.empty_of(resource, namespace, &mut content).await;
        }
        for resource in self.resources.iter().filter(|r| **r != pods) {
            self.empty_of(resource, namespace, &mut content).await;
        }
        Ok(content)
    }

    async fn empty_of(&self, resource: &Resource, namespace: &str, content: &mut Content) {
        let mut left = match self.client.list_objects(resource, namespace, ListOptions::default()).await {
            Ok(list) => list.items,
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                content.failures.insert(resource.qualified(), error.to_string());
                return;
            }
        };
        if left.iter().any(|o| !o.head.deleting) {
            let options = DeleteOptions::propagation(Propagation::Background);
            let deleted =
                self.client.delete_collection(resource, namespace, ListOptions::default(), options).await;
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
