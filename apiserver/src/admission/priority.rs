//! Priority: a pod's number and preemption policy come from its PriorityClass.

use async_trait::async_trait;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::{Attributes, Operation, Plugin, listed};
use crate::kinds::priority_class::SYSTEM_CLASSES;
use crate::object::ApiObject;

const PREEMPT: &str = "PreemptLowerPriority";

pub struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let call = attributes.call;
        let Some(pod) = object.and_then(|o| o.as_any_mut().downcast_mut::<Pod>()) else { return Ok(()) };
        let spec = pod.spec.get_or_insert_default();
        let asked = spec.priority_class_name.clone().unwrap_or_default();
        let classes = call.api.kind(&Resource::of::<PriorityClass>()).ok();
        let class = match asked.as_str() {
            "" => {
                let listed = classes.map(|c| c.cache.list(&Default::default(), None, None, None, 0));
                let mut defaults = Vec::new();
                for object in listed.and_then(Result::ok).map(|page| page.objects).unwrap_or_default() {
                    let class: PriorityClass = object.decode()?;
                    if class.global_default == Some(true) {
                        defaults.push(class);
                    }
                }
                // Of several defaults the lowest counts, as upstream.
                defaults.into_iter().min_by_key(|class| class.value)
            }
            name => match SYSTEM_CLASSES.iter().find(|(system, ..)| *system == name) {
                Some((name, value, _)) => Some(PriorityClass {
                    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                        name: Some((*name).into()),
                        ..Default::default()
                    },
                    value: Some(*value),
                    ..PriorityClass::default()
                }),
                None => match classes.and_then(|c| c.cache.get(name)) {
                    Some(object) => Some(object.decode()?),
                    None => {
                        let why = format!("no PriorityClass with name {name} was found");
                        return Err(ApiError::forbidden(call.kind.resource(), call.name(), why));
                    }
                },
            },
        };
        give(spec, class).map_err(|why| ApiError::forbidden(call.kind.resource(), call.name(), why))
    }

    /// One default at most, and the system's own stay.
    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let system = |name: &str| SYSTEM_CLASSES.iter().any(|(system, ..)| *system == name);
        if attributes.operation == Operation::Delete
            && *call.kind.resource() == Resource::of::<PriorityClass>()
            && system(call.name())
        {
            let why = "this is a system priority class and cannot be deleted".to_owned();
            return Err(ApiError::forbidden(call.kind.resource(), call.name(), why));
        }
        let Some(class) = object.and_then(|o| o.as_any().downcast_ref::<PriorityClass>()) else {
            return Ok(());
        };
        if attributes.operation == Operation::Delete || class.global_default != Some(true) {
            return Ok(());
        }
        let others = listed::<PriorityClass>(call);
        // One that is created is another, even where it has the name of the default.
        let itself = |other: &PriorityClass| {
            attributes.operation == Operation::Update && other.metadata.name == class.metadata.name
        };
        let other = others.iter().find(|other| other.global_default == Some(true) && !itself(other));
        match other.and_then(|other| other.metadata.name.as_deref()) {
            None => Ok(()),
            Some(other) => {
                let why =
                    format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(ApiError::forbidden(call.kind.resource(), call.name(), why))
            }
        }
    }
}

fn give(spec: &mut PodSpec, class: Option<PriorityClass>) -> Result<(), String> {
    let class = class.unwrap_or_default();
    let value = class.value.unwrap_or_default();
    if spec.priority.is_some_and(|p| p != value) {
        return Err(format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            spec.priority.unwrap_or_default(),
            value
        ));
    }
    let policy = class.preemption_policy.unwrap_or_else(|| PREEMPT.into());
    if let Some(given) = spec.preemption_policy.as_ref().filter(|given| **given != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    spec.priority = Some(value);
    spec.preemption_policy = Some(policy);
    if let Some(name) = class.metadata.name {
        spec.priority_class_name = Some(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_class_s() {
        let class = |value| Some(PriorityClass { value: Some(value), ..PriorityClass::default() });
        for (given, class, want) in [
            (None, None, Ok(0)),
            (Some(0), None, Ok(0)),
            (Some(7), None, Err(())),
            (None, class(100), Ok(100)),
            (Some(100), class(100), Ok(100)),
            (Some(1), class(100), Err(())),
        ] {
            let mut spec = PodSpec { priority: given, ..PodSpec::default() };
            let got = give(&mut spec, class);
            assert_eq!(got.map(|()| spec.priority.unwrap()).map_err(drop), want);
        }
    }
}
