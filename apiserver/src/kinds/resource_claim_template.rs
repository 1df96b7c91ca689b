//! ResourceClaimTemplate: what the claims that are made for a pod ask for. It never changes.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use serde_json::Value;

use super::{BuiltIn, Column, device};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for ResourceClaimTemplate {
    const SINGULAR: &'static str = "resourceclaimtemplate";
    const RETURNS_DELETED: bool = true;

    fn set_defaults(&mut self) {
        let template = self.spec.get_or_insert_default();
        let spec = template.spec.get_or_insert_default();
        device::claim_defaults(spec.devices.get_or_insert_default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(template) = &self.spec else { return };
        if let Some(meta) = &template.metadata {
            let at = path.child("metadata");
            validation::labels(meta.labels.as_ref(), &at.child("labels"), errors);
            validation::annotations(meta.annotations.as_ref(), &at.child("annotations"), errors);
        }
        let at = path.child("spec");
        if let Some(devices) = template.spec.as_ref().and_then(|s| s.devices.as_ref()) {
            device::claim(devices, &at.child("devices"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec", &self.spec, &old.spec);
    }

    fn columns() -> Vec<Column> {
        table::name_and_age_columns()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::name_and_age_cells(&self.metadata, now)
    }
}
