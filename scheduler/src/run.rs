//! Runs the scheduler: informers feed it, one loop decides, bindings go out beside it.

use std::sync::Arc;
use std::time::Instant;

use coracle_client::election::{self, Candidate, Timing};
use coracle_client::events::EventRecorder;
use coracle_client::metrics::on_scrape;
use coracle_client::{Client, Informers};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::binder::{Binder, WRITES_MAX};
use crate::cache::Cache;
use crate::cycle::{Position, Unschedulable, schedule};
use crate::events::{Shared, follow};
use crate::metrics::METRICS;
use crate::plugins;
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::volume_writes::ClaimWaits;
use crate::volumes::Decision;

/// How the scheduler runs. The defaults are kube-scheduler's.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Work only while holding the lease kube-system/kube-scheduler
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    #[command(flatten)]
    pub election: Timing,
    /// Pods with this schedulerName are placed
    #[arg(long, default_value = "default-scheduler")]
    pub scheduler_name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { leader_elect: true, election: Timing::default(), scheduler_name: "default-scheduler".into() }
    }
}

/// Why the scheduler ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Election(&'static str),
    #[error("the scheduling loop crashed: {0}")]
    Crashed(#[from] tokio::task::JoinError),
}

/// Places pods until `shutdown`.
pub async fn run(options: Options, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    if !options.leader_elect {
        place(options, client, shutdown).await;
        return Ok(());
    }
    options.election.check().map_err(Error::Election)?;
    let candidate = Candidate::new("kube-scheduler", options.election);
    election::run(client.clone(), candidate, shutdown, |term| place(options.clone(), client.clone(), term))
        .await;
    Ok(())
}

async fn place(options: Options, client: Client, shutdown: CancellationToken) {
    let shared = Arc::new(Shared {
        cache: Mutex::new(Cache::default()),
        queue: Queue::default(),
        plugins: plugins::all(),
        scheduler_name: options.scheduler_name,
        claim_waits: ClaimWaits::default(),
    });
    let informers = Informers::new(client.clone(), shutdown.clone());
    follow(&shared, &informers);
    measure(&shared);
    tokio::select! {
        // A decision on half the pods would overcommit nodes.
        () = informers.synced() => {}
        () = shutdown.cancelled() => return,
    }
    let binder = Arc::new(Binder {
        recorder: EventRecorder::new(client.clone(), "default-scheduler", None),
        client,
        shared: shared.clone(),
        writes: Arc::new(Semaphore::new(WRITES_MAX)),
    });
    let mut position = Position::default();
    loop {
        let pod = tokio::select! {
            pod = shared.queue.pop() => pod,
            () = shutdown.cancelled() => return,
        };
        let Some(pod) = pod else { return };
        let Ok(permit) = binder.writes.clone().acquire_owned().await else { return };
        let began = Instant::now();
        let decision = decide(&shared, &pod, &mut position);
        METRICS.decided(began.elapsed());
        let binder = binder.clone();
        tokio::spawn(async move {
            match decision {
                Ok((node, volumes)) => binder.bind(&pod, &node, volumes, permit).await,
                Err(reasons) => {
                    let message = reasons.message();
                    debug!(
                        pod = pod.key.as_ref().map(tracing::field::display),
                        message, "no node takes the pod"
                    );
                    binder.explain(&pod, "Unschedulable", &message).await;
                }
            }
        });
    }
}

/// What is counted when it is asked for.
fn measure(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    on_scrape(move || {
        let Some(shared) = shared.upgrade() else { return false };
        for (queue, count) in shared.queue.pending() {
            METRICS.set_pending(queue, count);
        }
        let cache = shared.cache.lock();
        let (pods, assumed) = cache.placed_counts();
        METRICS.set_cached("nodes", cache.known_count());
        METRICS.set_cached("pods", pods);
        METRICS.set_cached("assumed_pods", assumed);
        true
    });
}

/// One cycle, and what follows from it here: the pod is assumed on its node, or waits.
fn decide(
    shared: &Shared,
    pod: &PodInfo,
    position: &mut Position,
) -> Result<(String, Decision), Unschedulable> {
    let mut cache = shared.cache.lock();
    let decision =
        schedule(pod, &cache, &shared.plugins, position, &mut |winners| rand::random_range(0..winners));
    match decision {
        Ok(node) => {
            cache.assume(pod, &node);
            let volumes = volumes_on(&cache, pod, &node);
            cache.volumes.assume(&volumes, &node);
            Ok((node, volumes))
        }
        Err(reasons) => {
            drop(cache);
            shared.queue.unschedulable(&pod.uid, reasons.plugins.clone());
            Err(reasons)
        }
    }
}

/// What is to become of the pod's claims on the node that was chosen.
fn volumes_on(cache: &Cache, pod: &PodInfo, node: &str) -> Decision {
    if pod.load.claims.is_empty() {
        return Decision::default();
    }
    let asked = cache.volumes.ask(pod).ok();
    asked.zip(cache.node(node)).and_then(|(asked, node)| asked.on(node).ok()).unwrap_or_default()
}
