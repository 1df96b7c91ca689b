//! preview 1's functions that may be given a socket: each looks for one first, and leaves the rest to wasmtime's own.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{Shutdown, shutdown};
use wasmtime::{Linker, Result};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as upstream;
use wiggle::GuestMemory;

use super::guest::ModuleState;
use super::p1_poll;
use super::p1_sockets::{Connection, Errno, PREVIEW1, Socket};
use super::p1_transfer::{Guest, Reading, code, piece, read, split, write, write_u32};

/// Open files of one guest: they are the node's descriptors.
const FILES_MAX: u32 = 4_096;
const FLAG_NONBLOCK: i32 = 4;
const FILETYPE_SOCKET_STREAM: u8 = 6;
/// Of a preopen that is no directory; guests pass over what they do not know.
const PREOPEN_OTHER: u8 = 1;

fn answer(memory: &mut [u8], result: Result<u32, Errno>, out: i32) -> i32 {
    code(result.and_then(|count| write_u32(memory, out, count)))
}

async fn accept(caller: &mut Guest<'_>, fd: i32, flags: i32) -> Result<Result<i32, Errno>> {
    loop {
        let state = caller.data_mut();
        let listener = match state.sockets.get(fd) {
            Some(Socket::Listener(listener)) => listener,
            // NOTE: not ECONNABORTED, which programs take for one client's bad luck and try again at once.
            Some(Socket::Connection(_) | Socket::Ended) => return Ok(Err(Errno::Inval)),
            None => return Ok(Err(Errno::NotSocket)),
        };
        let terminating = state.net.terminating.clone();
        if terminating.is_cancelled() {
            // Closed with its last handle: who comes now is refused and not kept waiting.
            state.sockets.end(fd);
            continue;
        }
        let ready = std::future::poll_fn(|cx| listener.poll_ready(cx));
        if listener.nonblocking.load(Ordering::Relaxed) {
            let mut ready = std::pin::pin!(ready);
            if futures::poll!(ready.as_mut()).is_pending() {
                return Ok(Err(Errno::Again));
            }
        } else {
            tokio::select! {
                biased;
                () = terminating.cancelled() => continue,
                () = ready => {}
            }
        }
        match listener.take() {
            Some(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                let nonblocking = AtomicBool::new(flags & FLAG_NONBLOCK != 0);
                return Ok(caller.data_mut().sockets.add(Connection { stream, nonblocking }));
            }
            Some(Err(error)) => return Ok(Err(Errno::from(&error))),
            None => {}
        }
    }
}

/// After wasmtime's own: every function that may be given a socket looks for one first.
pub(super) fn add_to_linker(linker: &mut Linker<ModuleState>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        PREVIEW1,
        "sock_accept",
        |mut caller: Guest<'_>, (fd, flags, out): (i32, i32, i32)| {
            Box::new(async move {
                let accepted = accept(&mut caller, fd, flags).await?;
                let (memory, _) = split(&mut caller)?;
                Ok(answer(memory, accepted.map(i32::cast_unsigned), out))
            })
        },
    )?;
    type Receive = (i32, i32, i32, i32, i32, i32);
    linker.func_wrap_async(
        PREVIEW1,
        "sock_recv",
        |mut caller: Guest<'_>, (fd, data, count, flags, out, out_flags): Receive| {
            Box::new(async move {
                let Some(Socket::Connection(connection)) = caller.data().sockets.get(fd) else {
                    return Ok(Errno::NotSocket as i32);
                };
                if flags & !3 != 0 {
                    return Ok(Errno::Inval as i32);
                }
                let how = Reading { peek: flags & 1 != 0, all: flags & 2 != 0 };
                let result = read(&mut caller, &connection, (data, count), how).await?;
                let (memory, _) = split(&mut caller)?;
                let result = result.and_then(|count| {
                    piece(memory, out_flags, 2)?.fill(0);
                    Ok(count)
                });
                Ok(answer(memory, result, out))
            })
        },
    )?;
    linker.func_wrap_async(
        PREVIEW1,
        "sock_send",
        |mut caller: Guest<'_>, (fd, data, count, flags, out): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let Some(Socket::Connection(connection)) = caller.data().sockets.get(fd) else {
                    return Ok(Errno::NotSocket as i32);
                };
                if flags != 0 {
                    return Ok(Errno::Inval as i32);
                }
                let result = write(&mut caller, &connection, (data, count)).await?;
                Ok(answer(split(&mut caller)?.0, result, out))
            })
        },
    )?;
    linker.func_wrap(PREVIEW1, "sock_shutdown", |caller: Guest<'_>, fd: i32, how: i32| -> i32 {
        let how = match how {
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            3 => Shutdown::Both,
            _ => return Errno::Inval as i32,
        };
        match caller.data().sockets.get(fd) {
            Some(Socket::Connection(connection)) => {
                let done = shutdown(connection.stream.as_raw_fd(), how).map_err(io::Error::from);
                code(done.map_err(|error| Errno::from(&error)))
            }
            Some(_) => Errno::NotConnected as i32,
            None => Errno::NotSocket as i32,
        }
    })?;
    files(linker)?;
    p1_poll::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The functions of files that sockets have, too.
fn files(linker: &mut Linker<ModuleState>) -> Result<()> {
    type Vectored = (i32, i32, i32, i32);
    linker.func_wrap_async(
        PREVIEW1,
        "fd_read",
        |mut caller: Guest<'_>, (fd, at, count, out): Vectored| {
            Box::new(async move {
                match caller.data().sockets.get(fd) {
                    Some(Socket::Connection(connection)) => {
                        let how = Reading { peek: false, all: false };
                        let result = read(&mut caller, &connection, (at, count), how).await?;
                        Ok(answer(split(&mut caller)?.0, result, out))
                    }
                    Some(_) => Ok(Errno::NotConnected as i32),
                    None => {
                        let (memory, state) = split(&mut caller)?;
                        let memory = &mut GuestMemory::Unshared(memory);
                        upstream::fd_read(&mut state.wasi, memory, fd, at, count, out).await
                    }
                }
            })
        },
    )?;
    linker.func_wrap_async(
        PREVIEW1,
        "fd_write",
        |mut caller: Guest<'_>, (fd, at, count, out): Vectored| {
            Box::new(async move {
                match caller.data().sockets.get(fd) {
                    Some(Socket::Connection(connection)) => {
                        let result = write(&mut caller, &connection, (at, count)).await?;
                        Ok(answer(split(&mut caller)?.0, result, out))
                    }
                    Some(_) => Ok(Errno::NotConnected as i32),
                    None => {
                        let (memory, state) = split(&mut caller)?;
                        let memory = &mut GuestMemory::Unshared(memory);
                        upstream::fd_write(&mut state.wasi, memory, fd, at, count, out).await
                    }
                }
            })
        },
    )?;
    linker.func_wrap_async(PREVIEW1, "fd_close", |mut caller: Guest<'_>, (fd,): (i32,)| {
        Box::new(async move {
            let (memory, state) = split(&mut caller)?;
            match state.sockets.remove(fd) {
                Some(Socket::Connection(_)) => return Ok(Errno::Success as i32),
                Some(Socket::Listener(listener)) => {
                    listener.addresses().for_each(|address| state.net.forget_listener(address));
                }
                Some(Socket::Ended) | None => {}
            }
            // A listener's number is taken in wasmtime's table, too (see `GuestSetup::module_store`).
            upstream::fd_close(&mut state.wasi, &mut GuestMemory::Unshared(memory), fd).await
        })
    })?;
    linker.func_wrap_async(PREVIEW1, "fd_fdstat_get", |mut caller: Guest<'_>, (fd, at): (i32, i32)| {
        Box::new(async move {
            let (memory, state) = split(&mut caller)?;
            let Some(socket) = state.sockets.get(fd) else {
                let memory = &mut GuestMemory::Unshared(memory);
                return upstream::fd_fdstat_get(&mut state.wasi, memory, fd, at).await;
            };
            let nonblocking = socket.nonblocking().is_some_and(|flag| flag.load(Ordering::Relaxed));
            let filled = piece(memory, at, 24).map(|stat| {
                // Kind, flags, and all rights.
                stat.fill(0xff);
                if let Some(head) = stat.get_mut(..8) {
                    let flags = if nonblocking { FLAG_NONBLOCK as u8 } else { 0 };
                    head.copy_from_slice(&[FILETYPE_SOCKET_STREAM, 0, flags, 0, 0, 0, 0, 0]);
                }
            });
            Ok(code(filled))
        })
    })?;
    linker.func_wrap_async(PREVIEW1, "fd_filestat_get", |mut caller: Guest<'_>, (fd, at): (i32, i32)| {
        Box::new(async move {
            let (memory, state) = split(&mut caller)?;
            if state.sockets.get(fd).is_none() {
                let memory = &mut GuestMemory::Unshared(memory);
                return upstream::fd_filestat_get(&mut state.wasi, memory, fd, at).await;
            }
            let filled = piece(memory, at, 64).map(|stat| {
                stat.fill(0);
                if let Some(kind) = stat.get_mut(16) {
                    *kind = FILETYPE_SOCKET_STREAM;
                }
            });
            Ok(code(filled))
        })
    })?;
    linker.func_wrap(
        PREVIEW1,
        "fd_fdstat_set_flags",
        |mut caller: Guest<'_>, fd: i32, flags: i32| -> Result<i32> {
            let (memory, state) = split(&mut caller)?;
            let Some(socket) = state.sockets.get(fd) else {
                let memory = &mut GuestMemory::Unshared(memory);
                return upstream::fd_fdstat_set_flags(&mut state.wasi, memory, fd, flags);
            };
            if let Some(nonblocking) = socket.nonblocking() {
                nonblocking.store(flags & FLAG_NONBLOCK != 0, Ordering::Relaxed);
            }
            Ok(Errno::Success as i32)
        },
    )?;
    linker.func_wrap(
        PREVIEW1,
        "fd_prestat_get",
        |mut caller: Guest<'_>, fd: i32, at: i32| -> Result<i32> {
            let (memory, state) = split(&mut caller)?;
            if state.sockets.get(fd).is_none() {
                let memory = &mut GuestMemory::Unshared(memory);
                return upstream::fd_prestat_get(&mut state.wasi, memory, fd, at);
            }
            // NOTE: an error would end the guest's search for directories, which come after the listeners.
            let filled = piece(memory, at, 8).map(|stat| {
                stat.copy_from_slice(&[PREOPEN_OTHER, 0, 0, 0, 0, 0, 0, 0]);
            });
            Ok(code(filled))
        },
    )?;
    type Open = (i32, i32, i32, i32, i32, i64, i64, i32, i32);
    linker.func_wrap_async(
        PREVIEW1,
        "path_open",
        |mut caller: Guest<'_>, (dir, look, path, length, how, base, inherited, flags, out): Open| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                let memory = &mut GuestMemory::Unshared(memory);
                let wasi = &mut state.wasi;
                let opened = upstream::path_open(
                    wasi, memory, dir, look, path, length, how, base, inherited, flags, out,
                );
                let errno = opened.await?;
                // Numbers are given lowest first: this one says how many are open.
                let fd = memory.read(wiggle::GuestPtr::<u32>::new(out.cast_unsigned())).unwrap_or(0);
                if errno == Errno::Success as i32 && fd >= FILES_MAX {
                    upstream::fd_close(wasi, memory, fd.cast_signed()).await?;
                    return Ok(Errno::Mfile as i32);
                }
                Ok(errno)
            })
        },
    )?;
    linker.func_wrap_async(PREVIEW1, "fd_renumber", |mut caller: Guest<'_>, (from, to): (i32, i32)| {
        Box::new(async move {
            let (memory, state) = split(&mut caller)?;
            if [from, to].iter().any(|fd| state.sockets.get(*fd).is_some()) {
                return Ok(Errno::NotSupported as i32);
            }
            let memory = &mut GuestMemory::Unshared(memory);
            upstream::fd_renumber(&mut state.wasi, memory, from, to).await
        })
    })?;
    Ok(())
}
