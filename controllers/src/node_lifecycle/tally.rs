//! How many nodes of each zone are well, kept as nodes change, and told as upstream's `node_collector_*` metrics.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use coracle_client::metrics::register;
use coracle_client::{Change, Key, Object};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;

use super::health::READY;
use super::zones::{self, News, Zone};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabel {
    zone: String,
}

struct Metrics {
    health: Family<ZoneLabel, Gauge>,
    size: Family<ZoneLabel, Gauge>,
    unhealthy: Family<ZoneLabel, Gauge>,
    evictions: Family<ZoneLabel, Counter>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let metrics = Metrics {
        health: Family::default(),
        size: Family::default(),
        unhealthy: Family::default(),
        evictions: Family::default(),
    };
    // The encoder appends `_total` to counters.
    register(|registry| {
        registry.register(
            "node_collector_zone_health",
            "Gauge measuring percentage of healthy nodes per zone",
            metrics.health.clone(),
        );
        registry.register(
            "node_collector_zone_size",
            "Gauge measuring number of registered Nodes per zones",
            metrics.size.clone(),
        );
        registry.register(
            "node_collector_unhealthy_nodes_in_zone",
            "Gauge measuring number of not Ready Nodes per zones",
            metrics.unhealthy.clone(),
        );
        registry.register(
            "node_collector_evictions",
            "Number of Node evictions that happened since current instance of NodeController started",
            metrics.evictions.clone(),
        );
    });
    metrics
});

/// Bounded by the nodes there are.
#[derive(Clone, Default)]
pub struct Tally {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Where each node was counted, and as what.
    nodes: HashMap<Arc<str>, (String, bool)>,
    zones: HashMap<String, Zone>,
}

#[derive(Deserialize)]
struct View {
    status: Option<StatusView>,
}

#[derive(Deserialize)]
struct StatusView {
    conditions: Option<Vec<ConditionView>>,
}

#[derive(Deserialize)]
struct ConditionView {
    r#type: String,
    status: String,
}

fn is_ready(node: &Object) -> bool {
    let view = node.decode::<View>().ok().and_then(|view| view.status).and_then(|status| status.conditions);
    view.into_iter().flatten().any(|c| c.r#type == READY && c.status == "True")
}

impl Tally {
    /// One change of a node; what it means for the zones.
    pub fn change(&self, change: &Change) -> News {
        let name = &change.object().head.name;
        let now = change
            .new
            .as_ref()
            .map(|node| (zone_name(node.head.label(REGION), node.head.label(ZONE)), is_ready(node)));
        let mut state = self.state.lock();
        if now.as_ref() == state.nodes.get(name) {
            return News::None;
        }
        let zones_before = state.zones.clone();
        let before = match &now {
            Some(now) => state.nodes.insert(name.clone(), now.clone()),
            None => state.nodes.remove(name),
        };
        if let Some((zone, ready)) = &before
            && let Some(counts) = state.zones.get_mut(zone)
        {
            let part = if *ready { &mut counts.ready } else { &mut counts.lost };
            *part = part.saturating_sub(1);
            if *counts == Zone::default() {
                state.zones.remove(zone);
            }
        }
        if let Some((zone, ready)) = &now {
            let counts = state.zones.entry(zone.clone()).or_default();
            *(if *ready { &mut counts.ready } else { &mut counts.lost }) += 1;
        }
        for zone in before.iter().chain(&now).map(|(zone, _)| zone) {
            tell(zone, state.zones.get(zone).copied().unwrap_or_default());
        }
        zones::news(&zones_before, &state.zones)
    }

    /// Nodes that are not ready: whom the rates concern.
    pub fn lost(&self) -> Vec<Key> {
        let state = self.state.lock();
        state.nodes.iter().filter(|(_, (_, ready))| !ready).map(|(name, _)| Key::new("", name)).collect()
    }

    /// The zones as they are now.
    pub fn zones(&self) -> HashMap<String, Zone> {
        self.state.lock().zones.clone()
    }
}

fn tell(zone: &str, counts: Zone) {
    let label = ZoneLabel { zone: zone.to_owned() };
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let size = counts.ready + counts.lost;
    METRICS.size.get_or_create(&label).set(number(size));
    METRICS.unhealthy.get_or_create(&label).set(number(counts.lost));
    METRICS.health.get_or_create(&label).set(number((counts.ready * 100).checked_div(size).unwrap_or(100)));
}

/// A node of the zone is given up: its pods are evicted.
pub fn evicted(zone: &str) {
    METRICS.evictions.get_or_create(&ZoneLabel { zone: zone.to_owned() }).inc();
}

pub fn zone_of(node: &Node) -> String {
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    zone_name(label(REGION), label(ZONE))
}

fn zone_name(region: Option<&str>, zone: Option<&str>) -> String {
    format!("{}:{}", region.unwrap_or_default(), zone.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str, ready: &str) -> Arc<Object> {
        let json = json!({"metadata": {"name": name, "labels": {ZONE: zone}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        Object::parse(json.to_string().into(), &[]).unwrap()
    }

    #[test]
    fn zones_are_counted_as_nodes_change() {
        let tally = Tally::default();
        let tell = |new: Option<Arc<Object>>, old: Option<Arc<Object>>| {
            tally.change(&Change { old, new });
        };
        tell(Some(node("a", "x", "True")), None);
        tell(Some(node("b", "x", "Unknown")), None);
        tell(Some(node("c", "y", "True")), None);
        let zone = |ready, lost| Zone { ready, lost };
        assert_eq!(tally.zones(), [(":x".to_owned(), zone(1, 1)), (":y".to_owned(), zone(1, 0))].into());
        tell(Some(node("b", "x", "True")), Some(node("b", "x", "Unknown")));
        tell(Some(node("c", "x", "True")), Some(node("c", "y", "True")));
        tell(None, Some(node("a", "x", "True")));
        assert_eq!(tally.zones(), [(":x".to_owned(), zone(2, 0))].into());
    }
}
