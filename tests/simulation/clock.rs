//! Virtual time and seeded randomness for everything on a simulation's thread: clocks and entropy of the C library
//! are answered from here, so that the product's code runs unchanged.
//!
//! NOTE: only threads that called [`enter`] are served; every other thread gets the kernel's own answers.

use std::cell::{Cell, RefCell};

/// Where virtual wall-clock time begins: 2026-01-01T00:00:00Z.
const EPOCH_SECONDS: i64 = 1_767_225_600;
/// Where virtual monotonic time begins.
const BOOT_SECONDS: i64 = 1_000;
const NANOS: i64 = 1_000_000_000;

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
    /// In `elapsed`: the runtime may ask for the time to tell us the time.
    static ASKING: Cell<bool> = const { Cell::new(false) };
    static STARTED: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    static LAST: Cell<i64> = const { Cell::new(0) };
    static JUMPED: Cell<i64> = const { Cell::new(0) };
    static RANDOM: RefCell<SplitMix> = const { RefCell::new(SplitMix(0)) };
}

/// Small, and the same everywhere.
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// From now on this thread's time and randomness are the simulation's. Before anything on it asks for either.
pub fn enter(seed: u64) {
    RANDOM.with_borrow_mut(|random| *random = SplitMix(seed));
    ENTERED.set(true);
}

/// Virtual time follows the runtime's clock from here. Called first in the runtime, which must be paused.
pub fn follow_runtime() {
    STARTED.set(Some(tokio::time::Instant::now()));
}

/// The machine's wall clock is set, forward or back; monotonic time does not notice.
pub fn jump(seconds: i64) {
    JUMPED.set(JUMPED.get() + seconds * NANOS);
}

/// Nanoseconds of virtual time since the start.
pub fn elapsed() -> i64 {
    let Some(started) = STARTED.get() else { return 0 };
    if ASKING.replace(true) {
        return LAST.get();
    }
    let elapsed = tokio::time::Instant::now().saturating_duration_since(started).as_nanos();
    LAST.set(i64::try_from(elapsed).unwrap_or(i64::MAX));
    ASKING.set(false);
    LAST.get()
}

/// # Safety
/// Called by the C library's callers, who pass a valid place for the answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, answer: *mut libc::timespec) -> libc::c_int {
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => EPOCH_SECONDS * NANOS,
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => BOOT_SECONDS * NANOS,
        _ => -1,
    };
    if base < 0 || !ENTERED.try_with(Cell::get).unwrap_or(false) {
        // SAFETY: the arguments are the caller's, for the call that the caller meant.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, answer) } as libc::c_int;
    }
    let jumped = if base == EPOCH_SECONDS * NANOS { JUMPED.get() } else { 0 };
    let now = base + jumped + elapsed();
    // SAFETY: the caller gives a valid place.
    unsafe { *answer = libc::timespec { tv_sec: now / NANOS, tv_nsec: now % NANOS } };
    0
}

/// # Safety
/// Called by the C library's callers, who pass a buffer of that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if !ENTERED.try_with(Cell::get).unwrap_or(false) {
        // SAFETY: the arguments are the caller's, for the call that the caller meant.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as libc::ssize_t;
    }
    // SAFETY: the caller gives a buffer of that length.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    RANDOM.with_borrow_mut(|random| {
        for chunk in buffer.chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    });
    length as libc::ssize_t
}
