//! What the kinds of dynamic resource allocation have in common: names, selectors, settings of drivers, taints.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceClaimConfiguration, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceTaint,
    DeviceToleration, OpaqueDeviceConfiguration,
};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::Value;

pub(super) use super::csi_driver::driver_name;
use crate::cel::{Environment, Expected, Type};
use crate::field_error::{Errors, Path};
use crate::validation;

pub(super) const SELECTORS_MAX: usize = 32;
pub(super) const CONFIG_MAX: usize = 32;
pub(super) const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const TOLERATIONS_MAX: usize = 16;
const EXPRESSION_MAX_BYTES: usize = 10 * 1024;
const OPAQUE_MAX_BYTES: usize = 10 * 1024;
const POOL_NAME_MAX_BYTES: usize = 253;
const IDENTIFIER_MAX_BYTES: usize = 32;
const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const MODES: &[&str] = &["All", "ExactCount"];
const TAINT_EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const TOLERATION_EFFECTS: &[&str] = &["NoExecute", "NoSchedule"];
const NO_SUCH_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Names of DNS subdomains, with slashes between them.
pub(super) fn pool_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > POOL_NAME_MAX_BYTES {
        errors.too_long(path, POOL_NAME_MAX_BYTES);
    }
    for part in name.split('/') {
        errors.check(path, part, validation::dns_subdomain);
    }
}

/// The name of an attribute or capacity: an identifier, after a driver's domain if it likes.
pub(super) fn qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let identifier = match name.split_once('/') {
        None => name,
        Some((_, rest)) if rest.contains('/') => return,
        Some((domain, rest)) => {
            if domain.is_empty() {
                errors.invalid(path, "", "the domain must not be empty");
            } else {
                driver_name(domain, path, errors);
            }
            if rest.is_empty() {
                return errors.invalid(path, "", "the name must not be empty");
            }
            rest
        }
    };
    if identifier.len() > IDENTIFIER_MAX_BYTES {
        errors.too_long(path, IDENTIFIER_MAX_BYTES);
    }
    let fine = identifier.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && identifier.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    if !fine {
        errors.invalid(path, identifier, IDENTIFIER);
    }
}

fn fully_qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    qualified_name(name, path, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path, name, detail);
    }
}

/// Not too many of a list; false where its members are not looked at for that.
pub(super) fn bounded(count: usize, most: usize, path: &Path<'_>, errors: &mut Errors) -> bool {
    if count > most {
        errors.too_many(path, count, most);
    }
    count <= most
}

/// Each of a list once.
pub(super) fn distinct<K: Ord + serde::Serialize>(
    keys: impl IntoIterator<Item = K>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = BTreeSet::new();
    for (i, key) in keys.into_iter().enumerate() {
        if seen.contains(&key) {
            errors.duplicate(path.index(i), &key);
        } else {
            seen.insert(key);
        }
    }
}

pub(super) fn selectors(selectors: Option<&Vec<DeviceSelector>>, path: &Path<'_>, errors: &mut Errors) {
    let selectors = selectors.map(Vec::as_slice).unwrap_or_default();
    if !bounded(selectors.len(), SELECTORS_MAX, path, errors) {
        return;
    }
    for (i, selector) in selectors.iter().enumerate() {
        let at = path.index(i);
        let at = at.child("cel");
        match &selector.cel {
            None => errors.required(at, ""),
            Some(cel) if cel.expression.len() > EXPRESSION_MAX_BYTES => {
                errors.too_long(at.child("expression"), EXPRESSION_MAX_BYTES);
            }
            Some(cel) => {
                // What a device has depends on its driver.
                let environment = Environment::new().variable("device", Type::Dyn);
                if let Err(error) = environment.compile(&cel.expression, Expected::Any) {
                    let detail = format!("compilation failed: {error}");
                    errors.invalid(at.child("expression"), &cel.expression, detail);
                }
            }
        }
    }
}

/// What only a driver understands.
pub(super) fn opaque(opaque: Option<&OpaqueDeviceConfiguration>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("opaque");
    let Some(opaque) = opaque else { return errors.required(at, "") };
    driver_name(&opaque.driver, &at.child("driver"), errors);
    raw_extension(&opaque.parameters, &at.child("parameters"), errors);
}

pub(super) fn raw_extension(raw: &RawExtension, path: &Path<'_>, errors: &mut Errors) {
    match &raw.0 {
        Value::Null => errors.required(path, ""),
        Value::Object(_) if raw.0.to_string().len() > OPAQUE_MAX_BYTES => {
            errors.too_long(path, OPAQUE_MAX_BYTES);
        }
        Value::Object(_) => {}
        _ => errors.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

pub(super) fn taint(taint: &DeviceTaint, path: &Path<'_>, errors: &mut Errors) {
    errors.check(path.child("key"), &taint.key, validation::qualified_name);
    if let Some(value) = validation::given(&taint.value) {
        errors.check(path.child("value"), value, validation::label_value);
    }
    errors.one_of(path.child("effect"), Some(&taint.effect), TAINT_EFFECTS);
}

fn toleration(toleration: &DeviceToleration, path: &Path<'_>, errors: &mut Errors) {
    let key = validation::given(&toleration.key);
    if let Some(key) = key {
        errors.check(path.child("key"), key, validation::qualified_name);
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => {
            if let Some(value) = validation::given(&toleration.value) {
                let detail = "must be empty for operator `Exists`";
                errors.invalid(path.child("value"), value, detail);
            }
        }
        "Equal" => {
            errors.check(
                path.child("value"),
                toleration.value.as_deref().unwrap_or_default(),
                validation::label_value,
            );
            if key.is_none() {
                errors.required(path.child("key"), "");
            }
        }
        other => errors.one_of(path.child("operator"), Some(other), &["Equal", "Exists"]),
    }
    if let Some(effect) = validation::given(&toleration.effect).filter(|e| !TOLERATION_EFFECTS.contains(e)) {
        errors.not_supported(path.child("effect"), effect, TOLERATION_EFFECTS);
    }
}

/// The names of a claim's requests, each with those of its alternatives.
pub(super) struct RequestNames<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> RequestNames<'a> {
    pub(super) fn of(claim: Option<&'a DeviceClaim>) -> Self {
        let requests = claim.into_iter().flat_map(|c| c.requests.iter().flatten());
        let alternatives = |request: &'a DeviceRequest| {
            request.first_available.iter().flatten().map(|sub| sub.name.as_str()).collect()
        };
        Self(requests.map(|request| (request.name.as_str(), alternatives(request))).collect())
    }

    pub(super) fn check(&self, name: &str, path: &Path<'_>, errors: &mut Errors) {
        let (request, sub) = match name.split_once('/') {
            Some((_, rest)) if rest.contains('/') => return errors.invalid(path, name, NO_SUCH_REQUEST),
            Some((request, sub)) => (request, Some(sub)),
            None => (name, None),
        };
        for part in std::iter::once(request).chain(sub) {
            request_name(part, path, errors);
        }
        let known = self.0.get(request).is_some_and(|subs| sub.is_none_or(|sub| subs.contains(sub)));
        if !known {
            errors.invalid(path, name, NO_SUCH_REQUEST);
        }
    }

    pub(super) fn check_all(&self, names: Option<&Vec<String>>, path: &Path<'_>, errors: &mut Errors) {
        let names = names.map(Vec::as_slice).unwrap_or_default();
        if bounded(names.len(), REQUESTS_MAX, path, errors) {
            for (i, name) in names.iter().enumerate() {
                self.check(name, &path.index(i), errors);
            }
            distinct(names, path, errors);
        }
    }
}

fn request_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        errors.check(path, name, validation::dns_label);
    }
}

/// How many are to be had, as both forms of a request say it.
fn default_mode(mode: &mut Option<String>, count: &mut Option<i64>) {
    if mode.as_deref().unwrap_or_default().is_empty() {
        *mode = Some("ExactCount".into());
    }
    if mode.as_deref() == Some("ExactCount") && count.unwrap_or_default() == 0 {
        *count = Some(1);
    }
}

pub(super) fn claim_defaults(claim: &mut DeviceClaim) {
    for request in claim.requests.iter_mut().flatten() {
        if let Some(exact) = &mut request.exactly {
            default_mode(&mut exact.allocation_mode, &mut exact.count);
        }
        for sub in request.first_available.iter_mut().flatten() {
            default_mode(&mut sub.allocation_mode, &mut sub.count);
        }
    }
}

pub(super) fn claim(claim: &DeviceClaim, path: &Path<'_>, errors: &mut Errors) {
    let names = RequestNames::of(Some(claim));
    let requests = claim.requests.as_deref().unwrap_or_default();
    let at = path.child("requests");
    if bounded(requests.len(), REQUESTS_MAX, &at, errors) {
        for (i, request) in requests.iter().enumerate() {
            validate_request(request, &at.index(i), errors);
        }
        distinct(requests.iter().map(|r| r.name.as_str()), &at, errors);
    }
    let constraints = claim.constraints.as_deref().unwrap_or_default();
    let at = path.child("constraints");
    if bounded(constraints.len(), CONSTRAINTS_MAX, &at, errors) {
        for (i, constraint) in constraints.iter().enumerate() {
            validate_constraint(constraint, &names, &at.index(i), errors);
        }
    }
    let config = claim.config.as_deref().unwrap_or_default();
    let at = path.child("config");
    if bounded(config.len(), CONFIG_MAX, &at, errors) {
        for (i, DeviceClaimConfiguration { opaque: own, requests }) in config.iter().enumerate() {
            let at = at.index(i);
            names.check_all(requests.as_ref(), &at.child("requests"), errors);
            opaque(own.as_ref(), &at, errors);
        }
    }
}

/// What both forms of a request ask for.
struct Wanted<'a> {
    class: &'a str,
    selectors: Option<&'a Vec<DeviceSelector>>,
    mode: Option<&'a str>,
    count: i64,
    tolerations: &'a [DeviceToleration],
}

fn validate_request(request: &DeviceRequest, path: &Path<'_>, errors: &mut Errors) {
    request_name(&request.name, &path.child("name"), errors);
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    match (&request.exactly, alternatives) {
        (None, []) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (Some(_), [_, ..]) => errors.invalid(
            path,
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (Some(exact), []) => Wanted {
            class: &exact.device_class_name,
            selectors: exact.selectors.as_ref(),
            mode: exact.allocation_mode.as_deref(),
            count: exact.count.unwrap_or_default(),
            tolerations: exact.tolerations.as_deref().unwrap_or_default(),
        }
        .validate(&path.child("exactly"), errors),
        (None, alternatives) => {
            let at = path.child("firstAvailable");
            if !bounded(alternatives.len(), ALTERNATIVES_MAX, &at, errors) {
                return;
            }
            for (i, sub) in alternatives.iter().enumerate() {
                let at = at.index(i);
                request_name(&sub.name, &at.child("name"), errors);
                let wanted = Wanted {
                    class: &sub.device_class_name,
                    selectors: sub.selectors.as_ref(),
                    mode: sub.allocation_mode.as_deref(),
                    count: sub.count.unwrap_or_default(),
                    tolerations: sub.tolerations.as_deref().unwrap_or_default(),
                };
                wanted.validate(&at, errors);
            }
            distinct(alternatives.iter().map(|sub| sub.name.as_str()), &at, errors);
        }
    }
}

impl Wanted<'_> {
    fn validate(&self, path: &Path<'_>, errors: &mut Errors) {
        let at = path.child("deviceClassName");
        if self.class.is_empty() {
            errors.required(at, "");
        } else {
            errors.check(at, self.class, validation::dns_subdomain);
        }
        selectors(self.selectors, &path.child("selectors"), errors);
        match self.mode.unwrap_or_default() {
            "All" if self.count != 0 => {
                let detail = "must not be specified when allocationMode is 'All'";
                errors.invalid(path.child("count"), self.count, detail);
            }
            "ExactCount" if self.count <= 0 => {
                errors.invalid(path.child("count"), self.count, "must be greater than zero");
            }
            "All" | "ExactCount" => {}
            other => errors.not_supported(path.child("allocationMode"), other, MODES),
        }
        let at = path.child("tolerations");
        if bounded(self.tolerations.len(), TOLERATIONS_MAX, &at, errors) {
            for (i, one) in self.tolerations.iter().enumerate() {
                toleration(one, &at.index(i), errors);
            }
        }
    }
}

fn validate_constraint(
    constraint: &DeviceConstraint,
    names: &RequestNames<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    names.check_all(constraint.requests.as_ref(), &path.child("requests"), errors);
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => fully_qualified_name(name, &path.child("matchAttribute"), errors),
        (None, Some(name)) => fully_qualified_name(name, &path.child("distinctAttribute"), errors),
        (None, None) => errors.required(
            path,
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        ),
    }
}
