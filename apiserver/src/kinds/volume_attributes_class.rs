//! VolumeAttributesClass: settings of volumes that can be changed while they live, by changing to another class.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::{Value, json};

use super::{BuiltIn, Column, storage_class};
use crate::field_error::{Errors, Path};
use crate::table;

impl BuiltIn for VolumeAttributesClass {
    const SINGULAR: &'static str = "volumeattributesclass";
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["vac"];

    fn validate(&self, errors: &mut Errors) {
        storage_class::provisioner(&self.driver_name, &Path::new("driverName"), errors);
        storage_class::parameters(self.parameters.as_ref(), errors);
        if self.parameters.as_ref().is_none_or(|p| p.is_empty()) {
            errors.required("parameters", "must contain at least one key/value pair");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.driver_name != old.driver_name {
            errors.forbidden("driverName", "updates to driverName are forbidden.");
        }
        if self.parameters != old.parameters {
            errors.forbidden("parameters", "updates to parameters are forbidden.");
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow(
            "DriverName",
            "string",
            "The driver whose volumes these settings are for.",
        )])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(self.driver_name)])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn classes_never_change() {
        let of = |driver: &str, value: &str| json!({"driverName": driver, "parameters": {"iops": value}});
        testing::valid::<VolumeAttributesClass>(&[of("a.io", "1")]);
        testing::invalid::<VolumeAttributesClass>(&[
            (json!({"parameters": {"a": "b"}}), "driverName", "Required value"),
            (
                json!({"driverName": "a"}),
                "parameters",
                "Required value: must contain at least one key/value pair",
            ),
        ]);
        testing::updates::<VolumeAttributesClass>(&[
            (of("a", "1"), of("b", "1"), "driverName", "Forbidden: updates to driverName are forbidden."),
            (of("a", "1"), of("a", "2"), "parameters", "Forbidden: updates to parameters are forbidden."),
            (of("a", "1"), of("a", "1"), "", ""),
        ]);
    }
}
