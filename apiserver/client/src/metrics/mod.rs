//! What components count about themselves, in one registry per process, under upstream's names.

mod exposition;
pub mod queue;
pub mod requests;

use std::sync::LazyLock;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use exposition::{MEDIA_TYPE, plain};

/// Reads something at each scrape; false when there is nothing to read any more.
type Reader = Box<dyn Fn() -> bool + Send + Sync>;

pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);
/// Bounded by the work queues and schedulers that live.
static READERS: LazyLock<Mutex<Vec<Reader>>> = LazyLock::new(Mutex::default);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NameLabel {
    pub name: String,
}

/// Adds metrics to the process's registry: once for each.
pub fn register(add: impl FnOnce(&mut Registry)) {
    add(&mut REGISTRY.lock());
}

/// Has `read` set gauges before each scrape until it returns false.
pub fn on_scrape(read: impl Fn() -> bool + Send + Sync + 'static) {
    READERS.lock().push(Box::new(read));
}

/// Everything registered, in the text format of Prometheus.
pub fn text() -> Result<String, std::fmt::Error> {
    READERS.lock().retain(|read| read());
    let mut text = String::new();
    encode(&mut text, &REGISTRY.lock())?;
    Ok(plain(&text))
}

/// Whether this process leads, by lease.
pub fn leader(lease: &str) -> Gauge {
    static STATUS: LazyLock<Family<NameLabel, Gauge>> = LazyLock::new(|| {
        let family = Family::default();
        register(|registry| {
            registry.register(
                "leader_election_master_status",
                "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master",
                Family::clone(&family),
            );
        });
        family
    });
    STATUS.get_or_create(&NameLabel { name: lease.to_owned() }).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_told_with_what_readers_set() {
        let gauge: Gauge = Gauge::default();
        register(|registry| registry.register("metrics_test", "For this test", gauge.clone()));
        on_scrape(move || gauge.set(7) == 0);
        leader("some-lease").set(1);
        let text = text().unwrap();
        assert!(text.contains("metrics_test 7"), "{text}");
        assert!(text.contains("leader_election_master_status{name=\"some-lease\"} 1"), "{text}");
    }
}
