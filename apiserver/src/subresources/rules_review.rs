//! SelfSubjectRulesReview: what the sender may do in a namespace, as far as that can be listed.

use coracle_client::ApiError;
use k8s_openapi::api::authorization::v1::{
    NonResourceRule, ResourceRule, SelfSubjectRulesReview, SubjectRulesReviewStatus,
};
use k8s_openapi::api::rbac::v1::PolicyRule;

use super::{Review, ReviewDef, access_review};
use crate::validation::given;
use crate::verbs::Answer;

pub const DEF: ReviewDef = ReviewDef {
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    kind: "SelfSubjectRulesReview",
    ..access_review::SELF
};

pub fn answer(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SelfSubjectRulesReview = review.document("authorization.k8s.io/v1", DEF.kind)?;
    let namespace =
        given(&document.spec.namespace).ok_or_else(|| ApiError::bad_request("no namespace on request"))?;
    let (rules, errors) = match &review.api.options.authorizer {
        Some(authorizers) => authorizers.rules_of(&review.identity, namespace),
        None => (vec![everything()], Vec::new()),
    };
    document.status = Some(status(rules, &errors));
    Answer::document(201, &document)
}

fn everything() -> PolicyRule {
    let all = || vec!["*".to_owned()];
    PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() }
}

fn status(rules: Vec<PolicyRule>, errors: &[String]) -> SubjectRulesReviewStatus {
    let mut status = SubjectRulesReviewStatus {
        incomplete: !errors.is_empty(),
        evaluation_error: Some(errors.join(", ")).filter(|e| !e.is_empty()),
        ..SubjectRulesReviewStatus::default()
    };
    for rule in rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            status.resource_rules.push(ResourceRule {
                verbs: rule.verbs,
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names.filter(|names| !names.is_empty()),
            });
        } else if let Some(urls) = rule.non_resource_urls.filter(|urls| !urls.is_empty()) {
            status
                .non_resource_rules
                .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: Some(urls) });
        }
    }
    status
}
