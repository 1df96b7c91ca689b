//! VolumeAttachment: a volume is to be attached to a node. What and where never changes.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentStatus, VolumeError};
use serde_json::{Value, json};

use super::csi_driver::driver_name;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const METADATA_MAX_BYTES: usize = 256 * 1024;
const MESSAGE_MAX_BYTES: usize = 1024;

impl BuiltIn for VolumeAttachment {
    const SINGULAR: &'static str = "volumeattachment";
    const RETURNS_DELETED: bool = true;
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(VolumeAttachmentStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let (spec, path) = (&self.spec, Path::new("spec"));
        driver_name(&spec.attacher, &path.child("attacher"), errors);
        let at = path.child("source");
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => {
                errors.required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
            }
            (Some(_), Some(_)) => {
                errors.forbidden(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
            }
            (None, Some(name)) if name.is_empty() => {
                let at = at.child("persistentVolumeName");
                errors.required(at, "must specify non empty persistentVolumeName")
            }
            (None, Some(name)) => {
                errors.check(at.child("persistentVolumeName"), name, validation::dns_subdomain)
            }
            (Some(_), None) => {}
        }
        errors.check(path.child("nodeName"), &spec.node_name, validation::dns_subdomain);
        validate_status(self.status.as_ref(), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec", &self.spec, &old.spec);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        validate_status(self.status.as_ref(), errors);
    }

    fn columns() -> Vec<Column> {
        let attacher = Column {
            format: "name".into(),
            ..table::narrow("Attacher", "string", "The driver that attaches it.")
        };
        table::columns(&[
            attacher,
            table::narrow("PV", "string", "The volume."),
            table::narrow("Node", "string", "The node it is attached to."),
            table::narrow("Attached", "boolean", "Whether it is attached by now."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let narrow = vec![
            json!(self.spec.attacher),
            json!(self.spec.source.persistent_volume_name.as_deref().unwrap_or_default()),
            json!(self.spec.node_name),
            json!(self.status.as_ref().is_some_and(|s| s.attached)),
        ];
        table::cells(&self.metadata, now, narrow)
    }
}

fn validate_status(status: Option<&VolumeAttachmentStatus>, errors: &mut Errors) {
    let Some(status) = status else { return };
    let path = Path::new("status");
    let metadata = status.attachment_metadata.iter().flatten();
    if metadata.map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_MAX_BYTES {
        errors.too_long(path.child("attachmentMetadata"), METADATA_MAX_BYTES);
    }
    for (field, error) in [("attachError", &status.attach_error), ("detachError", &status.detach_error)] {
        if let Some(error) = error {
            validate_error(error, &path.child(field), errors);
        }
    }
}

fn validate_error(error: &VolumeError, path: &Path<'_>, errors: &mut Errors) {
    if error.message.as_ref().is_some_and(|m| m.len() > MESSAGE_MAX_BYTES) {
        // Upstream names the other limit here.
        errors.too_long(path.child("message"), METADATA_MAX_BYTES);
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        errors.invalid(path.child("errorCode"), code, "must be between 0 and 2147483647, inclusive");
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"attacher": "a.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}});
        spec[field] = value;
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    #[test]
    fn one_volume_to_one_node() {
        testing::invalid::<VolumeAttachment>(&[
            (with("attacher", json!("")), "spec.attacher", "Required value"),
            (
                with("nodeName", json!("")),
                "spec.nodeName",
                "Invalid value: \"\": a lowercase RFC 1123 subdomain",
            ),
            (with("source", json!({})), "spec.source", "Required value: must specify exactly one of"),
            (
                with("source", json!({"inlineVolumeSpec": {}, "persistentVolumeName": "v"})),
                "spec.source",
                "Forbidden: must specify exactly one of",
            ),
            (
                with("source", json!({"persistentVolumeName": ""})),
                "spec.source.persistentVolumeName",
                "Required value: must specify non empty persistentVolumeName",
            ),
        ]);
        testing::updates::<VolumeAttachment>(&[(
            with("nodeName", json!("a")),
            with("nodeName", json!("b")),
            "spec",
            "Invalid value: {\"attacher\":\"a.io\"",
        )]);
        let cells = testing::cells::<VolumeAttachment>(with("nodeName", json!("n")));
        assert_eq!(cells, ["a", "a.io", "v", "n", "false", "<unknown>"]);
    }
}
