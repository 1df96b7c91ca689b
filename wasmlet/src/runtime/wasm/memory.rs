//! A container's memory: the sum of all its guests' linear memories and tables, held to its limit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use super::activity::Activity;

/// The memory account of one container, shared by all its guests.
pub(super) struct MemoryAccount {
    /// `u64::MAX`: none.
    limit: AtomicU64,
    /// The container's account, of a program that was exec'd into it: what it holds counts there too.
    parent: Option<Arc<MemoryAccount>>,
    used: AtomicU64,
    peak: AtomicU64,
    /// The most that one store held.
    store_peak: AtomicU64,
    exceeded: AtomicBool,
    /// What the guests do that are accounted for here.
    activity: Activity,
}

/// The trap of a guest that went past the limit: a container does not see malloc fail, it is killed, and so is this.
#[derive(Debug, Clone, Copy)]
pub(super) struct OomKilled {
    pub limit: u64,
    pub wanted: u64,
}

impl fmt::Display for OomKilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory limit exceeded: {} bytes wanted, limit {} bytes", self.wanted, self.limit)
    }
}

impl std::error::Error for OomKilled {}

impl MemoryAccount {
    pub fn new(limit: Option<u64>) -> Self {
        MemoryAccount {
            limit: AtomicU64::new(limit.unwrap_or(u64::MAX)),
            parent: None,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            store_peak: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
            activity: Activity::default(),
        }
    }

    /// An account within `parent`'s limit whose excesses are its own.
    pub fn within(parent: Arc<MemoryAccount>) -> Self {
        MemoryAccount { parent: Some(parent), ..Self::new(None) }
    }

    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> Option<u64> {
        match self.limit.load(Ordering::Relaxed) {
            u64::MAX => None,
            limit => Some(limit),
        }
    }

    /// Counts for growth from now on; what is held already stays.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn store_peak(&self) -> u64 {
        self.store_peak.load(Ordering::Relaxed)
    }

    /// True once a guest was refused memory. Sticky: a guest cannot hide it by catching the trap in a nested call.
    pub fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// What to report when the refusal itself was lost on the way.
    pub fn oom(&self) -> OomKilled {
        let outer = || self.parent.as_ref().and_then(|parent| parent.limit());
        let limit = self.limit().or_else(outer).unwrap_or(u64::MAX);
        OomKilled { limit, wanted: limit.saturating_add(1) }
    }

    /// For what the host keeps on the guest's behalf: a refusal is the guest's to handle, and no reason to kill it.
    pub fn reserve(&self, bytes: u64) -> Result<(), OomKilled> {
        self.take(bytes)
    }

    pub fn release(&self, bytes: u64) {
        self.refund(bytes);
    }

    fn charge(&self, bytes: u64) -> Result<(), OomKilled> {
        self.take(bytes).inspect_err(|_| self.exceeded.store(true, Ordering::Relaxed))
    }

    fn take(&self, bytes: u64) -> Result<(), OomKilled> {
        if let Some(parent) = &self.parent {
            parent.take(bytes)?;
        }
        let wanted = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(limit) = self.limit()
            && wanted > limit
        {
            self.refund(bytes);
            return Err(OomKilled { limit, wanted });
        }
        self.peak.fetch_max(wanted, Ordering::Relaxed);
        Ok(())
    }

    fn refund(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.refund(bytes);
        }
    }
}

/// One store's share of its container's account; given back when the store is dropped.
pub(super) struct StoreMemory {
    account: Arc<MemoryAccount>,
    held: u64,
    /// The charge of a growth that may still fail for another reason.
    growing: u64,
}

/// A table element is a pointer; more than this many in one table is no program's need.
const TABLE_ELEMENTS_MAX: usize = 10_000_000;

impl StoreMemory {
    pub fn new(account: Arc<MemoryAccount>) -> Self {
        account.activity.begins();
        StoreMemory { account, held: 0, growing: 0 }
    }

    fn grow(&mut self, bytes: usize) -> Result<(), OomKilled> {
        let bytes = bytes as u64;
        self.account.charge(bytes)?;
        self.held += bytes;
        self.growing = bytes;
        self.account.store_peak.fetch_max(self.held, Ordering::Relaxed);
        Ok(())
    }

    fn growth_failed(&mut self) {
        self.account.refund(self.growing);
        self.held -= self.growing;
        self.growing = 0;
    }
}

impl ResourceLimiter for StoreMemory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.growing = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current)).map_err(wasmtime::Error::new)?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.growth_failed();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.growing = 0;
        if desired > TABLE_ELEMENTS_MAX || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current);
        self.grow(elements.saturating_mul(size_of::<usize>())).map_err(wasmtime::Error::new)?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.growth_failed();
        Ok(())
    }
}

impl Drop for StoreMemory {
    fn drop(&mut self) {
        self.account.refund(self.held);
        self.account.activity.ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_stores_is_limited() {
        let account = Arc::new(MemoryAccount::new(Some(100)));
        let mut one = StoreMemory::new(account.clone());
        let mut two = StoreMemory::new(account.clone());
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(two.memory_growing(0, 40, None).unwrap());
        let error = two.memory_growing(40, 41, None).unwrap_err();
        let oom = error.downcast_ref::<OomKilled>().unwrap();
        assert_eq!((oom.limit, oom.wanted), (100, 101));
        assert!(account.exceeded());
        assert_eq!(account.activity().instances(), 2);
        drop(one);
        assert_eq!(account.activity().instances(), 1);
        assert_eq!(account.used(), 40);
        assert_eq!(account.peak(), 100);
        assert!(two.memory_growing(40, 100, None).unwrap());
    }

    #[test]
    fn a_growth_that_fails_elsewhere_is_not_charged() {
        let account = Arc::new(MemoryAccount::new(None));
        let mut store = StoreMemory::new(account.clone());
        assert!(!store.memory_growing(0, 60, Some(50)).unwrap());
        assert_eq!(account.used(), 0);
        assert!(store.memory_growing(0, 60, None).unwrap());
        store.memory_grow_failed(wasmtime::Error::msg("mmap")).unwrap();
        assert_eq!(account.used(), 0);
        assert!(store.table_growing(0, 10, None).unwrap());
        assert_eq!(account.used(), 80);
    }
}
