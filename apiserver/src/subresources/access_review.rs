//! SelfSubjectAccessReview, SubjectAccessReview and LocalSubjectAccessReview: whether the sender, or somebody else, may
//! do something.

use coracle_client::selector::{FieldSelector, Selector};
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview,
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldSelectorRequirement, LabelSelectorRequirement, ObjectMeta,
};
use serde_json::json;

use super::{Review, ReviewDef};
use crate::authn::Identity;
use crate::authz::{Attributes, Decision};
use crate::field_error::{Errors, Path};
use crate::validation::given;
use crate::verbs::Answer;

const GROUP: &str = "authorization.k8s.io";
const VERSION: &str = "authorization.k8s.io/v1";

pub const SELF: ReviewDef = ReviewDef {
    group: GROUP,
    version: "v1",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    kind: "SelfSubjectAccessReview",
    namespaced: false,
};

pub const SUBJECT: ReviewDef = ReviewDef {
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    kind: "SubjectAccessReview",
    ..SELF
};

pub const LOCAL: ReviewDef = ReviewDef {
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    kind: "LocalSubjectAccessReview",
    namespaced: true,
    ..SELF
};

pub async fn own(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SelfSubjectAccessReview = review.document(VERSION, SELF.kind)?;
    let spec = &document.spec;
    let mut errors = Errors::default();
    validate(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref(), &mut errors);
    nothing_in(&document.metadata, "must be empty", &mut errors);
    refuse(errors)?;
    let wanted = Wanted::of(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    document.status = Some(decide(review, &review.identity, wanted).await);
    Answer::document(201, &document)
}

pub async fn of_subject(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: SubjectAccessReview = review.document(VERSION, SUBJECT.kind)?;
    let mut errors = Errors::default();
    validate_spec(&document.spec, &mut errors);
    nothing_in(&document.metadata, "must be empty", &mut errors);
    refuse(errors)?;
    document.status = Some(decide_spec(review, &document.spec).await);
    Answer::document(201, &document)
}

pub async fn local(review: &Review<'_>) -> Result<Answer, ApiError> {
    let mut document: LocalSubjectAccessReview = review.document(VERSION, LOCAL.kind)?;
    let namespace = review.info.namespace.clone();
    if given(&document.metadata.namespace).is_some_and(|said| said != namespace) {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let mut errors = Errors::default();
    validate_spec(&document.spec, &mut errors);
    let metadata = ObjectMeta { namespace: None, ..document.metadata.clone() };
    nothing_in(&metadata, "must be empty except for namespace", &mut errors);
    if let Some(resource) = &document.spec.resource_attributes
        && resource.namespace.as_deref().unwrap_or_default() != namespace
    {
        let field = "spec.resourceAttributes.namespace";
        errors.invalid(
            field,
            resource.namespace.as_deref().unwrap_or_default(),
            "must match metadata.namespace",
        );
    }
    if let Some(other) = &document.spec.non_resource_attributes {
        errors.invalid("spec.nonResourceAttributes", shown(other), "disallowed on this kind of request");
    }
    refuse(errors)?;
    document.metadata.namespace = Some(namespace);
    document.status = Some(decide_spec(review, &document.spec).await);
    Answer::document(201, &document)
}

fn validate_spec(spec: &SubjectAccessReviewSpec, errors: &mut Errors) {
    validate(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref(), errors);
    if given(&spec.user).is_none() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        errors.invalid("spec.user", "", "at least one of user or group must be specified");
    }
}

/// As Go shows upstream's internal type.
fn shown(other: &NonResourceAttributes) -> serde_json::Value {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    json!({"Path": text(&other.path), "Verb": text(&other.verb)})
}

fn validate(
    resource: Option<&ResourceAttributes>,
    other: Option<&NonResourceAttributes>,
    errors: &mut Errors,
) {
    match (resource, other) {
        (Some(_), Some(other)) => errors.invalid(
            "spec.nonResourceAttributes",
            shown(other),
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => errors.invalid(
            "spec.resourceAttributes",
            (),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    let Some(resource) = resource else { return };
    let at = Path::new("spec.resourceAttributes");
    if let Some(selector) = &resource.field_selector {
        let requirements = selector.requirements.iter().flatten();
        let all = requirements.map(|r| (r.key.as_str(), r.operator.as_str(), r.values.as_deref())).collect();
        validate_selector(&at.child("fieldSelector"), &selector.raw_selector, all, false, errors);
    }
    if let Some(selector) = &resource.label_selector {
        let requirements = selector.requirements.iter().flatten();
        let all = requirements.map(|r| (r.key.as_str(), r.operator.as_str(), r.values.as_deref())).collect();
        validate_selector(&at.child("labelSelector"), &selector.raw_selector, all, true, errors);
    }
}

fn validate_selector(
    at: &Path<'_>,
    raw: &Option<String>,
    requirements: Vec<(&str, &str, Option<&[String]>)>,
    labels: bool,
    errors: &mut Errors,
) {
    match (given(raw), requirements.is_empty()) {
        (Some(raw), false) => {
            errors.invalid(
                at.child("rawSelector"),
                raw,
                "may not specified at the same time as requirements",
            );
        }
        (None, true) => errors.required(
            at.child("requirements"),
            &format!("when {at} is specified, requirements or rawSelector is required"),
        ),
        _ => {}
    }
    let list = at.child("requirements");
    for (i, (key, operator, values)) in requirements.into_iter().enumerate() {
        let at = list.index(i);
        let none = values.unwrap_or_default().is_empty();
        match operator {
            "In" | "NotIn" if none => {
                errors.required(at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !none => errors.forbidden(
                at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            // Newer clients may know others.
            _ => {}
        }
        if labels {
            errors.check(at.child("key"), key, crate::validation::qualified_name);
        } else if key.is_empty() {
            errors.required(at.child("key"), "must be specified");
        }
    }
}

fn nothing_in(metadata: &ObjectMeta, detail: &str, errors: &mut Errors) {
    let rest = ObjectMeta { managed_fields: None, ..metadata.clone() };
    if rest != ObjectMeta::default() {
        errors.invalid("metadata", metadata, detail);
    }
}

/// Upstream names no kind here.
fn refuse(errors: Errors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let nameless = Resource::new(GROUP, "v1", "", "", false);
    Err(ApiError::invalid(&nameless, "", errors.into_causes()))
}

/// What is asked, and what of it could not be understood.
struct Wanted {
    attributes: Attributes,
    errors: Vec<String>,
}

impl Wanted {
    fn of(resource: Option<&ResourceAttributes>, other: Option<&NonResourceAttributes>) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let Some(resource) = resource else {
            let other = other.cloned().unwrap_or_default();
            let attributes =
                Attributes { verb: text(&other.verb), path: text(&other.path), ..Attributes::default() };
            return Self { attributes, errors: Vec::new() };
        };
        let mut errors = Vec::new();
        let mut field_selector = String::new();
        if let Some(selector) = &resource.field_selector {
            field_selector = match given(&selector.raw_selector) {
                Some(raw) => parsed(raw, FieldSelector::parse(raw).is_ok(), "fieldSelector", &mut errors),
                None => joined(selector.requirements.as_deref(), field, "fieldSelector", &mut errors),
            };
        }
        let mut label_selector = String::new();
        if let Some(selector) = &resource.label_selector {
            label_selector = match given(&selector.raw_selector) {
                Some(raw) => parsed(raw, Selector::parse(raw).is_ok(), "labelSelector", &mut errors),
                None => joined(selector.requirements.as_deref(), label, "labelSelector", &mut errors),
            };
        }
        let attributes = Attributes {
            verb: text(&resource.verb),
            group: text(&resource.group),
            version: text(&resource.version),
            resource: text(&resource.resource),
            subresource: text(&resource.subresource),
            namespace: text(&resource.namespace),
            name: text(&resource.name),
            path: String::new(),
            field_selector,
            label_selector,
        };
        Self { attributes, errors }
    }
}

fn parsed(raw: &str, fine: bool, name: &str, errors: &mut Vec<String>) -> String {
    if fine {
        return raw.to_owned();
    }
    errors.push(format!("spec.resourceAttributes.{name} ignored due to parse error"));
    String::new()
}

/// The requirements as a selector's text; those that say nothing here are left out, which allows less.
fn joined<R>(
    requirements: Option<&[R]>,
    text: fn(&R) -> Option<String>,
    name: &str,
    errors: &mut Vec<String>,
) -> String {
    let all: Vec<Option<String>> = requirements.unwrap_or_default().iter().map(text).collect();
    let known: Vec<String> = all.iter().flatten().cloned().collect();
    if known.len() < all.len() {
        let partially = if known.is_empty() { "" } else { "partially " };
        errors.push(format!("spec.resourceAttributes.{name} {partially}ignored due to parse error"));
    }
    known.join(",")
}

fn field(requirement: &FieldSelectorRequirement) -> Option<String> {
    let key = &requirement.key;
    match (requirement.operator.as_str(), requirement.values.as_deref().unwrap_or_default()) {
        ("In", [value]) => Some(format!("{key}={value}")),
        ("NotIn", [value]) => Some(format!("{key}!={value}")),
        _ => None,
    }
}

fn label(requirement: &LabelSelectorRequirement) -> Option<String> {
    let (key, values) = (&requirement.key, requirement.values.as_deref().unwrap_or_default().join(","));
    match requirement.operator.as_str() {
        "In" => Some(format!("{key} in ({values})")),
        "NotIn" => Some(format!("{key} notin ({values})")),
        "Exists" => Some(key.clone()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    }
}

async fn decide_spec(review: &Review<'_>, spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
    let subject = Identity {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    let wanted = Wanted::of(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    decide(review, &subject, wanted).await
}

async fn decide(review: &Review<'_>, who: &Identity, wanted: Wanted) -> SubjectAccessReviewStatus {
    let decision = match &review.api.options.authorizer {
        Some(authorizers) => authorizers.decide(who, &wanted.attributes).await,
        None => Decision::allow(),
    };
    let reason = match &decision {
        Decision::Allow(reason) => reason.to_string(),
        Decision::NoOpinion(reason) => reason.clone(),
    };
    SubjectAccessReviewStatus {
        allowed: decision.is_allowed(),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        evaluation_error: Some(wanted.errors.join(", ")).filter(|error| !error.is_empty()),
        ..Default::default()
    }
}
