//! The `x-kubernetes-validations` of a schema, compiled, and what of an object breaks them.

use coracle_client::status::Cause;
use serde_json::Value;

use super::schema::Schema;

/// All rules of a schema.
pub struct Rules {}

impl Rules {
    /// None: there are none.
    pub fn of(_schema: &Schema) -> Option<Self> {
        None
    }

    /// What breaks a rule. `before`: the object as it was, on updates.
    pub fn check(&self, _schema: &Schema, _whole: &Value, _before: Option<&Value>) -> Vec<Cause> {
        Vec::new()
    }
}
