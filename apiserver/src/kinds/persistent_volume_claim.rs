//! PersistentVolumeClaim: a request for storage. Its rules also serve the claims of stateful sets and of pods.

use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use serde_json::{Value, json};

use super::persistent_volume::{CLASS_ANNOTATION, access_mode_letters, access_modes, mode, positive};
use super::resource_names as names;
use super::{BuiltIn, Column, pod};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};

const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];
const FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

impl BuiltIn for PersistentVolumeClaim {
    const SINGULAR: &'static str = "persistentvolumeclaim";
    const SHORT_NAMES: &'static [&'static str] = &["pvc"];
    const HAS_STATUS: bool = true;
    const RETURNS_DELETED: bool = true;

    fn set_defaults(&mut self) {
        pod::defaults::text(&mut self.status.get_or_insert_default().phase, "Pending");
        spec_defaults(self.spec.get_or_insert_default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(PersistentVolumeClaimStatus {
            phase: Some("Pending".into()),
            ..PersistentVolumeClaimStatus::default()
        });
        if let Some(spec) = &mut self.spec {
            sources(spec, None);
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        if let Some(spec) = &mut self.spec {
            sources(spec, old.spec.as_ref());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec.clone().unwrap_or_default(), &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        update(self, old, errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let status = self.status.clone().unwrap_or_default();
        let capacity = path.child("capacity");
        for (name, wire) in status.capacity.iter().flatten() {
            if let Some(amount) = Quantity::of(wire).ok().filter(|q| q.is_negative()) {
                errors.invalid(capacity.key(name), amount.value(), "must be a valid resource quantity");
            }
        }
        let statuses = path.child("allocatedResourceStatuses");
        for (name, status) in status.allocated_resource_statuses.iter().flatten() {
            resource_key(name, &statuses, errors);
            if !RESIZES.contains(&status.as_str()) {
                let mut known = RESIZES.to_vec();
                known.sort_unstable();
                errors.not_supported(statuses, name, &known);
            }
        }
        let allocated = path.child("allocatedResources");
        for (name, wire) in status.allocated_resources.iter().flatten() {
            if resource_key(name, &allocated, errors) {
                names::amount("storage", wire, &allocated.key(name), errors);
            }
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CLASS_ANNOTATION)) {
            warnings.push(format!(
                "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        warnings.extend(self.spec.iter().flat_map(|spec| spec_warnings(spec, "spec")));
        warnings
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Status", "string", "Whether it has a volume."),
            table::narrow("Volume", "string", "The volume it has."),
            table::narrow("Capacity", "string", "How much that volume holds."),
            table::narrow("Access Modes", "string", "How that volume can be mounted."),
            table::narrow("StorageClass", "string", "The class of storage it asks for."),
            table::narrow("VolumeAttributesClass", "string", "The class of attributes it asks for."),
            table::wide("VolumeMode", "string", "Whether it is a file system or a raw device."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let deleting = self.metadata.deletion_timestamp.is_some();
        let phase = if deleting { "Terminating" } else { status.phase.as_deref().unwrap_or_default() };
        let bound = given(&spec.volume_name).is_some();
        let capacity = status.capacity.as_ref().and_then(|c| c.get("storage")).map_or("0", |q| q.0.as_str());
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(phase),
                json!(spec.volume_name.as_deref().unwrap_or_default()),
                json!(if bound { capacity } else { "" }),
                json!(if bound {
                    access_mode_letters(status.access_modes.as_deref())
                } else {
                    String::new()
                }),
                json!(class(self).unwrap_or_default()),
                json!(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
            ],
            vec![json!(spec.volume_mode.as_deref().unwrap_or("<unset>"))],
        )
    }
}

/// The storage class that a claim asks for, by field or by the annotation that came before it.
pub(crate) fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    annotated.or(claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

fn spec_defaults(spec: &mut PersistentVolumeClaimSpec) {
    spec.resources.get_or_insert_default();
    spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
}

/// A claim within a template: upstream writes it down as it would a real one.
pub(super) fn template_defaults(claim: &mut PersistentVolumeClaim) {
    claim.set_defaults();
}

/// Only claims and snapshots were ever taken in the older of the two fields, others were let fall; and each of the
/// two shows what the other says.
fn sources(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let there =
        |spec: &PersistentVolumeClaimSpec| spec.data_source.is_some() || spec.data_source_ref.is_some();
    // References into other namespaces are not on by default.
    let across = spec.data_source_ref.as_ref().is_some_and(|r| given(&r.namespace).is_some());
    if across && old.is_none_or(|old| old.data_source_ref.is_none()) {
        spec.data_source_ref = None;
    }
    if !old.is_some_and(there) && spec.data_source_ref.is_none() {
        let known = |source: &TypedLocalObjectReference| {
            matches!(
                (source.api_group.as_deref().unwrap_or_default(), source.kind.as_str()),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            )
        };
        spec.data_source = spec.data_source.take().filter(known);
    }
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(reference)) if given(&reference.namespace).is_none() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: reference.api_group.clone(),
                kind: reference.kind.clone(),
                name: reference.name.clone(),
            });
        }
        _ => {}
    }
}

pub(super) fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let modes = path.child("accessModes");
    let missing = "at least 1 access mode is required";
    if spec.access_modes.as_ref().is_none_or(Vec::is_empty) {
        errors.required(modes, missing);
    }
    if let Some(selector) = &spec.selector {
        validation::label_selector(selector, &path.child("selector"), errors);
    }
    if let Some(list) = spec.access_modes.as_deref().filter(|list| !list.is_empty()) {
        access_modes(Some(list), missing, &modes, errors);
    }
    let resources = path.child("resources");
    let storage = resources.key("storage");
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    match requests.and_then(|r| r.get("storage")) {
        None => errors.required(storage, ""),
        Some(wire) => positive(wire, &storage, errors),
    }
    if let Some(class) = given(&spec.storage_class_name) {
        errors.check(path.child("storageClassName"), class, validation::dns_subdomain);
    }
    mode(spec.volume_mode.as_deref(), path, errors);
    data_sources(spec, path, errors);
    if let Some(class) = given(&spec.volume_attributes_class_name) {
        errors.check(path.child("volumeAttributesClassName"), class, validation::dns_subdomain);
    }
}

fn data_sources(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let source = spec.data_source.as_ref().map(|s| (&s.api_group, &s.kind, &s.name));
    let reference = spec.data_source_ref.as_ref().map(|r| (&r.api_group, &r.kind, &r.name));
    for (field, named) in [("dataSource", source), ("dataSourceRef", reference)] {
        let Some((group, kind, name)) = named else { continue };
        let at = path.child(field);
        if name.is_empty() {
            errors.required(at.child("name"), "");
        }
        if kind.is_empty() {
            errors.required(at.child("kind"), "");
        }
        match given(group) {
            None if kind != "PersistentVolumeClaim" => errors.invalid(
                at,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ),
            None => {}
            Some(group) => errors.check(at.child("apiGroup"), group, validation::dns_subdomain),
        }
    }
    let namespace = spec.data_source_ref.as_ref().and_then(|r| given(&r.namespace));
    if let Some(namespace) = namespace {
        errors.check(path.child("dataSourceRef").child("namespace"), namespace, validation::dns_label);
    }
    match (source, reference, namespace) {
        (Some(_), Some(_), Some(_)) => {
            errors.invalid(path, json!({}), "may not be specified when dataSourceRef.namespace is specified");
        }
        (Some(source), Some(reference), None) if source != reference => {
            errors.invalid(path, json!({}), "must match dataSourceRef");
        }
        _ => {}
    }
}

fn update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, errors: &mut Errors) {
    let spec = |claim: &PersistentVolumeClaim| claim.spec.clone().unwrap_or_default();
    let (mut compared, before) = (spec(new), spec(old));
    let storage = |spec: &PersistentVolumeClaimSpec| {
        let wire = spec.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()?;
        Some((Quantity::of(&wire).ok()?, wire))
    };
    let (new_size, old_size) = (storage(&compared), storage(&before));
    // A volume is given to a claim once.
    if given(&before.volume_name).is_none() {
        compared.volume_name.clone_from(&before.volume_name);
    }
    let annotation = |claim: &PersistentVolumeClaim| {
        claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION)).cloned()
    };
    let (annotated, annotated_before) = (annotation(new), annotation(old));
    let named_later = before.storage_class_name.is_none()
        && compared.storage_class_name.is_some()
        && annotated_before.as_ref().is_none_or(|class| compared.storage_class_name.as_ref() == Some(class));
    if named_later {
        compared.storage_class_name = None;
    }
    let moved = named_later
        && annotated_before.is_some()
        && annotated.as_ref().is_none_or(|c| Some(c) == annotated_before.as_ref());
    if !moved && annotated != annotated_before {
        let value = annotated.unwrap_or_default();
        errors.invalid(
            "metadata.annotations[volume.beta.kubernetes.io/storage-class]",
            value,
            "field is immutable",
        );
    }
    let bound = new.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    if bound {
        if let Some(requests) = compared.resources.as_mut().and_then(|r| r.requests.as_mut()) {
            match &old_size {
                Some((_, wire)) => drop(requests.insert("storage".into(), wire.clone())),
                None => drop(requests.remove("storage")),
            }
        }
        compared.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
    }
    let bare = |spec: &PersistentVolumeClaimSpec| serde_json::to_value(spec).unwrap_or_default();
    if bare(&compared) != bare(&before) {
        errors.forbidden("spec", FIXED);
    }
    if let (Some((now, _)), Some((then, _))) = (&new_size, &old_size)
        && now < then
    {
        let capacity = old.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage").cloned());
        let capacity = capacity.and_then(|wire| Quantity::of(&wire).ok()).unwrap_or(Quantity::ZERO);
        if *now <= capacity {
            let detail = "field can not be less than status.capacity";
            errors.forbidden("spec.resources.requests.storage", detail);
        }
    }
    let mode = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|s| s.volume_mode.clone());
    errors.immutable("volumeMode", &mode(new), &mode(old));
    let current = old.status.as_ref().is_some_and(|s| s.current_volume_attributes_class_name.is_some());
    let wanted = spec(new).volume_attributes_class_name;
    if current && wanted != before.volume_attributes_class_name {
        let to = match wanted.as_deref() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return,
        };
        let detail =
            format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden("spec.volumeAttributesClassName", &detail);
    }
}

/// Storage, or something of another origin. False: neither.
fn resource_key(name: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    if let Err(detail) = validation::qualified_name(name) {
        errors.invalid(path, name, detail);
        return false;
    }
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if native && name != "storage" {
        errors.not_supported(path, name, &["storage"]);
        return false;
    }
    true
}

/// Parts of bytes.
pub(super) fn spec_warnings(spec: &PersistentVolumeClaimSpec, path: &str) -> Vec<String> {
    let resources = spec.resources.clone().unwrap_or_default();
    let mut warnings = Vec::new();
    for (side, list) in [("requests", resources.requests), ("limits", resources.limits)] {
        let amount = list.and_then(|list| Quantity::of(list.get("storage")?).ok());
        if let Some(amount) = amount.filter(|amount| names::fractional(*amount)) {
            warnings.push(format!(
                "{path}.resources.{side}[storage]: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted, parse};

    use super::*;

    fn claim() -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut claim = claim();
        claim["spec"][field] = value;
        claim
    }

    fn bound(mut claim: Value) -> Value {
        claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        claim
    }

    fn sized(size: &str) -> Value {
        with("resources", json!({"requests": {"storage": size}}))
    }

    #[test]
    fn one_bad_claim_per_rule() {
        testing::valid::<PersistentVolumeClaim>(&[claim(), with("storageClassName", json!(""))]);
        testing::invalid::<PersistentVolumeClaim>(&[
            (
                with("accessModes", json!([])),
                "spec.accessModes",
                "Required value: at least 1 access mode is required",
            ),
            (with("accessModes", json!(["X"])), "spec.accessModes", "Unsupported value: \"X\""),
            (
                with("accessModes", json!(["ReadWriteOncePod", "ReadWriteMany"])),
                "spec.accessModes",
                "Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            (with("resources", json!({})), "spec.resources[storage]", "Required value"),
            (sized("0"), "spec.resources[storage]", "Invalid value: \"0\": must be greater than zero"),
            (with("volumeMode", json!("X")), "spec.volumeMode", "Unsupported value: \"X\""),
            (
                with("storageClassName", json!("A b")),
                "spec.storageClassName",
                "Invalid value: \"A b\": a lowercase",
            ),
            (
                with("dataSource", json!({"kind": "Thing", "name": "x"})),
                "spec.dataSource",
                "Invalid value: \"Thing\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ),
            (
                {
                    let mut both = with("dataSource", json!({"kind": "PersistentVolumeClaim", "name": "x"}));
                    both["spec"]["dataSourceRef"] = json!({"kind": "PersistentVolumeClaim", "name": "y"});
                    both
                },
                "spec",
                "Invalid value: {}: must match dataSourceRef",
            ),
        ]);
    }

    #[test]
    fn the_spec_stays_but_for_growth() {
        testing::updates::<PersistentVolumeClaim>(&[
            (claim(), claim(), "", ""),
            (claim(), with("volumeName", json!("v")), "", ""),
            (claim(), with("storageClassName", json!("fast")), "", ""),
            (claim(), sized("2Gi"), "spec", &format!("Forbidden: {FIXED}")),
            (bound(claim()), bound(sized("2Gi")), "", ""),
            (
                bound(sized("3Gi")),
                bound(sized("1Gi")),
                "spec.resources.requests.storage",
                "Forbidden: field can not be less than status.capacity",
            ),
            (bound(sized("3Gi")), bound(sized("2Gi")), "", ""),
        ]);
    }

    #[test]
    fn sources_show_in_both_fields() {
        let prepared = |field: &str, value: Value| {
            let mut claim: PersistentVolumeClaim = defaulted(with(field, value));
            claim.prepare_create();
            let spec = claim.spec.unwrap();
            (spec.data_source.map(|s| s.name), spec.data_source_ref.map(|s| s.name))
        };
        let both = (Some("x".to_owned()), Some("x".to_owned()));
        assert_eq!(prepared("dataSource", json!({"kind": "PersistentVolumeClaim", "name": "x"})), both);
        assert_eq!(
            prepared("dataSourceRef", json!({"apiGroup": "a.io", "kind": "Thing", "name": "x"})),
            both
        );
        assert_eq!(
            prepared("dataSource", json!({"apiGroup": "a.io", "kind": "Thing", "name": "x"})),
            (None, None)
        );
    }

    #[test]
    fn fractions_are_warned_of() {
        let claim: PersistentVolumeClaim = parse(sized("1500m"));
        assert_eq!(
            claim.warnings(None),
            [
                "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer"
            ]
        );
    }

    #[test]
    fn columns() {
        let mut claim = with("volumeName", json!("v"));
        claim["status"] =
            json!({"phase": "Bound", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"]});
        assert_eq!(
            testing::cells::<PersistentVolumeClaim>(claim),
            ["c", "Bound", "v", "2Gi", "RWO", "", "<unset>", "<unknown>", "<unset>"]
        );
        assert_eq!(
            testing::cells::<PersistentVolumeClaim>(self::claim())[..5],
            ["c", "", "", "", ""].map(String::from)
        );
    }
}
