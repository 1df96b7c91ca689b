//! Approves the requests of nodes for their own certificates.

use std::collections::BTreeSet;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Service};
use serde::Deserialize;

use super::request::Request;
use super::rules::{self, Addresses, Approval};
use super::{KUBELET_CLIENT, KUBELET_SERVING, add_condition, has, issued};
use crate::context::Context;

/// Index of nodes and Services by the addresses that they have.
const BY_ADDRESS: &str = "address";

pub async fn run(context: Context) {
    if !context.serves::<CertificateSigningRequest>().await {
        return;
    }
    let controller = Controller {
        client: context.client.clone(),
        requests: context.of::<CertificateSigningRequest>(),
        nodes: context.of::<Node>(),
        services: context.of::<Service>(),
    };
    controller.nodes.add_index(BY_ADDRESS, |node| addresses_of(node).into_iter().map(Box::from).collect());
    controller.services.add_index(BY_ADDRESS, |service| {
        let view: Option<View> = service.decode().ok();
        view.and_then(|v| v.spec.cluster_ips).into_iter().flatten().map(Box::from).collect()
    });
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.requests.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    // A serving request waits until its node's addresses are known.
    let (added, requests) = (queue.clone(), controller.requests.clone());
    controller.nodes.on_change(move |change: &Change| {
        let addresses =
            |o: &Option<std::sync::Arc<Object>>| o.as_ref().map(|o| addresses_of(o)).unwrap_or_default();
        if addresses(&change.old) != addresses(&change.new) {
            requests
                .list()
                .iter()
                .filter(|csr| csr.head.field("spec.signerName") == Some(KUBELET_SERVING))
                .for_each(|csr| added.add(csr.key()));
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    requests: Informer,
    nodes: Informer,
    services: Informer,
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    status: Status,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
}

fn addresses_of(node: &Object) -> BTreeSet<String> {
    let view: Option<View> = node.decode().ok();
    view.into_iter().flat_map(|v| v.status.addresses.unwrap_or_default()).map(|a| a.address).collect()
}

impl Controller {
    /// Whose the addresses are that the node asks for.
    fn addresses(&self, node: &str, request: &Request) -> Addresses {
        let own = self.nodes.get("", node).map(|node| addresses_of(&node)).unwrap_or_default();
        let mut addresses = Addresses { own, ..Addresses::default() };
        for address in request.addresses.iter().map(ToString::to_string) {
            if self.nodes.by_index(BY_ADDRESS, &address).iter().any(|other| &*other.head.name != node) {
                addresses.others.insert(address.clone());
            }
            if !self.services.by_index(BY_ADDRESS, &address).is_empty() {
                addresses.services.insert(address);
            }
        }
        addresses
    }
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.requests.get_key(key) else { return Ok(Outcome::Done) };
        if !matches!(object.head.field("spec.signerName"), Some(KUBELET_CLIENT | KUBELET_SERVING)) {
            return Ok(Outcome::Done);
        }
        let mut csr: CertificateSigningRequest = object.decode()?;
        if issued(&csr) || ["Approved", "Denied", "Failed"].iter().any(|kind| has(&csr, kind)) {
            return Ok(Outcome::Done);
        }
        // What is not sound stays pending: a person sees it.
        let Ok(request) = Request::parse(&csr.spec.request.0) else { return Ok(Outcome::Done) };
        if rules::validate(&csr.spec, &request).is_err() {
            return Ok(Outcome::Done);
        }
        let node = request.common_name().strip_prefix("system:node:").unwrap_or_default();
        let Approval::Yes(message) = rules::approve(&csr.spec, &request, &self.addresses(node, &request))
        else {
            return Ok(Outcome::Done);
        };
        add_condition(&mut csr, "Approved", "AutoApproved", message, Timestamp::now());
        match self.client.update_subresource(&csr, "approval").await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}
