//! What is said over HTTP to a provider in another process: the bodies of `contract.yaml`, field by field.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, NodeAddress, PersistentVolume, Service};
use serde::{Deserialize, Serialize};

use super::super::provider::{Instance, Route};

/// `GET /v1/provider`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Description {
    pub name: String,
    pub capabilities: Capabilities,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    pub instances: bool,
    pub load_balancers: bool,
    pub routes: bool,
    pub volumes: bool,
}

/// Of a node, what a cloud needs to find its machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub name: String,
    #[serde(rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    pub addresses: Vec<NodeAddress>,
    pub labels: BTreeMap<String, String>,
}

impl From<&Node> for Machine {
    fn from(node: &Node) -> Self {
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            provider_id: node.spec.as_ref().and_then(|s| s.provider_id.clone()),
            addresses: node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
        }
    }
}

/// `POST /v1/instances`
#[derive(Debug, Serialize)]
pub struct InstanceQuestion {
    pub node: Machine,
}

#[derive(Debug, Deserialize)]
pub struct InstanceAnswer {
    pub exists: bool,
    #[serde(default)]
    pub instance: Option<Instance>,
}

/// `PUT /v1/loadbalancers/NAME`, and `PUT /v1/loadbalancers/NAME/nodes`
#[derive(Debug, Serialize)]
pub struct Balance<'a> {
    pub cluster: &'a str,
    pub service: &'a Service,
    pub nodes: Vec<Machine>,
}

#[derive(Debug, Deserialize)]
pub struct Balanced {
    #[serde(default)]
    pub status: Option<LoadBalancerStatus>,
}

/// `GET /v1/routes`
#[derive(Debug, Deserialize)]
pub struct RouteList {
    pub routes: Vec<Route>,
}

/// `PUT /v1/routes/NAME`
#[derive(Debug, Serialize)]
pub struct NewRoute<'a> {
    pub cluster: &'a str,
    pub route: &'a Route,
    pub node: Machine,
}

/// `POST /v1/volumes/labels`
#[derive(Debug, Serialize)]
pub struct VolumeQuestion<'a> {
    pub volume: &'a PersistentVolume,
}

#[derive(Debug, Deserialize)]
pub struct VolumeAnswer {
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The body of an answer that is not 2xx.
#[derive(Debug, Default, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    pub message: String,
}

/// The load balancer's name at the cloud, as `DefaultLoadBalancerName` of k8s.io/cloud-provider makes it of the uid.
pub fn balancer_name(service: &Service) -> String {
    let uid = service.metadata.uid.as_deref().unwrap_or_default().replace('-', "");
    format!("a{uid}").chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    #[test]
    fn names_are_upstreams() {
        let service: Service = from(json!({"metadata": {"uid": "0b43b8b5-1f2d-4b4e-9d2e-0a1b2c3d4e5f"}}));
        assert_eq!(balancer_name(&service), "a0b43b8b51f2d4b4e9d2e0a1b2c3d4e5");
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let description: Description = from(json!({"name": "x", "capabilities": {"routes": true}}));
        assert!(description.capabilities.routes && !description.capabilities.instances);
        let answer: InstanceAnswer =
            from(json!({"exists": true, "instance": {"providerID": "x://1", "shutdown": true}}));
        assert!(answer.instance.is_some_and(|i| i.shutdown && i.provider_id == "x://1"));
    }
}
