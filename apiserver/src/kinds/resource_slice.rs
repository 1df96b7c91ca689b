//! ResourceSlice: devices that a driver has, on one node or on several.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{
    Counter, Device, DeviceAttribute, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{BuiltIn, Column, device, pod};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const DEVICES_MAX: usize = 128;
/// Where they have taints, counters or lists.
const FULL_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMED_SETS_MAX: usize = 2;
const TAINTS_MAX: usize = 16;
const PROPERTIES_MAX: usize = 32;
const VALUES_MAX: usize = 48;
const VALUE_MAX_BYTES: usize = 64;
const BINDING_CONDITIONS_MAX: usize = 4;
const TRUE_OR_UNSET: &str = "must be either unset or set to true";

impl BuiltIn for ResourceSlice {
    const SINGULAR: &'static str = "resourceslice";
    const RETURNS_DELETED: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let now = || Time(Timestamp::now().round(jiff::Unit::Second).unwrap_or_default());
        let devices = self.spec.devices.iter_mut().flatten();
        for taint in devices.flat_map(|d| d.taints.iter_mut().flatten()) {
            taint.time_added.get_or_insert_with(now);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec.pool.name", &self.spec.pool.name, &old.spec.pool.name);
        errors.immutable("spec.driver", &self.spec.driver, &old.spec.driver);
        errors.immutable("spec.nodeName", &self.spec.node_name, &old.spec.node_name);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Node", "string", "The node whose devices these are."),
            table::narrow("Driver", "string", "The driver that has them."),
            table::narrow("Pool", "string", "The pool that they belong to."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let node = spec.node_name.as_deref().unwrap_or_default();
        table::cells(&self.metadata, now, vec![json!(node), json!(spec.driver), json!(spec.pool.name)])
    }
}

fn validate_spec(spec: &ResourceSliceSpec, path: &Path<'_>, errors: &mut Errors) {
    device::driver_name(&spec.driver, &path.child("driver"), errors);
    validate_pool(&spec.pool, &path.child("pool"), errors);
    validate_where(spec, path, errors);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = spec.devices.as_deref().unwrap_or_default();
    let most = if devices.iter().any(is_full) { FULL_DEVICES_MAX } else { DEVICES_MAX };
    let at = path.child("devices");
    if device::bounded(devices.len(), most, &at, errors) {
        let apart = spec.per_device_node_selection == Some(true);
        for (i, device) in devices.iter().enumerate() {
            validate_device(device, apart, &at.index(i), errors);
        }
        device::distinct(devices.iter().map(|d| d.name.as_str()), &at, errors);
    }
    let sets = spec.shared_counters.as_deref().unwrap_or_default();
    let at = path.child("sharedCounters");
    if device::bounded(sets.len(), COUNTER_SETS_MAX, &at, errors) {
        for (i, set) in sets.iter().enumerate() {
            counters(&set.name, "name", &set.counters, &at.index(i), errors);
        }
        device::distinct(sets.iter().map(|s| s.name.as_str()), &at, errors);
    }
}

fn is_full(device: &Device) -> bool {
    let some = |list: Option<usize>| list.unwrap_or(0) > 0;
    let lists =
        device.attributes.iter().flatten().any(|(_, a)| {
            a.bools.is_some() || a.ints.is_some() || a.strings.is_some() || a.versions.is_some()
        });
    lists
        || some(device.taints.as_ref().map(Vec::len))
        || some(device.consumes_counters.as_ref().map(Vec::len))
}

fn validate_pool(pool: &ResourcePool, path: &Path<'_>, errors: &mut Errors) {
    device::pool_name(&pool.name, &path.child("name"), errors);
    if pool.resource_slice_count <= 0 {
        let at = path.child("resourceSliceCount");
        errors.invalid(at, pool.resource_slice_count, "must be greater than zero");
    }
    if pool.generation < 0 {
        errors.invalid(path.child("generation"), pool.generation, "must be greater than or equal to zero");
    }
}

/// Exactly one way of saying which nodes have the devices.
fn validate_where(spec: &ResourceSliceSpec, path: &Path<'_>, errors: &mut Errors) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut given = Vec::new();
    match spec.node_name.as_deref() {
        Some("") => {
            let detail = "must be either unset or set to a non-empty string";
            errors.invalid(path.child("nodeName"), "", detail);
        }
        Some(name) => {
            given.push("`nodeName`");
            errors.check(path.child("nodeName"), name, validation::dns_subdomain);
        }
        None => {}
    }
    if let Some(selector) = &spec.node_selector {
        given.push("`nodeSelector`");
        node_selector(selector, &path.child("nodeSelector"), errors);
        if selector.node_selector_terms.len() != 1 {
            let at = path.child("nodeSelector");
            let detail = "must have exactly one node selector term";
            errors.invalid(at.child("nodeSelectorTerms"), &selector.node_selector_terms, detail);
        }
    }
    let mut wrong = false;
    for (field, shown, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection),
    ] {
        match value {
            Some(true) => given.push(shown),
            Some(false) => {
                errors.invalid(path.child(field), false, TRUE_OR_UNSET);
                wrong = true;
            }
            None => {}
        }
    }
    match given.len() {
        0 if wrong && spec.node_name.is_some() => {}
        0 => errors.required(path, ONE),
        1 => {}
        _ => errors.invalid(
            path,
            format!("{{{}}}", given.join(", ")),
            format!("{ONE}, but multiple fields are set"),
        ),
    }
}

fn node_selector(selector: &NodeSelector, path: &Path<'_>, errors: &mut Errors) {
    pod::placement::node_selector(selector, path, errors);
}

fn validate_device(device: &Device, apart: bool, path: &Path<'_>, errors: &mut Errors) {
    errors.check(path.child("name"), &device.name, validation::dns_label);
    let attributes = device.attributes.iter().flatten();
    let capacity = device.capacity.iter().flatten();
    let properties = attributes.clone().count() + capacity.clone().count();
    if properties > PROPERTIES_MAX {
        let detail =
            format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        errors.invalid(path, properties, detail);
    }
    let values: usize = attributes.clone().map(|(_, a)| values(a).max(1)).sum();
    if values > VALUES_MAX {
        let detail = format!("the total number of attribute values must not exceed {VALUES_MAX}");
        errors.invalid(path, values, detail);
    }
    let at = path.child("attributes");
    for (name, attribute) in attributes {
        device::qualified_name(name, &at, errors);
        validate_attribute(attribute, &at.key(name), errors);
    }
    let at = path.child("capacity");
    for (name, capacity) in capacity {
        device::qualified_name(name, &at, errors);
        if capacity.request_policy.is_some() && device.allow_multiple_allocations != Some(true) {
            let detail = "allowMultipleAllocations must be true";
            errors.forbidden(at.key(name).child("requestPolicy"), detail);
        }
    }
    let taints = device.taints.as_deref().unwrap_or_default();
    let at = path.child("taints");
    if device::bounded(taints.len(), TAINTS_MAX, &at, errors) {
        for (i, taint) in taints.iter().enumerate() {
            device::taint(taint, &at.index(i), errors);
        }
    }
    let consumed = device.consumes_counters.as_deref().unwrap_or_default();
    let at = path.child("consumesCounters");
    if device::bounded(consumed.len(), CONSUMED_SETS_MAX, &at, errors) {
        for (i, set) in consumed.iter().enumerate() {
            counters(&set.counter_set, "counterSet", &set.counters, &at.index(i), errors);
        }
        device::distinct(consumed.iter().map(|c| c.counter_set.as_str()), &at, errors);
    }
    validate_device_where(device, apart, path, errors);
    binding_conditions(device, path, errors);
}

fn validate_device_where(device: &Device, apart: bool, path: &Path<'_>, errors: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !apart {
        if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, detail);
        }
        return;
    }
    let mut given = Vec::new();
    match device.node_name.as_deref() {
        Some("") => errors.invalid(path.child("nodeName"), "", "must not be empty"),
        Some(name) => {
            given.push("`nodeName`");
            errors.check(path.child("nodeName"), name, validation::dns_subdomain);
        }
        None => {}
    }
    if let Some(selector) = &device.node_selector {
        given.push("`nodeSelector`");
        node_selector(selector, &path.child("nodeSelector"), errors);
    }
    match device.all_nodes {
        Some(true) => given.push("`allNodes`"),
        Some(false) => errors.invalid(path.child("allNodes"), false, TRUE_OR_UNSET),
        None => {}
    }
    match given.len() {
        0 => errors.required(path, ONE),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", given.join(", ")), ONE),
    }
}

fn binding_conditions(device: &Device, path: &Path<'_>, errors: &mut Errors) {
    for (field, conditions) in [
        ("bindingConditions", &device.binding_conditions),
        ("bindingFailureConditions", &device.binding_failure_conditions),
    ] {
        let conditions = conditions.as_deref().unwrap_or_default();
        let at = path.child(field);
        if device::bounded(conditions.len(), BINDING_CONDITIONS_MAX, &at, errors) {
            for (i, condition) in conditions.iter().enumerate() {
                errors.check(at.index(i), condition, validation::qualified_name);
            }
        }
    }
}

fn counters(
    name: &str,
    field: &'static str,
    counters: &BTreeMap<String, Counter>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if name.is_empty() {
        errors.required(path.child(field), "");
    } else {
        errors.check(path.child(field), name, validation::dns_label);
    }
    let at = path.child("counters");
    if counters.is_empty() {
        return errors.required(at, "");
    }
    if device::bounded(counters.len(), COUNTERS_MAX, &at, errors) {
        for name in counters.keys() {
            errors.check(at, name, validation::dns_label);
        }
    }
}

fn values(attribute: &DeviceAttribute) -> usize {
    [
        attribute.bools.as_ref().map(Vec::len),
        attribute.ints.as_ref().map(Vec::len),
        attribute.strings.as_ref().map(Vec::len),
        attribute.versions.as_ref().map(Vec::len),
    ]
    .into_iter()
    .flatten()
    .sum()
}

fn validate_attribute(attribute: &DeviceAttribute, path: &Path<'_>, errors: &mut Errors) {
    const EMPTY: &str = "must not be empty if specified";
    const ONE: &str = "exactly one value must be specified";
    let singles = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
    ];
    let lists = [
        ("bools", attribute.bools.as_ref().map(Vec::len)),
        ("ints", attribute.ints.as_ref().map(Vec::len)),
        ("strings", attribute.strings.as_ref().map(Vec::len)),
        ("versions", attribute.versions.as_ref().map(Vec::len)),
    ];
    for (field, _) in lists.iter().filter(|(_, count)| *count == Some(0)) {
        errors.invalid(path.child(field), json!([]), EMPTY);
    }
    let text = |value: &str, at: &Path<'_>, errors: &mut Errors| {
        if value.len() > VALUE_MAX_BYTES {
            errors.too_long(at, VALUE_MAX_BYTES);
        }
    };
    let version = |value: &str, at: &Path<'_>, errors: &mut Errors| {
        if !is_semantic_version(value) {
            errors.invalid(at, value, "must be a string compatible with semver.org spec 2.0.0");
        }
        text(value, at, errors);
    };
    if let Some(value) = &attribute.string {
        text(value, &path.child("string"), errors);
    }
    if let Some(value) = &attribute.version {
        version(value, &path.child("version"), errors);
    }
    for (i, value) in attribute.strings.iter().flatten().enumerate() {
        text(value, &path.child("strings").index(i), errors);
    }
    for (i, value) in attribute.versions.iter().flatten().enumerate() {
        version(value, &path.child("versions").index(i), errors);
    }
    let given = singles.iter().filter(|s| **s).count() + lists.iter().filter(|(_, c)| c.is_some()).count();
    match given {
        0 => errors.invalid(path, "", ONE),
        1 => {}
        _ => errors.invalid(path, attribute, ONE),
    }
}

/// `major.minor.patch`, `-pre.release`, `+build`
fn is_semantic_version(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, before) = match rest.split_once('-') {
        Some((core, before)) => (core, Some(before)),
        None => (rest, None),
    };
    let release = |part: &str| word(part) && (!part.bytes().all(|b| b.is_ascii_digit()) || number(part));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|b| b.split('.').all(release))
        && build.is_none_or(|b| b.split('.').all(word))
}
