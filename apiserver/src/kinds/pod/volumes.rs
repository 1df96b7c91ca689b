//! Volumes of a pod: their defaults, and what they must say.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, NFSVolumeSource, ObjectFieldSelector,
    ProjectedVolumeSource, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde_json::Value;

use super::defaults::{number, text};
use super::env;
use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

/// Readable by everyone, writable by the owner.
const MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
/// In the order in which upstream looks at them: what comes second is one too many.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn set_defaults(volume: &mut Volume) {
    if sources(volume).is_empty() {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(MODE);
        files(downward.items.as_deref_mut());
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
            if let Some(downward) = &mut source.downward_api {
                files(downward.items.as_deref_mut());
            }
        }
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(image) = &mut volume.image {
        super::defaults::image_pull_policy(&mut image.pull_policy, image.reference.as_deref());
    }
    if let Some(claim) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        text(&mut claim.spec.volume_mode, "Filesystem");
    }
    if let Some(iscsi) = &mut volume.iscsi {
        text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(disk) = &mut volume.azure_disk {
        text(&mut disk.caching_mode, "ReadWrite");
        text(&mut disk.kind, "Shared");
        text(&mut disk.fs_type, "ext4");
        disk.read_only.get_or_insert(false);
    }
    if let Some(rbd) = &mut volume.rbd {
        text(&mut rbd.pool, "rbd");
        text(&mut rbd.user, "admin");
        text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(scale) = &mut volume.scale_io {
        text(&mut scale.storage_mode, "ThinProvisioned");
        text(&mut scale.fs_type, "xfs");
    }
}

fn files(files: Option<&mut [DownwardAPIVolumeFile]>) {
    for file in files.into_iter().flatten() {
        if let Some(field) = &mut file.field_ref {
            text(&mut field.api_version, "v1");
        }
        if let Some(resource) = &mut file.resource_field_ref {
            resource.divisor.get_or_insert_with(|| Wire("0".into()));
        }
    }
}

/// The names of the sources a volume sets; exactly one is right.
pub(super) fn sources(volume: &Volume) -> Vec<String> {
    // By way of JSON: thirty optional fields, of which a list here would miss the next one.
    let Ok(Value::Object(fields)) = serde_json::to_value(volume) else { return Vec::new() };
    let mut sources: Vec<String> = fields.into_iter().map(|(k, _)| k).filter(|k| k != "name").collect();
    sources.sort_by_key(|source| SOURCES.iter().position(|known| known == source).unwrap_or(SOURCES.len()));
    sources
}

/// Checks the volumes; returns their names, which mounts refer to.
pub(super) fn validate<'a>(
    volumes: &'a [Volume],
    path: &Path<'_>,
    errors: &mut Errors,
) -> BTreeMap<&'a str, &'a Volume> {
    let mut names = BTreeMap::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        if volume.name.is_empty() {
            errors.required(at.child("name"), "");
        } else if let Err(detail) = validation::dns_label(&volume.name) {
            errors.invalid(at.child("name"), &volume.name, detail);
        } else if names.insert(volume.name.as_str(), volume).is_some() {
            errors.duplicate(at.child("name"), &volume.name);
        }
        match sources(volume).as_slice() {
            [] => errors.required(at, "must specify a volume type"),
            [_] => {}
            [_, further @ ..] => {
                for source in further {
                    errors.forbidden(at.child(source), "may not specify more than 1 volume type");
                }
            }
        }
        source(volume, &at, errors);
    }
    names
}

fn source(volume: &Volume, path: &Path<'_>, errors: &mut Errors) {
    if let Some(empty) = &volume.empty_dir {
        let path = path.child("emptyDir");
        if let Some(limit) = &empty.size_limit {
            validation::quantity(limit, &path.child("sizeLimit"), errors);
        }
    }
    if let Some(host) = &volume.host_path {
        host_path(host, &path.child("hostPath"), errors);
    }
    if let Some(secret) = &volume.secret {
        let path = path.child("secret");
        if given(&secret.secret_name).is_none() {
            errors.required(path.child("secretName"), "");
        }
        mode(secret.default_mode, &path.child("defaultMode"), errors);
        items(secret.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(map) = &volume.config_map {
        let path = path.child("configMap");
        if map.name.is_empty() {
            errors.required(path.child("name"), "");
        }
        mode(map.default_mode, &path.child("defaultMode"), errors);
        items(map.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(downward) = &volume.downward_api {
        let path = path.child("downwardAPI");
        mode(downward.default_mode, &path.child("defaultMode"), errors);
        for (i, file) in downward.items.iter().flatten().enumerate() {
            downward_file(file, &path.child("items").index(i), errors);
        }
    }
    if let Some(projected) = &volume.projected {
        validate_projected(projected, &path.child("projected"), errors);
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        errors.required(path.child("persistentVolumeClaim").child("claimName"), "");
    }
    if let Some(nfs) = &volume.nfs {
        self::nfs(nfs, &path.child("nfs"), errors);
    }
    if let Some(csi) = &volume.csi {
        csi_driver(&csi.driver, &path.child("csi").child("driver"), errors);
    }
    if let Some(image) = &volume.image {
        let path = path.child("image");
        if given(&image.reference).is_none() {
            errors.required(path.child("reference"), "");
        }
        if let Some(policy) = &image.pull_policy
            && !super::container::PULL_POLICIES.contains(&policy.as_str())
        {
            errors.not_supported(path.child("pullPolicy"), policy, super::container::PULL_POLICIES);
        }
    }
    if let Some(ephemeral) = &volume.ephemeral
        && ephemeral.volume_claim_template.is_none()
    {
        errors.required(path.child("ephemeral").child("volumeClaimTemplate"), "");
    }
}

pub(crate) fn host_path(host: &HostPathVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    if host.path.is_empty() {
        return errors.required(path.child("path"), "");
    }
    errors.check(path.child("path"), &host.path, validation::no_backsteps);
    if let Some(type_) = &host.type_
        && !HOST_PATH_TYPES.contains(&type_.as_str())
    {
        errors.not_supported(path.child("type"), type_, HOST_PATH_TYPES);
    }
}

pub(crate) fn nfs(nfs: &NFSVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    if nfs.server.is_empty() {
        errors.required(path.child("server"), "");
    }
    if nfs.path.is_empty() {
        errors.required(path.child("path"), "");
    }
    if !nfs.path.starts_with('/') {
        errors.invalid(path.child("path"), &nfs.path, "must be an absolute path");
    }
}

pub(crate) fn csi_driver(driver: &str, path: &Path<'_>, errors: &mut Errors) {
    if driver.is_empty() {
        return errors.required(path, "");
    }
    if driver.len() > 63 {
        errors.too_long(path, 63);
    }
    if let Err(detail) = validation::dns_subdomain(&driver.to_lowercase()) {
        errors.invalid(path, driver, detail);
    }
}

fn mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(items: Option<&[KeyToPath]>, path: &Path<'_>, errors: &mut Errors) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let at = path.index(i);
        if item.key.is_empty() {
            errors.required(at.child("key"), "");
        }
        local_path(&item.path, &at.child("path"), errors);
        mode(item.mode, &at.child("mode"), errors);
    }
}

/// A path below the volume that does not start with two dots, which the kubelet keeps to itself.
fn local_path(path: &str, field: &Path<'_>, errors: &mut Errors) {
    if path.is_empty() {
        return errors.required(field, "");
    }
    errors.check(field, path, validation::local_descending_path);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        errors.invalid(field, path, "must not start with '..'");
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path<'_>, errors: &mut Errors) {
    local_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
        (Some(_), Some(_)) => {
            errors.invalid(
                path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
        (Some(field), None) => field_of_file(field, &path.child("fieldRef"), errors),
        (None, Some(resource)) => {
            env::resource_field(resource, true, &path.child("resourceFieldRef"), errors)
        }
    }
    mode(file.mode, &path.child("mode"), errors);
}

fn field_of_file(field: &ObjectFieldSelector, path: &Path<'_>, errors: &mut Errors) {
    const PATHS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    env::object_field(field, PATHS, path, errors);
}

fn validate_projected(projected: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    mode(projected.default_mode, &path.child("defaultMode"), errors);
    let sources = path.child("sources");
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        projection(source, &sources.index(i), errors);
    }
}

fn projection(source: &VolumeProjection, path: &Path<'_>, errors: &mut Errors) {
    let set = match serde_json::to_value(source) {
        Ok(Value::Object(fields)) => fields.len(),
        _ => 0,
    };
    if set > 1 {
        errors.forbidden(path, "may not specify more than 1 volume type");
    }
    if let Some(secret) = &source.secret {
        let path = path.child("secret");
        if secret.name.is_empty() {
            errors.required(path.child("name"), "");
        }
        items(secret.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(map) = &source.config_map {
        let path = path.child("configMap");
        if map.name.is_empty() {
            errors.required(path.child("name"), "");
        }
        items(map.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(downward) = &source.downward_api {
        let path = path.child("downwardAPI");
        for (i, file) in downward.items.iter().flatten().enumerate() {
            downward_file(file, &path.child("items").index(i), errors);
        }
    }
    if let Some(token) = &source.service_account_token {
        let path = path.child("serviceAccountToken");
        let mut seconds = token.expiration_seconds;
        number(&mut seconds, TOKEN_SECONDS);
        let seconds = seconds.unwrap_or_default();
        if seconds < TOKEN_SECONDS_MIN {
            errors.invalid(
                path.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 10 minutes",
            );
        } else if seconds > TOKEN_SECONDS_MAX {
            errors.invalid(
                path.child("expirationSeconds"),
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            );
        }
        local_path(&token.path, &path.child("path"), errors);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn pod(volume: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}})
    }

    #[test]
    fn defaults_by_source() {
        for (volume, want) in [
            (json!({"name": "v"}), json!({"name": "v", "emptyDir": {}})),
            (
                json!({"name": "v", "secret": {"secretName": "s"}}),
                json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}),
            ),
            (
                json!({"name": "v", "configMap": {"name": "m", "defaultMode": 256}}),
                json!({"name": "v", "configMap": {"name": "m", "defaultMode": 256}}),
            ),
            (
                json!({"name": "v", "hostPath": {"path": "/x"}}),
                json!({"name": "v", "hostPath": {"path": "/x", "type": ""}}),
            ),
            (
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
                json!({"name": "v", "projected": {"defaultMode": 420, "sources":
                    [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}),
            ),
            (
                json!({"name": "v", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
                json!({"name": "v", "downwardAPI": {"defaultMode": 420, "items":
                    [{"path": "l", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}]}}),
            ),
        ] {
            let pod: Pod = defaulted(pod(volume));
            assert_eq!(serde_json::to_value(&pod.spec.unwrap().volumes.unwrap()[0]).unwrap(), want);
        }
    }

    #[test]
    fn one_bad_volume_per_rule() {
        let cases = [
            (json!({}), "spec.volumes[0].name", "Required value"),
            (
                json!({"name": "A"}),
                "spec.volumes[0].name",
                "Invalid value: \"A\": a lowercase RFC 1123 label",
            ),
            (
                json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}),
                "spec.volumes[0].hostPath",
                "Forbidden: may not specify more than 1 volume type",
            ),
            (json!({"name": "v", "hostPath": {}}), "spec.volumes[0].hostPath.path", "Required value"),
            (
                json!({"name": "v", "hostPath": {"path": "/a/../b"}}),
                "spec.volumes[0].hostPath.path",
                "Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                json!({"name": "v", "hostPath": {"path": "/", "type": "X"}}),
                "spec.volumes[0].hostPath.type",
                "Unsupported value: \"X\"",
            ),
            (json!({"name": "v", "secret": {}}), "spec.volumes[0].secret.secretName", "Required value"),
            (json!({"name": "v", "configMap": {}}), "spec.volumes[0].configMap.name", "Required value"),
            (
                json!({"name": "v", "configMap": {"name": "m", "defaultMode": 512}}),
                "spec.volumes[0].configMap.defaultMode",
                "Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ),
            (
                json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "/p"}]}}),
                "spec.volumes[0].configMap.items[0].path",
                "Invalid value: \"/p\": must be a relative path",
            ),
            (
                json!({"name": "v", "emptyDir": {"sizeLimit": "-1"}}),
                "spec.volumes[0].emptyDir.sizeLimit",
                "Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds",
                "Invalid value: 5: may not specify a duration less than 10 minutes",
            ),
            (
                json!({"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
                "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath",
                "Unsupported value: \"status.podIP\"",
            ),
        ];
        let cases: Vec<_> =
            cases.into_iter().map(|(volume, field, message)| (pod(volume), field, message)).collect();
        testing::invalid::<Pod>(&cases);
        testing::invalid::<Pod>(&[(
            json!({"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v"}, {"name": "v"}]}}),
            "spec.volumes[1].name",
            "Duplicate value: \"v\"",
        )]);
    }
}
