//! Where a node's server listens, from the node's status.

use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::Node;

use crate::api::Api;

/// Addresses in the order upstream prefers them, beginning with what works inside the cluster.
const PREFERRED: &[&str] = &["InternalIP", "InternalDNS", "Hostname", "ExternalIP", "ExternalDNS"];

pub struct Endpoint {
    pub address: String,
    pub port: u16,
}

pub fn endpoint(api: &Api, name: &str) -> Result<Endpoint, ApiError> {
    let resource = Resource::of::<Node>();
    let node = api.kind(&resource)?.cache.get(name).ok_or_else(|| ApiError::not_found(&resource, name))?;
    let status = node.decode::<Node>()?.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let address = PREFERRED
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a.type_ == *kind))
        .map(|a| a.address.clone())
        .ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
        })?;
    let port = status
        .daemon_endpoints
        .and_then(|d| d.kubelet_endpoint)
        .and_then(|e| u16::try_from(e.port).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| {
            ApiError::service_unavailable(format!("node {name:?} does not say where its server listens"))
        })?;
    Ok(Endpoint { address, port })
}
