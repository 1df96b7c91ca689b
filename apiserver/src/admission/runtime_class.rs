//! RuntimeClass: the class that a pod names exists, and its overhead and placement become the pod's.

use async_trait::async_trait;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass as Class;

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;

pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
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
        let forbidden = |why: String| ApiError::forbidden(call.kind.resource(), call.name(), why);
        let class = match spec.runtime_class_name.as_deref() {
            None => None,
            Some(name) => {
                let found = call.api.kind(&Resource::of::<Class>()).ok().and_then(|c| c.cache.get(name));
                let found = found
                    .ok_or_else(|| forbidden(format!("pod rejected: RuntimeClass {name:?} not found")))?;
                Some(found.decode::<Class>()?)
            }
        };
        apply(spec, class).map_err(forbidden)
    }
}

fn apply(spec: &mut PodSpec, class: Option<Class>) -> Result<(), String> {
    let overhead = class.as_ref().and_then(|c| c.overhead.as_ref()).and_then(|o| o.pod_fixed.clone());
    match (&spec.overhead, &overhead) {
        (Some(given), Some(fixed)) if given != fixed => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (Some(given), None) if !given.is_empty() => {
            return Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into()
            );
        }
        (_, Some(_)) => spec.overhead = overhead,
        _ => {}
    }
    let Some(scheduling) = class.and_then(|c| c.scheduling) else { return Ok(()) };
    let selector = spec.node_selector.get_or_insert_default();
    for (key, value) in scheduling.node_selector.unwrap_or_default() {
        if selector.get(&key).is_some_and(|given| *given != value) {
            return Err(format!(
                "conflict: pod.spec.nodeSelector[{key}] = {}, RuntimeClass's node selector has {value}",
                selector.get(&key).map(String::as_str).unwrap_or_default()
            ));
        }
        selector.insert(key, value);
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for toleration in scheduling.tolerations.unwrap_or_default() {
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overhead_and_placement_are_the_class_s() {
        let class = json!({
            "metadata": {"name": "c"}, "handler": "h",
            "overhead": {"podFixed": {"memory": "1Mi"}},
            "scheduling": {"nodeSelector": {"wasm": "yes"}, "tolerations": [{"key": "wasm"}]},
        });
        for (spec, with_class, want) in [
            (json!({}), false, Ok(json!({}))),
            (
                json!({}),
                true,
                Ok(
                    json!({"overhead": {"memory": "1Mi"}, "nodeSelector": {"wasm": "yes"}, "tolerations": [{"key": "wasm"}]}),
                ),
            ),
            (json!({"overhead": {"memory": "1Mi"}}), false, Err("without corresponding RuntimeClass")),
            (json!({"overhead": {"memory": "2Mi"}}), true, Err("doesn't match")),
            (json!({"nodeSelector": {"wasm": "no"}}), true, Err("conflict")),
        ] {
            let parse = |mut value: serde_json::Value| -> PodSpec {
                value["containers"] = json!([]);
                serde_json::from_value(value).unwrap()
            };
            let mut got = parse(spec);
            let class = with_class.then(|| serde_json::from_value(class.clone()).unwrap());
            match (apply(&mut got, class), want) {
                (Ok(()), Ok(want)) => assert_eq!(got, parse(want)),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (got, want) => panic!("{got:?}, not {want:?}"),
            }
        }
    }
}
