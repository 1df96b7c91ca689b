//! Where the storage of a volume comes from: exactly one source, complete.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, ISCSIPersistentVolumeSource, PersistentVolumeSpec, SecretReference,
};
use serde_json::Value;

use super::super::pod;
use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

/// The sources in upstream's order, and the fields that must not be empty. Those with code of their own have none.
const SOURCES: &[(&str, &[&str])] = &[
    ("hostPath", &[]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &[]),
    ("rbd", &["monitors", "image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &["monitors"]),
    ("iscsi", &[]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &["volumeName"]),
    ("csi", &[]),
];

/// Those whose file systems are mounted with options from an annotation.
const MOUNT_OPTIONS: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

const GONE: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// The sources that a spec names, in their order.
pub(super) fn of(spec: &PersistentVolumeSpec) -> Vec<(&'static str, Value)> {
    // By way of JSON: two dozen optional fields, of which a list of fields here would miss the next one.
    let mut members = match serde_json::to_value(spec) {
        Ok(Value::Object(members)) => members,
        _ => return Vec::new(),
    };
    SOURCES.iter().filter_map(|(name, _)| Some((*name, members.remove(*name)?))).collect()
}

pub(super) fn takes_mount_options(spec: &PersistentVolumeSpec) -> bool {
    of(spec).iter().any(|(name, _)| MOUNT_OPTIONS.contains(name))
}

pub(super) fn warnings(spec: &PersistentVolumeSpec) -> Vec<String> {
    let present = of(spec);
    let gone = GONE.iter().filter(|(name, _, _)| present.iter().any(|(p, _)| p == name));
    gone.map(|(_, field, message)| format!("spec.{field}: {message}")).collect()
}

pub(super) fn set_defaults(spec: &mut PersistentVolumeSpec) {
    if let Some(iscsi) = &mut spec.iscsi {
        pod::defaults::text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut spec.rbd {
        pod::defaults::text(&mut rbd.pool, "rbd");
        pod::defaults::text(&mut rbd.user, "admin");
        pod::defaults::text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut spec.azure_disk {
        disk.caching_mode.get_or_insert_with(|| "ReadWrite".into());
        disk.kind.get_or_insert_with(|| "Shared".into());
        disk.fs_type.get_or_insert_with(|| "ext4".into());
        disk.read_only.get_or_insert(false);
    }
    if let Some(scale) = &mut spec.scale_io {
        pod::defaults::text(&mut scale.storage_mode, "ThinProvisioned");
        pod::defaults::text(&mut scale.fs_type, "xfs");
    }
    if let Some(host) = &mut spec.host_path {
        host.type_.get_or_insert_default();
    }
}

pub(super) fn validate(spec: &PersistentVolumeSpec, name: &str, path: &Path<'_>, errors: &mut Errors) {
    let sources = of(spec);
    for (i, (source, value)) in sources.iter().enumerate() {
        if i > 0 {
            errors.forbidden(path.child(source), "may not specify more than 1 volume type");
            continue;
        }
        // What upstream calls this one in its messages.
        let at = path.child(if *source == "gcePersistentDisk" { "persistentDisk" } else { source });
        let required = SOURCES.iter().find(|(s, _)| s == source).map(|(_, fields)| *fields);
        for field in required.unwrap_or_default() {
            let empty = match value.get(field) {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Array(items)) => items.is_empty(),
                Some(_) => false,
            };
            if empty {
                errors.required(at.child(field), "");
            }
        }
        details(spec, source, value, name, &at, errors);
    }
    if sources.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    if sources.first().is_some_and(|(source, _)| *source == "local") && spec.node_affinity.is_none() {
        errors.required(path.child("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn details(
    spec: &PersistentVolumeSpec,
    source: &str,
    value: &Value,
    name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    match source {
        "hostPath" => {
            if let Some(host) = &spec.host_path {
                pod::volumes::host_path(host, path, errors);
            }
        }
        "local" => {
            if let Some(local) = &spec.local {
                errors.check(path.child("path"), &local.path, validation::no_backsteps);
            }
        }
        "nfs" => {
            if let Some(nfs) = &spec.nfs {
                pod::volumes::nfs(nfs, path, errors);
            }
        }
        "csi" => {
            if let Some(csi) = &spec.csi {
                self::csi(csi, path, errors);
            }
        }
        "iscsi" => {
            if let Some(iscsi) = &spec.iscsi {
                self::iscsi(iscsi, name, path, errors);
            }
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            if let Some(partition) = value.get("partition").and_then(Value::as_i64)
                && !(0..=255).contains(&partition)
            {
                errors.invalid(path.child("partition"), partition, "must be between 1 and 255, inclusive");
            }
        }
        "flexVolume" => {
            let options = spec.flex_volume.as_ref().and_then(|f| f.options.as_ref());
            reserved_options(options, &path.child("options"), errors);
        }
        "fc" => {
            if let Some(fc) = &spec.fc {
                let (names, wwids) = (fc.target_wwns.as_deref(), fc.wwids.as_deref());
                let (names, wwids) = (names.unwrap_or_default(), wwids.unwrap_or_default());
                let at = path.child("targetWWNs");
                match (names.is_empty(), wwids.is_empty()) {
                    (true, true) => {
                        errors.required(at, "must specify either targetWWNs or wwids, but not both");
                    }
                    (false, false) => {
                        let detail = "targetWWNs and wwids can not be specified simultaneously";
                        errors.invalid(at, names, detail);
                    }
                    _ => {}
                }
                match fc.lun {
                    None if !names.is_empty() => {
                        errors.required(path.child("lun"), "lun is required if targetWWNs is specified");
                    }
                    Some(lun) if !names.is_empty() => self::lun(lun, &path.child("lun"), errors),
                    _ => {}
                }
            }
        }
        "flocker" => {
            if let Some(flocker) = &spec.flocker {
                let name = given(&flocker.dataset_name);
                match (name, given(&flocker.dataset_uuid)) {
                    (None, None) => errors.required(path, "one of datasetName and datasetUUID is required"),
                    (Some(_), Some(_)) => errors.invalid(
                        path,
                        "resource",
                        "datasetName and datasetUUID can not be specified simultaneously",
                    ),
                    _ => {}
                }
                if let Some(name) = name.filter(|name| name.contains('/')) {
                    errors.invalid(path.child("datasetName"), name, "must not contain '/'");
                }
            }
        }
        "cinder" | "storageos" => {
            if let Some(secret) = value.get("secretRef") {
                for field in ["name", "namespace"] {
                    if secret.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                        errors.required(path.child("secretRef").child(field), "");
                    }
                }
            }
        }
        _ => {}
    }
}

fn lun(lun: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(0..=255).contains(&lun) {
        errors.invalid(path, lun, "must be between 0 and 255, inclusive");
    }
}

fn reserved_options(options: Option<&BTreeMap<String, String>>, path: &Path<'_>, errors: &mut Errors) {
    for key in options.into_iter().flat_map(BTreeMap::keys) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace).to_lowercase();
        let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
        if within("kubernetes.io") || within("k8s.io") {
            errors.invalid(path.key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn csi(csi: &CSIPersistentVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    pod::volumes::csi_driver(&csi.driver, &path.child("driver"), errors);
    if csi.volume_handle.is_empty() {
        errors.required(path.child("volumeHandle"), "");
    }
    for (field, secret) in [
        ("controllerPublishSecretRef", &csi.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &csi.controller_expand_secret_ref),
        ("nodePublishSecretRef", &csi.node_publish_secret_ref),
        ("nodeExpandSecretRef", &csi.node_expand_secret_ref),
    ] {
        if let Some(secret) = secret {
            self::secret(secret, &path.child(field), errors);
        }
    }
}

fn secret(secret: &SecretReference, path: &Path<'_>, errors: &mut Errors) {
    match given(&secret.name) {
        None => errors.required(path.child("name"), ""),
        Some(name) => errors.check(path.child("name"), name, validation::dns_subdomain),
    }
    match given(&secret.namespace) {
        None => errors.required(path.child("namespace"), ""),
        Some(namespace) => errors.check(path.child("namespace"), namespace, validation::dns_label),
    }
}

fn iscsi(iscsi: &ISCSIPersistentVolumeSource, name: &str, path: &Path<'_>, errors: &mut Errors) {
    if iscsi.target_portal.is_empty() {
        errors.required(path.child("targetPortal"), "");
    }
    if iscsi.initiator_name.is_some() && name.len() + 1 + iscsi.target_portal.len() > 64 {
        errors.invalid(
            path.child("targetportal"),
            &iscsi.target_portal,
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.",
        );
    }
    match iscsi.iqn.as_str() {
        "" => errors.required(path.child("iqn"), ""),
        name if !is_initiator(name) => errors.invalid(path.child("iqn"), name, "must be valid format"),
        _ => {}
    }
    lun(iscsi.lun, &path.child("lun"), errors);
    let authenticated = iscsi.chap_auth_discovery == Some(true) || iscsi.chap_auth_session == Some(true);
    match &iscsi.secret_ref {
        None if authenticated => errors.required(path.child("secretRef"), ""),
        Some(secret) if given(&secret.name).is_none() => {
            errors.required(path.child("secretRef").child("name"), "");
        }
        _ => {}
    }
    if let Some(name) = iscsi.initiator_name.as_deref().filter(|name| !is_initiator(name)) {
        errors.invalid(path.child("initiatorname"), name, "must be valid format");
    }
}

/// `iqn.2001-04.com.example:storage`, `eui.` and sixteen digits, or `naa.` and sixteen or thirty-two.
fn is_initiator(name: &str) -> bool {
    let hex = |text: &str, digits: &[usize]| {
        digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    if let Some(rest) = name.strip_prefix("iqn.") {
        let mut parts = rest.splitn(2, '.');
        let (date, authority) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let dated = date.split_once('-').is_some_and(|(year, month)| {
            year.len() == 4
                && month.len() == 2
                && [year, month].iter().all(|p| p.bytes().all(|b| b.is_ascii_digit()))
        });
        return dated && !authority.is_empty() && !authority.contains(char::is_whitespace);
    }
    name.strip_prefix("eui.").is_some_and(|rest| hex(rest, &[16]))
        || name.strip_prefix("naa.").is_some_and(|rest| hex(rest, &[16, 32]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_bad_source_per_rule() {
        for (spec, field, message) in [
            (json!({"hostPath": {"path": ""}}), "spec.hostPath.path", "Required value"),
            (
                json!({"hostPath": {"path": "/a/../b"}}),
                "spec.hostPath.path",
                "Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                json!({"local": {"path": ".."}, "nodeAffinity": {}}),
                "spec.local.path",
                "Invalid value: \"..\": must not contain '..'",
            ),
            (json!({"nfs": {"server": "", "path": "/a"}}), "spec.nfs.server", "Required value"),
            (
                json!({"nfs": {"server": "a", "path": "b"}}),
                "spec.nfs.path",
                "Invalid value: \"b\": must be an absolute path",
            ),
            (json!({"gcePersistentDisk": {"pdName": ""}}), "spec.persistentDisk.pdName", "Required value"),
            (
                json!({"awsElasticBlockStore": {"volumeID": "v", "partition": 300}}),
                "spec.awsElasticBlockStore.partition",
                "Invalid value: 300: must be between 1 and 255, inclusive",
            ),
            (json!({"csi": {"driver": "", "volumeHandle": "h"}}), "spec.csi.driver", "Required value"),
            (json!({"csi": {"driver": "d", "volumeHandle": ""}}), "spec.csi.volumeHandle", "Required value"),
            (
                json!({"csi": {"driver": "d", "volumeHandle": "h", "nodePublishSecretRef": {"name": "a"}}}),
                "spec.csi.nodePublishSecretRef.namespace",
                "Required value",
            ),
            (
                json!({"fc": {"lun": 1}}),
                "spec.fc.targetWWNs",
                "Required value: must specify either targetWWNs or wwids",
            ),
            (json!({"fc": {"targetWWNs": ["a"]}}), "spec.fc.lun", "Required value: lun is required"),
            (
                json!({"flocker": {}}),
                "spec.flocker",
                "Required value: one of datasetName and datasetUUID is required",
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "x", "lun": 0}}),
                "spec.iscsi.iqn",
                "Invalid value: \"x\": must be valid format",
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2001-04.com.example:s", "lun": 256}}),
                "spec.iscsi.lun",
                "Invalid value: 256: must be between 0 and 255, inclusive",
            ),
            (
                json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "1"}}}),
                "spec.flexVolume.options[a.k8s.io/x]",
                "Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
            ),
            (
                json!({"cinder": {"volumeID": "v", "secretRef": {"name": "a"}}}),
                "spec.cinder.secretRef.namespace",
                "Required value",
            ),
        ] {
            let parsed: PersistentVolumeSpec = serde_json::from_value(spec.clone()).unwrap();
            let mut errors = Errors::default();
            validate(&parsed, "v", &Path::new("spec"), &mut errors);
            let causes = errors.into_causes();
            assert!(
                matches!(causes.as_slice(), [c] if c.field == field && c.message.starts_with(message)),
                "{spec}: {causes:#?}"
            );
        }
    }
}
