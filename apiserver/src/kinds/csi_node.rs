//! CSINode: which storage drivers a node has.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use serde_json::{Value, json};

use super::csi_driver::driver_name;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const NODE_ID_MAX: usize = 256;

impl BuiltIn for CSINode {
    const SINGULAR: &'static str = "csinode";
    const RETURNS_DELETED: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];

    fn prepare_create(&mut self) {
        self.status = Some(Default::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("drivers");
        for (i, driver) in self.spec.drivers.iter().enumerate() {
            let at = path.index(i);
            validate_driver(driver, &at, errors);
            if self.spec.drivers.iter().take(i).any(|d| d.name == driver.name) {
                errors.duplicate(at.child("name"), &driver.name);
            }
        }
    }

    /// What a driver says of the node stays, but for how many volumes fit.
    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let fixed = |driver: &CSINodeDriver| CSINodeDriver { allocatable: None, ..driver.clone() };
        for old in &old.spec.drivers {
            for new in self.spec.drivers.iter().filter(|new| new.name == old.name) {
                errors.immutable("spec.drivers", &fixed(new), &fixed(old));
            }
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("Drivers", "integer", "How many drivers the node has.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(self.spec.drivers.len())])
    }
}

fn validate_driver(driver: &CSINodeDriver, path: &Path<'_>, errors: &mut Errors) {
    driver_name(&driver.name, &path.child("name"), errors);
    if driver.node_id.is_empty() {
        errors.required(path.child("nodeID"), "");
    }
    if driver.node_id.len() > NODE_ID_MAX {
        let detail = format!("must be {NODE_ID_MAX} characters or less");
        errors.invalid(path.child("nodeID"), &driver.node_id, detail);
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|a| a.count) {
        let at = path.child("allocatable");
        validation::non_negative(at.child("count"), count, errors);
    }
    let keys = driver.topology_keys.as_deref().unwrap_or_default();
    for (i, key) in keys.iter().enumerate() {
        if key.is_empty() {
            errors.required(path, "");
        }
        if keys.iter().take(i).any(|k| k == key) {
            errors.duplicate(path, key);
        }
        errors.check(path, key, validation::qualified_name);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn with(field: &str, value: Value) -> Value {
        let mut driver = json!({"name": "a.io", "nodeID": "n"});
        driver[field] = value;
        json!({"metadata": {"name": "n"}, "spec": {"drivers": [driver]}})
    }

    #[test]
    fn drivers_are_whole() {
        testing::invalid::<CSINode>(&[
            (with("name", json!("")), "spec.drivers[0].name", "Required value"),
            (
                with("name", json!("a_b")),
                "spec.drivers[0].name",
                "Invalid value: \"a_b\": a lowercase RFC 1123",
            ),
            (
                with("name", json!("a".repeat(64))),
                "spec.drivers[0].name",
                "Too long: may not be more than 63 bytes",
            ),
            (with("nodeID", json!("")), "spec.drivers[0].nodeID", "Required value"),
            (with("nodeID", json!("a".repeat(257))), "spec.drivers[0].nodeID", "Invalid value: \"aaa"),
            (
                with("allocatable", json!({"count": -1})),
                "spec.drivers[0].allocatable.count",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (with("topologyKeys", json!(["a", "a"])), "spec.drivers[0]", "Duplicate value: \"a\""),
            (
                with("topologyKeys", json!(["a b"])),
                "spec.drivers[0]",
                "Invalid value: \"a b\": name part must",
            ),
            (
                json!({"spec": {"drivers": [{"name": "a", "nodeID": "n"}, {"name": "a", "nodeID": "n"}]}}),
                "spec.drivers[1].name",
                "Duplicate value: \"a\"",
            ),
        ]);
        testing::updates::<CSINode>(&[
            (
                with("nodeID", json!("a")),
                with("nodeID", json!("b")),
                "spec.drivers",
                "Invalid value: {\"name\":",
            ),
            (with("nodeID", json!("n")), with("allocatable", json!({"count": 5})), "", ""),
        ]);
        assert_eq!(testing::cells::<CSINode>(with("nodeID", json!("n"))), ["n", "1", "<unknown>"]);
    }
}
