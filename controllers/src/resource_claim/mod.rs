//! Claims of devices: pods' templates become claims, users that have ended are forgotten, and devices given back.

mod plan;

use std::collections::BTreeMap;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use serde_json::json;

use crate::context::Context;
use crate::pods::mentions;
use crate::subject::Subject;
use plan::{
    FINALIZER, Known, POD_CLAIM, claims_of, from_template, is_done, is_pod, statuses, steps, templated,
};

/// Index of pods by the claims of devices they use, as `namespace/name`.
const BY_CLAIM: &str = "resource claim";

pub async fn run(context: Context) {
    if !context.serves::<ResourceClaim>().await {
        return;
    }
    let controller = Controller {
        client: context.client.clone(),
        pods: context.of::<Pod>(),
        claims: context.of::<ResourceClaim>(),
        templates: context.of::<ResourceClaimTemplate>(),
        events: context.recorder("resource_claim"),
    };
    controller
        .pods
        .add_index(BY_CLAIM, |pod| used(pod).into_iter().map(|key| key.to_string().into()).collect());
    let queue = WorkQueue::new();
    Subject::follow(&controller.claims, &queue, Subject::Claim);
    let (added, claims) = (queue.clone(), controller.claims.clone());
    controller.pods.on_change(move |change: &Change| {
        let pod = change.object();
        if !mentions(pod, "resourceClaims") && !mentions(pod, "extendedResourceClaimStatus") {
            return;
        }
        for key in change.old.iter().chain(&change.new).flat_map(|pod| used(pod)) {
            added.add(Subject::Claim(key));
        }
        for claim in claims.by_owner(&pod.head.uid) {
            added.add(Subject::Claim(claim.key()));
        }
        if change.new.is_some() {
            added.add(Subject::Other(pod.key()));
        }
    });
    let (added, pods) = (queue.clone(), controller.pods.clone());
    controller.claims.on_change(move |change: &Change| {
        let claim = change.object();
        for pod in pods.by_index(BY_CLAIM, &claim.key().to_string()) {
            added.add(Subject::Other(pod.key()));
        }
    });
    let (added, pods) = (queue.clone(), controller.pods.clone());
    controller.templates.on_change(move |change: &Change| {
        // Rare: a template that came after its pods.
        if change.old.is_none() {
            let all = pods.list_namespace(&change.object().head.namespace);
            let waiting = all.iter().filter(|pod| mentions(pod, "resourceClaimTemplateName"));
            waiting.for_each(|pod| added.add(Subject::Other(pod.key())));
        }
    });
    context.work(controller, queue).await;
}

/// The claims that a pod uses.
fn used(pod: &Object) -> Vec<Key> {
    if !mentions(pod, "resourceClaims") && !mentions(pod, "extendedResourceClaimStatus") {
        return Vec::new();
    }
    let names = pod.decode().map(|pod| claims_of(&pod)).unwrap_or_default();
    names.iter().map(|name| Key::new(&pod.head.namespace, name)).collect()
}

struct Controller {
    client: Client,
    pods: Informer,
    claims: Informer,
    templates: Informer,
    events: EventRecorder,
}

impl Controller {
    async fn pod(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.pods.get_key(key) else { return Ok(()) };
        let pod: Pod = object.decode()?;
        if is_done(&pod) || object.head.deleting {
            return Ok(());
        }
        let mut made = BTreeMap::new();
        for (name, template) in templated(&pod) {
            match self.claim_for(&pod, &object.head.uid, &name, &template).await {
                Ok(claim) => drop(made.insert(name, claim)),
                Err(error) => {
                    let message = format!("PodResourceClaim {name}: {}", error.message());
                    self.events.event(&pod, EventType::Warning, "FailedResourceClaimCreation", message);
                    return Err(error);
                }
            }
        }
        if let Some(statuses) = statuses(&pod, &made) {
            let patch =
                json!({"metadata": {"uid": object.head.uid}, "status": {"resourceClaimStatuses": statuses}});
            self.client
                .patch::<Pod>(&key.namespace, &key.name, Some("status"), PatchType::Strategic, &patch)
                .await?;
        }
        // A pod that was put on its node by hand has nobody else to reserve for it.
        if pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty()) {
            for name in claims_of(&pod) {
                self.reserve(key, &object.head.uid, &name).await?;
            }
        }
        Ok(())
    }

    /// The claim that was made for this one of the pod's, or a new one.
    async fn claim_for(&self, pod: &Pod, uid: &str, name: &str, template: &str) -> Result<String, ApiError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let is_it = |claim: &ResourceClaim| {
            let annotations = claim.metadata.annotations.as_ref();
            annotations.and_then(|a| a.get(POD_CLAIM)).is_some_and(|of| of == name)
        };
        let mut own = self.claims.by_owner(uid);
        own.retain(|o| !o.head.deleting);
        let own = own.iter().filter_map(|o| o.decode::<ResourceClaim>().ok());
        if let Some(claim) = own.into_iter().find(is_it).and_then(|c| c.metadata.name) {
            return Ok(claim);
        }
        // What was made just now may not be seen yet, but the pod says so.
        let said = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        let said = said.into_iter().find(|s| s.name == name).and_then(|s| s.resource_claim_name.clone());
        if let Some(said) = said
            && self.client.find::<ResourceClaim>(namespace, &said).await?.is_some()
        {
            return Ok(said);
        }
        let found: Option<ResourceClaimTemplate> =
            self.templates.get(namespace, template).map(|o| o.decode()).transpose()?;
        let Some(found) = found else {
            return Err(ApiError::new(
                500,
                "InternalError",
                format!(
                    "resource claim template \"{template}\": resourceclaimtemplate.resource.k8s.io \"{template}\" not found"
                ),
            ));
        };
        let made: ResourceClaim = self.client.create(&from_template(pod, name, &found)).await?.decode()?;
        Ok(made.metadata.name.unwrap_or_default())
    }

    async fn reserve(&self, pod: &Key, uid: &str, name: &str) -> Result<(), ApiError> {
        let Some(object) = self.claims.get(&pod.namespace, name) else { return Ok(()) };
        let mut claim: ResourceClaim = object.decode()?;
        let Some(status) = claim.status.as_mut().filter(|s| s.allocation.is_some()) else { return Ok(()) };
        let users = status.reserved_for.get_or_insert_default();
        if users.iter().any(|user| user.uid == uid) {
            return Ok(());
        }
        users.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: pod.name.to_string(),
            uid: uid.to_owned(),
        });
        self.client.update_status(&claim).await.map(drop)
    }

    /// Whether a pod of that name and uid still counts. Its absence costs it its devices, so the API is asked.
    async fn known(&self, namespace: &str, name: &str, uid: &str) -> Result<Known, ApiError> {
        let cached: Option<Pod> = self.pods.get(namespace, name).and_then(|o| o.decode().ok());
        let same = |pod: &Pod| pod.metadata.uid.as_deref() == Some(uid);
        let pod = match cached.filter(same) {
            Some(pod) => Some(pod),
            None => self.client.find::<Pod>(namespace, name).await?.filter(same),
        };
        Ok(match pod {
            None => Known::Gone,
            Some(pod) if is_done(&pod) => Known::Done,
            Some(_) => Known::Active,
        })
    }

    async fn claim(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.claims.get_key(key) else { return Ok(()) };
        let mut claim: ResourceClaim = object.decode()?;
        let users = claim.status.as_ref().and_then(|s| s.reserved_for.clone()).unwrap_or_default();
        let mut pods: Vec<(String, String)> =
            users.into_iter().filter(is_pod).map(|user| (user.name, user.uid)).collect();
        pods.extend(plan::owner(&claim).map(|(name, uid)| (name.to_owned(), uid.to_owned())));
        let mut known = BTreeMap::new();
        for (name, uid) in pods {
            let of = self.known(&key.namespace, &name, &uid).await?;
            known.insert((name, uid), of);
        }
        let steps = steps(&claim, |name, uid| {
            known.get(&(name.to_owned(), uid.to_owned())).copied().unwrap_or(Known::Active)
        });
        if steps.users.is_some() || steps.give_back {
            let status = claim.status.get_or_insert_default();
            if let Some(users) = steps.users {
                status.reserved_for = Some(users).filter(|u| !u.is_empty());
            }
            if steps.give_back {
                status.allocation = None;
            }
            claim = self.client.update_status(&claim).await?.decode()?;
        }
        if steps.drop_finalizer {
            claim.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
            claim = self.client.update(&claim).await?.decode()?;
        }
        if steps.delete {
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            self.client
                .delete::<ResourceClaim>(&key.namespace, &key.name, DeleteOptions::default().uid(uid))
                .await?;
        }
        Ok(())
    }
}

impl Reconciler for Controller {
    type Key = Subject;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "resourceclaim-controller"
    }

    async fn reconcile(&self, subject: &Subject) -> Result<Outcome, ApiError> {
        subject.done(match subject {
            Subject::Other(key) => self.pod(key).await,
            Subject::Claim(key) => self.claim(key).await,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, from};

    #[tokio::test(start_paused = true)]
    async fn from_a_template_to_the_end_of_the_pod() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        let pod: Pod = from(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}}));
        client.create(&pod).await.unwrap();
        cluster
            .until("no template", |_| {
                cluster.events().iter().any(|(reason, message)| {
                    reason == "FailedResourceClaimCreation" && message.contains("\"t\" not found")
                })
            })
            .await;
        let template: ResourceClaimTemplate =
            from(json!({"metadata": {"name": "t", "namespace": "ns"}, "spec": {"spec": {}}}));
        client.create(&template).await.unwrap();
        let said = |f: &coracle_client::fake::Fake| {
            let statuses = f.get::<Pod>("ns", "p")?.status?.resource_claim_statuses?;
            statuses.first()?.resource_claim_name.clone()
        };
        cluster.until("said", |f| said(f).is_some()).await;
        cluster.settle().await;
        assert_eq!(cluster.fake.list::<ResourceClaim>("ns").len(), 1);
        let name = said(&cluster.fake).unwrap();
        let mut claim = cluster.fake.get::<ResourceClaim>("ns", &name).unwrap();
        let uid = cluster.fake.get::<Pod>("ns", "p").unwrap().metadata.uid.unwrap();
        claim.status = Some(from(
            json!({"allocation": {}, "reservedFor": [{"resource": "pods", "name": "p", "uid": uid}]}),
        ));
        cluster.fake.put(&claim).unwrap();
        cluster.settle().await;
        let kept = cluster.fake.get::<ResourceClaim>("ns", &name).unwrap();
        assert!(kept.status.unwrap().allocation.is_some(), "it is in use");
        let mut ended = cluster.fake.get::<Pod>("ns", "p").unwrap();
        ended.status.get_or_insert_default().phase = Some("Succeeded".into());
        cluster.fake.put(&ended).unwrap();
        cluster.until("gone with its pod's end", |f| f.list::<ResourceClaim>("ns").is_empty()).await;
    }
}
