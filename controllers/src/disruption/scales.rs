//! How many pods the controllers of a budget's pods ask for.

use std::collections::HashMap;

use coracle_client::{ApiError, Client, Informer, Object, Owner, Uid};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use serde::Deserialize;

use crate::disruption::members::Member;
use crate::scale;
use crate::served::Served;

pub struct Scales {
    pub client: Client,
    pub deployments: Informer,
    pub replica_sets: Informer,
    pub stateful_sets: Informer,
    pub replication_controllers: Informer,
    pub served: Served,
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
struct Spec {
    replicas: Option<i32>,
}

/// What the pods' controllers come to, and the pods that have none.
pub struct Sum {
    pub pods: i32,
    pub unmanaged: usize,
}

impl Scales {
    /// `pods`: with their names.
    pub async fn sum<'a>(
        &self,
        namespace: &str,
        pods: impl Iterator<Item = (&'a str, &'a Member)>,
    ) -> Result<Sum, ApiError> {
        let mut by_uid: HashMap<Uid, i32> = HashMap::new();
        let mut asked: HashMap<&str, ()> = HashMap::new();
        let mut unmanaged = 0;
        for (name, member) in pods {
            let Some(owner) = &member.controller else {
                unmanaged += 1;
                continue;
            };
            if asked.insert(&owner.uid, ()).is_some() {
                continue;
            }
            let Some((uid, scale)) = self.of(namespace, owner).await? else {
                return Err(failure(format!("found no controllers for pod {name:?}")));
            };
            by_uid.insert(uid, scale);
        }
        let pods = by_uid.values().fold(0i32, |sum, scale| sum.saturating_add(*scale));
        Ok(Sum { pods, unmanaged })
    }

    /// The uid of what scales the owner's pods (the Deployment of a ReplicaSet), and how many it asks for.
    async fn of(&self, namespace: &str, owner: &Owner) -> Result<Option<(Uid, i32)>, ApiError> {
        let is = |api: &str, kind: &str| &*owner.api_version == api && &*owner.kind == kind;
        if is("apps/v1", "ReplicaSet") {
            let Some(set) = cached(&self.replica_sets, namespace, owner) else { return Ok(None) };
            let above = set.head.controller().filter(|o| scale::is::<Deployment>(&o.api_version, &o.kind));
            return match above {
                Some(owner) => found(cached(&self.deployments, namespace, owner)),
                None => found(Some(set)),
            };
        }
        if scale::is::<StatefulSet>(&owner.api_version, &owner.kind) {
            return found(cached(&self.stateful_sets, namespace, owner));
        }
        if scale::is::<ReplicationController>(&owner.api_version, &owner.kind) {
            return found(cached(&self.replication_controllers, namespace, owner));
        }
        debug_assert!(!scale::is::<ReplicaSet>(&owner.api_version, &owner.kind));
        let Some(resource) = scale::resource_of(&self.served, &owner.api_version, &owner.kind) else {
            let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            return Err(failure(format!("no matches for kind {:?} in group {group:?}", owner.kind)));
        };
        match scale::get(&self.client, &resource, namespace, &owner.name).await {
            Ok(scale) if scale.metadata.uid.as_deref() != Some(&*owner.uid) => Ok(None),
            Ok(scale) => {
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                Ok(Some((owner.uid.clone(), replicas)))
            }
            // Either the object is not there, or nothing of its kind can be scaled.
            Err(error) if error.is_not_found() => {
                match self.client.get_object(&resource, namespace, &owner.name).await {
                    Ok(_) => Err(failure(format!("{resource} does not implement the scale subresource"))),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

fn failure(message: String) -> ApiError {
    ApiError::new(500, "", message)
}

fn cached(informer: &Informer, namespace: &str, owner: &Owner) -> Option<std::sync::Arc<Object>> {
    informer.get(namespace, &owner.name).filter(|object| object.head.uid == owner.uid)
}

fn found(object: Option<std::sync::Arc<Object>>) -> Result<Option<(Uid, i32)>, ApiError> {
    let Some(object) = object else { return Ok(None) };
    let view: View = object.decode()?;
    Ok(Some((object.head.uid.clone(), view.spec.replicas.unwrap_or(1))))
}
