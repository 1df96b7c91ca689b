//! ClusterRole: what may be done anywhere, or in whichever namespace it is bound; it may gather others' rules.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;

use super::{BuiltIn, Column, rbac};
use crate::field_error::{Errors, Path};
use crate::validation;

impl BuiltIn for ClusterRole {
    const SINGULAR: &'static str = "clusterrole";
    const CREATE_ON_UPDATE: bool = true;

    fn validate_name(name: &str) -> Result<(), String> {
        validation::path_segment(name)
    }

    fn validate(&self, errors: &mut Errors) {
        rbac::validate_rules(self.rules.as_deref(), false, errors);
        let Some(rule) = &self.aggregation_rule else { return };
        let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
        let rule = Path::new("aggregationRule");
        let all = rule.child("clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(all, detail);
        }
        for (i, selector) in selectors.iter().enumerate() {
            validation::label_selector(selector, &all.index(i), errors);
        }
    }

    fn columns() -> Vec<Column> {
        rbac::role_columns()
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        rbac::role_cells(&self.metadata)
    }
}
