//! SelfSubjectAccessReview and SubjectAccessReview: whether the sender, or somebody else, may do something.

use coracle_client::ApiError;
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview, SubjectAccessReview,
    SubjectAccessReviewStatus,
};

use super::{Review, ReviewDef};
use crate::authn::Identity;
use crate::authz::{Attributes, Decision};
use crate::verbs::{Answer, metadata};

const GROUP: &str = "authorization.k8s.io";
const VERSION: &str = "authorization.k8s.io/v1";

pub const SELF: ReviewDef = ReviewDef {
    group: GROUP,
    version: "v1",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    kind: "SelfSubjectAccessReview",
};

pub const SUBJECT: ReviewDef = ReviewDef {
    group: GROUP,
    version: "v1",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    kind: "SubjectAccessReview",
};

pub async fn own(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SelfSubjectAccessReview = review.document(VERSION, SELF.kind)?;
    let spec = &document.spec;
    let wanted = attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref())?;
    document.status = Some(decide(review, &review.identity, &wanted).await);
    document.metadata.creation_timestamp = Some(metadata::now());
    Answer::document(201, &document)
}

pub async fn of_subject(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SubjectAccessReview = review.document(VERSION, SUBJECT.kind)?;
    let spec = &document.spec;
    let wanted = attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref())?;
    let subject = Identity {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    if subject.name.is_empty() && subject.groups.is_empty() {
        return Err(ApiError::bad_request("at least one of user or group must be specified"));
    }
    document.status = Some(decide(review, &subject, &wanted).await);
    document.metadata.creation_timestamp = Some(metadata::now());
    Answer::document(201, &document)
}

fn attributes(
    resource: Option<&ResourceAttributes>,
    other: Option<&NonResourceAttributes>,
) -> Result<Attributes, ApiError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    match (resource, other) {
        (Some(resource), None) => Ok(Attributes {
            verb: text(&resource.verb),
            group: text(&resource.group),
            version: text(&resource.version),
            resource: text(&resource.resource),
            subresource: text(&resource.subresource),
            namespace: text(&resource.namespace),
            name: text(&resource.name),
            ..Attributes::default()
        }),
        (None, Some(other)) => {
            Ok(Attributes { verb: text(&other.verb), path: text(&other.path), ..Attributes::default() })
        }
        _ => Err(ApiError::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

async fn decide(review: &Review<'_>, who: &Identity, wanted: &Attributes) -> SubjectAccessReviewStatus {
    let decision = match &review.api.options.authorizer {
        Some(authorizers) => authorizers.decide(who, wanted).await,
        None => Decision::allow(),
    };
    match decision {
        Decision::Allow(reason) => SubjectAccessReviewStatus {
            allowed: true,
            reason: Some(reason.to_string()).filter(|r| !r.is_empty()),
            ..Default::default()
        },
        Decision::NoOpinion(reason) => {
            SubjectAccessReviewStatus { reason: Some(reason).filter(|r| !r.is_empty()), ..Default::default() }
        }
    }
}
