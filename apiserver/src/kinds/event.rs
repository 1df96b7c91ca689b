//! Event: what happened to an object. The core form is the stored one; `events.k8s.io` shows it in its own
//! ([`super::event_v1`]).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::{table, validation};

/// As upstream's `--event-ttl`.
const TTL: Duration = Duration::from_secs(3600);
const NAME_MAX: usize = 128;
const MESSAGE_MAX: usize = 1024;

impl BuiltIn for Event {
    const SINGULAR: &'static str = "event";
    const SHORT_NAMES: &'static [&'static str] = &["ev"];
    const CREATE_ON_UPDATE: bool = true;
    const TTL: Option<Duration> = Some(TTL);

    /// Any name that a path can have.
    fn validate_name(_name: &str) -> Result<(), String> {
        Ok(())
    }

    fn set_defaults(&mut self) {
        // Upstream always writes these two, empty or not.
        self.reporting_component.get_or_insert_default();
        self.reporting_instance.get_or_insert_default();
        self.source.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let about = self.involved_object.namespace.as_deref().unwrap_or_default();
        let agrees = match (self.event_time.is_some(), about) {
            (_, "") if namespace == "default" => true,
            (false, "") => namespace.is_empty(),
            (true, "") => namespace == "kube-system",
            (false, about) => about == namespace,
            (true, _) => true,
        };
        if !agrees {
            errors.invalid("involvedObject.namespace", about, "does not match event.namespace");
        }
        if self.event_time.is_none() {
            return;
        }
        let component = self.reporting_component.as_deref().unwrap_or_default();
        if component.is_empty() {
            errors.required("reportingComponent", "");
        }
        errors.check_all("reportingComponent", component, validation::qualified_name_faults);
        for (field, text) in [
            ("reportingInstance", &self.reporting_instance),
            ("action", &self.action),
            ("reason", &self.reason),
        ] {
            match validation::given(text) {
                None => errors.required(field, ""),
                Some(text) if text.len() > NAME_MAX => {
                    errors.invalid(field, "", format!("can have at most {NAME_MAX} characters"));
                }
                Some(_) => {}
            }
        }
        if self.message.as_ref().is_some_and(|m| m.len() > MESSAGE_MAX) {
            errors.invalid("message", "", format!("can have at most {MESSAGE_MAX} characters"));
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            table::narrow("Last Seen", "string", "How long ago it was last seen."),
            table::narrow("Type", "string", "Normal or Warning."),
            table::narrow("Reason", "string", "Why, as one word for machines."),
            table::narrow("Object", "string", "What it is about."),
            table::wide("Subobject", "string", "Which part of the object it is about."),
            table::wide("Source", "string", "The component that reports it."),
            table::narrow("Message", "string", "What happened, for people."),
            table::wide("First Seen", "string", "How long ago it was first seen."),
            table::wide("Count", "string", "How often it was seen."),
            Column { priority: 1, ..table::NAME },
        ]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let event_time = self.event_time.as_ref().map(|t| t.0);
        let first = self.first_timestamp.as_ref().map(|t| t.0).or(event_time);
        let mut last = self.last_timestamp.as_ref().map(|t| t.0).or(first);
        let mut count = self.count.filter(|c| *c != 0).unwrap_or(1);
        if let Some(series) = &self.series {
            last = series.last_observed_time.as_ref().map(|t| t.0);
            count = series.count.unwrap_or_default();
        }
        let object = &self.involved_object;
        let kind = object.kind.as_deref().unwrap_or_default().to_lowercase();
        let target = validation::given(&object.name).map_or(kind.clone(), |name| format!("{kind}/{name}"));
        vec![
            json!(table::since(last, now)),
            json!(self.type_.as_deref().unwrap_or_default()),
            json!(self.reason.as_deref().unwrap_or_default()),
            json!(target),
            json!(object.field_path.as_deref().unwrap_or_default()),
            json!(source(self)),
            json!(self.message.as_deref().unwrap_or_default().trim()),
            json!(table::since(first, now)),
            json!(count),
            json!(self.metadata.name),
        ]
    }
}

/// `component, host`, from whichever form of event names them.
fn source(event: &Event) -> String {
    let source = event.source.as_ref();
    let component = source.and_then(|s| validation::given(&s.component));
    let host = source.and_then(|s| validation::given(&s.host));
    let component = component.or(event.reporting_component.as_deref()).unwrap_or_default();
    match host.or(validation::given(&event.reporting_instance)) {
        Some(host) => format!("{component}, {host}"),
        None => component.into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn namespaces_agree() {
        testing::invalid::<Event>(&[
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}}),
                "involvedObject.namespace",
                "Invalid value: \"b\": does not match event.namespace",
            ),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
                "reportingComponent": "c", "reportingInstance": "i", "reason": "r"}),
                "action",
                "Required value",
            ),
        ]);
        testing::valid::<Event>(&[
            json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}}),
            json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}}),
        ]);
    }

    #[test]
    fn cells_prefer_the_series() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "type": "Warning", "reason": "BackOff", "message": " Back-off \n", "count": 3,
            "source": {"component": "kubelet", "host": "n1"},
            "firstTimestamp": "2026-01-01T11:00:00Z", "lastTimestamp": "2026-01-01T11:59:00Z"});
        assert_eq!(
            testing::cells::<Event>(event),
            [
                "60s",
                "Warning",
                "BackOff",
                "pod/p",
                "spec.containers{c}",
                "kubelet, n1",
                "Back-off",
                "60m",
                "3",
                "e"
            ]
        );
        let series = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Node"}, "eventTime": "2026-01-01T10:00:00.000000Z",
            "series": {"count": 7, "lastObservedTime": "2026-01-01T11:59:50.000000Z"}});
        let cells = testing::cells::<Event>(series);
        assert_eq!(
            (cells[0].as_str(), cells[3].as_str(), cells[7].as_str(), cells[8].as_str()),
            ("10s", "node", "120m", "7")
        );
    }
}
