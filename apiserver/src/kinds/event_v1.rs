//! Event in its `events.k8s.io` form: never stored, but converted to and from the core form.

use coracle_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use serde_json::Value;

use super::{Alias, BuiltIn, Column};
use crate::field_error::Errors;
use crate::validation;

/// What happened once is no series.
const SERIES_COUNT_MIN: i32 = 2;

impl BuiltIn for Event {
    const SINGULAR: &'static str = "event";
    const SHORT_NAMES: &'static [&'static str] = &["ev"];
    const CREATE_ON_UPDATE: bool = true;
    const TTL: Option<std::time::Duration> = <core::Event as BuiltIn>::TTL;

    fn alias() -> Option<Alias> {
        Some(Alias {
            stored: Resource::of::<core::Event>(),
            to_stored: |o| Some(Box::new(to_core(o.as_any().downcast_ref()?))),
            from_stored: |o| Some(Box::new(from_core(o.as_any().downcast_ref()?))),
            fields: &[
                ("reason", "reason"),
                ("type", "type"),
                ("regarding.kind", "involvedObject.kind"),
                ("regarding.namespace", "involvedObject.namespace"),
                ("regarding.name", "involvedObject.name"),
                ("regarding.uid", "involvedObject.uid"),
                ("regarding.apiVersion", "involvedObject.apiVersion"),
                ("regarding.resourceVersion", "involvedObject.resourceVersion"),
                ("regarding.fieldPath", "involvedObject.fieldPath"),
                ("reportingController", "reportingComponent"),
            ],
        })
    }

    /// What this form demands beyond the core form's rules, which run after the conversion.
    fn validate(&self, errors: &mut Errors) {
        if let Some(Err(why)) = self.metadata.name.as_deref().map(validation::dns_subdomain) {
            errors.invalid("metadata.name", &self.metadata.name, why);
        }
        if self.event_time.is_none() {
            errors.required("eventTime", "");
        }
        match self.type_.as_deref().unwrap_or_default() {
            "Normal" | "Warning" => {}
            other => errors.invalid("type", "", format!("has invalid value: {other}")),
        }
        if self.series.as_ref().is_some_and(|series| series.count < SERIES_COUNT_MIN) {
            errors.invalid("series.count", "", format!("should be at least {SERIES_COUNT_MIN}"));
        }
        for (field, set) in [
            ("firstTimestamp", self.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", self.deprecated_last_timestamp.is_some()),
            ("count", self.deprecated_count.unwrap_or_default() != 0),
            (
                "source",
                self.deprecated_source.as_ref().is_some_and(|s| {
                    validation::given(&s.component).is_some() || validation::given(&s.host).is_some()
                }),
            ),
        ] {
            if set {
                errors.invalid(field, "", "needs to be unset");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("reportingController", &self.reporting_controller, &old.reporting_controller);
        errors.immutable("reportingInstance", &self.reporting_instance, &old.reporting_instance);
        errors.immutable("action", &self.action, &old.action);
        errors.immutable("reason", &self.reason, &old.reason);
        errors.immutable("regarding", &self.regarding, &old.regarding);
        errors.immutable("note", &self.note, &old.note);
        errors.immutable("type", &self.type_, &old.type_);
    }

    fn columns() -> Vec<Column> {
        <core::Event as BuiltIn>::columns()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        to_core(self).cells(now)
    }
}

pub fn to_core(event: &Event) -> core::Event {
    let event = event.clone();
    core::Event {
        metadata: event.metadata,
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        last_timestamp: event.deprecated_last_timestamp,
        source: event.deprecated_source,
        message: event.note,
        reason: event.reason,
        involved_object: event.regarding.unwrap_or_default(),
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|s| core::EventSeries {
            count: Some(s.count),
            last_observed_time: Some(s.last_observed_time),
        }),
        type_: event.type_,
    }
}

pub fn from_core(event: &core::Event) -> Event {
    let event = event.clone();
    Event {
        metadata: event.metadata,
        action: event.action,
        deprecated_count: event.count,
        event_time: event.event_time,
        deprecated_first_timestamp: event.first_timestamp,
        deprecated_last_timestamp: event.last_timestamp,
        deprecated_source: event.source,
        note: event.message,
        reason: event.reason,
        regarding: Some(event.involved_object),
        related: event.related,
        reporting_controller: event.reporting_component,
        reporting_instance: event.reporting_instance,
        series: event.series.and_then(|s| {
            Some(EventSeries {
                count: s.count.unwrap_or_default(),
                last_observed_time: s.last_observed_time?,
            })
        }),
        type_: event.type_,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::{self, parse};

    use super::*;

    fn full() -> Value {
        json!({"metadata": {"name": "e", "namespace": "a"}, "eventTime": "2026-01-01T10:00:00.000000Z",
            "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "note": "n",
            "type": "Normal", "regarding": {"kind": "Pod", "namespace": "a", "name": "p"},
            "series": {"count": 2, "lastObservedTime": "2026-01-01T11:00:00.000000Z"}})
    }

    #[test]
    fn the_forms_convert_both_ways() {
        let event: Event = parse(full());
        let stored = to_core(&event);
        assert_eq!(stored.message.as_deref(), Some("n"));
        assert_eq!(stored.involved_object.name.as_deref(), Some("p"));
        assert_eq!(from_core(&stored), event);
    }

    #[test]
    fn this_form_is_stricter() {
        let without = |field: &str| {
            let mut event = full();
            event.as_object_mut().unwrap().remove(field);
            event
        };
        testing::invalid::<Event>(&[
            (without("eventTime"), "eventTime", "Required value"),
            (without("type"), "type", "Invalid value: \"\": has invalid value: "),
        ]);
        testing::valid::<Event>(&[full()]);
    }
}
