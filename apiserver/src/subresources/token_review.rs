//! TokenReview: whose a bearer token is, and whether it is any good for those who ask.

use coracle_client::ApiError;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus, UserInfo};

use super::{Review, ReviewDef};
use crate::authn::Identity;
use crate::verbs::Answer;

pub const DEF: ReviewDef = ReviewDef {
    group: "authentication.k8s.io",
    version: "v1",
    plural: "tokenreviews",
    singular: "tokenreview",
    kind: "TokenReview",
    namespaced: false,
};

pub async fn answer(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: TokenReview = review.document("authentication.k8s.io/v1", DEF.kind)?;
    let token = Some(document.spec.token.as_str())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| ApiError::bad_request("token is required for TokenReview in authentication"))?;
    let Some(authenticators) = &review.api.options.authenticators else {
        return Err(ApiError::service_unavailable("this apiserver does not know tokens"));
    };
    let audiences = document.spec.audiences.clone().unwrap_or_default();
    document.status = Some(match authenticators.token(token, &audiences).await {
        Ok(known) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(user_info(&known.identity)),
            audiences: Some(known.audiences),
            error: None,
        },
        Err(error) => TokenReviewStatus {
            user: Some(UserInfo::default()),
            error: Some(error),
            ..TokenReviewStatus::default()
        },
    });
    Answer::document(201, &document)
}

pub fn user_info(identity: &Identity) -> UserInfo {
    UserInfo {
        username: Some(identity.name.clone()),
        uid: identity.uid.clone(),
        groups: Some(identity.groups.clone()).filter(|g| !g.is_empty()),
        extra: Some(identity.extra.clone()).filter(|e| !e.is_empty()),
    }
}
