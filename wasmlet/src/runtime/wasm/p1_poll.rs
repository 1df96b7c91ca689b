//! preview 1's `poll_oneoff` where a guest's sockets are among what it waits for.

use std::os::fd::AsRawFd;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::{Caller, Linker, Result};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as upstream;
use wiggle::GuestMemory;

use super::guest::ModuleState;
use super::p1_sockets::{Errno, PREVIEW1, Socket};
use super::p1_transfer::{code, piece, split, write_u32};
use super::pipes::PipeInput;

/// Things that one call may wait for.
const SUBSCRIPTIONS_MAX: u32 = 4_096;
const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;
const KIND_CLOCK: u8 = 0;
const KIND_READ: u8 = 1;
const CLOCK_ABSOLUTE: u16 = 1;
/// A clock that is not asked for sooner is as good as never.
const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A `subscription`, as it lies in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subscription {
    userdata: [u8; 8],
    what: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Clock { id: i32, timeout: u64, absolute: bool },
    Descriptor { fd: i32, read: bool },
}

struct Event {
    userdata: [u8; 8],
    kind: u8,
    bytes: u64,
}

/// Something to wait for that is no clock.
enum Waited {
    Socket(Socket),
    Stdin(PipeInput),
    /// Files and output never make a guest wait here.
    Ready,
}

fn parse(memory: &mut [u8], at: i32, count: i32) -> Result<Vec<Subscription>, Errno> {
    let count = count.cast_unsigned();
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Err(Errno::Inval);
    }
    let bytes = piece(memory, at, count as usize * SUBSCRIPTION_BYTES)?;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_le_bytes).unwrap_or_default()
    };
    let long = |bytes: &[u8], at: usize| -> [u8; 8] {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).unwrap_or_default()
    };
    let subscriptions = bytes.chunks_exact(SUBSCRIPTION_BYTES).map(|bytes| {
        let what = match bytes.get(8) {
            Some(&KIND_CLOCK) => Subject::Clock {
                id: word(bytes, 16),
                timeout: u64::from_le_bytes(long(bytes, 24)),
                absolute: word(bytes, 40) as u16 & CLOCK_ABSOLUTE != 0,
            },
            Some(&kind @ 1..=2) => Subject::Descriptor { fd: word(bytes, 16), read: kind == KIND_READ },
            _ => return Err(Errno::Inval),
        };
        Ok(Subscription { userdata: long(bytes, 0), what })
    });
    subscriptions.collect()
}

/// How long until a clock says so.
fn timeout(state: &mut ModuleState, id: i32, timeout: u64, absolute: bool) -> Result<Duration> {
    let mut nanos = timeout;
    if absolute {
        let mut now = [0; 8];
        upstream::clock_time_get(&mut state.wasi, &mut GuestMemory::Unshared(&mut now), id, 0, 0)?;
        nanos = timeout.saturating_sub(u64::from_le_bytes(now));
    }
    Ok(Duration::from_nanos(nanos).min(TIMEOUT_MAX))
}

impl Waited {
    fn of(state: &ModuleState, fd: i32, read: bool) -> Self {
        match state.sockets.get(fd) {
            Some(socket) => Waited::Socket(socket),
            None if fd == 0 && read => Waited::Stdin(state.stdin.clone()),
            None => Waited::Ready,
        }
    }

    fn poll(&self, cx: &mut Context<'_>, read: bool) -> Poll<()> {
        match self {
            Waited::Socket(Socket::Listener(listener)) if read => listener.poll_ready(cx),
            // Nobody can write to a listener: it is never ready for that.
            Waited::Socket(Socket::Listener(_)) => Poll::Pending,
            Waited::Socket(Socket::Connection(connection)) if read => connection.poll_readable(cx),
            Waited::Socket(Socket::Connection(connection)) => {
                connection.stream.poll_write_ready(cx).map(|_| ())
            }
            Waited::Stdin(stdin) => stdin.poll(cx),
            Waited::Socket(Socket::Ended) | Waited::Ready => Poll::Ready(()),
        }
    }

    /// What can be read without waiting.
    fn bytes(&self, read: bool) -> u64 {
        let Waited::Socket(Socket::Connection(connection)) = self else { return 0 };
        if !read {
            return 0;
        }
        let mut count: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as the connection, and FIONREAD writes one int.
        let done = unsafe { libc::ioctl(connection.stream.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        if done == 0 { u64::try_from(count).unwrap_or_default() } else { 0 }
    }
}

/// Waits until something is so; at least one event.
async fn wait(state: &mut ModuleState, subscriptions: &[Subscription]) -> Result<Vec<Event>> {
    let began = Instant::now();
    let mut clocks = Vec::new();
    let mut waited = Vec::new();
    for subscription in subscriptions {
        match subscription.what {
            Subject::Clock { id, timeout: nanos, absolute } => {
                clocks.push((subscription.userdata, began + timeout(state, id, nanos, absolute)?));
            }
            Subject::Descriptor { fd, read } => {
                waited.push((subscription.userdata, read, Waited::of(state, fd, read)));
            }
        }
    }
    let terminating = state.net.terminating.clone();
    let listens = waited.iter().any(|(_, _, what)| matches!(what, Waited::Socket(Socket::Listener(_))));
    let ready = std::future::poll_fn(|cx| {
        let ended = listens && terminating.is_cancelled();
        let events: Vec<Event> = waited
            .iter()
            .filter(|(_, read, what)| {
                // An accept that fails does not wait.
                let ended = ended && matches!(what, Waited::Socket(Socket::Listener(_)));
                ended || what.poll(cx, *read).is_ready()
            })
            .map(|(userdata, read, what)| Event {
                userdata: *userdata,
                kind: if *read { KIND_READ } else { KIND_READ + 1 },
                bytes: what.bytes(*read),
            })
            .collect();
        if events.is_empty() { Poll::Pending } else { Poll::Ready(events) }
    });
    let mut ready = std::pin::pin!(ready);
    let soonest = clocks.iter().map(|(_, at)| *at).min();
    let rings = async {
        match soonest {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let mut events = tokio::select! {
        biased;
        events = ready.as_mut() => events,
        () = terminating.cancelled(), if listens => ready.await,
        () = rings => Vec::new(),
    };
    let now = Instant::now();
    for (userdata, at) in clocks {
        if at <= now {
            events.push(Event { userdata, kind: KIND_CLOCK, bytes: 0 });
        }
    }
    Ok(events)
}

fn write(memory: &mut [u8], at: i32, events: &[Event], out: i32) -> Result<(), Errno> {
    let bytes = piece(memory, at, events.len() * EVENT_BYTES)?;
    for (event, bytes) in events.iter().zip(bytes.chunks_exact_mut(EVENT_BYTES)) {
        bytes.fill(0);
        let (userdata, rest) = bytes.split_at_mut(8);
        userdata.copy_from_slice(&event.userdata);
        let (head, count) = rest.split_at_mut(8);
        if let (Some(kind), Some(count)) = (head.get_mut(2), count.get_mut(..8)) {
            *kind = event.kind;
            count.copy_from_slice(&event.bytes.to_le_bytes());
        }
    }
    write_u32(memory, out, u32::try_from(events.len()).unwrap_or(u32::MAX))
}

pub(super) fn add_to_linker(linker: &mut Linker<ModuleState>) -> Result<()> {
    type Arguments = (i32, i32, i32, i32);
    linker.func_wrap_async(
        PREVIEW1,
        "poll_oneoff",
        |mut caller: Caller<'_, ModuleState>, (at, events, count, out): Arguments| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                let subscriptions = match parse(memory, at, count) {
                    Ok(subscriptions) => subscriptions,
                    Err(errno) => return Ok(errno as i32),
                };
                let ours = subscriptions.iter().any(|subscription| match subscription.what {
                    Subject::Descriptor { fd, .. } => state.sockets.get(fd).is_some(),
                    Subject::Clock { .. } => false,
                });
                if !ours {
                    let memory = &mut GuestMemory::Unshared(memory);
                    return upstream::poll_oneoff(&mut state.wasi, memory, at, events, count, out).await;
                }
                let happened = wait(state, &subscriptions).await?;
                Ok(code(write(memory, events, &happened, out)))
            })
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(userdata: u8, kind: u8, word: u8, timeout: u8, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; SUBSCRIPTION_BYTES];
        bytes[0] = userdata;
        bytes[8] = kind;
        bytes[16] = word;
        bytes[24] = timeout;
        bytes[40] = flags;
        bytes
    }

    #[test]
    fn subscriptions() {
        let mut memory =
            [subscription(7, 0, 1, 9, 1), subscription(8, 1, 3, 0, 0), subscription(9, 2, 4, 0, 0)].concat();
        let of = |userdata: u8, what| Subscription { userdata: u64::from(userdata).to_le_bytes(), what };
        assert_eq!(
            parse(&mut memory, 0, 3).unwrap(),
            [
                of(7, Subject::Clock { id: 1, timeout: 9, absolute: true }),
                of(8, Subject::Descriptor { fd: 3, read: true }),
                of(9, Subject::Descriptor { fd: 4, read: false }),
            ]
        );
        assert_eq!(parse(&mut memory, 0, 4), Err(Errno::Fault));
        assert_eq!(parse(&mut memory, 0, 0), Err(Errno::Inval));
        assert_eq!(parse(&mut memory, 0, -1), Err(Errno::Inval));
        memory[8] = 3;
        assert_eq!(parse(&mut memory, 0, 1), Err(Errno::Inval));
    }

    #[test]
    fn events() {
        let mut memory = vec![0xff; 72];
        let event = Event { userdata: [1; 8], kind: KIND_READ, bytes: 5 };
        write(&mut memory, 0, &[event], 64).unwrap();
        assert_eq!(memory[..11], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1]);
        assert_eq!((memory[16], memory[64]), (5, 1));
        assert_eq!(
            write(&mut memory, 64, &[Event { userdata: [0; 8], kind: 0, bytes: 0 }], 0),
            Err(Errno::Fault)
        );
    }
}
