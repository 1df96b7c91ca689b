//! Nodes may read what their pods need and write what is theirs, as upstream's Node authorizer and NodeRestriction.

use async_trait::async_trait;
use coracle_client::selector::FieldSelector;
use coracle_client::{Client, ListOptions};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{Attributes, Authorizer, Decision};
use crate::authn::Identity;

pub struct NodeAuthorizer {
    client: Client,
}

impl NodeAuthorizer {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

/// What every node reads whole.
const READABLE: &[(&str, &str)] = &[
    ("", "services"),
    ("", "nodes"),
    ("", "namespaces"),
    ("discovery.k8s.io", "endpointslices"),
    ("node.k8s.io", "runtimeclasses"),
];

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let Some(node) = identity.node_name() else { return Decision::no_opinion() };
        let (group, resource) = (attributes.group.as_str(), attributes.resource.as_str());
        if attributes.is_read() && attributes.subresource.is_empty() && READABLE.contains(&(group, resource))
        {
            return Decision::Allow;
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
                    Decision::Allow
                } else {
                    Decision::NoOpinion("can only list/watch pods with spec.nodeName field selector".into())
                }
            }
            ("", "pods", "" | "status" | "eviction") => self.own_pod(node, attributes).await,
            ("", "secrets" | "configmaps", "") if attributes.verb == "get" => {
                self.referenced(node, attributes).await
            }
            ("", "serviceaccounts", "" | "token") => self.referenced(node, attributes).await,
            _ => Decision::no_opinion(),
        }
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
                    Decision::Allow
                } else {
                    Decision::NoOpinion(format!(
                        "no relationship found between node '{node}' and this object"
                    ))
                }
            }
            // What is not there harms nobody; the verb answers 404.
            Ok(None) => Decision::Allow,
            Err(error) => Decision::NoOpinion(error.to_string()),
        }
    }

    /// Objects that a pod bound to the node refers to.
    async fn referenced(&self, node: &str, attributes: &Attributes) -> Decision {
        let options =
            ListOptions { field_selector: Some(format!("spec.nodeName={node}")), ..ListOptions::default() };
        let pods = match self.client.list::<Pod>(&attributes.namespace, options).await {
            Ok(pods) => pods,
            Err(error) => return Decision::NoOpinion(error.to_string()),
        };
        let found = pods.items.iter().any(|object| {
            object.decode::<Pod>().ok().and_then(|p| p.spec).is_some_and(|spec| {
                match attributes.resource.as_str() {
                    "secrets" => names_secret(&spec, &attributes.name),
                    "configmaps" => names_config_map(&spec, &attributes.name),
                    _ => spec.service_account_name.as_deref() == Some(&attributes.name),
                }
            })
        });
        if found {
            Decision::Allow
        } else {
            Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
        }
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn names_secret(spec: &PodSpec, name: &str) -> bool {
    let in_volumes = spec.volumes.iter().flatten().any(|v| {
        v.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name))
            || v.projected
                .iter()
                .flat_map(|p| p.sources.iter().flatten())
                .any(|s| s.secret.as_ref().is_some_and(|s| s.name == name))
    });
    let in_env = containers(spec).any(|c| {
        c.env_from.iter().flatten().any(|e| e.secret_ref.as_ref().is_some_and(|r| r.name == name))
            || c.env.iter().flatten().any(|e| {
                e.value_from.as_ref().and_then(|f| f.secret_key_ref.as_ref()).is_some_and(|r| r.name == name)
            })
    });
    in_volumes || in_env || spec.image_pull_secrets.iter().flatten().any(|s| s.name == name)
}

fn names_config_map(spec: &PodSpec, name: &str) -> bool {
    let in_volumes = spec.volumes.iter().flatten().any(|v| {
        v.config_map.as_ref().is_some_and(|s| s.name == name)
            || v.projected
                .iter()
                .flat_map(|p| p.sources.iter().flatten())
                .any(|s| s.config_map.as_ref().is_some_and(|s| s.name == name))
    });
    in_volumes
        || containers(spec).any(|c| {
            c.env_from.iter().flatten().any(|e| e.config_map_ref.as_ref().is_some_and(|r| r.name == name))
                || c.env.iter().flatten().any(|e| {
                    e.value_from
                        .as_ref()
                        .and_then(|f| f.config_map_key_ref.as_ref())
                        .is_some_and(|r| r.name == name)
                })
        })
}
