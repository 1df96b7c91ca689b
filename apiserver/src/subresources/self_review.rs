//! SelfSubjectReview: who the server takes the sender for.

use coracle_client::ApiError;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus, UserInfo};

use super::{Review, ReviewDef};
use crate::verbs::{Answer, metadata};

pub const DEF: ReviewDef = ReviewDef {
    group: "authentication.k8s.io",
    version: "v1",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    kind: "SelfSubjectReview",
};

pub fn answer(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SelfSubjectReview = review.document("authentication.k8s.io/v1", DEF.kind)?;
    let identity = &review.identity;
    document.metadata.creation_timestamp = Some(metadata::now());
    document.status = Some(SelfSubjectReviewStatus {
        user_info: Some(UserInfo {
            username: Some(identity.name.clone()),
            uid: identity.uid.clone(),
            groups: Some(identity.groups.clone()).filter(|g| !g.is_empty()),
            extra: Some(identity.extra.clone()).filter(|e| !e.is_empty()),
        }),
    });
    Answer::document(201, &document)
}
