//! PersistentVolume: a piece of storage of the cluster, for a claim to take.

mod source;

use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};
use crate::verbs::metadata;

/// In the order in which upstream lists them.
const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
const MODES: &[&str] = &["Block", "Filesystem"];
/// The class of volumes and claims before there was a field for it.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

impl BuiltIn for PersistentVolume {
    const SINGULAR: &'static str = "persistentvolume";
    const SHORT_NAMES: &'static [&'static str] = &["pv"];
    const HAS_STATUS: bool = true;
    const RETURNS_DELETED: bool = true;

    fn set_defaults(&mut self) {
        pod::defaults::text(&mut self.status.get_or_insert_default().phase, "Pending");
        let spec = self.spec.get_or_insert_default();
        pod::defaults::text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
        source::set_defaults(spec);
    }

    fn prepare_create(&mut self) {
        self.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".into()),
            last_phase_transition_time: Some(metadata::now()),
            ..PersistentVolumeStatus::default()
        });
    }

    fn prepare_status_update(&mut self, old: &Self) {
        let status = self.status.get_or_insert_default();
        let before = old.status.clone().unwrap_or_default();
        let (now, then) = (&mut status.last_phase_transition_time, before.last_phase_transition_time);
        if status.phase != before.phase && (now.is_none() || *now == then) {
            *now = Some(metadata::now());
        } else if now.is_none() {
            *now = then;
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        access_modes(spec.access_modes.as_deref(), "", &path.child("accessModes"), errors);
        capacity(&spec, &path.child("capacity"), errors);
        if let Some(policy) = given(&spec.persistent_volume_reclaim_policy)
            && !RECLAIM_POLICIES.contains(&policy)
        {
            errors.not_supported(path.child("persistentVolumeReclaimPolicy"), policy, RECLAIM_POLICIES);
        }
        if let Some(affinity) = &spec.node_affinity {
            let at = path.child("nodeAffinity").to_string();
            match &affinity.required {
                Some(required) => pod::placement::node_selector(
                    required,
                    &path.child("nodeAffinity").child("required"),
                    errors,
                ),
                None => errors.required(format!("{at}.required"), "must specify required node constraints"),
            }
        }
        let name = self.metadata.name.as_deref().unwrap_or_default();
        source::validate(&spec, name, &path, errors);
        let root = |path: &str| path.split('/').all(|part| matches!(part, "" | "."));
        if spec.host_path.as_ref().is_some_and(|h| !h.path.is_empty() && root(&h.path))
            && spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle")
        {
            let detail = "may not be 'recycle' for a hostPath mount of '/'";
            errors.forbidden(path.child("persistentVolumeReclaimPolicy"), detail);
        }
        if let Some(class) = given(&spec.storage_class_name) {
            errors.check(path.child("storageClassName"), class, validation::dns_subdomain);
        }
        mode(spec.volume_mode.as_deref(), &path, errors);
        if let Some(class) = &spec.volume_attributes_class_name {
            let at = path.child("volumeAttributesClassName");
            if class.is_empty() {
                errors.required(at, "an empty string is disallowed");
            } else {
                errors.check(at, class, validation::dns_subdomain);
            }
            if spec.csi.is_none() {
                let detail = "has to be specified when using volumeAttributesClassName";
                errors.required(path.child("csi"), detail);
            }
        }
        let annotated = |key: &str| self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(key));
        if annotated(MOUNT_OPTIONS_ANNOTATION) && !source::takes_mount_options(&spec) {
            let field = format!("metadata.annotations.{MOUNT_OPTIONS_ANNOTATION}");
            errors.forbidden(field, "may not specify mount options for this volume type");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (mut new, old) = (self.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        // A secret to expand with may be named later.
        if let (Some(new), Some(old)) = (&mut new.csi, &old.csi)
            && old.controller_expand_secret_ref.is_none()
        {
            new.controller_expand_secret_ref = None;
        }
        if source::of(&new) != source::of(&old) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.forbidden("spec.persistentvolumesource", detail);
        }
        errors.immutable("volumeMode", &new.volume_mode, &old.volume_mode);
        // Where a volume can be reached from does not change.
        if old.node_affinity.is_some() && new.node_affinity != old.node_affinity {
            errors.immutable("nodeAffinity", &new.node_affinity, &old.node_affinity);
        }
        if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
            errors
                .forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden");
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let mut warnings = Vec::new();
        let annotated = |key: &str| self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(key));
        for (key, message) in [
            (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
            (MOUNT_OPTIONS_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
        ] {
            if annotated(key) {
                warnings.push(format!("metadata.annotations[{key}]: {message}"));
            }
        }
        let Some(spec) = &self.spec else { return warnings };
        if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
            warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
        }
        warnings.extend(source::warnings(spec));
        warnings
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Capacity", "string", "How much it holds."),
            table::narrow("Access Modes", "string", "How it can be mounted."),
            table::narrow("Reclaim Policy", "string", "What becomes of it when its claim is gone."),
            table::narrow("Status", "string", "Whether it is available, bound, released or failed."),
            table::narrow("Claim", "string", "The claim that has it."),
            table::narrow("StorageClass", "string", "The class it belongs to."),
            table::narrow("VolumeAttributesClass", "string", "The class of its attributes."),
            table::narrow("Reason", "string", "Why it is in this state."),
            table::wide("VolumeMode", "string", "Whether it is a file system or a raw device."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let deleting = self.metadata.deletion_timestamp.is_some();
        let phase = if deleting { "Terminating" } else { status.phase.as_deref().unwrap_or_default() };
        let size = spec.capacity.as_ref().and_then(|c| c.get("storage")).map_or("0", |q| q.0.as_str());
        let claim = spec.claim_ref.as_ref().map(|claim| {
            format!(
                "{}/{}",
                claim.namespace.as_deref().unwrap_or_default(),
                claim.name.as_deref().unwrap_or_default()
            )
        });
        let class = self
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(CLASS_ANNOTATION))
            .or(spec.storage_class_name.as_ref());
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(size),
                json!(access_mode_letters(spec.access_modes.as_deref())),
                json!(spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default()),
                json!(phase),
                json!(claim.unwrap_or_default()),
                json!(class.map(String::as_str).unwrap_or_default()),
                json!(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
                json!(status.reason.as_deref().unwrap_or_default()),
            ],
            vec![json!(spec.volume_mode.as_deref().unwrap_or("<unset>"))],
        )
    }
}

/// The ways of mounting a volume or claim: at least one, and the one that excludes all others alone.
pub(super) fn access_modes(modes: Option<&[String]>, missing: &str, path: &Path<'_>, errors: &mut Errors) {
    let modes = modes.unwrap_or_default();
    if modes.is_empty() {
        errors.required(path, missing);
    }
    let known = |mode: &&String| ACCESS_MODES.contains(&mode.as_str());
    for mode in modes.iter().filter(|mode| !known(mode)) {
        errors.not_supported(path, mode, ACCESS_MODES);
    }
    let (alone, shared): (Vec<_>, Vec<_>) =
        modes.iter().filter(known).partition(|m| *m == "ReadWriteOncePod");
    if !alone.is_empty() && !shared.is_empty() {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

pub(super) fn mode(mode: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|mode| !MODES.contains(mode)) {
        errors.not_supported(path.child("volumeMode"), mode, MODES);
    }
}

/// `RWO,ROX,RWX,RWOP`, those that are there.
pub(super) fn access_mode_letters(modes: Option<&[String]>) -> String {
    let modes = modes.unwrap_or_default();
    let letters = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found = letters.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode));
    found.map(|(_, letters)| *letters).collect::<Vec<_>>().join(",")
}

fn capacity(spec: &PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(path, "");
    }
    if capacity.len() != 1 || !capacity.contains_key("storage") {
        let shown = spec.capacity.as_ref().filter(|c| !c.is_empty());
        errors.not_supported_value(path, shown, &["storage"]);
    }
    for (name, wire) in &capacity {
        let at = path.key(name);
        if let Some(amount) = Quantity::of(wire).ok().filter(|amount| amount.is_negative()) {
            errors.invalid(at, amount.value(), "must be a valid resource quantity");
        }
        positive(wire, &at, errors);
    }
}

/// An amount of storage: more than nothing.
pub(super) fn positive(wire: &Wire, path: &Path<'_>, errors: &mut Errors) {
    match Quantity::of(wire) {
        Err(error) => errors.invalid(path, &wire.0, error),
        Ok(amount) if amount <= Quantity::ZERO => {
            errors.invalid(path, &wire.0, "must be greater than zero");
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, parse};

    use super::*;

    fn volume() -> Value {
        json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"}}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut volume = volume();
        volume["spec"][field] = value;
        volume
    }

    #[test]
    fn one_bad_volume_per_rule() {
        let local = |affinity: Value| {
            let mut volume = with("local", json!({"path": "/x"}));
            volume["spec"]["hostPath"] = json!(null);
            volume["spec"]["nodeAffinity"] = affinity;
            volume
        };
        let terms = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}]}});
        testing::valid::<PersistentVolume>(&[volume(), local(terms)]);
        testing::invalid::<PersistentVolume>(&[
            (with("accessModes", json!([])), "spec.accessModes", "Required value"),
            (
                with("accessModes", json!(["X"])),
                "spec.accessModes",
                "Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ),
            (
                with("accessModes", json!(["ReadWriteOnce", "ReadWriteOncePod"])),
                "spec.accessModes",
                "Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            (
                with("capacity", json!({"cpu": "1"})),
                "spec.capacity",
                "Unsupported value: {\"cpu\":\"1\"}: supported values: \"storage\"",
            ),
            (
                with("capacity", json!({"storage": "0"})),
                "spec.capacity[storage]",
                "Invalid value: \"0\": must be greater than zero",
            ),
            (
                with("persistentVolumeReclaimPolicy", json!("X")),
                "spec.persistentVolumeReclaimPolicy",
                "Unsupported value: \"X\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
            ),
            (
                with("nodeAffinity", json!({})),
                "spec.nodeAffinity.required",
                "Required value: must specify required node constraints",
            ),
            (with("hostPath", json!(null)), "spec", "Required value: must specify a volume type"),
            (
                with("nfs", json!({"server": "a", "path": "/b"})),
                "spec.nfs",
                "Forbidden: may not specify more than 1 volume type",
            ),
            (local(json!(null)), "spec.nodeAffinity", "Required value: Local volume requires node affinity"),
            (
                with("storageClassName", json!("A b")),
                "spec.storageClassName",
                "Invalid value: \"A b\": a lowercase RFC 1123 subdomain",
            ),
            (
                with("volumeMode", json!("X")),
                "spec.volumeMode",
                "Unsupported value: \"X\": supported values: \"Block\", \"Filesystem\"",
            ),
            (
                with("volumeAttributesClassName", json!("a")),
                "spec.csi",
                "Required value: has to be specified when using volumeAttributesClassName",
            ),
        ]);
    }

    #[test]
    fn the_source_stays() {
        testing::updates::<PersistentVolume>(&[
            (volume(), with("capacity", json!({"storage": "2Gi"})), "", ""),
            (
                volume(),
                with("hostPath", json!({"path": "/other"})),
                "spec.persistentvolumesource",
                "Forbidden: spec.persistentvolumesource is immutable after creation",
            ),
            (
                volume(),
                with("volumeMode", json!("Block")),
                "volumeMode",
                "Invalid value: \"Block\": field is immutable",
            ),
        ]);
    }

    #[test]
    fn changes_of_phase_are_timed() {
        let volume = |status: Value| -> PersistentVolume {
            let mut volume = volume();
            volume["status"] = status;
            parse(volume)
        };
        let old = volume(json!({"phase": "Pending", "lastPhaseTransitionTime": "2020-01-01T00:00:00Z"}));
        let mut same = volume(json!({"phase": "Pending"}));
        same.prepare_status_update(&old);
        assert_eq!(same.status, old.status);
        let mut bound = volume(json!({"phase": "Bound"}));
        bound.prepare_status_update(&old);
        assert_ne!(
            bound.status.unwrap().last_phase_transition_time,
            old.status.unwrap().last_phase_transition_time
        );
    }

    #[test]
    fn old_ways_are_warned_of() {
        let mut volume = with("persistentVolumeReclaimPolicy", json!("Recycle"));
        volume["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "a"});
        let warnings = parse::<PersistentVolume>(volume).warnings(None);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0]
                .starts_with("metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated")
        );
    }

    #[test]
    fn columns() {
        let mut volume = with("claimRef", json!({"namespace": "a", "name": "b"}));
        volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        volume["spec"]["storageClassName"] = json!("fast");
        volume["status"] = json!({"phase": "Bound"});
        assert_eq!(
            testing::cells::<PersistentVolume>(volume),
            ["v", "1Gi", "RWO", "Retain", "Bound", "a/b", "fast", "<unset>", "", "<unknown>", "<unset>"]
        );
    }
}
