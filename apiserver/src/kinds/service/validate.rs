//! What a service must say.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::families::Family;
use super::{is_external, is_headless, listed, type_of};
use crate::field_error::{Errors, Path};
use crate::kinds::PROTOCOLS;
use crate::validation::{self, given};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const TRAFFIC: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const NOT_OF_NAMES: &str = "may not be set for ExternalName services";
const SESSION_SECONDS_MAX: i32 = 86_400;
/// The kubelet's port, which load balancers must not take from it.
const KUBELET_PORT: i32 = 10_250;

pub(super) fn validate(service: &Service, errors: &mut Errors) {
    let path = Path::new("spec");
    let Some(spec) = &service.spec else { return errors.required(path.child("ports"), "") };
    let type_ = type_of(spec);
    errors.one_of(path.child("type"), Some(type_), TYPES);
    let port_list = spec.ports.as_deref().unwrap_or_default();
    if port_list.is_empty() && !is_headless(spec) && type_ != "ExternalName" {
        errors.required(path.child("ports"), "");
    }
    if type_ == "ExternalName" {
        if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) || given(&spec.cluster_ip).is_some() {
            errors.forbidden(path.child("clusterIPs"), NOT_OF_NAMES);
        }
        if !listed(&spec.ip_families).is_empty() {
            errors.forbidden(path.child("ipFamilies"), NOT_OF_NAMES);
        }
        if spec.ip_family_policy.is_some() {
            errors.forbidden(path.child("ipFamilyPolicy"), NOT_OF_NAMES);
        }
        match given(&spec.external_name).map(|n| n.trim_end_matches('.')) {
            None => errors.required(path.child("externalName"), ""),
            Some(name) => errors.check(path.child("externalName"), name, validation::dns_subdomain),
        }
    } else if is_external(spec) && is_headless(spec) {
        let detail = format!("may not be set to 'None' for {type_} services");
        errors.invalid(path.child("clusterIPs").index(0), "None", detail);
    }
    ports(spec, port_list, &path.child("ports"), errors);
    validation::labels(spec.selector.as_ref(), &path.child("selector"), errors);
    session(spec, &path, errors);
    addresses(spec, &path, errors);
    policies(spec, &path, errors);
}

fn ports(spec: &ServiceSpec, ports: &[ServicePort], path: &Path<'_>, errors: &mut Errors) {
    let protocol_of = |port: &ServicePort| port.protocol.clone().unwrap_or_default();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        match given(&port.name) {
            None if ports.len() > 1 => errors.required(at.child("name"), ""),
            None => {}
            Some(name) => {
                errors.check(at.child("name"), name, validation::dns_label);
                if ports[..i].iter().any(|p| p.name == port.name) {
                    errors.duplicate(at.child("name"), name);
                }
            }
        }
        if let Err(detail) = validation::port_number(port.port) {
            errors.invalid(at.child("port"), port.port, detail);
        }
        errors.one_of(at.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
        match &port.target_port {
            Some(IntOrString::Int(number)) => {
                if let Err(detail) = validation::port_number(*number) {
                    errors.invalid(at.child("targetPort"), number, detail);
                }
            }
            Some(IntOrString::String(name)) => {
                errors.check(at.child("targetPort"), name, validation::port_name)
            }
            None => {}
        }
        if let Some(protocol) = &port.app_protocol {
            errors.check(at.child("appProtocol"), protocol, validation::qualified_name);
        }
        if type_of(spec) == "LoadBalancer" && port.port == KUBELET_PORT {
            let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
            errors.invalid(at.child("port"), port.port, detail);
        }
        if ports[..i].iter().any(|p| p.port == port.port && protocol_of(p) == protocol_of(port)) {
            errors.duplicate(at, serde_json::json!({"protocol": port.protocol, "port": port.port}));
        }
        let Some(node_port) = port.node_port.filter(|p| *p != 0) else { continue };
        if !is_external(spec) {
            let detail = format!("may not be used when `type` is '{}'", type_of(spec));
            errors.forbidden(at.child("nodePort"), &detail);
        } else if ports[..i]
            .iter()
            .any(|p| p.node_port == port.node_port && protocol_of(p) == protocol_of(port))
        {
            errors.duplicate(at.child("nodePort"), node_port);
        }
    }
}

fn session(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(path.child("sessionAffinity"), spec.session_affinity.as_deref(), AFFINITIES);
    let at = path.child("sessionAffinityConfig");
    match (spec.session_affinity.as_deref(), &spec.session_affinity_config) {
        (Some("None"), Some(_)) => {
            errors.forbidden(at, "must not be set when session affinity is None");
        }
        (Some("ClientIP"), config) => {
            let seconds = config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
            match seconds {
                None => errors.required(at, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=SESSION_SECONDS_MAX).contains(&seconds) => errors.invalid(
                    at.child("clientIP").child("timeoutSeconds"),
                    seconds,
                    format!("must be greater than 0 and less than {SESSION_SECONDS_MAX}"),
                ),
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn addresses(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        crate::kinds::endpoints::endpoint_ip(ip, &path.child("externalIPs").index(i), errors);
    }
    if type_of(spec) != "ExternalName" {
        cluster_ips(spec, path, errors);
    }
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() && type_of(spec) != "LoadBalancer" {
        errors.forbidden(
            path.child("LoadBalancerSourceRanges"),
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    for (i, range) in ranges.iter().enumerate() {
        errors.check(path.child("LoadBalancerSourceRanges").index(i), range.trim(), validation::cidr);
    }
}

/// The addresses, the families and the policy, each by itself and as far as they belong together.
fn cluster_ips(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let ips = listed(&spec.cluster_ips);
    let at = path.child("clusterIPs");
    match (given(&spec.cluster_ip), ips.first()) {
        (Some(_), None) => errors.required(at, ""),
        (Some(one), Some(first)) if one != first => {
            errors.invalid(at, ips, "first value must match `clusterIP`");
        }
        (None, Some(_)) => errors.invalid(at, ips, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let families = listed(&spec.ip_families);
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies");
        if !FAMILIES.contains(&family.as_str()) {
            errors.not_supported(at.index(i), family, FAMILIES);
        }
        if families[..i].contains(family) {
            errors.duplicate(at.index(i), family);
        }
    }
    if let Some(policy) = &spec.ip_family_policy
        && !FAMILY_POLICIES.contains(&policy.as_str())
    {
        errors.not_supported(path.child("ipFamilyPolicy"), policy, FAMILY_POLICIES);
    }
    let mut readable = true;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == super::HEADLESS {
            if ips.len() > 1 {
                readable = false;
                errors.invalid(at, ips, "'None' must be the first and only value");
            }
            continue;
        }
        if let Err(detail) = validation::ip(ip) {
            readable = false;
            errors.invalid(at.index(i), ip, detail);
        }
    }
    if ips.len() > 2 {
        errors.invalid(at, ips, "may only hold up to 2 values");
    }
    if !readable {
        return;
    }
    let family_of = |ip: &String| ip.parse().ok().map(Family::of);
    if ips.len() > 1 && (ips.len() > 2 || family_of(&ips[0]) == family_of(&ips[1])) {
        errors.invalid(at, ips, "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
        if let (Some(has), Some(wanted)) = (family_of(ip), Family::named(family))
            && has != wanted
        {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(at.index(i), ip, detail);
        }
    }
}

fn policies(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let exposed = is_external(spec) || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if let Some(policy) = given(&spec.external_traffic_policy) {
        if !exposed {
            errors.invalid(
                path.child("externalTrafficPolicy"),
                policy,
                "may only be set for externally-accessible services",
            );
        } else if !TRAFFIC.contains(&policy) {
            errors.not_supported(path.child("externalTrafficPolicy"), policy, TRAFFIC);
        }
    }
    if let Some(policy) = &spec.internal_traffic_policy
        && !TRAFFIC.contains(&policy.as_str())
    {
        errors.not_supported(path.child("internalTrafficPolicy"), policy, TRAFFIC);
    }
    if let Some(distribution) = &spec.traffic_distribution
        && !DISTRIBUTIONS.contains(&distribution.as_str())
    {
        errors.not_supported(path.child("trafficDistribution"), distribution, DISTRIBUTIONS);
    }
    if let Some(class) = &spec.load_balancer_class {
        if type_of(spec) != "LoadBalancer" {
            errors
                .forbidden(path.child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
        }
        errors.check(path.child("loadBalancerClass"), class, validation::qualified_name);
    }
    if spec.health_check_node_port.unwrap_or_default() != 0 && !super::needs_health_port(spec) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(path.child("healthCheckNodePort"), spec.health_check_node_port, detail);
    }
    if spec.allocate_load_balancer_node_ports.is_some() && type_of(spec) != "LoadBalancer" {
        errors.forbidden(
            path.child("allocateLoadBalancerNodePorts"),
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
}

pub(super) fn validate_update(new: &Service, old: &Service, errors: &mut Errors) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
    if type_of(new) == "ExternalName" || type_of(old) == "ExternalName" {
        return;
    }
    // What is wrong by itself is not compared.
    let mut wrong = Errors::default();
    cluster_ips(new, &Path::new("spec"), &mut wrong);
    if wrong.is_empty() {
        ips_stay(new, old, errors);
        families_stay(new, old, errors);
    }
    if let (Some(new), Some(old)) = (&new.load_balancer_class, &old.load_balancer_class)
        && new != old
    {
        errors.invalid("spec.loadBalancerClass", new, "may not change once set");
    }
}

/// The primary address is for ever; a secondary one may come and go, which the policy has to say
/// ([`super::families::settle`]).
fn ips_stay(new: &ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (ips, before) = (listed(&new.cluster_ips), listed(&old.cluster_ips));
    let path = Path::new("spec");
    let path = path.child("clusterIPs");
    if ips.is_empty() && !before.is_empty() {
        return errors.invalid(path.index(0), ips, "primary clusterIP can not be unset");
    }
    let compared = if ips.len() == before.len() { ips.len() } else { 1 };
    for (i, (ip, before)) in ips.iter().zip(before).enumerate().take(compared) {
        if ip != before {
            errors.invalid(path.index(i), ips, "may not change once set");
        }
    }
}

fn families_stay(new: &ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    let (families, before) = (listed(&new.ip_families), listed(&old.ip_families));
    // What is not said is taken from the addresses, which stay.
    if is_headless(new) || is_headless(old) || families.is_empty() {
        return;
    }
    let same_count = families.len() == before.len();
    let compared = if same_count { families.len() } else { 1 };
    for (family, before) in families.iter().zip(before).take(compared) {
        if family != before {
            let shown = if same_count { families } else { listed(&new.cluster_ips) };
            errors.invalid("spec.ipFamilies[0]", shown, "may not change once set");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::kinds::testing;

    use super::*;

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"ports": [{"port": 80}]});
        spec[field] = value;
        json!({"spec": spec})
    }

    #[test]
    fn one_bad_service_per_rule() {
        testing::valid::<Service>(&[
            with("selector", json!({"app": "x"})),
            json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
            json!({"spec": {"type": "ExternalName", "externalName": "example.com."}}),
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}}),
        ]);
        testing::invalid::<Service>(&[
            (json!({"spec": {}}), "spec.ports", "Required value"),
            (
                with("type", json!("X")),
                "spec.type",
                "Unsupported value: \"X\": supported values: \"ClusterIP\"",
            ),
            (json!({"spec": {"type": "ExternalName"}}), "spec.externalName", "Required value"),
            (
                json!({"spec": {"type": "ExternalName", "externalName": "a.b", "ipFamilyPolicy": "SingleStack"}}),
                "spec.ipFamilyPolicy",
                "Forbidden: may not be set for ExternalName services",
            ),
            (
                json!({"spec": {"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}}),
                "spec.clusterIPs[0]",
                "Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                with("ports", json!([{"port": 0, "targetPort": 1}])),
                "spec.ports[0].port",
                "Invalid value: 0: must be between 1",
            ),
            (
                with("ports", json!([{"port": 1, "targetPort": 70000}])),
                "spec.ports[0].targetPort",
                "Invalid value: 70000",
            ),
            (
                with("ports", json!([{"port": 1}, {"port": 2, "name": "b"}])),
                "spec.ports[0].name",
                "Required value",
            ),
            (
                with("ports", json!([{"port": 1, "name": "a"}, {"port": 2, "name": "a"}])),
                "spec.ports[1].name",
                "Duplicate value: \"a\"",
            ),
            (
                with("ports", json!([{"port": 1, "name": "a"}, {"port": 1, "name": "b"}])),
                "spec.ports[1]",
                "Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
            ),
            (
                with("ports", json!([{"port": 1, "nodePort": 30000}])),
                "spec.ports[0].nodePort",
                "Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                with("ports", json!([{"port": 1, "protocol": "X"}])),
                "spec.ports[0].protocol",
                "Unsupported value: \"X\"",
            ),
            (with("sessionAffinity", json!("X")), "spec.sessionAffinity", "Unsupported value: \"X\""),
            (
                json!({"spec": {"ports": [{"port": 1}], "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                "Invalid value: 0: must be greater than 0 and less than 86400",
            ),
            (
                json!({"spec": {"ports": [{"port": 80}], "clusterIP": "x", "clusterIPs": ["x"]}}),
                "spec.clusterIPs[0]",
                "Invalid value: \"x\": must be a valid IP",
            ),
            (
                with("clusterIPs", json!(["10.0.0.1"])),
                "spec.clusterIPs",
                "Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}}),
                "spec.clusterIPs",
                "Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            ),
            (
                json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}}),
                "spec.clusterIPs[0]",
                "Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (with("ipFamilies", json!(["IPv4", "IPv4"])), "spec.ipFamilies[1]", "Duplicate value: \"IPv4\""),
            (with("selector", json!({"a": "b c"})), "spec.selector", "Invalid value: \"b c\""),
            (
                with("internalTrafficPolicy", json!("X")),
                "spec.internalTrafficPolicy",
                "Unsupported value: \"X\"",
            ),
            (
                with("externalTrafficPolicy", json!("Local")),
                "spec.externalTrafficPolicy",
                "Invalid value: \"Local\": may only be set",
            ),
            (with("ipFamilies", json!(["X"])), "spec.ipFamilies[0]", "Unsupported value: \"X\""),
        ]);
    }

    #[test]
    fn the_address_stays() {
        let of = |ips: Value, families: Value| {
            let mut service = with("clusterIPs", ips.clone());
            service["spec"]["clusterIP"] = ips[0].clone();
            service["spec"]["ipFamilies"] = families;
            service
        };
        let (four, both) = (json!(["10.96.0.1"]), json!(["10.96.0.1", "fd00::1"]));
        testing::updates::<Service>(&[
            (
                of(four.clone(), json!(["IPv4"])),
                of(json!(["10.96.0.2"]), json!(["IPv4"])),
                "spec.clusterIPs[0]",
                "Invalid value: [\"10.96.0.2\"]: may not change once set",
            ),
            (
                of(both.clone(), json!(["IPv4", "IPv6"])),
                of(json!(["10.96.0.1", "fd00::2"]), json!(["IPv4", "IPv6"])),
                "spec.clusterIPs[1]",
                "Invalid value: [\"10.96.0.1\",\"fd00::2\"]: may not change once set",
            ),
            (of(four.clone(), json!(["IPv4"])), of(both.clone(), json!(["IPv4", "IPv6"])), "", ""),
            (of(both, json!(["IPv4", "IPv6"])), of(four.clone(), json!(["IPv4"])), "", ""),
            (of(four.clone(), json!(["IPv4"])), of(four, json!(["IPv4"])), "", ""),
        ]);
    }
}
