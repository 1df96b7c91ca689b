//! Carries out what a StatefulSet's plan asks for, with upstream's events.

use std::fmt::Display;

use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Client, DeleteOptions, Informer, Key, Object};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;

use super::claims::{self, Place};
use super::identity::{self, Member};
use super::plan::{Action, first_ordinal, replicas};
use crate::expectations::Expectations;
use crate::ownership;

pub struct Act<'a> {
    pub client: &'a Client,
    pub claims: &'a Informer,
    pub events: &'a EventRecorder,
    pub expectations: &'a Expectations,
    pub key: &'a Key,
    pub set: &'a StatefulSet,
    /// The templates with the names of their revisions.
    pub current: (PodTemplateSpec, &'a str),
    pub update: (PodTemplateSpec, &'a str),
}

#[derive(Deserialize)]
struct Owned {
    metadata: OwnedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnedMeta {
    owner_references: Option<Vec<OwnerReference>>,
}

impl Act<'_> {
    pub async fn run(&self, action: Action) -> Result<(), ApiError> {
        match action {
            Action::Create { ordinal, updated } => self.create(ordinal, updated).await,
            Action::Delete(member) => self.delete(&member).await,
            Action::CreateClaims(member) => self.create_claims(member.pod.name(), member.ordinal).await,
            Action::Conform(member) => self.conform(&member).await,
            Action::Own(member) => self.own(&member).await,
        }
    }

    async fn create(&self, ordinal: i32, updated: bool) -> Result<(), ApiError> {
        let (template, revision) = if updated { &self.update } else { &self.current };
        let pod = identity::new_pod(self.set, template, ordinal, revision);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let result = match self.create_claims(name, ordinal).await {
            Ok(()) => self.client.create(&pod).await.map(drop),
            Err(error) => Err(error),
        };
        match result {
            // The informer does not show it yet, or it is somebody else's: then it is in the way until it goes.
            Err(error) if error.is_already_exists() => Err(error),
            // Not our failure: the namespace controller is at work.
            Err(error) if error.is_namespace_terminating() => {
                self.expectations.created(self.key);
                Ok(())
            }
            result => self.record("create", name, result),
        }
    }

    async fn create_claims(&self, pod: &str, ordinal: i32) -> Result<(), ApiError> {
        for claim in claims::new(self.set, ordinal) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            match self.claims.get(self.namespace(), name) {
                Some(present) if present.head.deleting => {
                    return Err(ApiError::internal(format!("pvc {name} is being deleted")));
                }
                Some(_) => {}
                None => match self.client.create(&claim).await {
                    Err(error) if error.is_already_exists() => {}
                    Err(error) if error.is_namespace_terminating() => return Err(error),
                    result => self.record_claim(name, pod, result.map(drop))?,
                },
            }
        }
        Ok(())
    }

    async fn delete(&self, member: &Member) -> Result<(), ApiError> {
        let options = DeleteOptions::default().uid(member.pod.uid());
        match self.client.delete::<Pod>(self.namespace(), member.pod.name(), options).await {
            // Gone, or another of the same name.
            Err(error) if error.is_not_found() || error.is_conflict() => {
                self.expectations.deleted(self.key, member.pod.uid());
                Ok(())
            }
            result => self.record("delete", member.pod.name(), result),
        }
    }

    async fn conform(&self, member: &Member) -> Result<(), ApiError> {
        let mut pod: Pod = member.pod.object.decode()?;
        identity::conform(self.set, &mut pod, member.ordinal);
        self.create_claims(member.pod.name(), member.ordinal).await?;
        let result = self.client.update(&pod).await.map(drop);
        self.record("update", member.pod.name(), result)
    }

    async fn own(&self, member: &Member) -> Result<(), ApiError> {
        let end = first_ordinal(self.set).saturating_add(replicas(self.set));
        let place = Place {
            set: self.set,
            pod: member.pod.name(),
            pod_uid: member.pod.uid(),
            scaled_down: !(first_ordinal(self.set)..end).contains(&member.ordinal),
        };
        for name in claims::names(self.set, member.ordinal) {
            let Some(claim) = self.claims.get(self.namespace(), &name) else { continue };
            if !place.suits(&claim.head) {
                self.write_owners(&place, &claim).await?;
            }
        }
        Ok(())
    }

    async fn write_owners(&self, place: &Place<'_>, claim: &Object) -> Result<(), ApiError> {
        let present: Owned = claim.decode()?;
        let owners = place.owners_of(&claim.head, present.metadata.owner_references.unwrap_or_default());
        let written =
            ownership::write_references::<PersistentVolumeClaim>(self.client, claim, &owners, None).await;
        match written {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn namespace(&self) -> &str {
        self.set.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn set_name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    fn record(&self, verb: &str, pod: &str, result: Result<(), ApiError>) -> Result<(), ApiError> {
        let set = self.set_name();
        match &result {
            Ok(()) => self.normal(verb, format!("{verb} Pod {pod} in StatefulSet {set} successful")),
            Err(error) => {
                self.warning(verb, format!("{verb} Pod {pod} in StatefulSet {set} failed error: {error}"));
            }
        }
        result
    }

    fn record_claim(&self, claim: &str, pod: &str, result: Result<(), ApiError>) -> Result<(), ApiError> {
        let set = self.set_name();
        match &result {
            Ok(()) => {
                let message = format!("create Claim {claim} Pod {pod} in StatefulSet {set} success");
                self.normal("create", message);
            }
            Err(error) => {
                let message =
                    format!("create Claim {claim} for Pod {pod} in StatefulSet {set} failed error: {error}");
                self.warning("create", message);
            }
        }
        result
    }

    fn normal(&self, verb: &str, message: String) {
        self.events.event(self.set, EventType::Normal, &reason("Successful", verb), message);
    }

    fn warning(&self, verb: &str, message: String) {
        self.events.event(self.set, EventType::Warning, &reason("Failed", verb), message);
    }
}

/// `SuccessfulCreate`, `FailedDelete`, …
fn reason(outcome: impl Display, verb: &str) -> String {
    let verb = match verb {
        "create" => "Create",
        "delete" => "Delete",
        _ => "Update",
    };
    format!("{outcome}{verb}")
}
