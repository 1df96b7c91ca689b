//! LimitRange: what pods, containers and claims of a namespace may ask for, and get where they ask for nothing.

use std::collections::{BTreeMap, BTreeSet};

use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde_json::{Value, json};

use super::resource_names as names;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

type List = Option<BTreeMap<String, Wire>>;

impl BuiltIn for LimitRange {
    const SINGULAR: &'static str = "limitrange";
    const SHORT_NAMES: &'static [&'static str] = &["limits"];
    const CREATE_ON_UPDATE: bool = true;

    fn set_defaults(&mut self) {
        for item in self.spec.iter_mut().flat_map(|spec| &mut spec.limits) {
            if item.type_ != "Container" {
                continue;
            }
            let limits = item.default.get_or_insert_default();
            fill(limits, &item.max);
            let requests = item.default_request.get_or_insert_default();
            fill(requests, &item.default);
            fill(requests, &item.min);
            // What is empty is not written.
            for list in [&mut item.default, &mut item.default_request] {
                if list.as_ref().is_some_and(BTreeMap::is_empty) {
                    *list = None;
                }
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("limits");
        let mut types = BTreeSet::new();
        for (i, item) in self.spec.iter().flat_map(|spec| &spec.limits).enumerate() {
            let at = path.index(i);
            type_name(&item.type_, &at.child("type"), errors);
            if !types.insert(&item.type_) {
                errors.duplicate(at.child("type"), &item.type_);
            }
            limits(item, &at, errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![table::NAME, table::narrow("Created At", "date", "When it was created.")]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        vec![json!(self.metadata.name), json!(self.metadata.creation_timestamp)]
    }
}

fn fill(list: &mut BTreeMap<String, Wire>, from: &List) {
    for (name, amount) in from.iter().flatten() {
        list.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn type_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Err(detail) = validation::qualified_name(name) {
        errors.invalid(path, name, detail);
    } else if !name.contains('/') && !TYPES.contains(&name) {
        errors.invalid(path, name, "must be a standard limit type or fully qualified");
    }
}

fn limits(item: &LimitRangeItem, path: &Path<'_>, errors: &mut Errors) {
    let of_pods = item.type_ == "Pod";
    let mut lists = BTreeMap::new();
    for (field, list) in [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ] {
        let at = path.child(field);
        if of_pods && field.starts_with("default") {
            if list.as_ref().is_some_and(|l| !l.is_empty()) {
                errors.forbidden(at, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        let mut amounts = BTreeMap::new();
        for (name, wire) in list.iter().flatten() {
            match item.type_.as_str() {
                "Pod" | "Container" => names::of_container(name, &at.key(name), errors),
                _ => names::standard(name, &at.key(name), errors),
            }
            if let Ok(amount) = Quantity::of(wire) {
                amounts.insert(name.as_str(), amount);
            }
        }
        lists.insert(field, amounts);
    }
    let storage = |list: &List| list.as_ref().is_some_and(|l| l.contains_key("storage"));
    if item.type_ == "PersistentVolumeClaim" && !storage(&item.min) && !storage(&item.max) {
        errors.required(
            path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    let all: BTreeSet<&str> = lists.values().flat_map(|list| list.keys().copied()).collect();
    for name in all {
        let of = |field: &str| lists.get(field).and_then(|list| list.get(name)).copied();
        agree(name, of, path, errors);
    }
}

/// The amounts named for one resource are in order.
fn agree(name: &str, of: impl Fn(&str) -> Option<Quantity>, path: &Path<'_>, errors: &mut Errors) {
    let (min, max, ratio) = (of("min"), of("max"), of("maxLimitRequestRatio"));
    let (limit, request) = (of("default"), of("defaultRequest"));
    // The lesser, the greater, what they are called, and the field that is blamed with its value.
    for (low, low_name, high, high_name, field, blamed) in [
        (min, "min", max, "max", "min", min),
        (min, "min", request, "default request", "defaultRequest", request),
        (request, "default request", max, "max", "defaultRequest", request),
        (request, "default request", limit, "default limit", "defaultRequest", request),
        (min, "min", limit, "default", "default", min),
        (limit, "default", max, "max", "default", max),
    ] {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            let detail = format!("{low_name} value {low} is greater than {high_name} value {high}");
            let value = blamed.map(Quantity::to_wire);
            errors.invalid(path.child(field).key(name), value, detail);
        }
    }
    let at = path.child("maxLimitRequestRatio");
    if let Some(ratio) = ratio {
        if ratio < Quantity::from_units(1) {
            errors.invalid(at.key(name), ratio.to_wire(), format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > most {
                let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                errors.invalid(at.key(name), ratio.to_wire(), detail);
            }
        }
    }
    if let (Some(limit), Some(request)) = (limit, request)
        && limit != request
        && !names::overcommittable(name)
    {
        let detail = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.invalid(path.child("defaultRequest").key(name), request.to_wire(), detail);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn range(item: Value) -> Value {
        json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    }

    #[test]
    fn containers_get_defaults_from_the_bounds() {
        let range: LimitRange = defaulted(range(
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Gi"}}),
        ));
        let item = serde_json::to_value(&range.spec.unwrap().limits[0]).unwrap();
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Gi"}));
    }

    #[test]
    fn one_bad_range_per_rule() {
        let container = |mut item: Value| {
            item["type"] = json!("Container");
            range(item)
        };
        let at = |rest: &str| format!("spec.limits[0].{rest}");
        testing::valid::<LimitRange>(&[
            container(json!({"max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "4"}})),
            range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}})),
            range(json!({"type": "Pod", "max": {"memory": "1Gi"}})),
            range(json!({"type": "example.com/thing", "max": {"storage": "1Gi"}})),
        ]);
        let cases = [
            (
                range(json!({"type": "Thing"})),
                at("type"),
                "Invalid value: \"Thing\": must be a standard limit type or fully qualified",
            ),
            (
                range(json!({"type": "Pod", "max": {"storage": "1"}})),
                at("max[storage]"),
                "Invalid value: \"storage\": must be a standard resource for containers",
            ),
            (
                range(json!({"type": "Pod", "default": {"cpu": "1"}})),
                at("default"),
                "Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                range(json!({"type": "PersistentVolumeClaim"})),
                at("limits"),
                "Required value: either minimum or maximum storage value is required",
            ),
            (
                range(json!({"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}})),
                at("min[cpu]"),
                "Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                container(json!({"default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}})),
                at("defaultRequest[cpu]"),
                "Invalid value: \"2\": default request value 2 is greater than default limit value 1",
            ),
            (
                container(json!({"maxLimitRequestRatio": {"cpu": "500m"}})),
                at("maxLimitRequestRatio[cpu]"),
                "Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                range(
                    json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                ),
                at("maxLimitRequestRatio[cpu]"),
                "Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
            (
                container(json!({"default": {"a.io/gpu": "2"}, "defaultRequest": {"a.io/gpu": "1"}})),
                at("defaultRequest[a.io/gpu]"),
                "Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in a.io/gpu",
            ),
        ];
        let cases: Vec<(Value, &str, &str)> =
            cases.iter().map(|(json, field, message)| (json.clone(), field.as_str(), *message)).collect();
        testing::invalid::<LimitRange>(&cases);
    }

    #[test]
    fn a_type_is_there_once() {
        let twice =
            json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}});
        testing::invalid::<LimitRange>(&[(twice, "spec.limits[1].type", "Duplicate value: \"Pod\"")]);
    }
}
