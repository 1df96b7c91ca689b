//! `/stats/summary`, `/metrics` and `/metrics/resource`: what the node and its containers use, measured.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use coracle_client::Object;
use http::header;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Site;
use super::container_metrics::{self, Known, Machine};
use super::exposition::{self, Exposition, Sort};
use super::resource_metrics::{self, ContainerUse, PodUse, number};
use crate::node::machine::{self, Available, meminfo};
use crate::pods::status::time;
use crate::runtime::{Counted, Stats};

/// The last reading of each container's CPU time, for rates between readings.
#[derive(Default)]
pub struct Rates {
    last: Mutex<HashMap<(String, String), Reading>>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Timestamp,
    cpu_nanos: u64,
    rate: u64,
}

impl Rates {
    /// Nanocores since the reading before; readings closer than a second keep the older rate.
    fn take(&self, key: (String, String), cpu_nanos: u64, now: Timestamp) -> u64 {
        let mut last = self.last.lock();
        let known = last.get(&key).copied();
        let Some(before) = known.filter(|before| before.cpu_nanos <= cpu_nanos) else {
            last.insert(key, Reading { at: now, cpu_nanos, rate: 0 });
            return 0;
        };
        let elapsed = now.duration_since(before.at).as_nanos();
        if elapsed < 1_000_000_000 {
            return before.rate;
        }
        let used = i128::from(cpu_nanos - before.cpu_nanos) * 1_000_000_000;
        let rate = u64::try_from(used / elapsed).unwrap_or(u64::MAX);
        last.insert(key, Reading { at: now, cpu_nanos, rate });
        rate
    }

    fn retain(&self, live: impl Fn(&str) -> bool) {
        self.last.lock().retain(|(uid, _), _| uid.is_empty() || live(uid));
    }
}

fn cpu(site: &Site, key: (&str, &str), nanos: u64, now: Timestamp) -> Value {
    let rate = site.rates.take((key.0.to_owned(), key.1.to_owned()), nanos, now);
    json!({"time": time(now), "usageNanoCores": rate, "usageCoreNanoSeconds": nanos})
}

/// `limit`: what may be used; what is left of it is available.
fn memory(bytes: u64, limit: Option<u64>, now: Timestamp) -> Value {
    let mut memory =
        json!({"time": time(now), "usageBytes": bytes, "workingSetBytes": bytes, "rssBytes": bytes});
    if let Some(limit) = limit {
        memory["availableBytes"] = limit.saturating_sub(bytes).into();
    }
    memory
}

pub async fn summary(State(site): State<Arc<Site>>) -> Response {
    let now = Timestamp::now();
    let context = &site.context;
    let pods = site.pods.list();
    site.rates.retain(|uid| pods.iter().any(|pod| *pod.head.uid == *uid));
    let mut pod_stats = Vec::with_capacity(pods.len());
    for pod in &pods {
        let containers = context.running.of_pod(&pod.head.uid);
        if containers.is_empty() {
            continue;
        }
        let used: Vec<(Box<str>, Stats)> =
            containers.into_iter().map(|(name, container)| (name, container.stats())).collect();
        let total_cpu = used.iter().map(|(_, s)| s.cpu_nanos).sum();
        // Limited is a pod only if all its containers are.
        let limit = used.iter().map(|(_, s)| s.memory_limit_bytes).sum::<Option<u64>>();
        let started = used.iter().map(|(_, s)| s.started_at).min().unwrap_or(now);
        let total_memory = used.iter().map(|(_, s)| s.memory_bytes).sum();
        let containers: Vec<Value> = used
            .iter()
            .map(|(name, stats)| {
                json!({
                    "name": name,
                    "startTime": time(stats.started_at),
                    "cpu": cpu(&site, (&pod.head.uid, name), stats.cpu_nanos, now),
                    "memory": memory(stats.memory_bytes, stats.memory_limit_bytes, now),
                })
            })
            .collect();
        pod_stats.push(json!({
            "podRef": {"name": &*pod.head.name, "namespace": &*pod.head.namespace, "uid": &*pod.head.uid},
            "startTime": time(started),
            "containers": containers,
            "cpu": cpu(&site, (&pod.head.uid, ""), total_cpu, now),
            "memory": memory(total_memory, limit, now),
        }));
    }
    let available = Available::probe(context.logs.root());
    let (total, free) = machine::memory().unwrap_or_default();
    let used = total.saturating_sub(free);
    let answer = json!({
        "node": {
            "nodeName": context.node.name,
            "cpu": cpu(&site, ("", "node"), machine_cpu_nanos(), now),
            "memory": {
                "time": time(now),
                "availableBytes": free,
                "usageBytes": used,
                "workingSetBytes": used,
            },
            "fs": {
                "time": time(now),
                "availableBytes": available.disk_bytes,
                "capacityBytes": available.disk_total_bytes,
                "usedBytes": available.disk_total_bytes.saturating_sub(available.disk_bytes),
                "inodesFree": available.inodes,
                "inodes": available.inodes_total,
            },
        },
        "pods": pod_stats,
    });
    ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}

pub async fn resource(State(site): State<Arc<Site>>) -> Response {
    let now = Timestamp::now();
    let pods: Vec<PodUse> = site.pods.list().iter().filter_map(|pod| pod_use(&site, pod)).collect();
    let (total, free) = machine::memory().unwrap_or_default();
    let node = (machine_cpu_nanos(), total.saturating_sub(free));
    let text = resource_metrics::exposition(&pods, node, now);
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}

/// None for a pod of which nothing runs.
fn pod_use(site: &Site, pod: &Object) -> Option<PodUse> {
    let running = site.context.running.of_pod(&pod.head.uid);
    let containers = running.into_iter().map(|(name, container)| {
        let Stats { started_at, cpu_nanos, memory_bytes, .. } = container.stats();
        ContainerUse { name: name.into(), started_at, cpu_nanos, memory_bytes }
    });
    let containers: Vec<ContainerUse> = containers.collect();
    let (namespace, name) = (pod.head.namespace.clone(), pod.head.name.clone());
    (!containers.is_empty()).then_some(PodUse { namespace, name, containers })
}

/// Busy time of all CPUs since boot, from /proc/stat (in hundredths of a second).
fn machine_cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&text) * 10_000_000
}

fn busy_ticks(stat: &str) -> u64 {
    let Some(line) = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")) else { return 0 };
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    fields
        .iter()
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum()
}

pub async fn metrics(State(site): State<Arc<Site>>) -> Response {
    let known = known(&site);
    let running: Vec<&Known> = known.iter().filter(|container| container.runs).collect();
    let mut pods: Vec<&str> = running.iter().map(|container| &*container.uid).collect();
    pods.dedup();
    let mut text = Exposition::now();
    let mut gauge = |name: &'static str, help: &str, value: u64| {
        text.family(name, Sort::Gauge, help).sample(&[], number(value));
    };
    gauge("kubelet_desired_pods", "Pods bound to this node.", site.pods.list().len() as u64);
    gauge("kubelet_running_pods", "Pods with a running container.", pods.len() as u64);
    gauge(
        "coracle_node_open_streams",
        "Open exec, attach and port-forward streams.",
        site.streams.open() as u64,
    );
    let resident = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = meminfo(&resident, "VmRSS") {
        gauge("process_resident_memory_bytes", "Resident memory of the process.", bytes);
    }
    text.family("kubelet_running_containers", Sort::Gauge, "Containers by their state.")
        .sample(&[("container_state", "running")], number(running.len() as u64));
    container_metrics::wasm(&known, &mut text);
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text.text()).into_response()
}

pub async fn cadvisor(State(site): State<Arc<Site>>) -> Response {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = Machine { cores, memory_bytes: machine::memory().unwrap_or_default().0 };
    let text = container_metrics::cadvisor(&known(&site), &machine, Timestamp::now());
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}

/// What of a pod says which image a container has.
#[derive(Deserialize)]
struct View {
    spec: ViewSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ViewSpec {
    containers: Vec<ViewContainer>,
    init_containers: Vec<ViewContainer>,
    ephemeral_containers: Vec<ViewContainer>,
}

#[derive(Clone, Deserialize)]
struct ViewContainer {
    name: String,
    #[serde(default)]
    image: String,
}

/// Every container that there is something to say of, those of a pod one after the other.
fn known(site: &Site) -> Vec<Known> {
    let mut all = Vec::new();
    for pod in site.pods.list() {
        let mut past = site.context.running.past(&pod.head.uid);
        let running = site.context.running.of_pod(&pod.head.uid);
        let mut seen: Vec<(Box<str>, Option<Stats>, Counted)> = running
            .into_iter()
            .map(|(name, container)| {
                let before = past.remove(&name).unwrap_or_default();
                (name, Some(container.stats()), before)
            })
            .collect();
        seen.extend(past.into_iter().map(|(name, before)| (name, None, before)));
        if seen.is_empty() {
            continue;
        }
        let spec = pod.decode::<View>().map(|view| view.spec).unwrap_or_default();
        let named = [spec.containers, spec.init_containers, spec.ephemeral_containers].concat();
        for (container, stats, before) in seen {
            let image = named.iter().find(|c| *c.name == *container).map(|c| c.image.clone());
            all.push(Known {
                runs: stats.is_some(),
                namespace: pod.head.namespace.clone(),
                pod: pod.head.name.clone(),
                uid: pod.head.uid.clone(),
                container,
                image: image.unwrap_or_default(),
                stats: stats.unwrap_or_default(),
                before,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn rates_are_between_readings() {
        let rates = Rates::default();
        let key = || ("u".to_owned(), "c".to_owned());
        let start = Timestamp::from_second(1_000_000).unwrap();
        let mut got = Vec::new();
        for (seconds, cpu) in [(0, 0), (10, 5_000_000_000), (10, 5_000_000_000), (20, 6_000_000_000), (30, 0)]
        {
            got.push(rates.take(key(), cpu, start + SignedDuration::from_secs(seconds)));
        }
        assert_eq!(got, [0, 500_000_000, 500_000_000, 100_000_000, 0]);
        rates.retain(|_| false);
        assert!(rates.last.lock().is_empty());
    }

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  10 1 5 1000 50 2 3 4 0 0\ncpu0 1"), 25);
        assert_eq!(busy_ticks(""), 0);
    }
}
