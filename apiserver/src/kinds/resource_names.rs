//! The names that amounts go by, in containers, in limits and in quotas.

use coracle_client::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::field_error::{Errors, Path};
use crate::validation;

const OF_CONTAINERS: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// What a quota counts; `requests.` and `limits.` of what containers ask for go with them.
const OF_QUOTAS: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// Those of them that are numbers of things.
const WHOLE: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn of_quota(name: &str) -> bool {
    OF_QUOTAS.contains(&name) || huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// In the namespace of Kubernetes itself, with its name or without.
fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Something that a device plug-in brings.
pub(crate) fn extended(name: &str) -> bool {
    !native(name)
        && !name.starts_with("requests.")
        && validation::qualified_name(&format!("requests.{name}")).is_ok()
}

/// More may be promised of it than there is.
pub(crate) fn overcommittable(name: &str) -> bool {
    native(name) && !huge_pages(name)
}

/// A name that is known, or qualified.
pub(crate) fn standard(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Err(detail) = validation::qualified_name(name) {
        errors.invalid(path, name, detail);
    } else if !name.contains('/') && !of_quota(name) && name != "storage" {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
}

pub(crate) fn of_container(name: &str, path: &Path<'_>, errors: &mut Errors) {
    standard(name, path, errors);
    if !name.contains('/') {
        if !OF_CONTAINERS.contains(&name) && !huge_pages(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !native(name) && !extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A name a quota may limit, with an amount that it may have.
pub(crate) fn of_quota_amount(name: &str, wire: &Wire, path: &Path<'_>, errors: &mut Errors) {
    standard(name, path, errors);
    if !name.contains('/') && !of_quota(name) {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
    amount(name, wire, path, errors);
}

/// Not negative, and whole where things are counted.
pub(crate) fn amount(name: &str, wire: &Wire, path: &Path<'_>, errors: &mut Errors) {
    let Some(quantity) = validation::quantity(wire, path, errors) else { return };
    if (WHOLE.contains(&name) || extended(name)) && fractional(quantity) {
        errors.invalid(path, &wire.0, "must be an integer");
    }
}

/// Not a number of whole units.
pub(crate) fn fractional(quantity: Quantity) -> bool {
    quantity.milli_value() % 1000 != 0
}

/// Whether a scope of a quota can be put on a resource. Names of other origin can have any.
pub(crate) fn in_scope(scope: &str, name: &str) -> bool {
    const COMPUTE: &[&str] =
        &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    if !of_quota(name) {
        return true;
    }
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => name == "pods" || COMPUTE.contains(&name),
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_where_they_stand() {
        let found = |check: fn(&str, &Path<'_>, &mut Errors), name: &str| {
            let mut errors = Errors::default();
            check(name, &Path::new("x"), &mut errors);
            errors.into_causes().into_iter().map(|c| c.message).collect::<Vec<_>>().join("; ")
        };
        for name in ["cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "a.io/gpu"] {
            assert_eq!(found(of_container, name), "");
        }
        for (name, part) in [
            ("pods", "must be a standard resource for containers"),
            ("gpu", "must be a standard resource type or fully qualified"),
            ("requests.a.io/gpu", "doesn't follow extended resource name standard"),
            ("a b", "name part must consist of"),
        ] {
            assert!(found(of_container, name).contains(part), "{name}: {}", found(of_container, name));
        }
        let quota = |name: &str, amount: &str| {
            let mut errors = Errors::default();
            of_quota_amount(name, &Wire(amount.into()), &Path::new("x"), &mut errors);
            errors.into_causes().into_iter().map(|c| c.message).collect::<Vec<_>>()
        };
        for (name, amount) in [
            ("pods", "1"),
            ("requests.a.io/gpu", "1"),
            ("count/widgets.a.io", "3"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "1Gi"),
            ("requests.hugepages-2Mi", "2Mi"),
        ] {
            assert!(quota(name, amount).is_empty(), "{name}");
        }
        assert_eq!(
            quota("storage", "1"),
            ["Invalid value: \"storage\": must be a standard resource for quota"]
        );
        assert_eq!(quota("pods", "500m"), ["Invalid value: \"500m\": must be an integer"]);
    }
}
