//! The text of `/metrics/resource`: the families that a kubelet has there, which metrics-server and others read.

use std::sync::Arc;

use jiff::Timestamp;

use super::exposition::{Exposition, Sort};

/// What a running container has used since it started, and uses now.
pub struct ContainerUse {
    pub name: String,
    pub started_at: Timestamp,
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
}

pub struct PodUse {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub containers: Vec<ContainerUse>,
}

impl PodUse {
    /// Nanoseconds of CPU and bytes of memory.
    pub fn total(&self) -> (u64, u64) {
        self.containers.iter().fold((0, 0), |(cpu, memory), container| {
            (cpu + container.cpu_nanos, memory + container.memory_bytes)
        })
    }
}

// Both are exact in f64 as long as they stay below 104 days of CPU time and 8 PiB.
#[allow(clippy::cast_precision_loss)]
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[allow(clippy::cast_precision_loss)]
pub fn number(value: u64) -> f64 {
    value as f64
}

/// Seconds since 1970.
#[allow(clippy::cast_precision_loss)]
pub fn instant(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

/// `node`: nanoseconds of CPU and bytes of memory.
pub fn exposition(pods: &[PodUse], node: (u64, u64), now: Timestamp) -> String {
    let mut text = Exposition::at(now);
    let containers = |text: &mut Exposition, value: fn(&ContainerUse) -> f64| {
        for pod in pods {
            for container in &pod.containers {
                let labels =
                    [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                text.sample(&labels, value(container));
            }
        }
    };
    let whole = |text: &mut Exposition, value: fn((u64, u64)) -> f64| {
        for pod in pods {
            text.sample(&[("namespace", &*pod.namespace), ("pod", &*pod.name)], value(pod.total()));
        }
    };
    let help = "[STABLE] Cumulative cpu time consumed by the container in core-seconds";
    containers(text.family("container_cpu_usage_seconds_total", Sort::Counter, help), |c| {
        seconds(c.cpu_nanos)
    });
    let help = "[STABLE] Current working set of the container in bytes";
    containers(text.family("container_memory_working_set_bytes", Sort::Gauge, help), |c| {
        number(c.memory_bytes)
    });
    let help = "[STABLE] Start time of the container since unix epoch in seconds";
    containers(text.family("container_start_time_seconds", Sort::Gauge, help), |c| instant(c.started_at));
    let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
    text.family("node_cpu_usage_seconds_total", Sort::Counter, help).sample(&[], seconds(node.0));
    let help = "[STABLE] Current working set of the node in bytes";
    text.family("node_memory_working_set_bytes", Sort::Gauge, help).sample(&[], number(node.1));
    let help = "[STABLE] Cumulative cpu time consumed by the pod in core-seconds";
    whole(text.family("pod_cpu_usage_seconds_total", Sort::Counter, help), |(cpu, _)| seconds(cpu));
    let help = "[STABLE] Current working set of the pod in bytes";
    whole(text.family("pod_memory_working_set_bytes", Sort::Gauge, help), |(_, memory)| number(memory));
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("resource_scrape_error", Sort::Gauge, help).sample(&[], 0.0);
    text.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_a_line_for_each() {
        let container = |name: &str| ContainerUse {
            name: name.into(),
            started_at: Timestamp::from_millisecond(1_000_500).unwrap(),
            cpu_nanos: 1_500_000_000,
            memory_bytes: 1024,
        };
        let pod = PodUse {
            namespace: "ns".into(),
            name: "p".into(),
            containers: vec![container("a"), container("b")],
        };
        let text = exposition(&[pod], (7_000_000_000, 4096), Timestamp::from_millisecond(2_000_000).unwrap());
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} 1.5 2000000",
            "container_memory_working_set_bytes{container=\"b\",namespace=\"ns\",pod=\"p\"} 1024 2000000",
            "container_start_time_seconds{container=\"b\",namespace=\"ns\",pod=\"p\"} 1000.5 2000000",
            "node_cpu_usage_seconds_total 7 2000000",
            "node_memory_working_set_bytes 4096 2000000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 3 2000000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 2048 2000000",
            "resource_scrape_error 0 2000000",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
