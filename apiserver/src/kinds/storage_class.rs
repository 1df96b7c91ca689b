//! StorageClass: how volumes of a class are made. What says how never changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::node::deprecated_label;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// On the class that claims get that name none.
pub const DEFAULT_ANNOTATION: &str = "storageclass.kubernetes.io/is-default-class";
/// The same, from before the group was stable.
const BETA_DEFAULT_ANNOTATION: &str = "storageclass.beta.kubernetes.io/is-default-class";
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const RECLAIM_POLICIES: &[&str] = &["Delete", "Retain"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];

/// New claims that name no class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    let says = |name: &str| {
        class.metadata.annotations.as_ref().and_then(|a| a.get(name)).is_some_and(|value| value == "true")
    };
    says(DEFAULT_ANNOTATION) || says(BETA_DEFAULT_ANNOTATION)
}

impl BuiltIn for StorageClass {
    const SINGULAR: &'static str = "storageclass";
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["sc"];

    fn set_defaults(&mut self) {
        self.reclaim_policy.get_or_insert_with(|| "Delete".into());
        self.volume_binding_mode.get_or_insert_with(|| "Immediate".into());
    }

    fn validate(&self, errors: &mut Errors) {
        provisioner(&self.provisioner, &Path::new("provisioner"), errors);
        parameters(self.parameters.as_ref(), errors);
        if let Some(policy) =
            validation::given(&self.reclaim_policy).filter(|p| !RECLAIM_POLICIES.contains(p))
        {
            errors.not_supported("reclaimPolicy", policy, RECLAIM_POLICIES);
        }
        match self.volume_binding_mode.as_deref() {
            None => errors.required("volumeBindingMode", ""),
            Some(mode) if !BINDING_MODES.contains(&mode) => {
                errors.not_supported("volumeBindingMode", mode, BINDING_MODES);
            }
            Some(_) => {}
        }
        topologies(self.allowed_topologies.as_deref().unwrap_or_default(), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("parameters", &self.parameters, &old.parameters);
        errors.immutable("provisioner", &self.provisioner, &old.provisioner);
        errors.immutable("reclaimPolicy", &self.reclaim_policy, &old.reclaim_policy);
        errors.immutable("volumeBindingMode", &self.volume_binding_mode, &old.volume_binding_mode);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (i, term) in self.allowed_topologies.iter().flatten().enumerate() {
            for (j, expression) in term.match_label_expressions.iter().flatten().enumerate() {
                if let Some(detail) = deprecated_label(&expression.key) {
                    let at = format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key");
                    warnings.push(format!("{at}: {detail}"));
                }
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Provisioner", "string", "Who makes volumes of this class."),
            table::narrow("ReclaimPolicy", "string", "What becomes of a volume when its claim goes."),
            table::narrow("VolumeBindingMode", "string", "When a claim gets its volume."),
            table::narrow("AllowVolumeExpansion", "string", "Whether volumes can grow."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let narrow = vec![
            json!(self.provisioner),
            json!(self.reclaim_policy.as_deref().unwrap_or("Delete")),
            json!(self.volume_binding_mode.as_deref().unwrap_or("Immediate")),
            json!(self.allow_volume_expansion.unwrap_or_default()),
        ];
        let mut cells = table::cells(&self.metadata, now, narrow);
        if is_default(self) {
            table::mark_default(&mut cells);
        }
        cells
    }
}

/// The name of a driver, capitals forgiven.
pub(super) fn provisioner(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let lower = name.to_lowercase();
    if let Err(detail) = validation::qualified_name(&lower) {
        errors.invalid(path, lower, detail);
    }
}

pub(super) fn parameters(parameters: Option<&BTreeMap<String, String>>, errors: &mut Errors) {
    let Some(parameters) = parameters else { return };
    if parameters.len() > PARAMETERS_MAX {
        return errors.too_long("parameters", PARAMETERS_MAX);
    }
    if parameters.contains_key("") {
        errors.invalid("parameters", "", "field can not be empty.");
    }
    if parameters.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > PARAMETERS_MAX_BYTES {
        errors.too_long("parameters", PARAMETERS_MAX_BYTES);
    }
}

fn topologies(terms: &[TopologySelectorTerm], errors: &mut Errors) {
    let path = Path::new("allowedTopologies");
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let at = path.index(i);
        let at = at.child("matchLabelExpressions");
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (i, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let at = at.index(i);
            let values = at.child("values");
            if requirement.values.is_empty() {
                errors.required(values, "");
            }
            let mut set = BTreeSet::new();
            for (i, value) in requirement.values.iter().enumerate() {
                if !set.insert(value.as_str()) {
                    errors.duplicate(values.index(i), value);
                }
            }
            errors.check(at.child("key"), &requirement.key, validation::qualified_name);
            if keys.insert(&requirement.key, set).is_some() {
                errors.duplicate(at.child("key"), &requirement.key);
            }
        }
        if seen.contains(&keys) {
            errors.duplicate(at, "");
        }
        seen.push(keys);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn topology(expressions: Value) -> Value {
        json!({"provisioner": "a/b", "allowedTopologies": [{"matchLabelExpressions": expressions}]})
    }

    #[test]
    fn classes_say_how() {
        let expression = json!({"key": "a", "values": ["x"]});
        testing::invalid::<StorageClass>(&[
            (json!({}), "provisioner", "Required value"),
            (
                json!({"provisioner": "A/B/c"}),
                "provisioner",
                "Invalid value: \"a/b/c\": a qualified name must",
            ),
            (
                json!({"provisioner": "a", "reclaimPolicy": "Recycle"}),
                "reclaimPolicy",
                "Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ),
            (
                json!({"provisioner": "a", "volumeBindingMode": "X"}),
                "volumeBindingMode",
                "Unsupported value: \"X\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ),
            (
                json!({"provisioner": "a", "parameters": {"": "x"}}),
                "parameters",
                "Invalid value: \"\": field can not be empty.",
            ),
            (
                json!({"provisioner": "a", "parameters": {"a": "x".repeat(PARAMETERS_MAX_BYTES)}}),
                "parameters",
                "Too long: may not be more than 262144 bytes",
            ),
            (
                topology(json!([{"key": "a", "values": []}])),
                "allowedTopologies[0].matchLabelExpressions[0].values",
                "Required value",
            ),
            (
                topology(json!([{"key": "a", "values": ["x", "x"]}])),
                "allowedTopologies[0].matchLabelExpressions[0].values[1]",
                "Duplicate value: \"x\"",
            ),
            (
                topology(json!([expression, expression])),
                "allowedTopologies[0].matchLabelExpressions[1].key",
                "Duplicate value: \"a\"",
            ),
        ]);
        testing::valid::<StorageClass>(&[
            json!({"provisioner": "Example.com/Disk"}),
            topology(json!([expression])),
        ]);
    }

    #[test]
    fn how_stays() {
        let with = |field: &str, value: Value| {
            let mut class = json!({"provisioner": "a", "parameters": {"a": "b"}});
            class[field] = value;
            class
        };
        let same = || with("provisioner", json!("a"));
        for (field, value) in [
            ("parameters", json!({"a": "c"})),
            ("provisioner", json!("b")),
            ("reclaimPolicy", json!("Retain")),
            ("volumeBindingMode", json!("WaitForFirstConsumer")),
        ] {
            let detail = format!("Invalid value: {value}: field is immutable");
            testing::updates::<StorageClass>(&[(same(), with(field, value), field, &detail)]);
        }
        testing::updates::<StorageClass>(&[(same(), with("allowVolumeExpansion", json!(true)), "", "")]);
    }

    #[test]
    fn columns_and_warnings() {
        let class = json!({"metadata": {"name": "a", "annotations": {DEFAULT_ANNOTATION: "true"}}, "provisioner": "p"});
        assert_eq!(
            testing::cells::<StorageClass>(class),
            ["a (default)", "p", "Delete", "Immediate", "false", "<unknown>"]
        );
        let old: StorageClass = testing::parse(topology(
            json!([{"key": "failure-domain.beta.kubernetes.io/zone", "values": ["a"]}]),
        ));
        assert_eq!(
            old.warnings(None),
            [
                "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
            ]
        );
    }
}
