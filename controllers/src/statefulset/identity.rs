//! Who a StatefulSet's pod is: its ordinal, its name, its labels, its host name and its claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Object;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{self, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use serde::Deserialize;

use super::claims;
use crate::history::POD_LABEL;
use crate::pods::{self, Pod};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// A pod of the set.
#[derive(Clone, Debug)]
pub struct Member {
    pub pod: Pod,
    pub ordinal: i32,
    /// Its identity and volumes are what the set gives it.
    pub conforms: bool,
}

#[derive(Deserialize)]
struct View {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    volumes: Vec<VolumeView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeView {
    name: String,
    persistent_volume_claim: Option<ClaimView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimView {
    claim_name: String,
}

impl Member {
    /// The name says that it is a pod of this set.
    pub fn parse(object: &Arc<Object>, set: &StatefulSet, ordinal: i32) -> Result<Self, serde_json::Error> {
        let named = object.head.label(NAME_LABEL) == Some(&object.head.name);
        let conforms = named && has_volumes(object, set, ordinal)?;
        Ok(Self { pod: Pod::parse(object)?, ordinal, conforms })
    }

    pub fn revision(&self) -> &str {
        self.pod.object.head.label(POD_LABEL).unwrap_or_default()
    }

    pub fn terminating(&self) -> bool {
        self.pod.object.head.deleting
    }
}

fn has_volumes(object: &Object, set: &StatefulSet, ordinal: i32) -> Result<bool, serde_json::Error> {
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    if templates.is_empty() {
        return Ok(true);
    }
    let view: View = object.decode()?;
    Ok(templates.iter().all(|template| {
        let wanted = claims::name(template, set, ordinal);
        let volume = view.spec.volumes.iter().find(|v| Some(&v.name) == template.metadata.name.as_ref());
        volume.and_then(|v| v.persistent_volume_claim.as_ref()).is_some_and(|c| c.claim_name == wanted)
    }))
}

/// Splits `web-3` into its parent's name and its ordinal.
pub fn parent_and_ordinal(name: &str) -> Option<(&str, i32)> {
    let (parent, digits) = name.rsplit_once('-')?;
    let plain = digits == "0" || !digits.starts_with('0');
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain && numeric { Some((parent, digits.parse().ok()?)) } else { None }
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The pod of an ordinal, of a template that the revision names.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> v1::Pod {
    let mut pod = pods::of_template::<StatefulSet>(&set.metadata, template);
    pod.metadata.generate_name = set.metadata.name.as_ref().map(|name| format!("{name}-"));
    pod.metadata.name = Some(pod_name(set, ordinal));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_LABEL.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name(set, ordinal));
    spec.subdomain = set.spec.service_name.clone().filter(|name| !name.is_empty());
    conform(set, &mut pod, ordinal);
    pod
}

/// Gives the pod the labels and volumes of its place in the set.
pub fn conform(set: &StatefulSet, pod: &mut v1::Pod, ordinal: i32) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), pod_name(set, ordinal));
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    if templates.is_empty() {
        return;
    }
    // Of templates of one name the last counts.
    let claims: BTreeMap<String, String> = templates
        .iter()
        .map(|t| (t.metadata.name.clone().unwrap_or_default(), claims::name(t, set, ordinal)))
        .collect();
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    volumes.retain(|volume| !claims.contains_key(&volume.name));
    let of_claims = claims.into_iter().map(|(name, claim_name)| Volume {
        name,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None }),
        ..Volume::default()
    });
    volumes.splice(0..0, of_claims);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{from, template};

    #[test]
    fn names_are_split_at_their_ordinal() {
        for (name, want) in [
            ("web-0", Some(("web", 0))),
            ("web-12", Some(("web", 12))),
            ("a-1-b-2", Some(("a-1-b", 2))),
            ("web", None),
            ("web-", None),
            ("web-x", None),
            ("web-01", None),
            ("web-+1", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(parent_and_ordinal(name), want, "{name}");
        }
    }

    #[test]
    fn a_pod_carries_its_place() {
        let mut template = template("v1");
        template["spec"]["volumes"] =
            json!([{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]);
        let set: StatefulSet = from(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "u"},
            "spec": {"serviceName": "webs", "selector": {"matchLabels": {"app": "web"}}, "template": template,
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}));
        let pod = serde_json::to_value(new_pod(&set, &set.spec.template, 2, "web-abc")).unwrap();
        assert_eq!(
            pod["metadata"],
            json!({"namespace": "ns", "name": "web-2", "generateName": "web-",
                "labels": {"app": "web", "controller-revision-hash": "web-abc",
                    "statefulset.kubernetes.io/pod-name": "web-2", "apps.kubernetes.io/pod-index": "2"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u",
                    "controller": true, "blockOwnerDeletion": true}]})
        );
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-2"), &json!("webs")));
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-2"}},
                {"name": "tmp", "emptyDir": {}}])
        );
        let mut stored = pod.clone();
        let parse = |value: &serde_json::Value| {
            let object = Object::parse(value.to_string().into(), &[]).unwrap();
            Member::parse(&object, &set, 2).unwrap()
        };
        assert!(parse(&stored).conforms);
        assert_eq!(parse(&stored).revision(), "web-abc");
        stored["spec"]["volumes"] = json!([]);
        assert!(!parse(&stored).conforms);
        stored = pod;
        stored["metadata"]["labels"].as_object_mut().unwrap().remove(NAME_LABEL);
        assert!(!parse(&stored).conforms);
    }
}
