//! DeviceClass: devices of a kind that claims can ask for by name, with the settings that all of them get.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::DeviceClass;
use serde_json::Value;

use super::{BuiltIn, Column, device};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for DeviceClass {
    const SINGULAR: &'static str = "deviceclass";
    const RETURNS_DELETED: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        device::selectors(spec.selectors.as_ref(), &path.child("selectors"), errors);
        let config = spec.config.as_deref().unwrap_or_default();
        let at = path.child("config");
        if device::bounded(config.len(), device::CONFIG_MAX, &at, errors) {
            for (i, config) in config.iter().enumerate() {
                device::opaque(config.opaque.as_ref(), &at.index(i), errors);
            }
        }
        if let Some(name) = &spec.extended_resource_name
            && !is_extended_resource(name)
        {
            errors.invalid(
                path.child("extendedResourceName"),
                name,
                "must be a valid extended resource name",
            );
        }
    }

    fn columns() -> Vec<Column> {
        table::name_and_age_columns()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::name_and_age_cells(&self.metadata, now)
    }
}

/// A resource that Kubernetes itself knows nothing of, and whose quota has a name too.
fn is_extended_resource(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native
        && !name.starts_with("requests.")
        && validation::qualified_name(&format!("requests.{name}")).is_ok()
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
