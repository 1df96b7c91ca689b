//! What a cloud must be able to do, as far as it can: machines, load balancers, routes, volumes.
//!
//! After k8s.io/cloud-provider: `InstancesV2` (which carries the zones), `LoadBalancer`, `Routes`, and the volume labels of
//! its `PVLabeler`. Every call may be made again, and then must do nothing new.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::Key;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, NodeAddress, PersistentVolume, Service};
use serde::{Deserialize, Serialize};

/// A cloud. What it does not do is None, and the controllers for it do not run.
pub trait Provider: Send + Sync + 'static {
    /// As in `providerID`s: `NAME://…`.
    fn name(&self) -> &str;

    fn instances(&self) -> Option<&dyn Instances> {
        None
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        None
    }

    fn routes(&self) -> Option<&dyn Routes> {
        None
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        None
    }
}

/// Why the cloud did not do it; in its own words, which Events show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    #[error("{0}")]
    Refused(String),
    #[error("{url}: {what}")]
    Unreachable { url: String, what: String },
    #[error("{url}: the answer is not what the contract says: {what}")]
    Contract { url: String, what: String },
}

/// The machine behind a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub instance_type: String,
    pub zone: String,
    pub region: String,
    pub addresses: Vec<NodeAddress>,
    pub labels: BTreeMap<String, String>,
    pub shutdown: bool,
}

#[async_trait]
pub trait Instances: Send + Sync {
    /// None: there is no such machine.
    async fn instance(&self, node: &Node) -> Result<Option<Instance>, CloudError>;
}

#[async_trait]
pub trait LoadBalancers: Send + Sync {
    /// None: there is none for the Service.
    async fn get(&self, service: &Service) -> Result<Option<LoadBalancerStatus>, CloudError>;

    /// Makes it, or makes it anew as the Service says now.
    async fn ensure(&self, service: &Service, nodes: &[Node]) -> Result<LoadBalancerStatus, CloudError>;

    /// Only the nodes are others than before. A status: it has changed by that.
    async fn update(
        &self,
        service: &Service,
        nodes: &[Node],
    ) -> Result<Option<LoadBalancerStatus>, CloudError>;

    async fn delete(&self, service: &Service) -> Result<(), CloudError>;

    /// Annotations of the Service that this cloud keeps; None: are removed.
    fn annotations(&self, _service: &Service, _nodes: &[Node]) -> BTreeMap<&'static str, Option<String>> {
        BTreeMap::new()
    }

    /// `changed` is called with a Service whose load balancer may have to be another for reasons of the cloud's own.
    fn follow(&self, _changed: Arc<dyn Fn(Key) + Send + Sync>) {}
}

/// A way to the pods of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Route {
    pub name: String,
    /// The node's name; empty where the machine it leads to is gone.
    pub node: String,
    #[serde(rename = "destinationCIDR")]
    pub destination_cidr: String,
    /// It leads nowhere, as its machine went.
    pub blackhole: bool,
}

#[async_trait]
pub trait Routes: Send + Sync {
    async fn list(&self) -> Result<Vec<Route>, CloudError>;
    async fn create(&self, route: &Route, node: &Node) -> Result<(), CloudError>;
    async fn delete(&self, route: &Route) -> Result<(), CloudError>;
}

#[async_trait]
pub trait Volumes: Send + Sync {
    /// The labels that say where the volume is; none where it is not the cloud's.
    async fn labels(&self, volume: &PersistentVolume) -> Result<BTreeMap<String, String>, CloudError>;
}
