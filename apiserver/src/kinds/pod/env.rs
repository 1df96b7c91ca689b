//! Environment variables, and the fields of pods that they and files may show.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn validate(env: &[EnvVar], path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in env.iter().enumerate() {
        let at = path.index(i);
        if variable.name.is_empty() {
            errors.required(at.child("name"), "");
        } else {
            errors.check(at.child("name"), &variable.name, validation::env_name);
        }
        if let Some(source) = &variable.value_from {
            value_from(source, given(&variable.value).is_some(), &at.child("valueFrom"), errors);
        }
    }
}

fn value_from(source: &EnvVarSource, has_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        object_field(field, FIELD_PATHS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        resource_field(resource, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(map) = &source.config_map_key_ref {
        count += 1;
        key_ref(&map.name, &map.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(secret) = &source.secret_key_ref {
        count += 1;
        key_ref(&secret.name, &secret.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(file) = &source.file_key_ref {
        count += 1;
        let path = path.child("fileKeyRef");
        for (field, value) in [("volumeName", &file.volume_name), ("path", &file.path), ("key", &file.key)] {
            if value.is_empty() {
                errors.required(path.child(field), "");
            }
        }
    }
    if count == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        );
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_ref(name: &str, key: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path.child("name"), "");
    }
    if key.is_empty() {
        errors.required(path.child("key"), "");
    } else {
        errors.check(path.child("key"), key, validation::config_map_key);
    }
}

/// `paths` beside `metadata.labels['…']` and `metadata.annotations['…']`.
pub(super) fn object_field(
    field: &ObjectFieldSelector,
    paths: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    match field.api_version.as_deref().unwrap_or_default() {
        "" => return errors.required(path.child("apiVersion"), ""),
        "v1" => {}
        other => {
            return errors.invalid(path.child("apiVersion"), other, format!("pod.{other} is not supported"));
        }
    }
    if field.field_path.is_empty() {
        return errors.required(path.child("fieldPath"), "");
    }
    let at = path.child("fieldPath");
    if let Some((map, key)) = subscript(&field.field_path) {
        match map {
            "metadata.annotations" => {
                errors.check(at, key, |key| validation::qualified_name(&key.to_lowercase()));
            }
            "metadata.labels" => errors.check(at, key, validation::qualified_name),
            _ => errors.invalid(at, &field.field_path, "does not support subscript"),
        }
    } else if !paths.contains(&field.field_path.as_str()) {
        errors.not_supported(at, &field.field_path, paths);
    }
}

/// `metadata.labels['key']` -> (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

pub(super) fn resource_field(
    resource: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if in_volume && given(&resource.container_name).is_none() {
        errors.required(path.child("containerName"), "");
    } else if resource.resource.is_empty() {
        errors.required(path.child("resource"), "");
    } else if !RESOURCES.contains(&resource.resource.as_str())
        && !resource.resource.starts_with("limits.hugepages-")
        && !resource.resource.starts_with("requests.hugepages-")
    {
        errors.not_supported(path.child("resource"), &resource.resource, RESOURCES);
    }
    if let Some(divisor) = &resource.divisor
        && validation::quantity(divisor, &path.child("divisor"), errors).is_some()
    {
        let cpu = resource.resource.ends_with(".cpu");
        let allowed: &[&str] = if cpu {
            &["0", "1", "1m"]
        } else {
            &["0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
        };
        if !allowed.contains(&divisor.0.as_str()) {
            let detail = if cpu {
                "only divisor's values 1m and 1 are supported with the cpu resource"
            } else {
                "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
            };
            errors.invalid(path.child("divisor"), &divisor.0, detail);
        }
    }
}

pub(super) fn validate_from(sources: &[EnvFromSource], path: &Path<'_>, errors: &mut Errors) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        if let Some(prefix) = given(&source.prefix) {
            errors.check(at.child("prefix"), prefix, validation::env_name);
        }
        let map = source.config_map_ref.as_ref().map(|m| ("configMapRef", &m.name));
        let secret = source.secret_ref.as_ref().map(|s| ("secretRef", &s.name));
        for (field, name) in [map, secret].into_iter().flatten() {
            if name.is_empty() {
                errors.required(at.child(field).child("name"), "");
            }
        }
        match (map, secret) {
            (None, None) => errors.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => {
                errors.invalid(at, "", "may not have more than one field specified at a time")
            }
            _ => {}
        }
    }
}
