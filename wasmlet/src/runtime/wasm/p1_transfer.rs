//! Bytes between a preview 1 guest's buffers and its connections.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use wasmtime::{AsContextMut, Caller, Result};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;

use super::guest::ModuleState;
use super::p1_sockets::{Connection, Errno};

/// IOV_MAX.
const VECTORS_MAX: u32 = 1_024;

pub(super) type Guest<'a> = Caller<'a, ModuleState>;

pub(super) fn split<'a>(caller: &'a mut Guest<'_>) -> Result<(&'a mut [u8], &'a mut ModuleState)> {
    let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    let memory = memory.ok_or_else(|| wasmtime::Error::msg("missing required memory export"))?;
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (memory, state) = memory.data_and_store_mut(caller);
    // What one call may copy, as wasmtime's own wrappers set it at every call: without it a guest's first write fails, and
    // every one after a while.
    state.wasi.set_hostcall_fuel(fuel);
    Ok((memory, state))
}

/// A piece of the guest's memory.
pub(super) fn piece(memory: &mut [u8], at: i32, length: usize) -> Result<&mut [u8], Errno> {
    let start = at.cast_unsigned() as usize;
    start.checked_add(length).and_then(|end| memory.get_mut(start..end)).ok_or(Errno::Fault)
}

pub(super) fn write_u32(memory: &mut [u8], at: i32, value: u32) -> Result<(), Errno> {
    piece(memory, at, 4)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

pub(super) fn code(result: Result<(), Errno>) -> i32 {
    result.err().unwrap_or(Errno::Success) as i32
}

/// The guest's buffers, each within its memory.
fn buffers(memory: &mut [u8], at: i32, count: i32) -> Result<Vec<Range<usize>>, Errno> {
    let count = count.cast_unsigned();
    if count > VECTORS_MAX {
        return Err(Errno::Inval);
    }
    let vectors = piece(memory, at, count as usize * 8)?.to_vec();
    let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).unwrap_or_default() as usize;
    let ranges = vectors.chunks_exact(8).map(|vector| {
        let (start, length) = vector.split_at(4);
        let range = word(start)..word(start).saturating_add(word(length));
        if range.end > memory.len() { Err(Errno::Fault) } else { Ok(range) }
    });
    ranges.collect()
}

/// Moves bytes between buffers and a socket until it would block: how many, or why none.
fn transfer(
    memory: &mut [u8],
    buffers: &[Range<usize>],
    mut each: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<usize, Errno> {
    let mut moved = 0;
    for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
        let Some(bytes) = memory.get_mut(buffer.clone()) else { return Err(Errno::Fault) };
        let wanted = bytes.len();
        match each(bytes) {
            Ok(count) => {
                moved += count;
                if count < wanted {
                    break;
                }
            }
            Err(error) if moved == 0 => return Err(Errno::from(&error)),
            Err(_) => break,
        }
    }
    Ok(moved)
}

/// What `count` bytes from the start of the buffers leave of them.
fn rest(buffers: &mut Vec<Range<usize>>, mut count: usize) {
    buffers.retain_mut(|buffer| {
        let taken = count.min(buffer.len());
        buffer.start += taken;
        count -= taken;
        buffer.start < buffer.end
    });
}

#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub peek: bool,
    /// Waits for all that was asked for.
    pub all: bool,
}

pub(super) async fn read(
    caller: &mut Guest<'_>,
    connection: &Connection,
    (at, count): (i32, i32),
    how: Reading,
) -> Result<Result<u32, Errno>> {
    let mut wanted = match buffers(split(caller)?.0, at, count) {
        Ok(wanted) => wanted,
        Err(errno) => return Ok(Err(errno)),
    };
    let stream = &connection.stream;
    let mut total = 0;
    loop {
        let (memory, _) = split(caller)?;
        let moved = transfer(memory, &wanted, |bytes| {
            if how.peek {
                let flags = MsgFlags::MSG_PEEK;
                stream.try_io(Interest::READABLE, || Ok(recv(stream.as_raw_fd(), bytes, flags)?))
            } else {
                stream.try_read(bytes)
            }
        });
        match moved {
            Err(Errno::Again) if !connection.nonblocking.load(Ordering::Relaxed) => {
                if let Err(error) = stream.readable().await {
                    return Ok(Err(Errno::from(&error)));
                }
            }
            Err(_) if total > 0 => return Ok(Ok(total)),
            Err(errno) => return Ok(Err(errno)),
            Ok(moved) => {
                total = total.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
                rest(&mut wanted, moved);
                let again = how.all && !how.peek && moved > 0 && !wanted.is_empty();
                if !again {
                    return Ok(Ok(total));
                }
            }
        }
    }
}

/// As send does: a blocking socket takes everything, another what fits.
pub(super) async fn write(
    caller: &mut Guest<'_>,
    connection: &Connection,
    (at, count): (i32, i32),
) -> Result<Result<u32, Errno>> {
    let mut left = match buffers(split(caller)?.0, at, count) {
        Ok(left) => left,
        Err(errno) => return Ok(Err(errno)),
    };
    let blocking = !connection.nonblocking.load(Ordering::Relaxed);
    let mut total: u32 = 0;
    loop {
        let (memory, _) = split(caller)?;
        match transfer(memory, &left, |bytes| connection.stream.try_write(bytes)) {
            Err(Errno::Again) if blocking => {
                if let Err(error) = connection.stream.writable().await {
                    return Ok(Err(Errno::from(&error)));
                }
            }
            Err(_) if total > 0 => return Ok(Ok(total)),
            Err(errno) => return Ok(Err(errno)),
            Ok(moved) => {
                total = total.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
                rest(&mut left, moved);
                if !blocking || left.is_empty() {
                    return Ok(Ok(total));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_lie_within_the_memory() {
        let mut memory = vec![0; 64];
        memory[..16].copy_from_slice(&[32, 0, 0, 0, 8, 0, 0, 0, 60, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(buffers(&mut memory, 0, 2), Ok(vec![32..40, 60..64]));
        memory[12] = 5;
        assert_eq!(buffers(&mut memory, 0, 2), Err(Errno::Fault));
        memory[8..12].fill(0xff);
        assert_eq!(buffers(&mut memory, 0, 2), Err(Errno::Fault));
        assert_eq!(buffers(&mut memory, 60, 1), Err(Errno::Fault));
        assert_eq!(buffers(&mut memory, -1, 1), Err(Errno::Fault));
        assert_eq!(buffers(&mut memory, 0, -1), Err(Errno::Inval));
    }

    #[test]
    fn what_was_moved_leaves_the_rest() {
        for (count, left) in [(0, vec![0..4, 8..12]), (2, vec![2..4, 8..12]), (8, vec![])] {
            let mut buffers = vec![0..4, 8..12];
            rest(&mut buffers, count);
            assert_eq!(buffers, left, "{count}");
        }
    }
}
