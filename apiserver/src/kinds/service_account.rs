//! ServiceAccount: the identity of pods; `token` hands out bound tokens.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::table;

impl BuiltIn for ServiceAccount {
    const SINGULAR: &'static str = "serviceaccount";
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["sa"];
    const SUBRESOURCES: &'static [&'static str] = &["token"];

    fn set_defaults(&mut self) {
        // Upstream keeps only what it needs of these references.
        for secret in self.secrets.iter_mut().flatten() {
            let name = secret.name.take();
            *secret = Default::default();
            secret.name = name;
        }
    }

    fn validate(&self, _errors: &mut Errors) {}

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("Secrets", "string", "How many secrets its pods may use.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(self.secrets.as_ref().map_or(0, Vec::len))])
    }
}
