//! Upstream's `workqueue_*` metrics of one queue.

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Histograms, NameLabel, register};

/// Upstream's: from ten nanoseconds to ten seconds by tens.
const DURATIONS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

type Float = Gauge<f64, AtomicU64>;

/// Of one queue.
pub struct QueueMetrics {
    pub depth: Gauge,
    pub adds: Counter,
    pub retries: Counter,
    pub waited: Histogram,
    pub worked: Histogram,
    pub unfinished: Float,
    pub longest: Float,
}

struct Families {
    depth: Family<NameLabel, Gauge>,
    adds: Family<NameLabel, Counter>,
    retries: Family<NameLabel, Counter>,
    waited: Histograms<NameLabel>,
    worked: Histograms<NameLabel>,
    unfinished: Family<NameLabel, Float>,
    longest: Family<NameLabel, Float>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let histogram: fn() -> Histogram = || Histogram::new(DURATIONS);
    let families = Families {
        depth: Family::default(),
        adds: Family::default(),
        retries: Family::default(),
        waited: Family::new_with_constructor(histogram),
        worked: Family::new_with_constructor(histogram),
        unfinished: Family::default(),
        longest: Family::default(),
    };
    // The encoder appends `_total` to counters.
    register(|registry| {
        registry.register("workqueue_depth", "Current depth of workqueue", families.depth.clone());
        registry.register(
            "workqueue_adds",
            "Total number of adds handled by workqueue",
            families.adds.clone(),
        );
        registry.register(
            "workqueue_retries",
            "Total number of retries handled by workqueue",
            families.retries.clone(),
        );
        registry.register(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested",
            families.waited.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes",
            families.worked.clone(),
        );
        registry.register(
            "workqueue_unfinished_work_seconds",
            "Seconds of work in progress that has not been observed by work_duration",
            families.unfinished.clone(),
        );
        registry.register(
            "workqueue_longest_running_processor_seconds",
            "How many seconds the longest running processor has been running",
            families.longest.clone(),
        );
    });
    families
});

impl QueueMetrics {
    pub fn of(name: &str) -> Self {
        let label = NameLabel { name: name.to_owned() };
        let families = &*FAMILIES;
        Self {
            depth: families.depth.get_or_create(&label).clone(),
            adds: families.adds.get_or_create(&label).clone(),
            retries: families.retries.get_or_create(&label).clone(),
            waited: families.waited.get_or_create(&label).clone(),
            worked: families.worked.get_or_create(&label).clone(),
            unfinished: families.unfinished.get_or_create(&label).clone(),
            longest: families.longest.get_or_create(&label).clone(),
        }
    }
}

/// The name that upstream's queue of a controller has.
pub fn queue_name(controller: &str) -> String {
    let short = controller.strip_suffix("-controller").unwrap_or(controller);
    match short {
        "certificatesigningrequest-approving" | "certificatesigningrequest-signing" => "certificate",
        "clusterrole-aggregation" => "ClusterRoleAggregator",
        "endpoints" => "endpoint",
        "endpointslice" => "endpoint_slice",
        "endpointslice-mirroring" => "endpoint_slice_mirroring",
        "garbage-collector" => "garbage_collector_attempt_to_delete",
        "horizontal-pod-autoscaler" => "horizontalpodautoscaler",
        "node-lifecycle" => "node_lifecycle_controller",
        "persistentvolume-protection" => "pvprotection",
        "persistentvolumeclaim-protection" => "pvcprotection",
        "replicationcontroller" => "replicationmanager",
        "resourcequota" => "resourcequota_primary",
        "root-ca-certificate-publisher" => "root_ca_cert_publisher",
        "ttl-after-finished" => "ttl_jobs_to_delete",
        other => return other.replace('-', "_"),
    }
    .to_owned()
}
