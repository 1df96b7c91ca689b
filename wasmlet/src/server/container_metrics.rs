//! What containers use and do, as monitoring looks for it: cAdvisor's families in `/metrics/cadvisor`, and in `/metrics`
//! what Wasm guests do beside.

use coracle_client::Uid;
use std::sync::Arc;

use jiff::Timestamp;

use super::exposition::{Exposition, Sort};
use super::resource_metrics::{instant, number, seconds};
use crate::runtime::{Counted, LATENCY_BOUNDS, Stats};

/// A container that runs, or ran and counted something.
pub struct Known {
    pub runs: bool,
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub uid: Uid,
    pub container: Box<str>,
    pub image: String,
    pub stats: Stats,
    /// What runs of it before this one counted.
    pub before: Counted,
}

impl Known {
    fn counted(&self) -> Counted {
        self.before.plus(Counted::of(&self.stats))
    }
}

/// What the machine has.
pub struct Machine {
    pub cores: usize,
    pub memory_bytes: u64,
}

/// The period that `container_spec_cpu_quota` is a share of, as CFS has it.
const CPU_PERIOD_MICROS: u64 = 100_000;

pub fn cadvisor(containers: &[Known], machine: &Machine, now: Timestamp) -> String {
    use Sort::{Counter, Gauge};
    let mut text = Exposition::at(now);
    let mut family = |name: &'static str, sort: Sort, help: &str, value: &dyn Fn(&Known) -> Option<f64>| {
        text.family(name, sort, help);
        for container in containers.iter().filter(|container| container.runs) {
            let Some(value) = value(container) else { continue };
            let id = format!("/kubepods/pod{}/{}", container.uid, container.container);
            let name = format!("{}_{}", container.uid, container.container);
            let labels = [
                ("container", &*container.container),
                ("id", id.as_str()),
                ("image", container.image.as_str()),
                ("name", name.as_str()),
                ("namespace", &*container.namespace),
                ("pod", &*container.pod),
            ];
            text.sample(&labels, value);
        }
    };
    family("container_cpu_usage_seconds_total", Counter, "Cumulative cpu time consumed in seconds.", &|c| {
        Some(seconds(c.stats.cpu_nanos))
    });
    family(
        "container_cpu_cfs_throttled_periods_total",
        Counter,
        "Number of times that the limit made it wait.",
        &|c| c.stats.cpu_limit_millis.map(|_| number(c.stats.cpu_throttled)),
    );
    family(
        "container_cpu_cfs_throttled_seconds_total",
        Counter,
        "Total time duration the container has been throttled.",
        &|c| c.stats.cpu_limit_millis.map(|_| seconds(c.stats.cpu_throttled_nanos)),
    );
    family("container_spec_cpu_period", Gauge, "CPU period of the container.", &|c| {
        c.stats.cpu_limit_millis.map(|_| number(CPU_PERIOD_MICROS))
    });
    family("container_spec_cpu_quota", Gauge, "CPU quota of the container.", &|c| {
        c.stats.cpu_limit_millis.map(|millis| number(millis * CPU_PERIOD_MICROS / 1000))
    });
    family("container_memory_usage_bytes", Gauge, "Current memory usage in bytes.", &|c| {
        Some(number(c.stats.memory_bytes))
    });
    family("container_memory_working_set_bytes", Gauge, "Current working set in bytes.", &|c| {
        Some(number(c.stats.memory_bytes))
    });
    family("container_memory_max_usage_bytes", Gauge, "Maximum memory usage recorded in bytes.", &|c| {
        Some(number(c.stats.memory_peak_bytes))
    });
    family("container_spec_memory_limit_bytes", Gauge, "Memory limit for the container.", &|c| {
        Some(number(c.stats.memory_limit_bytes.unwrap_or_default()))
    });
    family(
        "container_start_time_seconds",
        Gauge,
        "Start time of the container since unix epoch in seconds.",
        &|c| Some(instant(c.stats.started_at)),
    );
    family("container_last_seen", Gauge, "Last time a container was seen by the exporter.", &|_| {
        Some(instant(now))
    });
    text.family("machine_cpu_cores", Gauge, "Number of logical CPU cores.")
        .sample(&[], number(machine.cores as u64));
    text.family("machine_memory_bytes", Gauge, "Amount of memory installed on the machine.")
        .sample(&[], number(machine.memory_bytes));
    text.text()
}

/// Appends what runtimes of Wasm count.
pub fn wasm(containers: &[Known], text: &mut Exposition) {
    let mut family =
        |name: &'static str, sort: Sort, help: &str, put: &dyn Fn(&Known, &mut Exposition, &Labels<'_>)| {
            text.family(name, sort, help);
            for container in containers {
                let labels = [
                    ("namespace", &*container.namespace),
                    ("pod", &*container.pod),
                    ("container", &*container.container),
                ];
                put(container, text, &labels);
            }
        };
    family(
        "coracle_container_instances",
        Sort::Gauge,
        "Instances of the container's module or component that live now.",
        &|c, text, labels| {
            text.sample(labels, number(c.stats.instances));
        },
    );
    family(
        "coracle_container_traps_total",
        Sort::Counter,
        "Guests that ended in a trap; runs of the container before this one included.",
        &|c, text, labels| {
            text.sample(labels, number(c.counted().traps));
        },
    );
    family(
        "coracle_container_cpu_throttled_seconds_total",
        Sort::Counter,
        "Time that guests waited because of the CPU limit.",
        &|c, text, labels| {
            text.sample(labels, seconds(c.counted().throttled_nanos));
        },
    );
    // A family for each container that never had a request would be most of the text.
    let asked = |c: &Known| Some(c.counted().requests).filter(|r| r.count() + r.refused > 0);
    family(
        "coracle_container_requests_total",
        Sort::Counter,
        "HTTP requests to the container, by what became of them.",
        &|c, text, labels| {
            let Some(requests) = asked(c) else { return };
            let with = |outcome| [labels.as_slice(), &[("outcome", outcome)]].concat();
            text.sample(&with("answered"), number(requests.count()));
            text.sample(&with("refused"), number(requests.refused));
        },
    );
    family(
        "coracle_container_request_duration_seconds",
        Sort::Histogram,
        "From when a request came until its guest was done with it, the wait for an instance included.",
        &|c, text, labels| {
            let Some(requests) = asked(c) else { return };
            text.histogram(labels, &LATENCY_BOUNDS, &requests.answered, seconds(requests.answered_nanos));
        },
    );
}

type Labels<'a> = [(&'a str, &'a str); 3];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Requests;

    fn known() -> Known {
        let mut requests = Requests::default();
        (requests.answered[0], requests.answered_nanos, requests.refused) = (3, 1_500_000, 1);
        let stats = Stats {
            started_at: Timestamp::from_second(100).unwrap(),
            cpu_nanos: 2_500_000_000,
            memory_bytes: 10,
            memory_peak_bytes: 20,
            memory_limit_bytes: Some(64),
            cpu_limit_millis: Some(100),
            cpu_throttled: 4,
            cpu_throttled_nanos: 500_000_000,
            instances: 2,
            traps: 1,
            requests,
        };
        Known {
            runs: true,
            namespace: "ns".into(),
            pod: "p".into(),
            uid: "u".into(),
            container: "c".into(),
            image: "example.com/x:v1".into(),
            stats,
            before: Counted { traps: 5, requests, ..Counted::default() },
        }
    }

    #[test]
    fn cadvisors_families() {
        let machine = Machine { cores: 2, memory_bytes: 1024 };
        let text = cadvisor(&[known()], &machine, Timestamp::from_second(200).unwrap());
        let labels = "{container=\"c\",id=\"/kubepods/podu/c\",image=\"example.com/x:v1\",name=\"u_c\",namespace=\"ns\",pod=\"p\"}";
        for (name, value) in [
            ("container_cpu_usage_seconds_total", "2.5"),
            ("container_cpu_cfs_throttled_periods_total", "4"),
            ("container_cpu_cfs_throttled_seconds_total", "0.5"),
            ("container_spec_cpu_quota", "10000"),
            ("container_spec_cpu_period", "100000"),
            ("container_memory_working_set_bytes", "10"),
            ("container_memory_max_usage_bytes", "20"),
            ("container_spec_memory_limit_bytes", "64"),
            ("container_start_time_seconds", "100"),
        ] {
            let line = format!("{name}{labels} {value} 200000");
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("machine_cpu_cores 2 200000"), "{text}");
        let over =
            cadvisor(&[Known { runs: false, ..known() }], &machine, Timestamp::from_second(200).unwrap());
        assert!(!over.contains("example.com"), "{over}");
    }

    #[test]
    fn what_guests_do() {
        let mut text = Exposition::now();
        wasm(&[known()], &mut text);
        let text = text.text();
        let labels = "namespace=\"ns\",pod=\"p\",container=\"c\"";
        for line in [
            format!("coracle_container_instances{{{labels}}} 2"),
            format!("coracle_container_traps_total{{{labels}}} 6"),
            format!("coracle_container_cpu_throttled_seconds_total{{{labels}}} 0.5"),
            format!("coracle_container_requests_total{{{labels},outcome=\"answered\"}} 6"),
            format!("coracle_container_requests_total{{{labels},outcome=\"refused\"}} 2"),
            format!("coracle_container_request_duration_seconds_bucket{{{labels},le=\"0.001\"}} 6"),
            format!("coracle_container_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 6"),
            format!("coracle_container_request_duration_seconds_sum{{{labels}}} 0.003"),
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
