//! NodeMetrics: what a node used of its CPUs and memory, measured when it is asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::go_duration::GoDuration;
use crate::table;

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";
pub const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Amounts by resource (`cpu`, `memory`).
pub type Usage = BTreeMap<String, Quantity>;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeMetrics {
    pub api_version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub metadata: ObjectMeta,
    /// When the window ended.
    pub timestamp: Time,
    /// The time over which the use of CPU was measured.
    pub window: GoDuration,
    pub usage: Usage,
}

impl Default for NodeMetrics {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "NodeMetrics".into(),
            metadata: ObjectMeta::default(),
            timestamp: Time(Timestamp::UNIX_EPOCH),
            window: GoDuration::default(),
            usage: Usage::default(),
        }
    }
}

impl k8s_openapi::Resource for NodeMetrics {
    const API_VERSION: &'static str = API_VERSION;
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "NodeMetrics";
    const VERSION: &'static str = VERSION;
    const URL_PATH_SEGMENT: &'static str = "nodes";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for NodeMetrics {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The fields that nodes' and pods' metrics have in common, and `more`.
pub(super) fn schema(
    generator: &mut schemars::SchemaGenerator,
    about: &str,
    field: &str,
    more: schemars::Schema,
) -> schemars::Schema {
    schemars::json_schema!({
        "description": about,
        "type": "object",
        "properties": {
            "apiVersion": {"description": "The version of the schema that this representation has.", "type": "string"},
            "kind": {"description": "The kind of the object.", "type": "string"},
            "metadata": (generator.subschema_for::<ObjectMeta>()),
            "timestamp": (generator.subschema_for::<Time>()),
            "window": (generator.subschema_for::<GoDuration>()),
            (field): more,
        },
        "required": ["timestamp", "window", field],
    })
}

pub(super) fn usage_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "description": "What was used, by resource: CPU on average over the window, memory at its end (the working set).",
        "type": "object",
        "additionalProperties": (generator.subschema_for::<Quantity>()),
    })
}

impl schemars::JsonSchema for NodeMetrics {
    fn schema_name() -> Cow<'static, str> {
        "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let usage = usage_schema(generator);
        schema(generator, "What a node used within the window that ended at the timestamp.", "usage", usage)
    }
}

/// As metrics-server's tables, whose columns are called by the resources.
pub(super) fn columns() -> Vec<Column> {
    let quantity = |name: &'static str, description: &'static str| Column {
        format: "quantity".into(),
        ..table::narrow(name, "string", description)
    };
    vec![
        table::NAME,
        quantity("cpu", "The cores used on average over the window."),
        quantity("memory", "The working set at the end of the window."),
        Column {
            format: "duration".into(),
            ..table::narrow("Window", "string", "The time over which the use was measured.")
        },
    ]
}

/// The cells of one row, with what `usage` says of each resource.
pub(super) fn cells(name: Option<&String>, usage: impl Fn(&str) -> String, window: GoDuration) -> Vec<Value> {
    vec![json!(name), json!(usage("cpu")), json!(usage("memory")), json!(crate::go_duration::text(window.0))]
}

impl BuiltIn for NodeMetrics {
    // As metrics-server: there is no name for one of them.
    const SINGULAR: &'static str = "";
    const COMPUTED: bool = true;

    fn validate(&self, _errors: &mut Errors) {}

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let usage = |resource: &str| self.usage.get(resource).map_or("0".into(), |amount| amount.0.clone());
        cells(self.metadata.name.as_ref(), usage, self.window)
    }
}
