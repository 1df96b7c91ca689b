//! Room for what is deeper than the stack of a worker thread allows.

use std::panic::resume_unwind;
use std::thread;

/// Trees that are deeper than this are walked on a stack of their own.
pub(super) const DEPTH_MAX: usize = 40;

/// More than the deepest expression needs, in a debug build too. Only what is used of it is taken from memory.
const STACK_BYTES: usize = 32 << 20;

/// Does the work here, or on a larger stack if it may need one. None if there is no thread for it.
pub(super) fn with_room<T: Send>(depth: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    if depth <= DEPTH_MAX {
        return Some(work());
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("expression".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work);
        match thread.ok()?.join() {
            Ok(done) => Some(done),
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// The most that reading an expression can be deep: not more than it has characters after which something is inside or after something else.
pub(super) fn depth_of(source: &str) -> usize {
    source.bytes().filter(|byte| b"([{.?!-+*/%<>=".contains(byte)).count()
}
