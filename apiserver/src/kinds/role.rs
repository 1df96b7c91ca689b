//! Role: what may be done in a namespace.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;
use serde_json::Value;

use super::{BuiltIn, Column, rbac};
use crate::field_error::Errors;
use crate::validation;

impl BuiltIn for Role {
    const SINGULAR: &'static str = "role";
    const CREATE_ON_UPDATE: bool = true;

    fn validate_name(name: &str) -> Result<(), String> {
        validation::path_segment(name)
    }

    fn validate(&self, errors: &mut Errors) {
        rbac::validate_rules(self.rules.as_deref(), true, errors);
    }

    fn columns() -> Vec<Column> {
        rbac::role_columns()
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        rbac::role_cells(&self.metadata)
    }
}
