//! `pods/binding`: gives a pod its node, once.

use std::collections::BTreeMap;

use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};

use super::{Review, ReviewDef, document};
use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::verbs::modify::{Current, Part, Versions, modify_as};
use crate::verbs::{Answer, Call, metadata};

/// The older way: the object that is posted names the pod.
pub const LEGACY: ReviewDef = ReviewDef {
    group: "",
    version: "v1",
    plural: "bindings",
    singular: "binding",
    kind: "Binding",
    namespaced: true,
};

pub async fn create_by_name(review: &Review<'_>) -> Result<Answer, ApiError> {
    let binding: Binding = review.document("v1", LEGACY.kind)?;
    let pods = review.api.kind(&Resource::of::<Pod>())?;
    let call = Call {
        namespace: Some(review.info.namespace.clone()),
        name: Some(binding.metadata.name.unwrap_or_default()),
        subresource: Some("binding".into()),
        options: review.options.clone(),
        content_type: review.content_type.map(str::to_owned),
        body: review.body.clone(),
        ..Call::new(review.api, &pods, review.identity.clone())
    };
    create(&call).await
}

pub async fn create(call: &Call) -> Result<Answer, ApiError> {
    let binding = document::<Binding>(call, "v1", "Binding")?;
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.name() {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    validate(call, &binding)?;
    modify_as(call, Part::Whole, Versions::Inherit, |current| bound(call, current, &binding)).await?;
    Answer::success(201)
}

fn validate(call: &Call, binding: &Binding) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    match binding.target.kind.as_deref().unwrap_or_default() {
        "" | "Node" => {}
        other => errors.not_supported("target.kind", other, &["Node", "<empty>"]),
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.required("target.name", "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    let resource = Resource::new("", "v1", "bindings", "Binding", true);
    Err(ApiError::invalid(&resource, call.name(), errors.into_causes()))
}

fn bound(call: &Call, current: &Current, binding: &Binding) -> Result<Box<dyn ApiObject>, ApiError> {
    let name = call.name();
    let refuse = |why: String| {
        let resource = Resource::new("", "v1", "pods/binding", "Binding", true);
        ApiError::conflict(&resource, name, &why)
    };
    let Some(pod) = current.typed.as_any().downcast_ref::<Pod>() else {
        return Err(ApiError::internal("only pods are bound"));
    };
    let mut pod = pod.clone();
    if let Some(uid) =
        binding.metadata.uid.as_deref().filter(|u| !u.is_empty() && pod.metadata.uid.as_deref() != Some(u))
    {
        return Err(refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            current.object.head.uid
        )));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Err(refuse(format!("pod {name} is already assigned to node {node:?}")));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    spec.node_name.clone_from(&binding.target.name);
    merge(&mut pod.metadata.annotations, &binding.metadata.annotations);
    merge(&mut pod.metadata.labels, &binding.metadata.labels);
    mark_scheduled(&mut pod);
    pod.metadata.resource_version.clone_from(&binding.metadata.resource_version);
    Ok(Box::new(pod))
}

fn merge(into: &mut Option<BTreeMap<String, String>>, from: &Option<BTreeMap<String, String>>) {
    if let Some(from) = from.as_ref().filter(|f| !f.is_empty()) {
        into.get_or_insert_default().extend(from.clone());
    }
}

fn mark_scheduled(pod: &mut Pod) {
    let generation = pod.metadata.generation;
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let scheduled = PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(metadata::now()),
        observed_generation: generation,
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|c| c.type_ == scheduled.type_) {
        Some(condition) if condition.status == scheduled.status => {}
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
}
