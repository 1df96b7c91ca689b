//! CSIStorageCapacity: how much room a driver has for a storage class in one part of the cluster.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::{Value, json};

use super::node::deprecated_label;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for CSIStorageCapacity {
    const SINGULAR: &'static str = "csistoragecapacity";
    const UNCONDITIONAL_UPDATE: bool = false;

    fn validate(&self, errors: &mut Errors) {
        if let Some(topology) = &self.node_topology {
            validation::label_selector(topology, &Path::new("nodeTopology"), errors);
        }
        errors.check("storageClassName", &self.storage_class_name, validation::dns_subdomain);
        if let Some(capacity) = &self.capacity {
            validation::quantity(capacity, &Path::new("capacity"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("nodeTopology", &self.node_topology, &old.node_topology);
        errors.immutable("storageClassName", &self.storage_class_name, &old.storage_class_name);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let Some(topology) = &self.node_topology else { return Vec::new() };
        let expressions = topology.match_expressions.iter().flatten().enumerate().filter_map(|(i, e)| {
            deprecated_label(&e.key)
                .map(|detail| format!("nodeTopology.matchExpressions[{i}].key: {} is {detail}", e.key))
        });
        let labels = topology.match_labels.iter().flatten().filter_map(|(key, _)| {
            deprecated_label(key).map(|detail| format!("nodeTopology.matchLabels.{key}: {detail}"))
        });
        expressions.chain(labels).collect()
    }

    fn columns() -> Vec<Column> {
        // Upstream has no printer for it.
        vec![table::NAME, table::narrow("Created At", "date", table::AGE_DESCRIPTION)]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        vec![json!(self.metadata.name), json!(self.metadata.creation_timestamp)]
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn room_is_for_a_class() {
        let of =
            |class: &str| json!({"metadata": {"name": "a"}, "storageClassName": class, "capacity": "1Gi"});
        testing::invalid::<CSIStorageCapacity>(&[
            (of("A"), "storageClassName", "Invalid value: \"A\": a lowercase RFC 1123 subdomain"),
            (
                json!({"storageClassName": "a", "capacity": "-1"}),
                "capacity",
                "Invalid value: \"-1\": must be greater",
            ),
            (
                json!({"storageClassName": "a", "nodeTopology": {"matchLabels": {"a": "b c"}}}),
                "nodeTopology.matchLabels",
                "Invalid value: \"b c\": a valid label",
            ),
        ]);
        testing::updates::<CSIStorageCapacity>(&[
            (of("a"), of("b"), "storageClassName", "Invalid value: \"b\": field is immutable"),
            (of("a"), json!({"storageClassName": "a", "capacity": "2Gi"}), "", ""),
        ]);
        assert_eq!(testing::cells::<CSIStorageCapacity>(of("c")), ["a", "null"]);
    }
}
