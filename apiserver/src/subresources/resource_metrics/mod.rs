//! The objects of `metrics.k8s.io`: what nodes and containers use now, measured when somebody asks. Nothing is measured
//! in a cluster that nobody asks about; who asks often gets the same answer until the resolution is over.

mod exposition;
mod usage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, Object, Resource};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{BodyStream, node};
use crate::api::Api;
use crate::go_duration::GoDuration;
use crate::kinds::node_metrics::{self, NodeMetrics};
use crate::kinds::pod_metrics::{ContainerMetrics, PodMetrics};
use crate::watch_cache::{Filter, ResourceCache};
use exposition::Sample;
use usage::{NodeUsage, Usage};

/// How old an answer may be; metrics-server's default.
pub const RESOLUTION: Duration = Duration::from_secs(15);
/// As metrics-server: what started more recently than this says little of how much it uses.
const YOUNGEST: Duration = Duration::from_secs(10);
/// A window longer than this would say little of now.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// Between the readings of a node that nobody has asked about for long.
const PAIR: Duration = Duration::from_secs(1);
const READINGS_AT_ONCE: usize = 32;
/// metrics-server's `--kubelet-request-timeout`.
const READING_TIMEOUT: Duration = Duration::from_secs(10);
/// Ten thousand pods say 3 MB.
const READING_BYTES_MAX: usize = 64 * 1024 * 1024;
const PATH: &str = "/metrics/resource";
/// On nodes whose path is another, as metrics-server has it.
const PATH_ANNOTATION: &str = "metrics.k8s.io/resource-metrics-path";

/// What is known of one node.
#[derive(Default)]
struct History {
    /// When it was read last, or could not be.
    tried: Option<Instant>,
    last: Option<(Instant, Sample)>,
    usage: Option<Arc<NodeUsage>>,
}

/// Reads nodes, each at most once in a resolution.
pub struct Meter {
    resolution: Duration,
    /// By name. The lock of each is held while it is read: others that ask wait for the same answer.
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<History>>>>,
    /// A turn for each reading under way: many nodes may wait for their second one at once.
    turns: Semaphore,
}

impl Meter {
    pub fn new(resolution: Duration) -> Self {
        Self { resolution, nodes: Mutex::default(), turns: Semaphore::new(READINGS_AT_ONCE) }
    }

    fn youngest(&self) -> Duration {
        self.resolution.min(YOUNGEST)
    }

    /// What has not been asked after for long is forgotten: it would be no base any more.
    fn forget(&self) {
        let of_use = |history: &History| history.tried.is_some_and(|tried| tried.elapsed() <= WINDOW_MAX);
        self.nodes.lock().retain(|_, history| {
            Arc::strong_count(history) > 1 || history.try_lock().is_ok_and(|h| of_use(&h))
        });
    }

    fn history(&self, node: &str) -> Arc<tokio::sync::Mutex<History>> {
        self.nodes.lock().entry(node.to_owned()).or_default().clone()
    }

    /// None: the node cannot be measured.
    async fn node(&self, api: &Api, object: &Object) -> Option<Arc<NodeUsage>> {
        let name = &*object.head.name;
        let history = self.history(name);
        let mut history = history.lock().await;
        if history.tried.is_some_and(|tried| tried.elapsed() < self.resolution) {
            return history.usage.clone();
        }
        let base = history.last.take().filter(|(read, _)| read.elapsed() <= WINDOW_MAX);
        let measured = self.measure(api, object, base.map(|(_, sample)| sample)).await;
        history.tried = Some(Instant::now());
        (history.last, history.usage) = match measured {
            Ok((sample, usage)) => (Some((Instant::now(), sample)), Some(Arc::new(usage))),
            Err(error) => {
                tracing::debug!(node = name, %error, "measuring a node");
                (None, None)
            }
        };
        history.usage.clone()
    }

    async fn measure(
        &self,
        api: &Api,
        object: &Object,
        base: Option<Sample>,
    ) -> Result<(Sample, NodeUsage), ApiError> {
        let source = Source::of(api, object)?;
        let base = match base {
            Some(base) => base,
            None => {
                let first = source.read(&self.turns).await?;
                tokio::time::sleep(PAIR.min(self.resolution)).await;
                first
            }
        };
        let last = source.read(&self.turns).await?;
        let usage = usage::of_node(Some(&base), &last, self.youngest(), WINDOW_MAX);
        Ok((last, usage))
    }

    /// By name; nodes that cannot be measured are not there.
    async fn nodes(&self, api: &Api, objects: Vec<Arc<Object>>) -> HashMap<String, Arc<NodeUsage>> {
        self.forget();
        let each: FuturesUnordered<_> = objects
            .into_iter()
            .map(|object| async move {
                let usage = self.node(api, &object).await?;
                Some((object.head.name.to_string(), usage))
            })
            .collect();
        each.filter_map(std::future::ready).collect().await
    }
}

/// Where a node says what it uses.
struct Source<'a> {
    proxy: &'a dyn super::NodeProxy,
    endpoint: node::Endpoint,
    path: String,
}

impl<'a> Source<'a> {
    fn of(api: &'a Api, object: &Object) -> Result<Self, ApiError> {
        let node: Node = object.decode()?;
        let status = node.status.as_ref();
        let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "Unknown") {
            return Err(ApiError::service_unavailable("the node is silent"));
        }
        let annotations = node.metadata.annotations.as_ref();
        let path = annotations.and_then(|all| all.get(PATH_ANNOTATION)).filter(|path| path.starts_with('/'));
        let path = path.cloned().unwrap_or_else(|| PATH.into());
        let proxy = api.options.node_proxy.as_deref();
        let proxy =
            proxy.ok_or_else(|| ApiError::service_unavailable("this apiserver does not connect to nodes"))?;
        Ok(Self { proxy, endpoint: node::endpoint_of(&object.head.name, node)?, path })
    }

    async fn read(&self, turns: &Semaphore) -> Result<Sample, ApiError> {
        let _turn = turns.acquire().await.map_err(ApiError::internal)?;
        let reading = async {
            let (parts, body) =
                self.proxy.open(&self.endpoint.address, self.endpoint.port, &self.path).await?;
            if !parts.status.is_success() {
                return Err(ApiError::internal(format!("{}: {}", self.path, parts.status)));
            }
            bounded(body).await
        };
        let text = tokio::time::timeout(READING_TIMEOUT, reading)
            .await
            .map_err(|_| ApiError::internal(format!("{}: no answer in time", self.path)))??;
        Ok(exposition::parse(&String::from_utf8_lossy(&text), Timestamp::now().as_millisecond()))
    }
}

async fn bounded(body: BodyStream) -> Result<Vec<u8>, ApiError> {
    body.map_err(ApiError::internal)
        .try_fold(Vec::new(), |mut whole, piece| async move {
            if whole.len() + piece.len() > READING_BYTES_MAX {
                return Err(ApiError::internal(format!("more than {READING_BYTES_MAX} bytes")));
            }
            whole.extend_from_slice(&piece);
            Ok(whole)
        })
        .await
}

fn cache(api: &Api, resource: &Resource) -> Result<Arc<ResourceCache>, ApiError> {
    Ok(api.kind(resource)?.cache.clone())
}

fn selected(cache: &ResourceCache, filter: &Filter, api: &Api) -> Vec<Arc<Object>> {
    // The present is never too old.
    cache.list(filter, None, None, None, api.cache.revision()).map(|page| page.objects).unwrap_or_default()
}

/// As metrics-server: the measured object's name and labels, and now as its time of creation.
fn metadata(object: &Object) -> ObjectMeta {
    let head = &object.head;
    let labels: BTreeMap<String, String> =
        head.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    ObjectMeta {
        name: Some(head.name.to_string()),
        namespace: Some(head.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        creation_timestamp: Some(seconds(Timestamp::now())),
        ..ObjectMeta::default()
    }
}

/// What JSON keeps of a time.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn ended(usage: &Usage) -> Time {
    seconds(Timestamp::from_millisecond(usage.at).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn window(usage: &Usage) -> GoDuration {
    GoDuration(i64::try_from(usage.window.as_nanos()).unwrap_or(i64::MAX))
}

fn amounts(usage: &Usage) -> node_metrics::Usage {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    [
        ("cpu".to_owned(), Quantity::from_nanos(whole(usage.cpu_nanocores)).to_wire()),
        ("memory".to_owned(), Quantity::from_bytes(whole(usage.memory_bytes)).to_wire()),
    ]
    .into()
}

pub async fn of_nodes(api: &Api, filter: &Filter) -> Result<Vec<NodeMetrics>, ApiError> {
    let objects = selected(&*cache(api, &Resource::of::<Node>())?, filter, api);
    let usages = api.meter.nodes(api, objects.clone()).await;
    let each = objects.iter().filter_map(|object| {
        let usage = usages.get(&*object.head.name)?.node?;
        Some(NodeMetrics {
            metadata: metadata(object),
            timestamp: ended(&usage),
            window: window(&usage),
            usage: amounts(&usage),
            ..NodeMetrics::default()
        })
    });
    Ok(each.collect())
}

/// Of the nodes only those are measured that have a selected pod.
pub async fn of_pods(api: &Api, filter: &Filter) -> Result<Vec<PodMetrics>, ApiError> {
    let field = |object: &Object, path: &str| object.head.field(path).unwrap_or_default().to_owned();
    let mut pods = selected(&*cache(api, &Resource::of::<Pod>())?, filter, api);
    pods.retain(|pod| field(pod, "status.phase") == "Running");
    let names: BTreeSet<String> = pods.iter().map(|pod| field(pod, "spec.nodeName")).collect();
    let nodes = cache(api, &Resource::of::<Node>())?;
    let nodes = names.iter().filter_map(|name| nodes.get(name)).collect();
    let usages = api.meter.nodes(api, nodes).await;
    let each = pods.iter().filter_map(|pod| {
        let node = usages.get(&field(pod, "spec.nodeName"))?;
        let containers = node.pods.get(&format!("{}/{}", pod.head.namespace, pod.head.name))?;
        let (_, earliest) = containers.iter().min_by_key(|(_, usage)| usage.at)?;
        Some(PodMetrics {
            metadata: metadata(pod),
            timestamp: ended(earliest),
            window: window(earliest),
            containers: containers
                .iter()
                .map(|(name, usage)| ContainerMetrics { name: name.clone(), usage: amounts(usage) })
                .collect(),
            ..PodMetrics::default()
        })
    });
    Ok(each.collect())
}
