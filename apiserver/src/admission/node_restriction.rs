//! NodeRestriction: a node writes its own Node, Lease and pods' status only, and not what decides about it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use coracle_client::persistent_volumes::{LOCAL_PATH_FINALIZER, LOCAL_PATH_NODE};
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Attributes, Operation, Plugin};
use crate::kinds::references;
use crate::object::ApiObject;

pub struct NodeRestriction;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
const SIGNERS: &[&str] = &["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"];

/// Labels in the namespaces `kubernetes.io` and `k8s.io` that nodes may set on themselves.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
const OWN_LABEL_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let Some(node) = call.identity.node_name() else { return Ok(()) };
        let registered = call.api.kind(&Resource::of::<Node>())?.cache.get(node);
        let subject = Subject {
            node,
            name: call.name(),
            namespace: call.namespace.as_deref().unwrap_or_default(),
            subresource: call.subresource.as_deref().unwrap_or_default(),
            operation: attributes.operation,
            uid: registered.map(|node| node.head.uid.to_string()),
        };
        let (new, old) = (object.map(ApiObject::as_any), attributes.old.map(ApiObject::as_any));
        let any = new.or(old);
        let judged = match any {
            Some(any) if any.is::<Node>() => {
                subject.node_object(new.and_then(|n| n.downcast_ref()), old.and_then(|o| o.downcast_ref()))
            }
            Some(any) if any.is::<Pod>() => {
                subject.pod(new.and_then(|n| n.downcast_ref()), old.and_then(|o| o.downcast_ref()))
            }
            Some(any) if any.is::<PersistentVolumeClaim>() => {
                subject.claim(new.and_then(|n| n.downcast_ref()), old.and_then(|o| o.downcast_ref()))
            }
            Some(any) if any.is::<PersistentVolume>() => {
                subject.volume(new.and_then(|n| n.downcast_ref()), old.and_then(|o| o.downcast_ref()))
            }
            Some(any) if any.is::<Lease>() => subject.lease(),
            Some(any) if any.is::<CSINode>() => subject.csi_node(),
            Some(any) => match any.downcast_ref::<CertificateSigningRequest>() {
                Some(csr) if attributes.operation == Operation::Create => subject.request(csr),
                _ => Ok(()),
            },
            None => Ok(()),
        };
        judged.map_err(|why| ApiError::forbidden(call.kind.resource(), call.name(), why))
    }
}

/// Which node writes what.
struct Subject<'a> {
    node: &'a str,
    name: &'a str,
    namespace: &'a str,
    subresource: &'a str,
    operation: Operation,
    /// Of the node itself, once it has registered.
    uid: Option<String>,
}

impl Subject<'_> {
    fn node_object(&self, new: Option<&Node>, old: Option<&Node>) -> Result<(), String> {
        let (node, name) = (self.node, self.name);
        if name != node {
            return Err(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
        }
        let Some(new) = new else { return Ok(()) };
        let source = |node: &Node| node.spec.as_ref().and_then(|s| s.config_source.clone());
        if let Some(new_source) = source(new) {
            match old {
                None => {
                    return Err(format!(
                        "node \"{node}\" is not allowed to create pods with a non-nil configSource"
                    ));
                }
                Some(old) if source(old).as_ref() != Some(&new_source) => {
                    return Err(format!(
                        "node \"{node}\" is not allowed to update configSource to a new non-nil configSource"
                    ));
                }
                Some(_) => {}
            }
        }
        let none = BTreeMap::new();
        let labels = |node: Option<&Node>| node.and_then(|n| n.metadata.labels.clone()).unwrap_or_default();
        let old_labels = old.map_or(none, |old| labels(Some(old)));
        let forbidden = forbidden_labels(&old_labels, &labels(Some(new)));
        if !forbidden.is_empty() {
            let list = forbidden.join(", ");
            if self.operation == Operation::Create {
                return Err(format!("node \"{node}\" is not allowed to set the following labels: {list}"));
            }
            return Err(format!("is not allowed to modify labels: {list}"));
        }
        let Some(old) = old else { return Ok(()) };
        let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        if self.subresource.is_empty() && taints(new) != taints(old) {
            return Err(format!("node \"{node}\" is not allowed to modify taints"));
        }
        let owners = |node: &Node| node.metadata.owner_references.clone().unwrap_or_default();
        if owners(new) != owners(old) {
            return Err(format!("node \"{node}\" is not allowed to modify ownerReferences"));
        }
        Ok(())
    }

    fn pod(&self, new: Option<&Pod>, old: Option<&Pod>) -> Result<(), String> {
        let node = self.node;
        if self.operation == Operation::Create {
            return new.map_or(Ok(()), |pod| self.mirror(pod));
        }
        let bound = old.or(new).and_then(|p| p.spec.as_ref()).and_then(|s| s.node_name.as_deref());
        if bound != Some(node) {
            let what = match (self.operation, self.subresource) {
                (Operation::Delete, _) => "delete pods",
                (_, "status") => "update pod status for pods",
                _ => "update pods",
            };
            return Err(format!("node \"{node}\" can only {what} with spec.nodeName set to itself"));
        }
        if self.operation == Operation::Update && self.subresource.is_empty() {
            return Err(format!(
                "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
            ));
        }
        if let (Some(new), Some(old)) = (new, old)
            && new.metadata.labels != old.metadata.labels
        {
            return Err(format!("node \"{node}\" cannot update labels through pod status"));
        }
        Ok(())
    }

    /// A static pod's mirror: the node's own, by its owner too, and without anything of the API in it.
    fn mirror(&self, pod: &Pod) -> Result<(), String> {
        let node = self.node;
        if !pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
            return Err(format!(
                "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
            ));
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let only =
            |what: &str| Err(format!("node \"{node}\" can only create pods with {what} set to itself"));
        if spec.node_name.as_deref() != Some(node) {
            return only("spec.nodeName");
        }
        let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
            [] => return only("an owner reference"),
            [owner] => owner,
            _ => return only("a single owner reference"),
        };
        if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
            return only("an owner reference");
        }
        if owner.controller != Some(true) {
            return only("a controller owner reference");
        }
        if owner.block_owner_deletion == Some(true) {
            return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
        }
        match &self.uid {
            None => return Err(format!("nodes \"{node}\" not found")),
            Some(uid) if *uid != owner.uid => {
                return Err(format!("node {node} UID mismatch: expected {} got {uid}", owner.uid));
            }
            Some(_) => {}
        }
        match references::any(&spec) {
            Some(resource) => Err(format!("node \"{node}\" can not create pods that reference {resource}")),
            None => Ok(()),
        }
    }

    /// What a node has made of a claim's file system: nothing else of it.
    fn claim(
        &self,
        new: Option<&PersistentVolumeClaim>,
        old: Option<&PersistentVolumeClaim>,
    ) -> Result<(), String> {
        let node = self.node;
        let (Operation::Update, "status", Some(new), Some(old)) =
            (self.operation, self.subresource, new, old)
        else {
            return Err(format!("node \"{node}\" can only update the status of persistentvolumeclaims"));
        };
        let rest = |claim: &PersistentVolumeClaim| {
            let mut claim = claim.clone();
            claim.metadata.managed_fields = None;
            claim.metadata.resource_version = None;
            let status = claim.status.get_or_insert_default();
            status.capacity = None;
            status.conditions = None;
            status.allocated_resources = None;
            status.allocated_resource_statuses = None;
            claim
        };
        if rest(new) == rest(old) {
            return Ok(());
        }
        Err(format!("node \"{node}\" may not update fields other than status.capacity and status.conditions"))
    }

    /// A node lets go of a volume whose data it has removed from its disk.
    fn volume(&self, new: Option<&PersistentVolume>, old: Option<&PersistentVolume>) -> Result<(), String> {
        let node = self.node;
        let rest = |volume: &PersistentVolume| {
            let mut volume = volume.clone();
            volume.metadata.managed_fields = None;
            volume.metadata.resource_version = None;
            let finalizers = volume.metadata.finalizers.get_or_insert_default();
            finalizers.retain(|f| f != LOCAL_PATH_FINALIZER);
            volume
        };
        let own = |volume: &PersistentVolume| {
            volume.metadata.labels.as_ref().and_then(|l| l.get(LOCAL_PATH_NODE)).is_some_and(|l| l == node)
        };
        match (new, old) {
            (Some(new), Some(old)) if self.subresource.is_empty() && own(old) && rest(new) == rest(old) => {
                Ok(())
            }
            _ => Err(format!("node \"{node}\" may only let go of volumes on its own disk")),
        }
    }

    fn csi_node(&self) -> Result<(), String> {
        if self.name != self.node {
            return Err("can only access CSINode with the same name as the requesting node".into());
        }
        Ok(())
    }

    fn lease(&self) -> Result<(), String> {
        if self.namespace != LEASES {
            return Err(format!("can only access leases in the \"{LEASES}\" system namespace"));
        }
        if self.name != self.node {
            return Err("can only access node lease with the same name as the requesting node".into());
        }
        Ok(())
    }

    fn request(&self, csr: &CertificateSigningRequest) -> Result<(), String> {
        if !SIGNERS.contains(&csr.spec.signer_name.as_str()) {
            return Ok(());
        }
        let own = format!("system:node:{}", self.node);
        let name = common_name(&csr.spec.request.0).ok_or("unable to parse csr")?;
        if name == own {
            return Ok(());
        }
        Err(format!("can only create a node CSR with CN={own}"))
    }
}

fn common_name(pem: &[u8]) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let name = request.certification_request_info.subject.iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// Labels that were added, changed or removed and are not for nodes to say.
fn forbidden_labels(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let mut all: Vec<String> = old
        .keys()
        .chain(new.keys())
        .filter(|key| old.get(*key) != new.get(*key) && is_reserved(key))
        .cloned()
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn is_reserved(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else { return false };
    let within = |parent: &str| namespace == parent || namespace.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let system = within("kubernetes.io") || within("k8s.io");
    system && !OWN_LABELS.contains(&label) && !OWN_LABEL_NAMESPACES.iter().any(|n| within(n))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn subject(name: &'static str, operation: Operation) -> Subject<'static> {
        Subject { node: "a", name, namespace: "", subresource: "", operation, uid: Some("u".into()) }
    }

    fn node(labels: Value, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "a", "labels": labels}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_node_writes_itself_but_not_its_taints_owners_and_reserved_labels() {
        use Operation::{Create, Update};
        let plain = node(json!({"kubernetes.io/os": "linux", "team": "x"}), json!({}));
        let tainted = node(json!({"team": "x"}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
        let role = node(json!({"node-role.kubernetes.io/control-plane": ""}), json!({}));
        let isolated = node(json!({"sub.node-restriction.kubernetes.io/tenant": "x"}), json!({}));
        let mut owned = plain.clone();
        owned.metadata.owner_references = Some(vec![Default::default()]);
        for (name, operation, new, old, want) in [
            ("a", Create, &plain, None, Ok(())),
            ("a", Create, &tainted, None, Ok(())),
            ("b", Create, &plain, None, Err("node \"a\" is not allowed to modify node \"b\"")),
            ("b", Update, &plain, Some(&plain), Err("node \"a\" is not allowed to modify node \"b\"")),
            ("a", Update, &plain, Some(&plain), Ok(())),
            ("a", Update, &tainted, Some(&plain), Err("node \"a\" is not allowed to modify taints")),
            ("a", Update, &owned, Some(&plain), Err("node \"a\" is not allowed to modify ownerReferences")),
            (
                "a",
                Create,
                &role,
                None,
                Err(
                    "node \"a\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane",
                ),
            ),
            (
                "a",
                Update,
                &plain,
                Some(&isolated),
                Err("is not allowed to modify labels: sub.node-restriction.kubernetes.io/tenant"),
            ),
            ("a", Update, &role, Some(&role), Ok(())),
        ] {
            let got = subject(name, operation).node_object(Some(new), old);
            assert_eq!(got.as_ref().map_err(String::as_str), want.as_ref().map_err(|e| *e));
        }
    }

    #[test]
    fn labels_are_reserved_by_their_namespace() {
        for (label, reserved) in [
            ("team", false),
            ("example.com/team", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.kubelet.kubernetes.io/y", false),
            ("kubernetes.io/other", true),
            ("node-role.kubernetes.io/worker", true),
            ("x.k8s.io/y", true),
            ("notkubernetes.io/x", false),
        ] {
            assert_eq!(is_reserved(label), reserved, "{label}");
        }
    }

    #[test]
    fn pods_and_leases_must_be_the_nodes_own() {
        let pod = |node: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": []}}),
            )
            .unwrap()
        };
        use Operation::{Create, Delete, Update};
        for (operation, bound, allowed) in
            [(Create, "a", false), (Update, "b", false), (Delete, "a", true), (Delete, "", false)]
        {
            let got = subject("p", operation).pod(Some(&pod(bound)), Some(&pod(bound)));
            assert_eq!(got.is_ok(), allowed, "{operation:?} {bound}: {got:?}");
        }
        let status = |bound| {
            Subject { subresource: "status", ..subject("p", Update) }
                .pod(Some(&pod(bound)), Some(&pod(bound)))
        };
        assert_eq!(status("a"), Ok(()));
        assert!(status("b").is_err());
        for (name, namespace, allowed) in [("a", LEASES, true), ("b", LEASES, false), ("a", "default", false)]
        {
            let got = Subject { namespace, ..subject(name, Create) }.lease();
            assert_eq!(got.is_ok(), allowed, "{namespace}/{name}");
        }
    }

    #[test]
    fn mirrors_are_the_nodes_own_and_name_nothing() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
        let mirror = |owners: Value, spec: Value| -> Pod {
            let mut spec = spec;
            spec["containers"] = json!([]);
            serde_json::from_value(json!({
                "metadata": {"name": "p", "annotations": {MIRROR: "x"}, "ownerReferences": owners},
                "spec": spec
            }))
            .unwrap()
        };
        let here = json!({"nodeName": "a"});
        let mut other = owner.clone();
        other["uid"] = json!("v");
        let mut plain = owner.clone();
        plain["controller"] = json!(false);
        for (pod, want) in [
            (mirror(json!([owner]), here.clone()), None),
            (mirror(json!([owner]), json!({"nodeName": "b"})), Some("spec.nodeName set to itself")),
            (mirror(json!([]), here.clone()), Some("with an owner reference set to itself")),
            (mirror(json!([owner, owner]), here.clone()), Some("a single owner reference")),
            (mirror(json!([plain]), here.clone()), Some("a controller owner reference")),
            (mirror(json!([other]), here.clone()), Some("UID mismatch: expected v got u")),
            (
                mirror(
                    json!([owner]),
                    json!({"nodeName": "a", "volumes": [{"name": "v", "configMap": {"name": "m"}}]}),
                ),
                Some("can not create pods that reference configmaps (via configmap volumes)"),
            ),
        ] {
            let got = subject("p", Operation::Create).pod(Some(&pod), None);
            match want {
                None => assert_eq!(got, Ok(())),
                Some(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{got:?}"),
            }
        }
    }

    #[test]
    fn certificates_are_asked_for_oneself() {
        let csr = |name: &str, signer: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = params.serialize_request(&key).unwrap().pem().unwrap();
            let mut csr = CertificateSigningRequest::default();
            csr.spec.request.0 = pem.into_bytes();
            csr.spec.signer_name = signer.into();
            csr
        };
        let subject = subject("csr", Operation::Create);
        assert_eq!(subject.request(&csr("system:node:a", SIGNERS[0])), Ok(()));
        assert!(subject.request(&csr("system:node:b", SIGNERS[1])).is_err());
        assert_eq!(subject.request(&csr("anyone", "example.com/signer")), Ok(()));
        let mut broken = csr("system:node:a", SIGNERS[0]);
        broken.spec.request.0 = b"x".to_vec();
        assert!(subject.request(&broken).is_err());
    }
}
