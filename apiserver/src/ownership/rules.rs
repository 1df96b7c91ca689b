//! What ownership needs to know of a kind, beside the objects.

use serde_json::{Map, Value, json};

use super::set::Set;
use super::types::Schema;

/// Made once for a kind in one version.
#[derive(Clone, Debug)]
pub struct Rules {
    pub schema: Schema,
    /// The object before it is created.
    pub empty: Value,
    /// What writes to the main resource leave as it is.
    pub main: Set,
    /// What writes to the status leave as it is.
    pub status: Set,
}

impl Rules {
    /// `status`: what writes to the status leave alone, where there is such a subresource.
    pub fn new(schema: Schema, api_version: &str, kind: &str, status: Option<&[&[&str]]>) -> Self {
        Self {
            schema,
            empty: json!({"apiVersion": api_version, "kind": kind, "metadata": Map::new()}),
            main: Set::of_fields(if status.is_some() { &[&["status"]] } else { &[] }),
            status: Set::of_fields(status.unwrap_or_default()),
        }
    }

    /// With more fields that writes to the main resource leave as they are.
    pub fn and_main(mut self, fields: &[&[&str]]) -> Self {
        self.main = self.main.union(&Set::of_fields(fields));
        self
    }
}
