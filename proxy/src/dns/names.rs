//! What one Service is called and where its names lead, worked out of it and its EndpointSlices. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// All that questions about one Service are answered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNames {
    pub kind: Kind,
    /// The ready endpoints, sorted by address.
    pub endpoints: Box<[Endpoint]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With addresses of its own, and its named ports.
    ClusterIp { addresses: Box<[IpAddr]>, ports: Box<[Port]> },
    /// Its name is all its endpoints.
    Headless,
    /// Its name is another name.
    ExternalName(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: Box<str>,
    /// As in a name: `tcp`.
    pub protocol: Box<str>,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub hostname: Option<Box<str>>,
    pub ports: Box<[Port]>,
}

impl Endpoint {
    /// Its label below the Service: the hostname, or its address with dashes.
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.to_string(),
            None => dashed(self.address),
        }
    }
}

/// `10-244-1-2`, `fd00--12`.
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address of a label such as `10-244-1-2` or `fd00--12`.
pub fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6))
}

/// None where a Service has no name: it waits for its address still.
pub fn of(service: &Service, slices: &[EndpointSlice]) -> Option<ServiceNames> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref()?.trim_end_matches('.').to_lowercase();
        return Some(ServiceNames { kind: Kind::ExternalName(target.into()), endpoints: Box::default() });
    }
    let kind = if spec.cluster_ip.as_deref() == Some("None") {
        Kind::Headless
    } else {
        let listed = spec.cluster_ips.iter().flatten();
        let mut addresses: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        if addresses.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), Some(p.port)));
        Kind::ClusterIp { addresses: addresses.into(), ports: ports.collect() }
    };
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    Some(ServiceNames { kind, endpoints: endpoints(slices, unready_too) })
}

fn endpoints(slices: &[EndpointSlice], unready_too: bool) -> Box<[Endpoint]> {
    let mut all: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    for slice in slices {
        let ports: Box<[Port]> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port))
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if !ready && !unready_too {
                continue;
            }
            let hostname: Option<Box<str>> =
                endpoint.hostname.as_deref().filter(|h| !h.is_empty()).map(|h| h.to_lowercase().into());
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let known = all.entry(address).or_insert_with(|| Endpoint {
                    address,
                    hostname: hostname.clone(),
                    ports: Box::default(),
                });
                let mut merged = std::mem::take(&mut known.ports).into_vec();
                merged.extend(ports.iter().filter(|p| !known.ports.contains(p)).cloned());
                merged.sort_unstable();
                merged.dedup();
                known.ports = merged.into();
            }
        }
    }
    all.into_values().collect()
}

fn port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default().into(),
        protocol: protocol.unwrap_or("TCP").to_lowercase().into(),
        number: u16::try_from(number?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_addresses() {
        for (address, label) in [("10.244.1.2", "10-244-1-2"), ("fd00::12", "fd00--12")] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(dashed(address), label);
            assert_eq!(undashed(label), Some(address));
        }
        for bad in ["", "web", "10-244-1", "10-244-1-256", "a-b-c-d"] {
            assert_eq!(undashed(bad), None, "{bad}");
        }
    }
}
