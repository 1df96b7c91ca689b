//! A DaemonSet's pod: how it is made, and which node it is for.

use std::cmp::Ordering;
use std::sync::Arc;

use coracle_client::Object;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{self, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use serde::Deserialize;

use super::nodes::tolerations;
use crate::history::POD_LABEL;
use crate::pods::{self, Pod};

const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

/// A pod of the set and the node that it is bound or pinned to.
#[derive(Clone, Debug)]
pub struct Daemon {
    pub pod: Pod,
    pub node: Box<str>,
}

#[derive(Deserialize)]
struct View {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    affinity: Option<v1::Affinity>,
}

impl Daemon {
    pub fn parse(object: &Arc<Object>) -> Result<Self, serde_json::Error> {
        let pod = Pod::parse(object)?;
        let node = if pod.node.is_empty() { pinned(object)?.into() } else { pod.node.clone() };
        Ok(Self { pod, node })
    }

    pub fn deleting(&self) -> bool {
        self.pod.object.head.deleting
    }

    /// Of the template that the hash names, or by the generation that older versions counted.
    pub fn updated(&self, set: &DaemonSet, hash: &str) -> bool {
        let head = &self.pod.object.head;
        let by_generation = generation(set).is_some_and(|g| head.label(GENERATION_LABEL) == Some(g));
        (!hash.is_empty() && head.label(POD_LABEL) == Some(hash)) || by_generation
    }
}

/// Bound before unbound, then the oldest first.
pub fn by_age(a: &Pod, b: &Pod) -> Ordering {
    let unbound = |pod: &Pod| pod.node.is_empty();
    unbound(a).cmp(&unbound(b)).then_with(|| a.created.cmp(&b.created)).then_with(|| a.name().cmp(b.name()))
}

/// The node that an unbound pod's affinity names; empty where it names none.
fn pinned(object: &Object) -> Result<String, serde_json::Error> {
    let view: View = object.decode()?;
    let terms = view
        .spec
        .affinity
        .and_then(|a| a.node_affinity)
        .and_then(|a| a.required_during_scheduling_ignored_during_execution)
        .map(|required| required.node_selector_terms)
        .unwrap_or_default();
    let mut fields = terms.into_iter().flat_map(|term| term.match_fields.unwrap_or_default());
    let pin = fields.find(|f| f.key == "metadata.name" && f.operator == "In");
    let [name] = <[String; 1]>::try_from(pin.and_then(|f| f.values).unwrap_or_default()).unwrap_or_default();
    Ok(name)
}

fn generation(set: &DaemonSet) -> Option<&str> {
    set.metadata.annotations.as_ref()?.get(GENERATION_ANNOTATION).map(String::as_str)
}

/// The set's pod without a node: [`pin`] gives it one.
pub fn new(set: &DaemonSet, hash: &str) -> v1::Pod {
    let mut pod = pods::of_template::<DaemonSet>(&set.metadata, &set.spec.template);
    pod.metadata.generate_name = set.metadata.name.as_ref().map(|name| format!("{name}-"));
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = generation(set) {
        labels.insert(GENERATION_LABEL.into(), generation.into());
    }
    labels.insert(POD_LABEL.into(), hash.into());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    pod
}

/// The scheduler binds the pod to this node or to none. What else its affinity required has been looked at.
pub fn pin(mut pod: v1::Pod, node: &str) -> v1::Pod {
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default();
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: None,
                match_fields: Some(vec![NodeSelectorRequirement {
                    key: "metadata.name".into(),
                    operator: "In".into(),
                    values: Some(vec![node.to_owned()]),
                }]),
            }],
        });
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{from, template};

    #[test]
    fn a_daemon_is_pinned_tolerant_and_known_by_its_hash() {
        let mut template = template("v1");
        template["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "color", "operator": "Exists"}]}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}});
        let set: DaemonSet = from(json!({"metadata": {"namespace": "ns", "name": "agent", "uid": "u",
            "annotations": {GENERATION_ANNOTATION: "3"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}}));
        let pod = pin(new(&set, "abc"), "n1");
        let mut value = serde_json::to_value(&pod).unwrap();
        assert_eq!(
            value["metadata"]["labels"],
            json!({"app": "web", "controller-revision-hash": "abc", "pod-template-generation": "3"})
        );
        let node_affinity = &value["spec"]["affinity"]["nodeAffinity"];
        assert_eq!(
            node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
        );
        assert!(node_affinity["preferredDuringSchedulingIgnoredDuringExecution"].is_array());
        assert_eq!(value["spec"]["tolerations"].as_array().map(Vec::len), Some(6));

        let parse = |value: &serde_json::Value| {
            let object = Object::parse(value.to_string().into(), &["spec.nodeName", "status.phase"]);
            Daemon::parse(&object.unwrap()).unwrap()
        };
        value["metadata"]["name"] = json!("agent-x");
        assert_eq!(&*parse(&value).node, "n1", "before it is bound");
        assert!(parse(&value).updated(&set, "abc"));
        assert!(parse(&value).updated(&set, "def"), "by its generation");
        value["metadata"]["labels"]["pod-template-generation"] = json!("2");
        assert!(!parse(&value).updated(&set, "def"));
        value["spec"]["nodeName"] = json!("n2");
        assert_eq!(&*parse(&value).node, "n2");
        value["spec"] = json!({});
        assert_eq!(&*parse(&value).node, "");
    }
}
