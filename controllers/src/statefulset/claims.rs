//! The claims of a StatefulSet's pods, and who owns them by its retention policy.

use coracle_client::{Head, Object};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::ownership;

/// `data-web-0`
pub fn name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    let template = template.metadata.name.as_deref().unwrap_or_default();
    format!("{template}-{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

pub fn names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> {
    set.spec.volume_claim_templates.iter().flatten().map(move |template| name(template, set, ordinal))
}

/// The names that sets may have whose claim this could be: `a-b-0` may be the claim `a` of `b`.
pub fn possible_sets(claim: &str) -> impl Iterator<Item = &str> {
    let parents = super::identity::parent_and_ordinal(claim).map(|(rest, _)| rest).unwrap_or_default();
    parents.match_indices('-').filter_map(|(at, _)| parents.get(at + 1..))
}

/// The claims of a pod that is to be, owned by the set already where its policy says so.
pub fn new(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let place = Place { set, pod: "", pod_uid: "", scaled_down: false };
    let owners = place.owners(Vec::new());
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(name(template, set, ordinal)),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels).filter(|l| !l.is_empty()),
                    annotations: template.metadata.annotations.clone(),
                    owner_references: Some(owners.clone()).filter(|o| !o.is_empty()),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            }
        })
        .collect()
}

fn deletes(policy: Option<&String>) -> bool {
    policy.is_some_and(|policy| policy == "Delete")
}

/// A pod of the set that a claim belongs to.
pub struct Place<'a> {
    pub set: &'a StatefulSet,
    pub pod: &'a str,
    pub pod_uid: &'a str,
    /// It is outside the ordinals that are wanted.
    pub scaled_down: bool,
}

/// An owner that a claim has: which kind and name, which uid, and whether it controls.
struct Reference<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
    uid: &'a str,
    controller: bool,
}

impl Place<'_> {
    fn when_scaled(&self) -> bool {
        let policy = self.set.spec.persistent_volume_claim_retention_policy.as_ref();
        deletes(policy.and_then(|p| p.when_scaled.as_ref()))
    }

    fn when_deleted(&self) -> bool {
        let policy = self.set.spec.persistent_volume_claim_retention_policy.as_ref();
        deletes(policy.and_then(|p| p.when_deleted.as_ref()))
    }

    fn set_uid(&self) -> &str {
        self.set.metadata.uid.as_deref().unwrap_or_default()
    }

    fn names_set(&self, owner: &Reference<'_>) -> bool {
        owner.kind == "StatefulSet"
            && owner.api_version.starts_with("apps/")
            && Some(owner.name) == self.set.metadata.name.as_deref()
    }

    fn names_pod(&self, owner: &Reference<'_>) -> bool {
        owner.kind == "Pod" && owner.api_version == "v1" && owner.name == self.pod
    }

    /// Of a set or pod that went before and had the same name.
    fn is_stale(&self, owner: &Reference<'_>) -> bool {
        self.names_set(owner) && owner.uid != self.set_uid() || self.pod_is_stale(owner)
    }

    fn pod_is_stale(&self, owner: &Reference<'_>) -> bool {
        self.names_pod(owner) && owner.uid != self.pod_uid
    }

    /// Where a claim goes with its pod, one of the pod's predecessor is about to go: the pod must wait for that.
    pub fn stale(&self, claim: &Object) -> bool {
        self.when_scaled() && references(&claim.head).any(|owner| self.pod_is_stale(&owner))
    }

    /// Somebody else controls the claim, and a policy would have us own it.
    fn contested(&self, claim: &Head) -> bool {
        (self.when_scaled() || self.when_deleted())
            && references(claim).any(|owner| match owner.uid {
                uid if self.names_set(&owner) => uid != self.set_uid(),
                uid if self.names_pod(&owner) => uid != self.pod_uid,
                _ => owner.controller,
            })
    }

    /// Whether the claim's owners are what the policy wants. What earlier sets or pods own is left to the garbage
    /// collector, and what somebody else controls to them.
    pub fn suits(&self, claim: &Head) -> bool {
        if references(claim).any(|owner| self.is_stale(&owner)) {
            return true;
        }
        let owned_by = |uid: &str| references(claim).any(|owner| owner.uid == uid);
        let (set_owns, pod_owns) = (owned_by(self.set_uid()), owned_by(self.pod_uid));
        if self.contested(claim) {
            return !set_owns && !pod_owns;
        }
        let ours = |owner: &Reference<'_>| owner.uid == self.set_uid() || owner.uid == self.pod_uid;
        if references(claim).any(|owner| ours(&owner) && !owner.controller) {
            return false;
        }
        set_owns == self.wants_set() && pod_owns == self.wants_pod()
    }

    fn wants_set(&self) -> bool {
        self.when_deleted() && !(self.when_scaled() && self.scaled_down)
    }

    fn wants_pod(&self) -> bool {
        self.when_scaled() && self.scaled_down
    }

    /// The claim's owners as the policy wants them.
    pub fn owners_of(&self, claim: &Head, present: Vec<OwnerReference>) -> Vec<OwnerReference> {
        if self.contested(claim) { self.without_ours(present) } else { self.owners(present) }
    }

    fn owners(&self, present: Vec<OwnerReference>) -> Vec<OwnerReference> {
        let mut owners = self.without_ours(present);
        if self.wants_set() {
            owners.push(ownership::controller_of::<StatefulSet>(&self.set.metadata));
        }
        if self.wants_pod() {
            owners.push(ownership::controller_of::<Pod>(&ObjectMeta {
                name: Some(self.pod.to_owned()),
                uid: Some(self.pod_uid.to_owned()),
                ..ObjectMeta::default()
            }));
        }
        owners
    }

    fn without_ours(&self, mut owners: Vec<OwnerReference>) -> Vec<OwnerReference> {
        owners.retain(|o| {
            let owner = Reference {
                api_version: &o.api_version,
                kind: &o.kind,
                name: &o.name,
                uid: &o.uid,
                controller: o.controller == Some(true),
            };
            !self.names_set(&owner) && !self.names_pod(&owner)
        });
        owners
    }
}

fn references(claim: &Head) -> impl Iterator<Item = Reference<'_>> {
    claim.owners.iter().map(|o| Reference {
        api_version: &o.api_version,
        kind: &o.kind,
        name: &o.name,
        uid: &o.uid,
        controller: o.controller,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn set(when_scaled: &str, when_deleted: &str) -> StatefulSet {
        from(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "set"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": when_scaled, "whenDeleted": when_deleted},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"tier": "db"}}, "spec": {}}]}}))
    }

    fn owner(kind: &str, name: &str, uid: &str, controller: bool) -> Value {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller, "blockOwnerDeletion": true})
    }

    fn claim(owners: &[Value]) -> std::sync::Arc<Object> {
        let value = json!({"metadata": {"name": "data-web-0", "ownerReferences": owners}});
        Object::parse(value.to_string().into(), &[]).unwrap()
    }

    /// What the claim's owners become: `set`, `pod` and the uids of others, or `-` where they suit as they are.
    fn outcome(when: (&str, &str), scaled_down: bool, owners: &[Value]) -> String {
        let set = set(when.0, when.1);
        let place = Place { set: &set, pod: "web-0", pod_uid: "pod", scaled_down };
        let claim = claim(owners);
        if place.suits(&claim.head) {
            return "-".into();
        }
        let present = owners.iter().map(|o| from(o.clone())).collect();
        let after = place.owners_of(&claim.head, present);
        assert!(
            after.iter().filter(|o| o.uid == "set" || o.uid == "pod").all(|o| o.controller == Some(true))
        );
        after.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn owners_follow_the_policy() {
        let by_set = owner("StatefulSet", "web", "set", true);
        let by_pod = owner("Pod", "web-0", "pod", true);
        let weakly = owner("StatefulSet", "web", "set", false);
        let user = owner("ConfigMap", "other", "user", false);
        let operator = owner("Backup", "other", "operator", true);
        let old_set = owner("StatefulSet", "web", "before", true);
        let old_pod = owner("Pod", "web-0", "before", true);
        let one = |owner: &Value| vec![owner.clone()];
        const KEEP: (&str, &str) = ("Retain", "Retain");
        const DELETED: (&str, &str) = ("Retain", "Delete");
        const SCALED: (&str, &str) = ("Delete", "Retain");
        const BOTH: (&str, &str) = ("Delete", "Delete");
        for (when, scaled_down, owners, want) in [
            (KEEP, false, vec![], "-"),
            (KEEP, true, vec![], "-"),
            (KEEP, false, one(&by_set), ""),
            (KEEP, false, one(&by_pod), ""),
            (KEEP, false, one(&operator), "-"),
            (KEEP, false, vec![by_set.clone(), user.clone()], "user"),
            (DELETED, false, vec![], "set"),
            (DELETED, true, vec![], "set"),
            (DELETED, false, one(&by_set), "-"),
            (DELETED, false, one(&by_pod), "set"),
            (DELETED, false, one(&weakly), "set"),
            (DELETED, false, one(&user), "user set"),
            (DELETED, false, one(&operator), "-"),
            (DELETED, false, vec![by_set.clone(), operator.clone()], "operator"),
            (DELETED, false, one(&old_set), "-"),
            (SCALED, false, vec![], "-"),
            (SCALED, false, one(&by_set), ""),
            (SCALED, false, one(&by_pod), ""),
            (SCALED, true, vec![], "pod"),
            (SCALED, true, one(&by_pod), "-"),
            (SCALED, true, one(&old_pod), "-"),
            (BOTH, false, vec![], "set"),
            (BOTH, false, one(&by_set), "-"),
            (BOTH, false, one(&by_pod), "set"),
            (BOTH, true, one(&by_set), "pod"),
            (BOTH, true, one(&by_pod), "-"),
        ] {
            assert_eq!(outcome(when, scaled_down, &owners), want, "{when:?} {scaled_down} {owners:?}");
        }
    }

    #[test]
    fn a_claim_of_the_pod_before_is_waited_for_where_it_goes_with_its_pod() {
        let mine = claim(&[owner("Pod", "web-0", "new", true)]);
        let before = claim(&[owner("Pod", "web-0", "before", true)]);
        for (when, claim, want) in [
            (("Delete", "Retain"), &before, true),
            (("Delete", "Delete"), &before, true),
            (("Retain", "Delete"), &before, false),
            (("Delete", "Retain"), &mine, true),
            (("Delete", "Retain"), &self::claim(&[]), false),
        ] {
            let set = set(when.0, when.1);
            let place = Place { set: &set, pod: "web-0", pod_uid: "", scaled_down: false };
            assert_eq!(place.stale(claim), want, "{when:?}");
        }
    }

    #[test]
    fn new_claims_have_the_template_s_and_the_selector_s_labels() {
        let claims = new(&set("Retain", "Delete"), 3);
        let meta = serde_json::to_value(&claims[0].metadata).unwrap();
        assert_eq!(
            meta,
            json!({"name": "data-web-3", "namespace": "ns", "labels": {"app": "web", "tier": "db"},
                "ownerReferences": [owner("StatefulSet", "web", "set", true)]})
        );
        assert!(new(&set("Delete", "Retain"), 3)[0].metadata.owner_references.is_none());
    }

    #[test]
    fn a_claim_s_name_says_whose_it_may_be() {
        for (name, want) in [
            ("data-web-0", "web"),
            ("my-data-web-0", "data-web web"),
            ("data-my-web-12", "my-web web"),
            ("web-0", ""),
            ("data", ""),
        ] {
            assert_eq!(possible_sets(name).collect::<Vec<_>>().join(" "), want, "{name}");
        }
    }
}
