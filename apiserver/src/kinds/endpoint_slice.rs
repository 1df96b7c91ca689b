//! EndpointSlice: up to a thousand of a service's endpoints of one address family.

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use serde_json::{Value, json};

use super::{BuiltIn, Column, endpoints::endpoint_ip};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
/// How many ports or addresses a column shows.
const SHOWN_MAX: usize = 3;
const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

impl BuiltIn for EndpointSlice {
    const SINGULAR: &'static str = "endpointslice";
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        errors.one_of("addressType", Some(&self.address_type), ADDRESS_TYPES);
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        let path = Path::new("endpoints");
        if endpoints.len() > ENDPOINTS_MAX {
            return errors.too_many(path, endpoints.len(), ENDPOINTS_MAX);
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &self.address_type, &path.index(i), errors);
        }
        let ports = self.ports.as_deref().unwrap_or_default();
        let path = Path::new("ports");
        if ports.len() > PORTS_MAX {
            return errors.too_many(path, ports.len(), PORTS_MAX);
        }
        for (i, port) in ports.iter().enumerate() {
            validate_port(port, &path.index(i), errors);
            if ports[..i].iter().any(|p| p.name == port.name) {
                errors.duplicate(path.index(i).child("name"), &port.name);
            }
        }
    }

    /// Labels count, too: they say whose the slice is.
    fn prepare_update(&mut self, old: &Self) {
        if self.metadata.labels != old.metadata.labels {
            self.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("addressType", &self.address_type, &old.address_type);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("AddressType", "string", "The family of the addresses: IPv4, IPv6 or FQDN."),
            table::narrow("Ports", "string", "The ports every endpoint serves."),
            table::narrow("Endpoints", "string", "The addresses of the endpoints."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let ports = self
            .ports
            .iter()
            .flatten()
            .map(|p| p.port.map_or_else(|| p.name.clone().unwrap_or_default(), |port| port.to_string()));
        let addresses = self.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned());
        let narrow =
            vec![json!(self.address_type), json!(list(ports.collect())), json!(list(addresses.collect()))];
        table::cells(&self.metadata, now, narrow)
    }
}

fn list(mut items: Vec<String>) -> String {
    let count = items.len();
    items.truncate(SHOWN_MAX);
    match count {
        0 => "<unset>".into(),
        _ if count > SHOWN_MAX => format!("{} + {} more...", items.join(","), count - SHOWN_MAX),
        _ => items.join(","),
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path<'_>, errors: &mut Errors) {
    let addresses = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(addresses, "must contain at least 1 address"),
        count if count > ADDRESSES_MAX => errors.too_many(addresses, count, ADDRESSES_MAX),
        _ => {}
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let at = addresses.index(i);
        match address_type {
            "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                errors.invalid(at, address, "must be a valid IPv4 address");
            }
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                errors.invalid(at, address, "must be a valid IPv6 address");
            }
            "IPv4" | "IPv6" => endpoint_ip(address, &at, errors),
            "FQDN" => errors.check(at, address, validation::dns_subdomain),
            _ => {}
        }
    }
    if let Some(hostname) = &endpoint.hostname {
        errors.check(path.child("hostname"), hostname, validation::dns_label);
    }
    if let Some(node) = &endpoint.node_name {
        errors.check(path.child("nodeName"), node, validation::dns_subdomain);
    }
    for key in endpoint.deprecated_topology.iter().flat_map(|t| t.keys()) {
        errors.check(path.child("deprecatedTopology").key(key), key, validation::qualified_name);
    }
    if let Some(hints) = &endpoint.hints {
        let path = path.child("hints");
        let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|z| z.name.as_str()).collect();
        let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|n| n.name.as_str()).collect();
        for (field, names) in [("forZones", zones), ("forNodes", nodes)] {
            let path = path.child(field);
            if names.len() > HINTS_MAX {
                errors.too_many(path, names.len(), HINTS_MAX);
                continue;
            }
            for (i, name) in names.iter().enumerate() {
                errors.check(path.index(i).child("name"), name, validation::label_value);
                if names[..i].contains(name) {
                    errors.duplicate(path.index(i).child("name"), name);
                }
            }
        }
    }
}

fn validate_port(port: &EndpointPort, path: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = validation::given(&port.name) {
        errors.check(path.child("name"), name, validation::dns_label);
    }
    errors.one_of(path.child("protocol"), port.protocol.as_deref(), super::PROTOCOLS);
    // Upstream takes any number here, 0 included.
    if let Some(protocol) = &port.app_protocol {
        errors.check(path.child("appProtocol"), protocol, validation::qualified_name);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn addresses_are_of_their_type() {
        let one =
            |kind: &str, address: &str| json!({"addressType": kind, "endpoints": [{"addresses": [address]}]});
        testing::invalid::<EndpointSlice>(&[
            (json!({}), "addressType", "Required value"),
            (
                json!({"addressType": "X"}),
                "addressType",
                "Unsupported value: \"X\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            ),
            (
                one("IPv4", "::1"),
                "endpoints[0].addresses[0]",
                "Invalid value: \"::1\": must be a valid IPv4 address",
            ),
            (
                one("FQDN", "A"),
                "endpoints[0].addresses[0]",
                "Invalid value: \"A\": a lowercase RFC 1123 subdomain",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                "endpoints[0].addresses",
                "Required value: must contain at least 1 address",
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"name": "a"}, {"name": "a"}]}),
                "ports[1].name",
                "Duplicate value: \"a\"",
            ),
        ]);
        testing::updates::<EndpointSlice>(&[(
            json!({"addressType": "IPv4"}),
            json!({"addressType": "IPv6"}),
            "addressType",
            "Invalid value: \"IPv6\": field is immutable",
        )]);
    }

    #[test]
    fn the_columns_show_three() {
        let slice = json!({"metadata": {"name": "a"}, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2", "10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]});
        let cells = testing::cells::<EndpointSlice>(slice);
        assert_eq!(cells, ["a", "IPv4", "80,x", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...", "<unknown>"]);
        let empty =
            testing::cells::<EndpointSlice>(json!({"addressType": "IPv4", "metadata": {"name": "a"}}));
        assert_eq!(empty, ["a", "IPv4", "<unset>", "<unset>", "<unknown>"]);
    }
}
