//! The provider `external`: a cloud in another process, over the HTTP contract in `contract.yaml`.

mod contract;
mod http;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::Method;
use async_trait::async_trait;
use coracle_client::request::escape_query;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, PersistentVolume, Service};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::provider::{CloudError, Instance, Instances, LoadBalancers, Provider, Route, Routes, Volumes};
use contract::{
    Balance, Balanced, Description, InstanceAnswer, InstanceQuestion, Machine, NewRoute, RouteList,
    VolumeAnswer, VolumeQuestion, balancer_name,
};
use http::Caller;

pub use http::{Endpoint, EndpointError};

/// A provider that does not say what it is yet is asked again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
const NOTHING: Option<&Value> = None;

/// Whether the endpoint is one that can be spoken to, as far as that shows without speaking to it.
pub fn check(endpoint: &Endpoint) -> Result<(), EndpointError> {
    Caller::new(endpoint.clone()).map(drop)
}

pub struct External {
    caller: Caller,
    description: Description,
    cluster: String,
}

impl External {
    /// Asks the provider what it is, until it says so; None at shutdown.
    pub async fn connect(
        endpoint: Endpoint,
        cluster: &str,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, EndpointError> {
        let caller = Caller::new(endpoint)?;
        let mut retry = RETRY_FIRST;
        loop {
            let asked = caller.call::<Description>(Method::GET, "/v1/provider", NOTHING);
            let answer = tokio::select! {
                answer = asked => answer,
                () = shutdown.cancelled() => return Ok(None),
            };
            match answer {
                Ok(Some(description)) => {
                    info!(name = description.name, capabilities = ?description.capabilities, "cloud provider");
                    return Ok(Some(Self { caller, description, cluster: cluster.to_owned() }));
                }
                Ok(None) => warn!("the cloud provider has no /v1/provider, again in {retry:?}"),
                Err(error) => warn!(%error, "the cloud provider does not say what it is, again in {retry:?}"),
            }
            tokio::select! {
                () = tokio::time::sleep(retry) => {}
                () = shutdown.cancelled() => return Ok(None),
            }
            retry = (retry * 2).min(RETRY_MAX);
        }
    }

    fn missing(&self, what: &str) -> CloudError {
        CloudError::Refused(format!("the cloud provider {} knows nothing of {what}", self.description.name))
    }

    async fn balance(&self, service: &Service, nodes: &[Node], path: &str) -> Result<Balanced, CloudError> {
        let body =
            Balance { cluster: &self.cluster, service, nodes: nodes.iter().map(Machine::from).collect() };
        let answer = self.caller.call(Method::PUT, path, Some(&body)).await?;
        answer.ok_or_else(|| self.missing(path))
    }
}

impl Provider for External {
    fn name(&self) -> &str {
        &self.description.name
    }

    fn instances(&self) -> Option<&dyn Instances> {
        self.description.capabilities.instances.then_some(self)
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        self.description.capabilities.load_balancers.then_some(self)
    }

    fn routes(&self) -> Option<&dyn Routes> {
        self.description.capabilities.routes.then_some(self)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        self.description.capabilities.volumes.then_some(self)
    }
}

#[async_trait]
impl Instances for External {
    async fn instance(&self, node: &Node) -> Result<Option<Instance>, CloudError> {
        let question = InstanceQuestion { node: node.into() };
        let answer: Option<InstanceAnswer> =
            self.caller.call(Method::POST, "/v1/instances", Some(&question)).await?;
        // NOTE: a wrong address answers 404 too, and must not have every node deleted: only a clear "no" counts.
        let answer = answer.ok_or_else(|| self.missing("/v1/instances"))?;
        Ok(answer.exists.then(|| answer.instance.unwrap_or_default()))
    }
}

#[async_trait]
impl LoadBalancers for External {
    async fn get(&self, service: &Service) -> Result<Option<LoadBalancerStatus>, CloudError> {
        let path = format!("/v1/loadbalancers/{}", balancer_name(service));
        let answer: Option<Balanced> = self.caller.call(Method::GET, &path, NOTHING).await?;
        Ok(answer.map(|answer| answer.status.unwrap_or_default()))
    }

    async fn ensure(&self, service: &Service, nodes: &[Node]) -> Result<LoadBalancerStatus, CloudError> {
        let path = format!("/v1/loadbalancers/{}", balancer_name(service));
        let answer = self.balance(service, nodes, &path).await?;
        answer.status.ok_or_else(|| CloudError::Refused("the load balancer has no status yet".into()))
    }

    async fn update(
        &self,
        service: &Service,
        nodes: &[Node],
    ) -> Result<Option<LoadBalancerStatus>, CloudError> {
        let path = format!("/v1/loadbalancers/{}/nodes", balancer_name(service));
        Ok(self.balance(service, nodes, &path).await?.status)
    }

    async fn delete(&self, service: &Service) -> Result<(), CloudError> {
        let path = format!("/v1/loadbalancers/{}", balancer_name(service));
        self.caller.call::<Value>(Method::DELETE, &path, NOTHING).await.map(drop)
    }
}

#[async_trait]
impl Routes for External {
    async fn list(&self) -> Result<Vec<Route>, CloudError> {
        let mut path = String::from("/v1/routes?cluster=");
        escape_query(&self.cluster, &mut path);
        let answer: Option<RouteList> = self.caller.call(Method::GET, &path, NOTHING).await?;
        answer.map(|list| list.routes).ok_or_else(|| self.missing("/v1/routes"))
    }

    async fn create(&self, route: &Route, node: &Node) -> Result<(), CloudError> {
        let body = NewRoute { cluster: &self.cluster, route, node: node.into() };
        let path = format!("/v1/routes/{}", route.name);
        let answer: Option<Value> = self.caller.call(Method::PUT, &path, Some(&body)).await?;
        answer.map(drop).ok_or_else(|| self.missing(&path))
    }

    async fn delete(&self, route: &Route) -> Result<(), CloudError> {
        let path = format!("/v1/routes/{}", route.name);
        self.caller.call::<Value>(Method::DELETE, &path, NOTHING).await.map(drop)
    }
}

#[async_trait]
impl Volumes for External {
    async fn labels(&self, volume: &PersistentVolume) -> Result<BTreeMap<String, String>, CloudError> {
        let question = VolumeQuestion { volume };
        let answer: Option<VolumeAnswer> =
            self.caller.call(Method::POST, "/v1/volumes/labels", Some(&question)).await?;
        Ok(answer.map(|answer| answer.labels).unwrap_or_default())
    }
}
