//! Nodes may read what their pods need and write what is theirs, as upstream's Node authorizer and NodeRestriction.

use async_trait::async_trait;
use coracle_client::persistent_volumes::LOCAL_PATH_NODE;
use coracle_client::selector::{FieldSelector, Operator, Requirement, Selector};
use coracle_client::{Client, ListOptions};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::node_graph::{self, NodeGraph, Referred};
use super::{Attributes, Authorizer, Decision};
use crate::authn::Identity;

pub struct NodeAuthorizer {
    client: Client,
    graph: NodeGraph,
}

impl NodeAuthorizer {
    pub fn new(client: Client) -> Self {
        Self { graph: NodeGraph::new(client.clone()), client }
    }
}

/// What every node reads whole.
const READABLE: &[(&str, &str)] = &[
    ("", "services"),
    ("", "nodes"),
    ("", "namespaces"),
    ("discovery.k8s.io", "endpointslices"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
];

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let Some(node) = identity.node_name() else { return Decision::no_opinion() };
        let (group, resource) = (attributes.group.as_str(), attributes.resource.as_str());
        if attributes.is_read() && attributes.subresource.is_empty() && READABLE.contains(&(group, resource))
        {
            return Decision::allow();
        }
        match (group, resource, attributes.subresource.as_str()) {
            ("", "nodes", "" | "status") => {
                // A node names itself on create in the body; NodeRestriction in admission is what upstream has, here
                // create is allowed and every later write must be on the own name.
                let own =
                    attributes.name == node || (attributes.verb == "create" && attributes.name.is_empty());
                Decision::allow_if(
                    own && attributes.verb != "delete" && attributes.verb != "deletecollection",
                )
            }
            ("coordination.k8s.io", "leases", "") => {
                let own =
                    attributes.name == node || (attributes.verb == "create" && attributes.name.is_empty());
                Decision::allow_if(own && attributes.namespace == "kube-node-lease")
            }
            ("", "events", "") | ("events.k8s.io", "events", "") => {
                Decision::allow_if(matches!(attributes.verb.as_str(), "create" | "update" | "patch"))
            }
            ("certificates.k8s.io", "certificatesigningrequests", "") => {
                Decision::allow_if(matches!(attributes.verb.as_str(), "create" | "get" | "list" | "watch"))
            }
            ("authentication.k8s.io", "tokenreviews", "")
            | ("authorization.k8s.io", "subjectaccessreviews", "") => {
                Decision::allow_if(attributes.verb == "create")
            }
            ("", "pods", "") if matches!(attributes.verb.as_str(), "list" | "watch") => {
                let own = FieldSelector::parse(&attributes.field_selector)
                    .is_ok_and(|s| s.pinned("spec.nodeName") == Some(node));
                if own {
                    Decision::allow()
                } else {
                    Decision::NoOpinion("can only list/watch pods with spec.nodeName field selector".into())
                }
            }
            // Mirrors of its static pods: NodeRestriction sees to it.
            ("", "pods", "") if attributes.verb == "create" => Decision::allow(),
            ("storage.k8s.io", "csinodes", "") => {
                let own =
                    attributes.name == node || (attributes.verb == "create" && attributes.name.is_empty());
                Decision::allow_if(own && attributes.verb != "deletecollection")
            }
            ("", "pods", "" | "status" | "eviction") => self.own_pod(node, attributes).await,
            // Lists and watches of one object, pinned by its name, are reads of that object.
            ("", "secrets" | "configmaps", "") if attributes.is_read() && !attributes.name.is_empty() => {
                self.referenced(node, attributes).await
            }
            ("", "persistentvolumeclaims", "") if attributes.is_read() && !attributes.name.is_empty() => {
                self.referenced(node, attributes).await
            }
            ("", "persistentvolumeclaims", "status")
                if matches!(attributes.verb.as_str(), "get" | "update" | "patch") =>
            {
                self.referenced(node, attributes).await
            }
            ("", "persistentvolumes", "") => self.volume(node, attributes).await,
            ("storage.k8s.io", "volumeattachments", "") if attributes.verb == "get" => {
                let found = self.client.find::<VolumeAttachment>("", &attributes.name).await;
                Decision::allow_if(found.is_ok_and(|va| va.is_none_or(|va| va.spec.node_name == node)))
            }
            ("", "serviceaccounts", "") if attributes.verb == "get" => {
                self.referenced(node, attributes).await
            }
            ("", "serviceaccounts", "token") if attributes.verb == "create" => {
                self.referenced(node, attributes).await
            }
            _ => Decision::no_opinion(),
        }
    }

    fn rules_of(&self, identity: &Identity, _namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let node = identity.node_name().is_some();
        let unlisted = node.then(|| "node authorizer does not support user rule resolution".to_owned());
        (Vec::new(), unlisted.into_iter().collect())
    }
}

impl NodeAuthorizer {
    /// Get, status writes, deletes and evictions of pods bound to the node.
    async fn own_pod(&self, node: &str, attributes: &Attributes) -> Decision {
        let allowed = match attributes.subresource.as_str() {
            "status" => matches!(attributes.verb.as_str(), "get" | "update" | "patch"),
            "eviction" => attributes.verb == "create",
            _ => matches!(attributes.verb.as_str(), "get" | "delete"),
        };
        if !allowed {
            return Decision::no_opinion();
        }
        match self.client.find::<Pod>(&attributes.namespace, &attributes.name).await {
            Ok(Some(pod)) => {
                let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
                if bound == Some(node) {
                    Decision::allow()
                } else {
                    Decision::NoOpinion(format!(
                        "no relationship found between node '{node}' and this object"
                    ))
                }
            }
            // What is not there harms nobody; the verb answers 404.
            Ok(None) => Decision::allow(),
            Err(error) => Decision::NoOpinion(error.to_string()),
        }
    }

    /// Objects that a pod bound to the node refers to.
    async fn referenced(&self, node: &str, attributes: &Attributes) -> Decision {
        let kind = match attributes.resource.as_str() {
            "secrets" => Referred::Secret,
            "configmaps" => Referred::ConfigMap,
            "persistentvolumeclaims" => Referred::Claim,
            _ => Referred::ServiceAccount,
        };
        let (namespace, name) = (attributes.namespace.as_str(), attributes.name.as_str());
        if self.graph.refers(node, namespace, kind, name).await
            || self.just_bound(node, namespace, kind, name).await
        {
            return Decision::allow();
        }
        Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
    }

    /// Volumes of claims of the node's pods, to read; and volumes whose data is on its disk, to let go of.
    async fn volume(&self, node: &str, attributes: &Attributes) -> Decision {
        if attributes.name.is_empty() {
            let own = Selector::parse(&attributes.label_selector).is_ok_and(|s| {
                let is = |r: &Requirement| {
                    r.key == LOCAL_PATH_NODE
                        && matches!(&r.operator, Operator::In(values) if values.iter().all(|v| v == node))
                };
                s.requirements().iter().any(is)
            });
            return Decision::allow_if(own && matches!(attributes.verb.as_str(), "list" | "watch"));
        }
        let volume = match self.client.find::<PersistentVolume>("", &attributes.name).await {
            Ok(Some(volume)) => volume,
            // What is not there harms nobody; the verb answers 404.
            Ok(None) => return Decision::allow_if(attributes.is_read()),
            Err(error) => return Decision::NoOpinion(error.to_string()),
        };
        let place = volume.metadata.labels.as_ref().and_then(|l| l.get(LOCAL_PATH_NODE));
        if place.is_some_and(|place| place == node)
            && (attributes.is_read() || matches!(attributes.verb.as_str(), "update" | "patch"))
        {
            return Decision::allow();
        }
        let claim = volume.spec.and_then(|s| s.claim_ref).unwrap_or_default();
        let (namespace, name) = (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default());
        if attributes.is_read()
            && (self.graph.refers(node, &namespace, Referred::Claim, &name).await
                || self.just_bound(node, &namespace, Referred::Claim, &name).await)
        {
            return Decision::allow();
        }
        Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
    }

    /// The node may have heard of a new pod before the graph did. Rare, and so may cost more.
    async fn just_bound(&self, node: &str, namespace: &str, kind: Referred, name: &str) -> bool {
        let options =
            ListOptions { field_selector: Some(format!("spec.nodeName={node}")), ..ListOptions::default() };
        let Ok(pods) = self.client.list::<Pod>(namespace, options).await else { return false };
        pods.items.iter().any(|object| {
            // The claim of an ephemeral volume is named nowhere in its pod.
            let mentioned = kind == Referred::Claim || object.contains(name);
            let spec = mentioned.then(|| object.decode::<Pod>().ok().and_then(|p| p.spec)).flatten();
            spec.is_some_and(|spec| {
                let pod = &object.head.name;
                node_graph::references(pod, &spec).iter().any(|(k, n)| *k == kind && n == name)
            })
        })
    }
}
