//! Names a resource of the API: group, version, plural, kind and scope, and the fields it can be selected by.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};

/// A resource as URLs and objects name it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Resource(Arc<Names>);

#[derive(PartialEq, Eq, Hash)]
struct Names {
    group: String,
    version: String,
    plural: String,
    kind: String,
    namespaced: bool,
}

impl Resource {
    pub fn new(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self(Arc::new(Names {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
            kind: kind.into(),
            namespaced,
        }))
    }

    /// The resource of a `k8s-openapi` type.
    pub fn of<K>() -> Self
    where
        K: k8s_openapi::Resource,
        K::Scope: Scope,
    {
        Self::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT, K::KIND, K::Scope::NAMESPACED)
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &str {
        &self.0.group
    }

    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The plural in the URL, e.g. `pods`.
    pub fn plural(&self) -> &str {
        &self.0.plural
    }

    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    pub fn namespaced(&self) -> bool {
        self.0.namespaced
    }

    /// `v1`, `apps/v1`, …
    pub fn api_version(&self) -> String {
        if self.0.group.is_empty() {
            self.0.version.clone()
        } else {
            format!("{}/{}", self.0.group, self.0.version)
        }
    }

    /// `pods`, `deployments.apps`, …: how error messages name the resource.
    pub fn qualified(&self) -> String {
        if self.0.group.is_empty() {
            self.0.plural.clone()
        } else {
            format!("{}.{}", self.0.plural, self.0.group)
        }
    }

    /// The URL path of the resource, of one object when `name` is given, of a subresource when that is.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = String::with_capacity(96);
        if self.0.group.is_empty() {
            path.push_str("/api/");
        } else {
            path.push_str("/apis/");
            path.push_str(&self.0.group);
            path.push('/');
        }
        path.push_str(&self.0.version);
        if let Some(namespace) = namespace.filter(|n| self.0.namespaced && !n.is_empty()) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.0.plural);
        for part in [name, subresource].into_iter().flatten() {
            path.push('/');
            path.push_str(part);
        }
        path
    }

    /// The JSON paths (beyond `metadata.name` and `metadata.namespace`) that field selectors of this resource may
    /// name and that a parsed head carries, from upstream's field label conversion functions and strategies.
    pub fn selectable_fields(&self) -> &'static [&'static str] {
        SELECTABLE_FIELDS
            .iter()
            .find(|(group, plural, _)| *group == self.0.group && *plural == self.0.plural)
            .map_or(&[], |(_, _, fields)| fields)
    }
}

const SELECTABLE_FIELDS: &[(&str, &str, &[&str])] = &[
    (
        "",
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("", "nodes", &["spec.unschedulable"]),
    ("", "namespaces", &["status.phase"]),
    ("", "secrets", &["type"]),
    ("", "services", &["spec.clusterIP", "spec.type"]),
    ("", "replicationcontrollers", &["status.replicas"]),
    ("apps", "replicasets", &["status.replicas"]),
    ("batch", "jobs", &["status.successful"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["spec.signerName"]),
    ("certificates.k8s.io", "clustertrustbundles", &["spec.signerName"]),
    ("certificates.k8s.io", "podcertificaterequests", &["spec.signerName", "spec.podName", "spec.nodeName"]),
    ("resource.k8s.io", "resourceslices", &["spec.driver", "spec.nodeName"]),
    ("", "events", EVENT_FIELDS),
    ("events.k8s.io", "events", EVENT_FIELDS),
];

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.0.plural)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.qualified())
    }
}

/// Whether the objects of a `k8s-openapi` type live in namespaces.
pub trait Scope {
    const NAMESPACED: bool;
}

impl Scope for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

impl Scope for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};

    use super::*;

    #[test]
    fn paths_are_upstreams() {
        let deployments = Resource::of::<Deployment>();
        let nodes = Resource::of::<Node>();
        for (got, want) in [
            (
                deployments.path(Some("ns"), Some("web"), Some("scale")),
                "/apis/apps/v1/namespaces/ns/deployments/web/scale",
            ),
            (deployments.path(None, None, None), "/apis/apps/v1/deployments"),
            (nodes.path(Some("ignored"), Some("n1"), None), "/api/v1/nodes/n1"),
        ] {
            assert_eq!(got, want);
        }
        assert_eq!(deployments.qualified(), "deployments.apps");
        assert_eq!(nodes.to_string(), "nodes");
    }
}
