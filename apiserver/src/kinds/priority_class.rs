//! PriorityClass: a named priority for pods. Its value never changes.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::table;

/// The highest value users may choose; above are the system's own classes.
const USER_VALUE_MAX: i32 = 1_000_000_000;
/// The system's classes, their values, and what they are for.
pub const SYSTEM_CLASSES: &[(&str, i32, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "For pods of the system that are needed on the node they run on.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "For pods of the system that the cluster needs, on whichever node.",
    ),
];

/// The system's classes as every cluster has them.
pub fn system() -> Vec<PriorityClass> {
    let class = |&(name, value, description): &(&str, i32, &str)| PriorityClass {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        value: Some(value),
        description: Some(description.into()),
        preemption_policy: Some("PreemptLowerPriority".into()),
        ..PriorityClass::default()
    };
    SYSTEM_CLASSES.iter().map(class).collect()
}

/// Why a class may not have its name, which is of the system's.
fn unlike_system(name: &str, value: i32, default: bool) -> Option<String> {
    let Some((_, wanted, _)) = SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *wanted {
        return Some(format!("value of {name} PriorityClass must be {wanted}"));
    }
    default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

impl BuiltIn for PriorityClass {
    const SINGULAR: &'static str = "priorityclass";
    const SHORT_NAMES: &'static [&'static str] = &["pc"];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        self.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".into());
        self.value.get_or_insert(0);
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let value = self.value.unwrap_or_default();
        if name.starts_with("system-") {
            if let Some(why) = unlike_system(name, value, self.global_default == Some(true)) {
                let detail =
                    "priority class names with 'system-' prefix are reserved for system use only. error: ";
                errors.forbidden("metadata.name", &format!("{detail}{why}"));
            }
        } else if value > USER_VALUE_MAX {
            let detail = format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}");
            errors.forbidden("value", &detail);
        }
        errors.one_of(
            "preemptionPolicy",
            self.preemption_policy.as_deref(),
            &["Never", "PreemptLowerPriority"],
        );
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.value != old.value {
            errors.forbidden("value", "may not be changed in an update.");
        }
        errors.immutable("preemptionPolicy", &self.preemption_policy, &old.preemption_policy);
    }

    fn columns() -> Vec<Column> {
        let mut columns = table::columns(&[
            table::narrow("Value", "integer", "The priority that pods of this class get."),
            table::narrow("Global-Default", "boolean", "Pods that name no class get this one."),
        ]);
        columns.push(table::narrow(
            "PreemptionPolicy",
            "string",
            "Whether pods of this class may push out others: PreemptLowerPriority or Never.",
        ));
        columns
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let narrow =
            vec![json!(self.value.unwrap_or_default()), json!(self.global_default.unwrap_or_default())];
        table::wide_cells(&self.metadata, now, narrow, vec![json!(self.preemption_policy)])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn users_stay_below_the_system() {
        testing::invalid::<PriorityClass>(&[
            (
                json!({"metadata": {"name": "a"}, "value": 1_000_000_001}),
                "value",
                "Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            (
                json!({"metadata": {"name": "system-mine"}, "value": 1}),
                "metadata.name",
                "Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine \
                 is not a known system priority class",
            ),
            (
                json!({"metadata": {"name": "system-node-critical"}, "value": 1}),
                "metadata.name",
                "Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of \
                 system-node-critical PriorityClass must be 2000001000",
            ),
            (
                json!({"metadata": {"name": "a"}, "preemptionPolicy": "X"}),
                "preemptionPolicy",
                "Unsupported value: \"X\"",
            ),
        ]);
        testing::valid::<PriorityClass>(&[
            json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
            json!({"metadata": {"name": "a"}, "value": -5}),
        ]);
        for class in system() {
            testing::valid::<PriorityClass>(&[json!(class)]);
        }
    }
}
