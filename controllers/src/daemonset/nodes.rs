//! The nodes as DaemonSets see them, and whether a set's pod should be on one.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::selector::Labels;
use coracle_client::tolerations::{NO_EXECUTE, NO_SCHEDULE, untolerated};
use coracle_client::{LabelPairs, Object, node_affinity};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Affinity, PodSpec, Taint, Toleration};
use parking_lot::RwLock;
use serde::Deserialize;

/// What of a node decides about daemons; its heartbeats change nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: LabelPairs,
    pub taints: Vec<Taint>,
}

impl Labels for Node {
    fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, value)| &**value)
    }
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    taints: Option<Vec<Taint>>,
}

impl Node {
    pub fn parse(object: &Object) -> Result<Self, serde_json::Error> {
        let view: View = object.decode()?;
        Ok(Self {
            name: object.head.name.clone(),
            labels: object.head.labels.clone(),
            taints: view.spec.taints.unwrap_or_default(),
        })
    }
}

/// Whether a set's pod should be started on a node, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    pub run: bool,
    pub stay: bool,
}

/// What the template of a set asks of nodes.
pub struct Demands {
    node_name: Option<String>,
    selector: BTreeMap<String, String>,
    affinity: Option<Affinity>,
    tolerations: Vec<Toleration>,
}

impl Demands {
    pub fn of(set: &DaemonSet) -> Self {
        let spec = set.spec.template.spec.clone().unwrap_or_default();
        Self {
            tolerations: tolerations(&spec),
            node_name: spec.node_name.filter(|name| !name.is_empty()),
            selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity,
        }
    }

    pub fn fit(&self, node: &Node) -> Fit {
        let named = self.node_name.as_ref().is_none_or(|name| **name == *node.name);
        if !named || !node_affinity::allows(Some(&self.selector), self.affinity.as_ref(), &node.name, node) {
            return Fit::default();
        }
        let tolerated = |effects: &[&str]| untolerated(&node.taints, &self.tolerations, effects).is_none();
        // What has started stays unless the node drives it out.
        Fit { run: tolerated(&[NO_SCHEDULE, NO_EXECUTE]), stay: tolerated(&[NO_EXECUTE]) }
    }
}

/// The template's tolerations, and those of a daemon: it stays on nodes that are troubled.
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some(("network-unavailable", NO_SCHEDULE));
    let always = [
        ("not-ready", NO_EXECUTE),
        ("unreachable", NO_EXECUTE),
        ("disk-pressure", NO_SCHEDULE),
        ("memory-pressure", NO_SCHEDULE),
        ("pid-pressure", NO_SCHEDULE),
        ("unschedulable", NO_SCHEDULE),
    ];
    for (condition, effect) in always.into_iter().chain(network) {
        let wanted = Toleration {
            key: Some(format!("node.kubernetes.io/{condition}")),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            value: None,
            toleration_seconds: None,
        };
        let same = |t: &Toleration| {
            let empty = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
            t.key == wanted.key
                && t.effect == wanted.effect
                && t.operator == wanted.operator
                && empty(&t.value).is_none()
        };
        match all.iter_mut().find(|t| same(t)) {
            Some(present) => *present = wanted,
            None => all.push(wanted),
        }
    }
    all
}

/// All nodes. A change that means nothing to daemons is none.
#[derive(Default)]
pub struct Nodes(RwLock<BTreeMap<Arc<str>, Arc<Node>>>);

impl Nodes {
    pub fn list(&self) -> Vec<Arc<Node>> {
        self.0.read().values().cloned().collect()
    }

    /// Takes the node in; what it was before where that is not the same.
    pub fn put(&self, node: Arc<Node>) -> Option<Option<Arc<Node>>> {
        let mut nodes = self.0.write();
        if nodes.get(&node.name) == Some(&node) {
            return None;
        }
        Some(nodes.insert(node.name.clone(), node))
    }

    pub fn remove(&self, name: &str) -> Option<Arc<Node>> {
        self.0.write().remove(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn node(labels: Value, taints: Value) -> Node {
        let value = json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
        Node::parse(&Object::parse(value.to_string().into(), &[]).unwrap()).unwrap()
    }

    fn fit(spec: Value, node: &Node) -> (bool, bool) {
        let set: DaemonSet = from(json!({"spec": {"selector": {}, "template": {"spec": spec}}}));
        let Fit { run, stay } = Demands::of(&set).fit(node);
        (run, stay)
    }

    #[test]
    fn a_node_is_fit_by_name_labels_affinity_and_taints() {
        let plain = node(json!({"color": "blue"}), json!([]));
        let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let expression = |value: &str| json!({"matchExpressions": [{"key": "color", "operator": "In", "values": [value]}]});
        for (spec, want) in [
            (json!({}), (true, true)),
            (json!({"nodeName": "n1"}), (true, true)),
            (json!({"nodeName": "n2"}), (false, false)),
            (json!({"nodeSelector": {"color": "blue"}}), (true, true)),
            (json!({"nodeSelector": {"color": "green"}}), (false, false)),
            (affinity(json!([expression("blue")])), (true, true)),
            (affinity(json!([expression("green")])), (false, false)),
            (affinity(json!([expression("green"), expression("blue")])), (true, true)),
            (
                affinity(
                    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]),
                ),
                (true, true),
            ),
            (
                affinity(
                    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]),
                ),
                (false, false),
            ),
        ] {
            assert_eq!(fit(spec.clone(), &plain), want, "{spec}");
        }
    }

    #[test]
    fn taints_keep_away_and_drive_out() {
        let own = |effect: &str| json!([{"key": "mine", "value": "x", "effect": effect}]);
        let condition = |name: &str, effect: &str| json!([{"key": format!("node.kubernetes.io/{name}"), "effect": effect}]);
        let tolerant = json!({"tolerations": [{"key": "mine", "operator": "Exists"}]});
        for (taints, spec, want) in [
            (own("NoSchedule"), json!({}), (false, true)),
            (own("NoExecute"), json!({}), (false, false)),
            (own("PreferNoSchedule"), json!({}), (true, true)),
            (own("NoSchedule"), tolerant.clone(), (true, true)),
            (own("NoExecute"), tolerant, (true, true)),
            (condition("not-ready", "NoExecute"), json!({}), (true, true)),
            (condition("not-ready", "NoSchedule"), json!({}), (false, true)),
            (condition("unreachable", "NoExecute"), json!({}), (true, true)),
            (condition("disk-pressure", "NoSchedule"), json!({}), (true, true)),
            (condition("memory-pressure", "NoSchedule"), json!({}), (true, true)),
            (condition("pid-pressure", "NoSchedule"), json!({}), (true, true)),
            (condition("unschedulable", "NoSchedule"), json!({}), (true, true)),
            (condition("network-unavailable", "NoSchedule"), json!({}), (false, true)),
            (condition("network-unavailable", "NoSchedule"), json!({"hostNetwork": true}), (true, true)),
        ] {
            assert_eq!(fit(spec.clone(), &node(json!({}), taints.clone())), want, "{taints} {spec}");
        }
    }

    #[test]
    fn a_toleration_that_is_there_is_not_added_twice() {
        let spec: PodSpec = from(json!({"containers": [], "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}));
        let all = tolerations(&spec);
        assert_eq!(all.len(), 6);
        assert_eq!(all[0].toleration_seconds, None, "a daemon stays for good");
    }

    #[test]
    fn what_means_nothing_to_daemons_is_no_change() {
        let nodes = Nodes::default();
        let blue = || Arc::new(node(json!({"color": "blue"}), json!([])));
        assert_eq!(nodes.put(blue()), Some(None));
        assert_eq!(nodes.put(blue()), None);
        let green = Arc::new(node(json!({"color": "green"}), json!([])));
        assert_eq!(nodes.put(green), Some(Some(blue())));
        assert_eq!(nodes.list().len(), 1);
        assert!(nodes.remove("n1").is_some() && nodes.list().is_empty());
    }
}
