//! Ingress: which host and path of the outside leads to which service.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressLoadBalancerStatus, IngressRule, IngressSpec,
};
use serde_json::{Value, json};

use super::{BuiltIn, Column, address_formats as formats};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const NO_IP: &str = "must be a DNS name, not an IP address";
const INVALID_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const INVALID_ENDS: &[&str] = &["/..", "/."];
/// How many hosts a column shows.
const HOSTS_SHOWN: usize = 3;

impl BuiltIn for Ingress {
    const SINGULAR: &'static str = "ingress";
    const SHORT_NAMES: &'static [&'static str] = &["ing"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
        let status = self.status.get_or_insert_default();
        status.load_balancer.get_or_insert_with(IngressLoadBalancerStatus::default);
    }

    fn prepare_create(&mut self) {
        self.status = None;
        self.set_defaults();
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        validate_spec(spec, &Path::new("spec"), errors);
    }

    fn validate_create(&self, errors: &mut Errors) {
        let annotation = self.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        let class = self.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
        if let (Some(annotation), Some(class)) = (annotation, class)
            && annotation != class
        {
            let path = Path::new("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            errors.invalid(path.child(CLASS_ANNOTATION), annotation, detail);
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let known: BTreeSet<&str> = addresses(old).filter_map(|i| i.0).collect();
        let path = Path::new("status");
        let path = path.child("loadBalancer");
        let path = path.child("ingress");
        for (i, (ip, hostname)) in addresses(self).enumerate() {
            let at = path.index(i);
            if let Some(ip) = ip.filter(|ip| !known.contains(ip)) {
                errors.check(at.child("ip"), ip, formats::strict_ip);
            }
            if let Some(hostname) = hostname {
                errors.check(at.child("hostname"), hostname, validation::dns_subdomain);
                if formats::is_ip(hostname) {
                    errors.invalid(at.child("hostname"), hostname, NO_IP);
                }
            }
        }
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let annotated = self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CLASS_ANNOTATION));
        let class = self.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
        if old.is_none() && annotated && class.is_none() {
            vec![format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            )]
        } else {
            Vec::new()
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Class", "string", "The ingress class that serves this ingress."),
            table::narrow("Hosts", "string", "The hosts its rules are for."),
            table::narrow("Address", "string", "Where it can be reached."),
            table::narrow("Ports", "string", "The ports it is reached at."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let found: BTreeSet<&str> = addresses(self).filter_map(|(ip, hostname)| ip.or(hostname)).collect();
        let address = found.into_iter().collect::<Vec<_>>().join(",");
        let ports = if spec.tls.as_ref().is_some_and(|t| !t.is_empty()) { "80, 443" } else { "80" };
        let narrow = vec![
            json!(spec.ingress_class_name.as_deref().unwrap_or("<none>")),
            json!(hosts(spec.rules.as_deref().unwrap_or_default())),
            json!(address),
            json!(ports),
        ];
        table::cells(&self.metadata, now, narrow)
    }
}

/// Addresses and host names of the status; empty ones are as if they were not there.
fn addresses(ingress: &Ingress) -> impl Iterator<Item = (Option<&str>, Option<&str>)> {
    let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let all = balancer.into_iter().flat_map(|b| b.ingress.iter().flatten());
    all.map(|i| (given(&i.ip), given(&i.hostname)))
}

fn hosts(rules: &[IngressRule]) -> String {
    let mut list: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= list.len() == HOSTS_SHOWN;
        if let Some(host) = given(&rule.host).filter(|_| !more) {
            list.push(host);
        }
    }
    match list.join(",") {
        text if text.is_empty() => "*".into(),
        text if more => format!("{text} + {} more...", rules.len() - HOSTS_SHOWN),
        text => text,
    }
}

fn validate_spec(spec: &IngressSpec, path: &Path<'_>, errors: &mut Errors) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.invalid(path, &spec.rules, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(backend, &path.child("defaultBackend"), errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.child("rules");
        let at = at.index(i);
        if let Some(host) = given(&rule.host) {
            if formats::is_ip(host) {
                errors.invalid(at.child("host"), host, NO_IP);
            }
            errors.check(at.child("host"), host, formats::host);
        }
        let Some(http) = &rule.http else { continue };
        let at = at.child("http");
        let at = at.child("paths");
        if http.paths.is_empty() {
            errors.required(at, "");
        }
        for (i, path) in http.paths.iter().enumerate() {
            validate_path(path, &at.index(i), errors);
        }
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        let at = path.child("tls");
        let at = at.index(i);
        for (i, host) in tls.hosts.iter().flatten().enumerate() {
            errors.check(at.child("hosts").index(i), host, formats::host);
        }
        if let Some(name) = given(&tls.secret_name) {
            errors.check(at.child("secretName"), name, validation::dns_subdomain);
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.check(path.child("ingressClassName"), class, validation::dns_subdomain);
    }
}

fn validate_path(http: &HTTPIngressPath, at: &Path<'_>, errors: &mut Errors) {
    let path = http.path.as_deref().unwrap_or_default();
    let field = at.child("path");
    let absolute = path.starts_with('/');
    match http.path_type.as_str() {
        "" => return errors.required(at.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !absolute {
                errors.invalid(field, path, "must be an absolute path");
            }
            for part in INVALID_SEQUENCES.iter().filter(|part| path.contains(*part)) {
                errors.invalid(field, path, format!("must not contain '{part}'"));
            }
            for end in INVALID_ENDS.iter().filter(|end| path.ends_with(*end)) {
                errors.invalid(field, path, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !absolute {
                errors.invalid(field, path, "must be an absolute path");
            }
        }
        other => {
            errors.not_supported(at.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"])
        }
    }
    validate_backend(&http.backend, &at.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path<'_>, errors: &mut Errors) {
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            return errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => return errors.invalid(path, "", "resource or service backend is required"),
        (Some(resource), None) => return reference(resource, &path.child("resource"), errors),
        (None, Some(service)) => service,
    };
    let at = path.child("service");
    if service.name.is_empty() {
        errors.required(at.child("name"), "");
    } else {
        errors.check(at.child("name"), &service.name, validation::dns_label);
    }
    let port = service.port.clone().unwrap_or_default();
    let at = at.child("port");
    match (given(&port.name), port.number.unwrap_or_default()) {
        (Some(_), number) if number != 0 => {
            errors.invalid(path, "", "cannot set both port name & port number");
        }
        (Some(name), _) => errors.check(at.child("name"), name, validation::port_name),
        (None, 0) => errors.required(path, "port name or number is required"),
        (None, number) => {
            if let Err(detail) = validation::port_number(number) {
                errors.invalid(at.child("number"), number, detail);
            }
        }
    }
}

fn reference(reference: &TypedLocalObjectReference, path: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = &reference.api_group {
        errors.check(path.child("apiGroup"), group, validation::dns_subdomain);
    }
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        if value.is_empty() {
            errors.required(path.child(field), "");
        } else {
            errors.check(path.child(field), value, validation::path_segment);
        }
    }
}

#[cfg(test)]
#[path = "ingress_tests.rs"]
mod tests;
