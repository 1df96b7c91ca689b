//! The volume controller: a PersistentVolume of the cloud says where it is, by labels and by the nodes that may use it.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume};
use serde_json::{Value, json};

use super::provider::{CloudError, Provider};
use crate::context::Context;

/// A volume in several zones names them all, with this in between, as upstream's `ZonesSetToLabelValue`.
const ZONES_BETWEEN: &str = "__";
const ZONE: &str = "topology.kubernetes.io/zone";

pub async fn run(context: Context, provider: Arc<dyn Provider>) {
    if provider.volumes().is_none() {
        return;
    }
    let volumes = context.of::<PersistentVolume>();
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    volumes.on_change(move |change: &Change| {
        // What a volume is does not change: it is asked about once, and again when its labels are taken away.
        if change.old.as_ref().map(|o| &o.head.labels) != change.new.as_ref().map(|n| &n.head.labels) {
            added.add(change.key());
        }
    });
    let controller = Controller { client: context.client.clone(), provider, volumes };
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    provider: Arc<dyn Provider>,
    volumes: Informer,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("error querying volume: {0}")]
    Cloud(#[from] CloudError),
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("{0}")]
    Decode(#[from] serde_json::Error),
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = Error;

    fn name(&self) -> &'static str {
        "cloud-volume-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let (Some(object), Some(volumes)) = (self.volumes.get_key(key), self.provider.volumes()) else {
            return Ok(Outcome::Done);
        };
        if object.head.deleting {
            return Ok(Outcome::Done);
        }
        let volume: PersistentVolume = object.decode()?;
        let labels = volumes.labels(&volume).await?;
        let Some(patch) = plan(&volume, &labels) else { return Ok(Outcome::Done) };
        match self.client.patch::<PersistentVolume>("", &key.name, None, PatchType::Merge, &patch).await {
            Err(error) if error.is_not_found() => {}
            other => drop(other?),
        }
        Ok(Outcome::Done)
    }
}

/// What brings the volume in line with its labels: they are added, and the nodes it can be used on restricted to them,
/// where nobody restricted them before.
fn plan(volume: &PersistentVolume, labels: &BTreeMap<String, String>) -> Option<Value> {
    let present = volume.metadata.labels.clone().unwrap_or_default();
    let mut patch = json!({});
    if labels.iter().any(|(name, value)| present.get(name) != Some(value)) {
        patch["metadata"]["labels"] = json!(labels);
    }
    let restricted =
        volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).is_some_and(|a| a.required.is_some());
    if !labels.is_empty() && !restricted {
        let expressions = labels.iter().map(|(name, value)| NodeSelectorRequirement {
            key: name.clone(),
            operator: "In".into(),
            values: Some(match name.as_str() {
                ZONE => value.split(ZONES_BETWEEN).map(str::to_owned).collect(),
                _ => vec![value.clone()],
            }),
        });
        let term = NodeSelectorTerm { match_expressions: Some(expressions.collect()), match_fields: None };
        patch["spec"]["nodeAffinity"]["required"] = json!({"nodeSelectorTerms": [term]});
    }
    (patch != json!({})).then_some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::from;

    #[test]
    fn volumes_say_where_they_are() {
        let affinity = json!({"required": {"nodeSelectorTerms": []}});
        let term = |values: Value| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": values}]}]}});
        for (volume, labels, want) in [
            (json!({}), vec![], None),
            (
                json!({}),
                vec![(ZONE, "a")],
                Some(
                    json!({"metadata": {"labels": {ZONE: "a"}}, "spec": {"nodeAffinity": term(json!(["a"]))}}),
                ),
            ),
            (
                json!({}),
                vec![(ZONE, "a__b")],
                Some(
                    json!({"metadata": {"labels": {ZONE: "a__b"}}, "spec": {"nodeAffinity": term(json!(["a", "b"]))}}),
                ),
            ),
            (
                json!({"spec": {"nodeAffinity": affinity}}),
                vec![(ZONE, "a")],
                Some(json!({"metadata": {"labels": {ZONE: "a"}}})),
            ),
            (
                json!({"metadata": {"labels": {ZONE: "a"}}, "spec": {"nodeAffinity": affinity}}),
                vec![(ZONE, "a")],
                None,
            ),
        ] {
            let labels =
                labels.into_iter().map(|(n, v): (&str, &str)| (n.to_owned(), v.to_owned())).collect();
            let got = plan(&from::<PersistentVolume>(volume.clone()), &labels);
            assert_eq!(got, want, "{volume}");
        }
    }
}
