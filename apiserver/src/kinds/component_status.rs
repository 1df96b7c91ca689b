//! ComponentStatus: whether a component of the control plane does its work, found out when it is asked for.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::table;

impl BuiltIn for ComponentStatus {
    const SINGULAR: &'static str = "componentstatus";
    const SHORT_NAMES: &'static [&'static str] = &["cs"];
    const COMPUTED: bool = true;
    const DEPRECATION: Option<&'static str> = Some("v1 ComponentStatus is deprecated in v1.19+");

    fn validate(&self, _errors: &mut Errors) {}

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::narrow("Status", "string", "Whether the component is healthy."),
            table::narrow("Message", "string", "What the component's health check says."),
            table::narrow("Error", "string", "Why the health check could not be done."),
        ]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let health = self.conditions.iter().flatten().find(|condition| condition.type_ == "Healthy");
        let status = match health {
            Some(health) if health.status == "True" => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        let text = |text: Option<&String>| json!(text.map(String::as_str).unwrap_or_default());
        let message = text(health.and_then(|health| health.message.as_ref()));
        let error = text(health.and_then(|health| health.error.as_ref()));
        vec![json!(self.metadata.name), json!(status), message, error]
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn a_row_says_how_a_component_is() {
        for (conditions, want) in [
            (json!([{"type": "Healthy", "status": "True", "message": "ok"}]), ["Healthy", "ok", ""]),
            (
                json!([{"type": "Healthy", "status": "False", "message": "gone", "error": "x"}]),
                ["Unhealthy", "gone", "x"],
            ),
            (json!([]), ["Unknown", "", ""]),
        ] {
            let status: ComponentStatus =
                serde_json::from_value(json!({"metadata": {"name": "a"}, "conditions": conditions})).unwrap();
            assert_eq!(status.cells(testing::now()), [&["a"][..], &want].concat());
        }
    }
}
