//! Endpoints: the older form of a service's addresses, kept beside its EndpointSlices.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// How many addresses the column shows.
const SHOWN_MAX: usize = 3;

impl BuiltIn for Endpoints {
    const SINGULAR: &'static str = "endpoints";
    const SHORT_NAMES: &'static [&'static str] = &["ep"];
    const CREATE_ON_UPDATE: bool = true;
    const DEPRECATION: Option<&'static str> =
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");

    fn set_defaults(&mut self) {
        for port in self.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            if validation::given(&port.protocol).is_none() {
                port.protocol = Some("TCP".into());
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("subsets");
        for (i, subset) in self.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &path.index(i), errors);
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("Endpoints", "string", "Addresses and ports that are ready.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(format(self.subsets.as_deref().unwrap_or_default()))])
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path<'_>, errors: &mut Errors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (i, address) in addresses.iter().enumerate() {
            validate_address(address, &path.child(field).index(i), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (i, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.child("ports").index(i), errors);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path<'_>, errors: &mut Errors) {
    endpoint_ip(&address.ip, &path.child("ip"), errors);
    if let Some(hostname) = validation::given(&address.hostname) {
        errors.check(path.child("hostname"), hostname, validation::dns_label);
    }
    if let Some(node) = &address.node_name {
        errors.check(path.child("nodeName"), node, validation::dns_subdomain);
    }
}

/// An address that traffic may be sent to: not a whole group's, nor one that means another on every host.
/// Unlike upstream, loopback addresses pass: on rootless nodes pods live in 127.0.0.0/8.
pub(super) fn endpoint_ip(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return errors.check(path, text, validation::ip);
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, "may not be unspecified (0.0.0.0 or ::)");
    }
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if local_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn validate_port(port: &EndpointPort, name_required: bool, path: &Path<'_>, errors: &mut Errors) {
    match validation::given(&port.name) {
        None if name_required => errors.required(path.child("name"), ""),
        None => {}
        Some(name) => errors.check(path.child("name"), name, validation::dns_label),
    }
    if let Err(detail) = validation::port_number(port.port) {
        errors.invalid(path.child("port"), port.port, detail);
    }
    errors.one_of(path.child("protocol"), port.protocol.as_deref(), super::PROTOCOLS);
    if let Some(protocol) = &port.app_protocol {
        errors.check(path.child("appProtocol"), protocol, validation::qualified_name);
    }
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`, or the bare addresses of a headless service without ports.
fn format(subsets: &[EndpointSubset]) -> String {
    let mut list = Vec::new();
    let mut count = 0;
    for subset in subsets {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            count += addresses.len();
            list.extend(addresses.iter().take(SHOWN_MAX).map(|a| a.ip.clone()));
            continue;
        }
        count += addresses.len() * ports.len();
        for port in ports {
            list.extend(addresses.iter().take(SHOWN_MAX).map(|a| match a.ip.contains(':') {
                true => format!("[{}]:{}", a.ip, port.port),
                false => format!("{}:{}", a.ip, port.port),
            }));
        }
    }
    list.truncate(SHOWN_MAX);
    let text = list.join(",");
    match count {
        0 => "<none>".into(),
        _ if count > list.len() => format!("{text} + {} more...", count - list.len()),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn addresses_reach_someone() {
        let one = |address: Value| json!({"subsets": [{"addresses": [address], "ports": [{"port": 80}]}]});
        testing::invalid::<Endpoints>(&[
            (json!({"subsets": [{}]}), "subsets[0]", "Required value: must specify `addresses`"),
            (
                one(json!({"ip": "x"})),
                "subsets[0].addresses[0].ip",
                "Invalid value: \"x\": must be a valid IP",
            ),
            (
                one(json!({"ip": "169.254.0.1"})),
                "subsets[0].addresses[0].ip",
                "Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            ),
            (
                json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 0}]}]}),
                "subsets[0].ports[0].port",
                "Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}, {"port": 2, "name": "b"}]}]}),
                "subsets[0].ports[0].name",
                "Required value",
            ),
        ]);
        testing::valid::<Endpoints>(&[
            one(json!({"ip": "10.0.0.1"})),
            one(json!({"ip": "127.1.0.5"})),
            json!({}),
        ]);
    }

    #[test]
    fn the_column_shows_three() {
        let address = |i: u8| json!({"ip": format!("10.0.0.{i}")});
        for (subsets, want) in [
            (json!([]), "<none>"),
            (json!([{"addresses": [address(1)], "ports": [{"port": 80}]}]), "10.0.0.1:80"),
            (json!([{"addresses": [address(1)]}]), "10.0.0.1"),
            (
                json!([{"addresses": [address(1), address(2), address(3), address(4)], "ports": [{"port": 80}]}]),
                "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...",
            ),
        ] {
            let cells = testing::cells::<Endpoints>(json!({"metadata": {"name": "a"}, "subsets": subsets}));
            assert_eq!(cells, ["a", want, "<unknown>"]);
        }
    }
}
