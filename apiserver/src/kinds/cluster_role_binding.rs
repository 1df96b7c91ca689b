//! ClusterRoleBinding: who has a cluster role everywhere. The role it refers to never changes.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::Value;

use super::{BuiltIn, Column, rbac};
use crate::field_error::Errors;
use crate::validation;

impl BuiltIn for ClusterRoleBinding {
    const SINGULAR: &'static str = "clusterrolebinding";
    const CREATE_ON_UPDATE: bool = true;

    fn set_defaults(&mut self) {
        rbac::default_binding(&mut self.role_ref, self.subjects.as_mut());
    }

    fn validate_name(name: &str) -> Result<(), String> {
        validation::path_segment(name)
    }

    fn validate(&self, errors: &mut Errors) {
        rbac::validate_binding(&self.role_ref, self.subjects.as_deref(), false, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        rbac::validate_reference_update(&self.role_ref, &old.role_ref, errors);
    }

    fn columns() -> Vec<Column> {
        rbac::binding_columns()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        rbac::binding_cells(&self.metadata, now, &self.role_ref, self.subjects.as_deref())
    }
}
