//! StorageVersionMigration: the objects of a resource are to be stored in its current version.

use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::{StorageVersionMigration, StorageVersionMigrationStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};

const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
const STATES: &[&str] = &["Running", SUCCEEDED, FAILED];

fn conditions(migration: &StorageVersionMigration) -> &[Condition] {
    migration.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn is(migration: &StorageVersionMigration, state: &str) -> bool {
    conditions(migration).iter().any(|c| c.type_ == state && c.status == "True")
}

impl BuiltIn for StorageVersionMigration {
    const SINGULAR: &'static str = "storageversionmigration";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(StorageVersionMigrationStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        let path = path.child("resource");
        if spec.resource.resource.is_empty() {
            errors.required(path.child("resource"), "resource is required to be set");
        } else {
            errors.check(path.child("resource"), &spec.resource.resource, validation::dns_1035_label);
        }
        if !spec.resource.group.is_empty() {
            errors.check(path.child("group"), &spec.resource.group, validation::dns_subdomain);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec", &self.spec, &old.spec);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let version =
            |m: &Self| m.status.as_ref().and_then(|s| given(&s.resource_version).map(str::to_owned));
        if version(old).is_some() && version(old) != version(self) {
            let new = version(self).unwrap_or_default();
            errors.invalid(path.child("resourceVersion"), new, "field is immutable");
        }
        let at = path.child("conditions");
        validation::conditions(conditions(self), &at, errors);
        if is(self, SUCCEEDED) && is(self, FAILED) {
            let detail = "Both success and failed conditions cannot be true at the same time";
            errors.invalid(at, conditions(self), detail);
        }
        for (state, name) in [(SUCCEEDED, "Success"), (FAILED, "Failed")] {
            if is(old, state) && !is(self, state) {
                let detail = format!("{name} condition cannot be set to false once it is true");
                errors.invalid(at, conditions(self), detail);
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column { format: "".into(), ..table::NAME },
            table::narrow("Resource", "string", "The resource whose objects are migrated."),
            table::narrow("Status", "string", "Running, Succeeded or Failed."),
        ]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let resource = self.spec.as_ref().map(|s| &s.resource);
        let resource = resource.map_or_else(String::new, |r| match r.group.as_str() {
            "" => r.resource.clone(),
            group => format!("{}.{group}", r.resource),
        });
        let mut found = conditions(self).iter().filter(|c| c.status == "True");
        let state = found.rfind(|c| STATES.contains(&c.type_.as_str())).map_or("Unknown", |c| &c.type_);
        vec![json!(self.metadata.name), json!(resource), json!(state)]
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn migrations_name_a_resource() {
        let of = |resource: &str, group: &str| json!({"metadata": {"name": "m"}, "spec": {"resource": {"resource": resource, "group": group}}});
        testing::valid::<StorageVersionMigration>(&[of("pods", ""), of("things", "example.com")]);
        testing::invalid::<StorageVersionMigration>(&[
            (of("", ""), "spec.resource.resource", "Required value: resource is required to be set"),
            (of("A", ""), "spec.resource.resource", "Invalid value: \"A\": a DNS-1035 label"),
            (of("a", "A"), "spec.resource.group", "Invalid value: \"A\": a lowercase RFC 1123 subdomain"),
        ]);
        testing::updates::<StorageVersionMigration>(&[(
            of("a", ""),
            of("b", ""),
            "spec",
            "Invalid value: {\"resource\"",
        )]);
        assert_eq!(testing::cells::<StorageVersionMigration>(of("a", "b")), ["m", "a.b", "Unknown"]);
    }
}
