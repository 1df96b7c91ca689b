//! The endpoints of the `kubernetes` Service: the addresses of the servers that live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use coracle_client::{ApiError, Client, DeleteOptions, ListOptions};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::bootstrap::{KUBERNETES, created, meta};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Servers by their ports: an object says one list of ports for all its addresses.
fn by_port(servers: &BTreeSet<SocketAddr>) -> BTreeMap<u16, Vec<IpAddr>> {
    servers.iter().fold(BTreeMap::new(), |mut ports, server| {
        ports.entry(server.port()).or_default().push(server.ip());
        ports
    })
}

fn endpoints(servers: &BTreeSet<SocketAddr>) -> Endpoints {
    let subsets = by_port(servers).into_iter().map(|(port, addresses)| EndpointSubset {
        addresses: Some(
            addresses
                .into_iter()
                .map(|ip| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() })
                .collect(),
        ),
        not_ready_addresses: None,
        ports: Some(vec![EndpointPort {
            name: Some("https".into()),
            port: port.into(),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
    });
    Endpoints {
        metadata: meta(&[("endpointslice.kubernetes.io/skip-mirror", "true")]),
        subsets: Some(subsets.collect()),
    }
}

/// One for each port and family; upstream's name is the first one's.
fn slices(servers: &BTreeSet<SocketAddr>) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(u16, bool), Vec<IpAddr>> = BTreeMap::new();
    for server in servers {
        groups.entry((server.port(), server.is_ipv6())).or_default().push(server.ip());
    }
    let each = groups.into_iter().enumerate().map(|(index, ((port, ipv6), addresses))| {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let name = match index {
            0 => KUBERNETES.to_owned(),
            _ => format!("{KUBERNETES}-{}-{port}", family.to_lowercase()),
        };
        EndpointSlice {
            metadata: ObjectMeta { name: Some(name), ..meta(&[(SERVICE_NAME, KUBERNETES)]) },
            address_type: family.into(),
            endpoints: Some(
                addresses
                    .into_iter()
                    .map(|ip| Endpoint {
                        addresses: vec![ip.to_string()],
                        conditions: Some(EndpointConditions {
                            ready: Some(true),
                            ..EndpointConditions::default()
                        }),
                        ..Endpoint::default()
                    })
                    .collect(),
            ),
            ports: Some(vec![SlicePort {
                name: Some("https".into()),
                port: Some(port.into()),
                protocol: Some("TCP".into()),
                app_protocol: None,
            }]),
        }
    });
    each.collect()
}

/// Says so in the API, where it is said otherwise.
pub async fn ensure(client: &Client, servers: &BTreeSet<SocketAddr>) -> Result<(), ApiError> {
    let wanted = endpoints(servers);
    match client.find::<Endpoints>("default", KUBERNETES).await? {
        None => created(client.create(&wanted).await.map(drop))?,
        Some(mut current) if current.subsets != wanted.subsets => {
            current.subsets = wanted.subsets;
            client.update(&current).await.map(drop)?;
        }
        Some(_) => {}
    }
    let selector = format!("{SERVICE_NAME}={KUBERNETES}");
    let options = ListOptions { label_selector: Some(selector), ..ListOptions::default() };
    let mut present = BTreeMap::new();
    for object in client.list::<EndpointSlice>("default", options).await?.items {
        present.insert(object.head.name.to_string(), object.decode::<EndpointSlice>()?);
    }
    for slice in slices(servers) {
        match present.remove(slice.metadata.name.as_deref().unwrap_or_default()) {
            None => created(client.create(&slice).await.map(drop))?,
            Some(current) if current.address_type != slice.address_type => {
                remove(client, &current).await?;
                created(client.create(&slice).await.map(drop))?;
            }
            Some(current) if current.endpoints == slice.endpoints && current.ports == slice.ports => {}
            Some(mut current) => {
                (current.endpoints, current.ports) = (slice.endpoints, slice.ports);
                client.update(&current).await.map(drop)?;
            }
        }
    }
    // Others may write slices of their own for the Service; ours go by these names.
    for (name, slice) in present {
        if name.starts_with("kubernetes-ipv4-") || name.starts_with("kubernetes-ipv6-") {
            remove(client, &slice).await?;
        }
    }
    Ok(())
}

async fn remove(client: &Client, slice: &EndpointSlice) -> Result<(), ApiError> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    match client.delete::<EndpointSlice>("default", name, DeleteOptions::default()).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_with_one_port_share_a_subset_and_a_slice() {
        for (servers, subsets, names) in [
            (vec!["10.0.0.1:6443"], vec![(6443, 1)], vec!["kubernetes 1"]),
            (vec!["10.0.0.2:6443", "10.0.0.1:6443"], vec![(6443, 2)], vec!["kubernetes 2"]),
            (
                vec!["127.0.0.1:7000", "127.0.0.1:6443"],
                vec![(6443, 1), (7000, 1)],
                vec!["kubernetes 1", "kubernetes-ipv4-7000 1"],
            ),
            (
                vec!["10.0.0.1:6443", "[fd00::1]:6443"],
                vec![(6443, 2)],
                vec!["kubernetes 1", "kubernetes-ipv6-6443 1"],
            ),
        ] {
            let servers: BTreeSet<SocketAddr> = servers.iter().map(|s| s.parse().unwrap()).collect();
            let got: Vec<_> = endpoints(&servers)
                .subsets
                .unwrap()
                .iter()
                .map(|s| (s.ports.as_ref().unwrap()[0].port, s.addresses.as_ref().unwrap().len()))
                .collect();
            assert_eq!(got, subsets);
            let got: Vec<_> = slices(&servers)
                .iter()
                .map(|s| {
                    format!("{} {}", s.metadata.name.as_ref().unwrap(), s.endpoints.as_ref().unwrap().len())
                })
                .collect();
            assert_eq!(got, names);
        }
    }
}
