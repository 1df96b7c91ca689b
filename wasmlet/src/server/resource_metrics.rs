//! The text of `/metrics/resource`: the families that a kubelet has there, which metrics-server and others read.

use std::fmt::Write;
use std::sync::Arc;

use jiff::Timestamp;

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

#[allow(clippy::cast_precision_loss)]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// `node`: nanoseconds of CPU and bytes of memory. Names in Kubernetes need no escapes.
pub fn exposition(pods: &[PodUse], node: (u64, u64), now: Timestamp) -> String {
    let mut out = String::new();
    let at = now.as_millisecond();
    let mut family =
        |name: &str, kind: &str, help: &str, samples: &mut dyn FnMut(&mut dyn FnMut(&str, f64))| {
            let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
            samples(&mut |labels, value| {
                let _ = writeln!(out, "{name}{labels} {value} {at}");
            });
        };
    let each_container = |value: fn(&ContainerUse) -> f64| {
        move |put: &mut dyn FnMut(&str, f64)| {
            for pod in pods {
                for container in &pod.containers {
                    let labels = format!(
                        "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                        container.name, pod.namespace, pod.name
                    );
                    put(&labels, value(container));
                }
            }
        }
    };
    let each_pod = |value: fn((u64, u64)) -> f64| {
        move |put: &mut dyn FnMut(&str, f64)| {
            for pod in pods {
                let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name);
                put(&labels, value(pod.total()));
            }
        }
    };
    #[allow(clippy::cast_precision_loss)]
    let bytes = |bytes: u64| bytes as f64;
    let (counter, gauge) = ("counter", "gauge");
    family(
        "container_cpu_usage_seconds_total",
        counter,
        "Cumulative cpu time consumed by the container in core-seconds",
        &mut each_container(|container| seconds(container.cpu_nanos)),
    );
    #[allow(clippy::cast_precision_loss)]
    family(
        "container_memory_working_set_bytes",
        gauge,
        "Current working set of the container in bytes",
        &mut each_container(|container| container.memory_bytes as f64),
    );
    #[allow(clippy::cast_precision_loss)]
    family(
        "container_start_time_seconds",
        gauge,
        "Start time of the container since unix epoch in seconds",
        &mut each_container(|container| container.started_at.as_millisecond() as f64 / 1e3),
    );
    family(
        "node_cpu_usage_seconds_total",
        counter,
        "Cumulative cpu time consumed by the node in core-seconds",
        &mut |put| put("", seconds(node.0)),
    );
    family("node_memory_working_set_bytes", gauge, "Current working set of the node in bytes", &mut |put| {
        put("", bytes(node.1))
    });
    family(
        "pod_cpu_usage_seconds_total",
        counter,
        "Cumulative cpu time consumed by the pod in core-seconds",
        &mut each_pod(|(cpu, _)| seconds(cpu)),
    );
    #[allow(clippy::cast_precision_loss)]
    family(
        "pod_memory_working_set_bytes",
        gauge,
        "Current working set of the pod in bytes",
        &mut each_pod(|(_, memory)| memory as f64),
    );
    family(
        "resource_scrape_error",
        gauge,
        "1 if there was an error while getting container metrics, 0 otherwise",
        &mut |put| put("", 0.0),
    );
    out
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
