//! The node's one wasmtime engine: sized by what the machine allows, with a smaller one to fall back on.

use std::fmt;
use std::hash::{Hash, Hasher};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sha2::{Digest, Sha256};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// What the node wants to hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Containers that each keep an instance (commands); http containers keep none while idle.
    pub instances_max: u32,
    /// http requests in progress, over all pods.
    pub requests_max: u32,
}

/// What the node can hold, and which bound of the machine says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    pub instances_max: u32,
    pub requests_max: u32,
    /// None when all that was wanted is possible.
    pub limited_by: Option<String>,
    pub allocation: Allocation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Slots reserved up front, copy-on-write images: 2 us an instance.
    Pooled { reservation_bytes: u64 },
    /// Memory mapped per instance: 9 us; where address space is short.
    OnDemand,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instances and {} requests at once", self.instances_max, self.requests_max)?;
        match &self.limited_by {
            Some(bound) => write!(f, " (limited by {bound})"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("configure the Wasm engine: {0:#}")]
    Engine(wasmtime::Error),
    #[error("start the epoch thread: {0}")]
    Ticker(#[source] std::io::Error),
    #[error("start the guests' threads: {0}")]
    Threads(#[source] std::io::Error),
    #[error("empty the scratch directory: {0}")]
    Scratch(#[source] std::io::Error),
    #[error("link the host's interfaces: {0:#}")]
    Linker(wasmtime::Error),
}

/// The machine's bounds, as read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `vm.max_map_count`.
    pub maps_max: u64,
    /// The hard limit on open files.
    pub files_max: u64,
    /// RLIMIT_AS.
    pub address_space: u64,
}

/// Mappings of an instance with its stack. A core module takes 5 to 7; a component with its adapter, several core
/// instances, tables and stacks of its own about 50 (12,615 at 253 wasi:sockets pods), and nobody knows beforehand
/// which will come.
const MAPS_PER_INSTANCE: u64 = 52;
/// Mappings of everything that is not an instance (libraries, threads, heaps, compiled modules).
const MAPS_RESERVED: u64 = 6_000;
/// A guest that listens and serves a few connections at a time.
const FILES_PER_INSTANCE: u64 = 4;
const FILES_RESERVED: u64 = 1_024;
/// Beyond this many slots 4 GiB each no longer fit in 47 bits of address space.
const SLOTS_WIDE_MAX: u64 = 25_000;
const RESERVATION_WIDE: u64 = 4 << 30;
const RESERVATION_NARROW: u64 = 256 << 20;
const GUARD_NARROW: u64 = 64 << 10;
/// Core instances that make up a component built by wit-component: module, adapter, shim, fixups.
const CORE_INSTANCES_PER_SLOT: u32 = 4;
const TABLES_PER_SLOT: u32 = 2;
/// What one component may take of the pool: one guest must not have what many need. (Python's is the largest that is
/// usual, with some thirty instances around one memory.)
const CORE_INSTANCES_PER_COMPONENT: u32 = 128;
const MEMORIES_PER_COMPONENT: u32 = 16;
const TABLES_PER_COMPONENT: u32 = 32;
/// Kept resident in a slot between two requests; decides the http rate (13.8k against 33.7k a second at 64 KiB).
const KEEP_RESIDENT: usize = 1 << 20;
const WARM_SLOTS_MAX: u32 = 100;

impl Machine {
    pub fn probe() -> Self {
        let maps_max = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(65_530);
        let limit = |resource| getrlimit(resource).map(|(_, hard)| hard).unwrap_or(u64::MAX);
        Machine {
            maps_max,
            files_max: limit(Resource::RLIMIT_NOFILE),
            address_space: limit(Resource::RLIMIT_AS),
        }
    }

    /// Raises this process's soft limit on open files to the hard one: every guest's sockets count against it.
    pub fn raise_open_files() {
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < hard
            && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        {
            tracing::warn!(%error, soft, hard, "cannot raise the limit on open files");
        }
    }

    /// Pure: what of the demand this machine can hold. Past `vm.max_map_count` a process does not slow down, it dies,
    /// so the cap is kept here and instances past it are refused one by one.
    pub fn capacity(&self, demand: Demand) -> Capacity {
        let wanted = u64::from(demand.instances_max);
        // Requests get at most a quarter: they come and go, pods stay.
        let slots_by_maps = self.maps_max.saturating_sub(MAPS_RESERVED) / MAPS_PER_INSTANCE;
        let requests = u64::from(demand.requests_max).min((slots_by_maps / 4).max(1));
        let by_maps = slots_by_maps.saturating_sub(requests).max(1);
        let by_files = (self.files_max.saturating_sub(FILES_RESERVED) / FILES_PER_INSTANCE).max(1);
        let instances = wanted.min(by_maps).min(by_files);
        let limited_by = if instances == wanted {
            None
        } else if by_maps <= by_files {
            Some(format!(
                "vm.max_map_count={}; {} instances need {}",
                self.maps_max,
                wanted,
                (wanted + requests) * MAPS_PER_INSTANCE + MAPS_RESERVED
            ))
        } else {
            Some(format!("RLIMIT_NOFILE={}; {wanted} instances need more open files", self.files_max))
        };
        let slots = instances + requests;
        let reservation = if slots <= SLOTS_WIDE_MAX { RESERVATION_WIDE } else { RESERVATION_NARROW };
        let fits = slots.saturating_mul(reservation) < self.address_space;
        let narrow_fits = slots.saturating_mul(RESERVATION_NARROW) < self.address_space;
        let allocation = match (fits, narrow_fits) {
            (true, _) => Allocation::Pooled { reservation_bytes: reservation },
            (false, true) => Allocation::Pooled { reservation_bytes: RESERVATION_NARROW },
            (false, false) => Allocation::OnDemand,
        };
        Capacity {
            instances_max: u32::try_from(instances).unwrap_or(u32::MAX),
            requests_max: u32::try_from(requests).unwrap_or(u32::MAX),
            limited_by,
            allocation,
        }
    }
}

/// Builds the engine for a capacity; when the kernel refuses the reservation, the next smaller kind. Returns the
/// capacity with the kind that was possible.
pub(super) fn build(mut capacity: Capacity) -> Result<(Engine, Capacity), EngineError> {
    loop {
        match Engine::new(&config(&capacity)) {
            Ok(engine) => return Ok((engine, capacity)),
            Err(error) => {
                let smaller = match capacity.allocation {
                    Allocation::Pooled { reservation_bytes } if reservation_bytes > RESERVATION_NARROW => {
                        Allocation::Pooled { reservation_bytes: RESERVATION_NARROW }
                    }
                    Allocation::Pooled { .. } => Allocation::OnDemand,
                    Allocation::OnDemand => return Err(EngineError::Engine(error)),
                };
                tracing::warn!(error = %format_args!("{error:#}"), from = ?capacity.allocation, to = ?smaller,
                    "address space is short: smaller reservations for guests");
                capacity.allocation = smaller;
            }
        }
    }
}

fn config(capacity: &Capacity) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // WASI 0.3.
    config.wasm_component_model_async(true);
    config.memory_init_cow(true);
    // Backtraces name functions; reading DWARF line tables at every trap would cost more than it tells.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    match capacity.allocation {
        Allocation::Pooled { reservation_bytes } => {
            let slots = capacity.instances_max.saturating_add(capacity.requests_max);
            let mut pool = PoolingAllocationConfig::default();
            pool.total_component_instances(slots)
                .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_SLOT))
                .total_memories(slots)
                .total_tables(slots.saturating_mul(TABLES_PER_SLOT))
                .total_stacks(slots)
                .total_gc_heaps(slots.min(1_000))
                .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
                .max_memories_per_component(MEMORIES_PER_COMPONENT)
                .max_tables_per_component(TABLES_PER_COMPONENT)
                .linear_memory_keep_resident(KEEP_RESIDENT)
                .table_keep_resident(KEEP_RESIDENT)
                .max_unused_warm_slots(WARM_SLOTS_MAX)
                .pagemap_scan(Enabled::Auto);
            if reservation_bytes < RESERVATION_WIDE {
                config.memory_reservation(reservation_bytes).memory_guard_size(GUARD_NARROW);
                pool.max_memory_size(usize::try_from(reservation_bytes).unwrap_or(usize::MAX));
            }
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        Allocation::OnDemand => {
            config.memory_reservation(0).memory_guard_size(GUARD_NARROW);
            config.memory_reservation_for_growth(16 << 20);
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        }
    }
    config
}

/// Names everything that code compiled by this engine depends on: version, target, CPU features, settings.
pub(super) fn compatibility(engine: &Engine) -> String {
    struct Sink(Sha256);
    impl Hasher for Sink {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut sink = Sink(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sink);
    std::env::consts::ARCH.hash(&mut sink);
    crate::images::digest::hex(&sink.0.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: Machine = Machine { maps_max: 1 << 22, files_max: 1 << 20, address_space: u64::MAX };

    #[test]
    fn the_version_is_the_locked_one() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        let entry = format!("name = \"wasmtime\"\nversion = \"{}\"", crate::runtime::wasm::VERSION);
        assert!(lock.contains(&entry), "update wasm::VERSION");
    }

    #[test]
    fn demand_is_met_where_the_machine_allows() {
        let demand = Demand { instances_max: 10_000, requests_max: 1_000 };
        let capacity = BIG.capacity(demand);
        assert_eq!((capacity.instances_max, capacity.requests_max), (10_000, 1_000));
        assert_eq!(capacity.limited_by, None);
        assert_eq!(capacity.allocation, Allocation::Pooled { reservation_bytes: RESERVATION_WIDE });
    }

    #[test]
    fn the_sysctl_caps_and_is_named() {
        let machine = Machine { maps_max: 65_530, ..BIG };
        let capacity = machine.capacity(Demand { instances_max: 10_000, requests_max: 1_000 });
        assert_eq!(capacity.instances_max, 858, "{capacity}");
        let bound = capacity.limited_by.unwrap();
        assert!(bound.contains("vm.max_map_count=65530"), "{bound}");
    }

    #[test]
    fn open_files_cap_too() {
        let machine = Machine { files_max: 4_096, ..BIG };
        let capacity = machine.capacity(Demand { instances_max: 10_000, requests_max: 100 });
        assert_eq!(capacity.instances_max, 768);
        assert!(capacity.limited_by.unwrap().contains("RLIMIT_NOFILE=4096"));
    }

    #[test]
    fn reservations_shrink_with_address_space() {
        let many = Demand { instances_max: 50_000, requests_max: 1_000 };
        assert_eq!(
            BIG.capacity(many).allocation,
            Allocation::Pooled { reservation_bytes: RESERVATION_NARROW }
        );
        let small = Machine { address_space: 2 << 30, ..BIG };
        assert_eq!(
            small.capacity(Demand { instances_max: 100, requests_max: 10 }).allocation,
            Allocation::OnDemand
        );
    }

    #[test]
    fn every_kind_of_engine_builds_and_has_its_own_compatibility() {
        let mut seen = Vec::new();
        for allocation in [
            Allocation::Pooled { reservation_bytes: RESERVATION_WIDE },
            Allocation::Pooled { reservation_bytes: RESERVATION_NARROW },
            Allocation::OnDemand,
        ] {
            let capacity = Capacity { instances_max: 10, requests_max: 10, limited_by: None, allocation };
            let (engine, got) = build(capacity.clone()).unwrap();
            assert_eq!(got, capacity);
            let key = compatibility(&engine);
            assert_eq!(key, compatibility(&build(capacity).unwrap().0), "stable");
            assert!(!seen.contains(&key));
            seen.push(key);
        }
    }
}
