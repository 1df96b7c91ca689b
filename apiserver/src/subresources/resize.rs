//! `pods/resize`: other requests and limits of CPU and memory for a pod that runs.

use std::collections::BTreeMap;

use coracle_client::ApiError;
use coracle_client::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::field_error::{Errors, Path};
use crate::kinds::qos_class;
use crate::object::ApiObject;
use crate::verbs::modify::Detail;

pub static PART: Detail = Detail { name: "resize", confine, validate };

fn confine(new: &dyn ApiObject, old: &dyn ApiObject) -> Result<Box<dyn ApiObject>, ApiError> {
    let (Some(new), Some(old)) = (new.as_any().downcast_ref::<Pod>(), old.as_any().downcast_ref::<Pod>())
    else {
        return Err(ApiError::internal("resizing what is no Pod"));
    };
    let mut pod = old.clone();
    let (Some(spec), Some(wanted)) = (&mut pod.spec, &new.spec) else { return Ok(Box::new(pod)) };
    let init = wanted.init_containers.as_deref().unwrap_or_default();
    let names = |list: &[Container]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let same = names(&spec.containers) == names(&wanted.containers)
        && names(spec.init_containers.as_deref().unwrap_or_default()) == names(init);
    if !same {
        // Validation says so.
        spec.containers = wanted.containers.clone();
        spec.init_containers = wanted.init_containers.clone();
        return Ok(Box::new(pod));
    }
    let pairs = spec.containers.iter_mut().zip(&wanted.containers);
    for (container, wanted) in pairs.chain(spec.init_containers.iter_mut().flatten().zip(init)) {
        container.resources.clone_from(&wanted.resources);
        container.resize_policy.clone_from(&wanted.resize_policy);
    }
    Ok(Box::new(pod))
}

fn validate(new: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors) {
    let (Some(new), Some(old)) = (new.as_any().downcast_ref::<Pod>(), old.as_any().downcast_ref::<Pod>())
    else {
        return;
    };
    let path = Path::new("spec");
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        return errors.forbidden("", "static pods cannot be resized");
    }
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return };
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return errors.forbidden("", "windows pods cannot be resized");
    }
    let class = old.status.as_ref().and_then(|s| s.qos_class.clone());
    if class.unwrap_or_else(|| qos_class(old_spec).into()) != qos_class(new_spec) {
        errors.invalid(path, qos_class(new_spec), "Pod QOS Class may not change as a result of resizing");
    }
    let none = Vec::new();
    let (new_init, old_init) = (
        new_spec.init_containers.as_ref().unwrap_or(&none),
        old_spec.init_containers.as_ref().unwrap_or(&none),
    );
    for (list, new, old) in
        [("containers", &new_spec.containers, &old_spec.containers), ("initContainers", new_init, old_init)]
    {
        if new.len() != old.len() {
            errors.forbidden(path, &format!("{list} may not be added or removed on resize"));
            return;
        }
        if new.iter().zip(old).any(|(new, old)| new.name != old.name) {
            errors.forbidden(path, &format!("{list} may not be renamed or reordered on resize"));
            return;
        }
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let at = path.child(list);
            let at = at.index(index);
            let sidecar = old.restart_policy.as_deref() == Some("Always");
            if list == "initContainers" && !sidecar {
                if new.resources != old.resources {
                    errors.forbidden(at, "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            container(new, old, &at, errors);
        }
    }
}

fn container(new: &Container, old: &Container, path: &Path<'_>, errors: &mut Errors) {
    let empty = ResourceRequirements::default();
    let (now, before) = (new.resources.as_ref().unwrap_or(&empty), old.resources.as_ref().unwrap_or(&empty));
    let at = path.child("resources");
    for (field, detail, now, before) in [
        ("limits", "resource limits cannot be removed", &now.limits, &before.limits),
        ("requests", "resource requests cannot be removed", &now.requests, &before.requests),
    ] {
        let gone = before.iter().flatten().any(|(name, _)| !now.iter().flatten().any(|(n, _)| n == name));
        if gone {
            errors.forbidden(at.child(field), detail);
        }
        let other = |amounts: &Option<BTreeMap<String, Wire>>| -> Vec<(String, Option<Quantity>)> {
            amounts
                .iter()
                .flatten()
                .filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory"))
                .map(|(name, wire)| (name.clone(), Quantity::of(wire).ok()))
                .collect()
        };
        if other(now) != other(before) {
            errors.forbidden("spec", "only cpu and memory resources are mutable");
        }
    }
    if now.claims != before.claims {
        errors.forbidden("spec", "only cpu and memory resources are mutable");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "i", "resources": resources}]}}))
        .unwrap()
    }

    #[test]
    fn only_cpu_and_memory_change() {
        let old = json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "1"}});
        for (new, want) in [
            (json!({"requests": {"cpu": "200m", "memory": "2Gi"}, "limits": {"cpu": "2"}}), None),
            (
                json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}}),
                Some("resource requests cannot be removed"),
            ),
            (
                json!({"requests": {"cpu": "200m", "memory": "1Gi"}}),
                Some("resource limits cannot be removed"),
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi", "x.io/y": "1"}, "limits": {"cpu": "1", "x.io/y": "1"}}),
                Some("only cpu and memory resources are mutable"),
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
                Some("Pod QOS Class may not change as a result of resizing"),
            ),
        ] {
            let (old, new) = (pod(old.clone()), pod(new));
            let confined = confine(&new, &old).unwrap();
            let mut errors = Errors::default();
            validate(&*confined, &old, &mut errors);
            let text = errors.into_causes().first().map(|cause| cause.message.clone());
            match want {
                Some(want) => assert!(text.as_ref().is_some_and(|t| t.contains(want)), "{text:?}"),
                None => assert_eq!(text, None),
            }
        }
    }
}
