//! Node IPAM: every node has a pod range of its own out of the cluster's.

mod masks;
mod ranges;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, Informer, Key, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use crate::context::Context;
use crate::{Cidr, Options};
use ranges::Ranges;

/// One range per IP family at most, each with room for a node.
pub fn check(options: &Options) -> Result<(), String> {
    pools(options).map(drop)
}

fn pools(options: &Options) -> Result<Vec<Ranges>, String> {
    let families: Vec<bool> = options.cluster_cidr.iter().map(|c| c.address.is_ipv4()).collect();
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        return Err("at most one range of each IP family".into());
    }
    let masks = masks::of(options)?;
    let pool = |cidr: &Cidr| {
        let mut ranges = Ranges::new(*cidr, masks.of_family(cidr.address.is_ipv4()))?;
        options.service_cluster_ip_range.iter().for_each(|other| ranges.exclude(*other));
        Ok(ranges)
    };
    options.cluster_cidr.iter().map(pool).collect()
}

/// Name of the index of nodes that have no range yet.
const WITHOUT_RANGE: &str = "without a pod range";

pub async fn run(context: Context) {
    let Ok(pools) = pools(&context.options) else { return };
    if pools.is_empty() {
        return;
    }
    let nodes = context.of::<Node>();
    if !context.synced().await {
        return;
    }
    let queue = WorkQueue::new();
    let controller = Controller {
        client: context.client.clone(),
        nodes: nodes.clone(),
        events: context.recorder("cidrAllocator"),
        pools: Mutex::new(pools),
    };
    // Every range in use is known before the first is given out.
    for node in nodes.list() {
        controller.occupy(&cidrs(&node), &node.head.name);
    }
    nodes.add_index(
        WITHOUT_RANGE,
        |node| if cidrs(node).is_empty() { vec![Box::default()] } else { Vec::new() },
    );
    let (added, all) = (queue.clone(), nodes.clone());
    nodes.on_change(move |change: &Change| {
        added.add(change.key());
        if change.new.is_none() {
            // A range may have come free for those that got none.
            all.by_index(WITHOUT_RANGE, "").iter().for_each(|node| added.add(node.key()));
        }
    });
    // One at a time: two nodes must not get one range.
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    nodes: Informer,
    events: EventRecorder,
    pools: Mutex<Vec<Ranges>>,
}

#[derive(Deserialize)]
struct View {
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "podCIDR")]
    cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    cidrs: Option<Vec<String>>,
}

/// The ranges a node has.
fn cidrs(node: &coracle_client::Object) -> Vec<Cidr> {
    let Some(spec) = node.decode::<View>().ok().and_then(|view| view.spec) else { return Vec::new() };
    let all = spec.cidrs.filter(|c| !c.is_empty()).unwrap_or_else(|| spec.cidr.into_iter().collect());
    all.iter().filter_map(|text| text.parse().ok()).collect()
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.nodes.get_key(key) else {
            self.pools.lock().iter_mut().for_each(|pool| pool.release(&key.name));
            return Ok(Outcome::Done);
        };
        let present = cidrs(&object);
        if !present.is_empty() {
            self.occupy(&present, &key.name);
            return Ok(Outcome::Done);
        }
        let given: Option<Vec<Cidr>> =
            self.pools.lock().iter_mut().map(|pool| pool.allocate(&key.name)).collect();
        let Some(given) = given else {
            self.pools.lock().iter_mut().for_each(|pool| pool.release(&key.name));
            let node: Node = object.decode()?;
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.events.event(&node, EventType::Normal, "CIDRNotAvailable", message);
            return Ok(Outcome::Done);
        };
        let texts: Vec<String> = given.iter().map(ToString::to_string).collect();
        let patch = json!({
            "metadata": {"uid": object.head.uid},
            "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
        });
        match self.client.patch::<Node>("", &key.name, None, PatchType::Merge, &patch).await {
            Ok(_) => Ok(Outcome::Done),
            // What was given stays noted for this node: the next try gives the same.
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => {
                if !error.is_conflict() {
                    let message = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                    self.events.event(
                        &object.decode::<Node>()?,
                        EventType::Normal,
                        "CIDRAssignmentFailed",
                        message,
                    );
                }
                Err(error)
            }
        }
    }
}

impl Controller {
    fn occupy(&self, cidrs: &[Cidr], node: &str) {
        let mut pools = self.pools.lock();
        for cidr in cidrs {
            pools.iter_mut().for_each(|pool| pool.occupy(*cidr, node));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coracle_client::DeleteOptions;
    use coracle_client::fake::Fake;

    use super::*;
    use crate::testing::{Cluster, from};

    fn given(fake: &Fake) -> BTreeSet<String> {
        fake.list::<Node>("").into_iter().filter_map(|n| n.spec?.pod_cidr).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_node_has_its_range_until_it_goes() {
        let options = Options { cluster_cidr: vec!["10.0.0.0/22".parse().unwrap()], ..Options::default() };
        let cluster = Cluster::with(options);
        let client = &cluster.context.client;
        let node = |name: &str| from::<Node>(json!({"metadata": {"name": name}}));
        let mut taken = node("taken");
        taken.spec.get_or_insert_default().pod_cidr = Some("10.0.0.0/24".into());
        cluster.fake.put(&taken).unwrap();
        for name in ["a", "b", "c"] {
            client.create(&node(name)).await.unwrap();
        }
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.until("all four ranges", |f| given(f).len() == 4).await;
        let a = cluster.fake.get::<Node>("", "a").unwrap().spec.unwrap();
        assert_eq!(a.pod_cidrs, a.pod_cidr.map(|c| vec![c]));
        client.create(&node("d")).await.unwrap();
        cluster
            .until("no range left", |_| {
                cluster
                    .events()
                    .contains(&("CIDRNotAvailable".into(), "Node d status is now: CIDRNotAvailable".into()))
            })
            .await;
        client.delete::<Node>("", "b", DeleteOptions::default()).await.unwrap();
        cluster.until("d has b's", |f| f.get::<Node>("", "d").and_then(|n| n.spec?.pod_cidr).is_some()).await;
        assert_eq!(given(&cluster.fake).len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn with_two_families_a_node_has_a_range_of_each() {
        let cluster_cidr = vec!["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()];
        let cluster = Cluster::with(Options { cluster_cidr, ..Options::default() });
        cluster.start(|c| Box::pin(super::run(c)));
        for name in ["a", "b"] {
            cluster.context.client.create(&from::<Node>(json!({"metadata": {"name": name}}))).await.unwrap();
        }
        let ranges = |fake: &Fake, name: &str| fake.get::<Node>("", name).and_then(|n| n.spec?.pod_cidrs);
        cluster.until("ranges", |f| ranges(f, "a").is_some() && ranges(f, "b").is_some()).await;
        let all: BTreeSet<_> = ["a", "b"].iter().filter_map(|name| ranges(&cluster.fake, name)).collect();
        let want = [["10.0.0.0/24", "fd00::/64"], ["10.0.1.0/24", "fd00:0:0:1::/64"]];
        assert_eq!(all, want.map(|pair| pair.map(str::to_owned).to_vec()).into());
        let first = cluster.fake.get::<Node>("", "a").and_then(|n| n.spec?.pod_cidr);
        assert!(first.is_some_and(|cidr| cidr.starts_with("10.0.")), "the first of both is the one");
    }

    #[test]
    fn options_are_checked() {
        for (ranges, fine) in [
            ("10.0.0.0/16", true),
            ("10.0.0.0/24", true),
            ("10.0.0.0/25", false),
            ("10.0.0.0/16,fd00::/48", true),
            ("10.0.0.0/16,10.1.0.0/16", false),
            ("fd00::/40", false),
        ] {
            let cluster_cidr = ranges.split(',').map(|c| c.parse().unwrap()).collect();
            let options = Options { cluster_cidr, ..Options::default() };
            assert_eq!(check(&options).is_ok(), fine, "{ranges}");
        }
    }
}
