//! SelfSubjectReview: who the server takes the sender for.

use coracle_client::ApiError;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus};

use super::{Review, ReviewDef, token_review};
use crate::verbs::{Answer, metadata};

pub const DEF: ReviewDef = ReviewDef {
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    kind: "SelfSubjectReview",
    ..token_review::DEF
};

pub fn answer(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SelfSubjectReview = review.document("authentication.k8s.io/v1", DEF.kind)?;
    let identity = &review.identity;
    document.metadata.creation_timestamp = Some(metadata::now());
    document.status = Some(SelfSubjectReviewStatus { user_info: Some(token_review::user_info(identity)) });
    Answer::document(201, &document)
}
