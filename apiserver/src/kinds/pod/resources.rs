//! Requests and limits: what they may say, their sum over a pod, and the quality of service that follows.

use std::collections::BTreeMap;

use coracle_client::quantity::Quantity;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::field_error::{Errors, Path};
use crate::validation;

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// The name of a resource of a container or an overhead.
pub(crate) fn name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Err(detail) = validation::qualified_name(name) {
        errors.invalid(path, name, detail);
    } else if !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
}

/// May be asked for in part and more than there is: only the standard ones.
fn overcommittable(name: &str) -> bool {
    STANDARD.contains(&name)
}

pub(super) fn validate(resources: &ResourceRequirements, path: &Path<'_>, errors: &mut Errors) {
    let (requests_path, limits_path) = (path.child("requests"), path.child("limits"));
    let mut limits = BTreeMap::new();
    for (resource, wire) in resources.limits.iter().flatten() {
        let at = limits_path.key(resource);
        name(resource, &at, errors);
        if let Some(limit) = amount(resource, wire, &at, errors) {
            limits.insert(resource, limit);
        }
    }
    for (resource, wire) in resources.requests.iter().flatten() {
        let at = requests_path.key(resource);
        name(resource, &at, errors);
        let Some(request) = amount(resource, wire, &at, errors) else { continue };
        match limits.get(resource) {
            Some(limit) if !overcommittable(resource) && request != *limit => {
                let detail = format!("must be equal to {resource} limit of {limit}");
                errors.invalid(requests_path, &wire.0, detail);
            }
            Some(limit) if request > *limit => {
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.invalid(requests_path, &wire.0, detail);
            }
            None if !overcommittable(resource)
                && !resources.limits.iter().flatten().any(|(l, _)| l == resource) =>
            {
                errors.required(limits_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let claims = resources.claims.as_deref().unwrap_or_default();
    for (i, claim) in claims.iter().enumerate() {
        if claim.name.is_empty() {
            errors.required(path.child("claims").index(i).child("name"), "");
        } else if claims[..i].contains(claim) {
            errors.duplicate(path.child("claims").index(i), &claim.name);
        }
    }
}

fn amount(resource: &str, wire: &Wire, path: &Path<'_>, errors: &mut Errors) -> Option<Quantity> {
    let quantity = validation::quantity(wire, path, errors)?;
    if resource.contains('/') && quantity.milli_value() % 1000 != 0 {
        errors.invalid(path, &wire.0, "must be an integer");
    }
    Some(quantity)
}

/// `Guaranteed` where every container's limits for CPU and memory equal its requests, `BestEffort` where none says
/// anything, else `Burstable`.
pub(crate) fn qos_class(spec: &PodSpec) -> &'static str {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(resources) if resources.limits.is_some() || resources.requests.is_some() => {
            vec![Some(resources)]
        }
        _ => containers.map(|c| c.resources.as_ref()).collect(),
    };
    let of = |map: Option<&BTreeMap<String, Wire>>, name: &str| {
        map.and_then(|m| m.get(name)).and_then(|q| Quantity::of(q).ok()).filter(|q| *q > Quantity::ZERO)
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for name in ["cpu", "memory"] {
            let request = of(resources.and_then(|r| r.requests.as_ref()), name);
            let limit = of(resources.and_then(|r| r.limits.as_ref()), name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
    }

    #[test]
    fn one_bad_amount_per_rule() {
        let at = |rest: &str| format!("spec.containers[0].resources.{rest}");
        for (resources, field, message) in [
            (
                json!({"limits": {"cpu": "x"}, "requests": {"cpu": "1"}}),
                at("limits[cpu]"),
                "Invalid value: \"x\": quantities must match",
            ),
            (
                json!({"requests": {"cpu": "-1"}}),
                at("requests[cpu]"),
                "Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                at("requests"),
                "Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"requests": {"gpu": "1"}, "limits": {"cpu": "1"}}),
                at("requests[gpu]"),
                "Invalid value: \"gpu\": must be a standard resource",
            ),
            (
                json!({"requests": {"a.io/gpu": "1"}}),
                at("limits"),
                "Required value: Limit must be set for non overcommitable",
            ),
            (
                json!({"requests": {"a.io/gpu": "1"}, "limits": {"a.io/gpu": "2"}}),
                at("requests"),
                "Invalid value: \"1\": must be equal to a.io/gpu limit of 2",
            ),
            (
                json!({"limits": {"a.io/gpu": "500m"}, "requests": {"a.io/gpu": "1"}}),
                at("limits[a.io/gpu]"),
                "Invalid value: \"500m\": must be an integer",
            ),
        ] {
            let mut errors = Errors::default();
            let resources: ResourceRequirements = serde_json::from_value(resources).unwrap();
            let path = Path::new("spec");
            let path = path.child("containers");
            validate(&resources, &path.index(0).child("resources"), &mut errors);
            let causes = errors.into_causes();
            assert!(
                causes.iter().any(|c| c.field == field && c.message.starts_with(message)),
                "{field} {message} {causes:?}"
            );
        }
        testing::valid::<Pod>(&[pod(json!({"limits": {"cpu": "1", "memory": "1Gi", "a.io/gpu": "1"}}))]);
    }

    #[test]
    fn classes_of_service() {
        for (resources, want) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        ] {
            let pod: Pod = defaulted(pod(resources.clone()));
            assert_eq!(qos_class(&pod.spec.unwrap()), want, "{resources}");
        }
    }
}
