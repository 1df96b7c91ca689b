//! PodMetrics: what each container of a pod used, measured when it is asked for.

use std::borrow::Cow;

use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::node_metrics::{self, API_VERSION, GROUP, Usage, VERSION};
use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::go_duration::GoDuration;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMetrics {
    pub api_version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub metadata: ObjectMeta,
    /// When the window ended.
    pub timestamp: Time,
    /// The time over which the use of CPU was measured.
    pub window: GoDuration,
    pub containers: Vec<ContainerMetrics>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerMetrics {
    pub name: String,
    pub usage: Usage,
}

impl Default for PodMetrics {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "PodMetrics".into(),
            metadata: ObjectMeta::default(),
            timestamp: Time(Timestamp::UNIX_EPOCH),
            window: GoDuration::default(),
            containers: Vec::new(),
        }
    }
}

impl k8s_openapi::Resource for PodMetrics {
    const API_VERSION: &'static str = API_VERSION;
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "PodMetrics";
    const VERSION: &'static str = VERSION;
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for PodMetrics {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl schemars::JsonSchema for ContainerMetrics {
    fn schema_name() -> Cow<'static, str> {
        "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "What a container used.",
            "type": "object",
            "properties": {
                "name": {"description": "The container's name in the pod's spec.", "type": "string"},
                "usage": (node_metrics::usage_schema(generator)),
            },
            "required": ["name", "usage"],
        })
    }
}

impl schemars::JsonSchema for PodMetrics {
    fn schema_name() -> Cow<'static, str> {
        "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let containers = schemars::json_schema!({
            "description": "What each of the containers that run used within the same window.",
            "type": "array",
            "items": (generator.subschema_for::<ContainerMetrics>()),
        });
        let about = "What a pod used within the window that ended at the timestamp.";
        node_metrics::schema(generator, about, "containers", containers)
    }
}

impl BuiltIn for PodMetrics {
    // As metrics-server: there is no name for one of them.
    const SINGULAR: &'static str = "";
    const COMPUTED: bool = true;

    fn validate(&self, _errors: &mut Errors) {}

    fn columns() -> Vec<Column> {
        node_metrics::columns()
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let usage = |resource: &str| {
            let amounts = self.containers.iter().filter_map(|c| Quantity::of(c.usage.get(resource)?).ok());
            amounts.reduce(|sum, next| sum + next).unwrap_or(Quantity::ZERO).to_string()
        };
        node_metrics::cells(self.metadata.name.as_ref(), usage, self.window)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing;

    use super::*;

    #[test]
    fn a_row_adds_the_containers_up() {
        let pod: PodMetrics = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s",
            "containers": [
                {"name": "x", "usage": {"cpu": "1500000n", "memory": "3Ki"}},
                {"name": "y", "usage": {"cpu": "250m", "memory": "5Ki"}},
            ],
        }))
        .unwrap();
        assert_eq!(pod.cells(testing::now()), ["a", "251500u", "8Ki", "15.5s"]);
    }
}
