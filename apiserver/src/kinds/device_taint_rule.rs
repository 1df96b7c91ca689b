//! DeviceTaintRule: a taint that an administrator puts on devices, beside those that their drivers report.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{DeviceTaintRule, DeviceTaintSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::csi_driver::driver_name;
use super::{BuiltIn, Column, device};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const CONDITIONS_MAX: usize = 8;

impl BuiltIn for DeviceTaintRule {
    const SINGULAR: &'static str = "devicetaintrule";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let now = || Time(Timestamp::now().round(jiff::Unit::Second).unwrap_or_default());
        self.spec.taint.time_added.get_or_insert_with(now);
    }

    fn prepare_create(&mut self) {
        self.status = Some(Default::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        if let Some(selector) = &self.spec.device_selector {
            validate_selector(selector, &path.child("deviceSelector"), errors);
        }
        device::taint(&self.spec.taint, &path.child("taint"), errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let path = path.child("conditions");
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_deref());
        let conditions = conditions.unwrap_or_default();
        validation::conditions(conditions, &path, errors);
        device::bounded(conditions.len(), CONDITIONS_MAX, &path, errors);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Key", "string", "The taint's key."),
            table::narrow("Value", "string", "The taint's value."),
            table::narrow("Effect", "string", "What the taint does to claims and pods."),
            table::narrow("TimeAdded", "string", "Since when the taint is there."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let taint = &self.spec.taint;
        let added = taint.time_added.as_ref().map(|added| table::age(Some(added), now)).unwrap_or_default();
        let value = taint.value.as_deref().unwrap_or_default();
        table::cells(
            &self.metadata,
            now,
            vec![json!(taint.key), json!(value), json!(taint.effect), json!(added)],
        )
    }
}

fn validate_selector(selector: &DeviceTaintSelector, path: &Path<'_>, errors: &mut Errors) {
    if let Some(driver) = &selector.driver {
        driver_name(driver, &path.child("driver"), errors);
    }
    if let Some(pool) = &selector.pool {
        device::pool_name(pool, &path.child("pool"), errors);
    }
    if let Some(name) = &selector.device {
        errors.check(path.child("device"), name, validation::dns_label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn rule(spec: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    #[test]
    fn rules_name_devices_and_a_taint() {
        testing::valid::<DeviceTaintRule>(&[rule(json!({
            "deviceSelector": {"driver": "gpu.example.com", "pool": "rack-1/a", "device": "gpu-0"},
            "taint": {"key": "example.com/broken", "value": "yes", "effect": "NoExecute"}}))]);
        testing::invalid::<DeviceTaintRule>(&[
            (
                rule(json!({"taint": {"key": "a", "effect": "Never"}})),
                "spec.taint.effect",
                "Unsupported value: \"Never\"",
            ),
            (
                rule(json!({"taint": {"key": "a b", "effect": "NoExecute"}})),
                "spec.taint.key",
                "Invalid value: \"a b\"",
            ),
            (
                rule(
                    json!({"deviceSelector": {"driver": "A b"}, "taint": {"key": "a", "effect": "NoExecute"}}),
                ),
                "spec.deviceSelector.driver",
                "Invalid value: \"A b\"",
            ),
            (
                rule(
                    json!({"deviceSelector": {"device": "A"}, "taint": {"key": "a", "effect": "NoExecute"}}),
                ),
                "spec.deviceSelector.device",
                "Invalid value: \"A\"",
            ),
        ]);
    }
}
