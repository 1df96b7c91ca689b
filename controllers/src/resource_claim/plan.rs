//! Decides about claims of devices: which a pod needs made, who still counts as a user, and when one is free or to go.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ownership::controller_of;

/// Which of its pod's claims a generated one is.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// What a generated name may have before its five random characters.
const BASE_MAX: usize = 57;

/// Needs no devices any more.
pub fn is_done(pod: &Pod) -> bool {
    let ended = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let placed = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    ended || (pod.metadata.deletion_timestamp.is_some() && !placed)
}

/// The pod's claims that are made from templates: their names in the pod, and the templates'.
pub fn templated(pod: &Pod) -> Vec<(String, String)> {
    let claims = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    claims.filter_map(|c| Some((c.name.clone(), c.resource_claim_template_name.clone()?))).collect()
}

/// The names of all claims that the pod uses, those made for it included.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let named = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    let named = named.filter_map(|c| c.resource_claim_name.clone());
    let status = pod.status.as_ref();
    let made = status.into_iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let made = made.filter_map(|c| c.resource_claim_name.clone());
    let extended = status.and_then(|s| s.extended_resource_claim_status.as_ref());
    named.chain(made).chain(extended.map(|e| e.resource_claim_name.clone())).collect()
}

pub fn from_template(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let template = template.spec.clone().unwrap_or_default();
    let asked = template.metadata.unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let room = BASE_MAX.saturating_sub(name.len());
    let cut = pod_name.char_indices().map(|(at, _)| at).find(|at| *at >= room).unwrap_or(pod_name.len());
    let start = pod_name.get(..cut).unwrap_or(pod_name);
    let mut annotations: BTreeMap<String, String> = asked.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.into(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(format!("{start}-{name}-")),
            namespace: pod.metadata.namespace.clone(),
            labels: asked.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_of::<Pod>(&pod.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The pod's status with the claims that were made; None: it says so already.
pub fn statuses(pod: &Pod, made: &BTreeMap<String, String>) -> Option<Vec<PodResourceClaimStatus>> {
    let present = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone()).unwrap_or_default();
    let mut wanted = present.clone();
    for (name, claim) in made {
        match wanted.iter_mut().find(|status| status.name == *name) {
            Some(status) => status.resource_claim_name = Some(claim.clone()),
            None => wanted.push(PodResourceClaimStatus {
                name: name.clone(),
                resource_claim_name: Some(claim.clone()),
            }),
        }
    }
    (wanted != present).then_some(wanted)
}

/// The pod that a generated claim was made for: name and uid.
pub fn owner(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "Pod")?;
    Some((&owner.name, &owner.uid))
}

pub fn is_pod(user: &ResourceClaimConsumerReference) -> bool {
    user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty()
}

/// A pod that a claim knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Active,
    Done,
    Gone,
}

/// What a claim needs, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Steps {
    /// The users that are left, where some are not; with none left the devices are given back.
    pub users: Option<Vec<ResourceClaimConsumerReference>>,
    pub give_back: bool,
    pub drop_finalizer: bool,
    /// The pod that it was made for has ended.
    pub delete: bool,
}

pub fn steps(claim: &ResourceClaim, known: impl Fn(&str, &str) -> Known) -> Steps {
    let status = claim.status.clone().unwrap_or_default();
    let before = status.reserved_for.unwrap_or_default();
    let counts = |user: &&ResourceClaimConsumerReference| {
        !is_pod(user) || known(&user.name, &user.uid) == Known::Active
    };
    let left: Vec<_> = before.iter().filter(counts).cloned().collect();
    let deleting = claim.metadata.deletion_timestamp.is_some();
    let lost_users = left.len() < before.len();
    let free = left.is_empty();
    let give_back = free && status.allocation.is_some() && (lost_users || deleting);
    let has_finalizer = claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let over = owner(claim).is_some_and(|(name, uid)| known(name, uid) != Known::Active);
    Steps {
        users: lost_users.then_some(left),
        give_back,
        drop_finalizer: has_finalizer && free && (give_back || status.allocation.is_none()),
        delete: free && over && !deleting,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn claim(users: &[&str], allocated: bool, meta: Value) -> ResourceClaim {
        let users: Vec<Value> =
            users.iter().map(|name| json!({"resource": "pods", "name": name, "uid": name})).collect();
        let mut status = json!({"reservedFor": users});
        if allocated {
            status["allocation"] = json!({});
        }
        let mut all = json!({"name": "c", "namespace": "ns"});
        all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        from(json!({"metadata": all, "spec": {}, "status": status}))
    }

    fn known(name: &str, _uid: &str) -> Known {
        match name {
            "active" => Known::Active,
            "done" => Known::Done,
            _ => Known::Gone,
        }
    }

    #[test]
    fn users_that_have_ended_do_not_count() {
        let protected = json!({"finalizers": [FINALIZER]});
        let deleted = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let own = |pod: &str| json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod, "controller": true}]});
        let names = |steps: &Steps| {
            steps.users.as_ref().map(|u| u.iter().map(|u| u.name.clone()).collect::<Vec<_>>().join(","))
        };
        for (what, claim, users, give_back, drop_finalizer, delete) in [
            ("in use", claim(&["active"], true, json!({})), None, false, false, false),
            (
                "one left",
                claim(&["active", "done"], true, protected.clone()),
                Some("active"),
                false,
                false,
                false,
            ),
            ("the last has ended", claim(&["done"], true, protected.clone()), Some(""), true, true, false),
            ("the last is gone", claim(&["gone"], true, json!({})), Some(""), true, false, false),
            ("allocated, not used yet", claim(&[], true, protected.clone()), None, false, false, false),
            ("deleted and unused", claim(&[], true, deleted.clone()), None, true, true, false),
            ("deleted in use", claim(&["active"], true, deleted), None, false, false, false),
            ("its pod has ended", claim(&[], false, own("done")), None, false, false, true),
            ("its pod lives", claim(&[], false, own("active")), None, false, false, false),
            (
                "its pod is gone, another uses it",
                claim(&["active"], true, own("gone")),
                None,
                false,
                false,
                false,
            ),
        ] {
            let steps = steps(&claim, known);
            assert_eq!(names(&steps).as_deref(), users, "{what}");
            assert_eq!(
                (steps.give_back, steps.drop_finalizer, steps.delete),
                (give_back, drop_finalizer, delete),
                "{what}"
            );
        }
    }

    #[test]
    fn generated_claims_are_named_after_pod_and_claim() {
        let template: ResourceClaimTemplate = from(
            json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}),
        );
        for (pod_name, want) in [("p", "p-gpu-"), (&*"x".repeat(80), &*format!("{}-gpu-", "x".repeat(54)))] {
            let pod: Pod = from(json!({"metadata": {"name": pod_name, "namespace": "ns", "uid": "u"}}));
            let claim = from_template(&pod, "gpu", &template);
            assert_eq!(claim.metadata.generate_name.as_deref(), Some(want));
            assert_eq!(claim.metadata.annotations.as_ref().unwrap()[POD_CLAIM], "gpu");
            assert_eq!(owner(&claim), Some((pod_name, "u")));
        }
    }

    #[test]
    fn pods_say_which_claims_they_have() {
        let pod: Pod = from(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "resourceClaims": [
            {"name": "a", "resourceClaimName": "named"}, {"name": "b", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}]}}));
        assert_eq!(claims_of(&pod), ["named", "made"]);
        assert_eq!(templated(&pod), [("b".to_owned(), "t".to_owned())]);
        assert!(statuses(&pod, &[("b".to_owned(), "made".to_owned())].into()).is_none());
        assert_eq!(statuses(&pod, &[("c".to_owned(), "new".to_owned())].into()).unwrap().len(), 2);
    }

    #[test]
    fn ended_pods_are_done() {
        for (pod, want) in [
            (json!({"spec": {"containers": [], "nodeName": "n"}, "status": {"phase": "Running"}}), false),
            (json!({"status": {"phase": "Failed"}}), true),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), true),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": [], "nodeName": "n"}}),
                false,
            ),
        ] {
            let mut value = json!({"metadata": {}});
            value.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
            assert_eq!(is_done(&from(value)), want, "{pod}");
        }
    }
}
