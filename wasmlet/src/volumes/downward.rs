//! `downwardAPI` files: fields of the pod, rewritten when labels or annotations change.

use k8s_openapi::api::core::v1::DownwardAPIVolumeFile;

use super::MountError;
use super::atomic_writer::{Payload, Projected};
use super::keys::mode_bits;
use crate::pods::downward::Fields;

pub fn select(
    files: &[DownwardAPIVolumeFile],
    default_mode: u32,
    fields: &Fields<'_>,
) -> Result<Payload, MountError> {
    let mut payload = Payload::new();
    for file in files {
        let text = if let Some(field) = &file.field_ref {
            fields.field(&field.field_path)?
        } else if let Some(resource) = &file.resource_field_ref {
            fields.resource(resource, None)?
        } else {
            String::new()
        };
        let mode = file.mode.map_or(default_mode, mode_bits);
        payload.insert(file.path.clone(), Projected { bytes: text.into_bytes(), mode });
    }
    Ok(payload)
}
