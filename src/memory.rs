//! What the process gives back after a burst: free pages within the heap, and code that only the burst ran.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Arenas there may be, where the machine has as many cores.
const ARENAS_MAX: usize = 4;
/// How often the process looks at itself.
const EVERY: Duration = Duration::from_secs(15);
/// Less than this is not worth the page faults of those who use it again.
const WORTH_BYTES: usize = 2 * 1024 * 1024;
/// Whoever uses less of a core than this is at rest: one percent.
const AT_REST: Duration = Duration::from_millis(150);

/// glibc would give every thread an arena of its own (eight for each core), and what one has freed no other uses.
pub fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    {
        let arenas = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, ARENAS_MAX);
        // SAFETY: mallopt only sets a number; no other thread runs yet. It returns 0 where it does not know the option.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(1)) };
    }
}

/// Gives memory back whenever the process comes to rest.
///
/// Free pages within the heap go to the system at once: glibc by itself gives back only the heap's end. Pages of the
/// binary are unmapped, and stay in the page cache until the system needs the room: start-up and compilation touch most of
/// the code, an idle node a sixth of it. What is used again is mapped again, at a microsecond for 64 KiB.
pub async fn give_back(shutdown: CancellationToken) {
    let mut free = Free::default();
    let mut rest = Rest::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        if free.is_worth(heap::free_bytes()) {
            tokio::task::spawn_blocking(heap::trim);
        }
        if rest.began(processor_time()) {
            tokio::task::spawn_blocking(code::unmap);
        }
    }
}

/// The allocator counts what was given back as free, so only what came since then tells.
#[derive(Default)]
struct Free {
    given_back: usize,
}

impl Free {
    fn is_worth(&mut self, now: usize) -> bool {
        self.given_back = self.given_back.min(now);
        let worth = now - self.given_back >= WORTH_BYTES;
        if worth {
            self.given_back = now;
        }
        worth
    }
}

/// Whether the process works or rests, by its processor time from look to look.
#[derive(Default)]
struct Rest {
    seen: Duration,
    resting: bool,
}

impl Rest {
    /// The first look that finds it resting after it had worked.
    fn began(&mut self, used: Duration) -> bool {
        let resting = used.saturating_sub(self.seen) < AT_REST;
        self.seen = used;
        let began = resting && !self.resting;
        self.resting = resting;
        began
    }
}

/// Of all threads, in user and kernel.
fn processor_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(
            u64::try_from(nix::sys::time::TimeValLike::num_microseconds(&time)).unwrap_or(0),
        )
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| of(usage.user_time()) + of(usage.system_time()))
}

#[cfg(target_env = "gnu")]
mod heap {
    pub fn free_bytes() -> usize {
        // SAFETY: no precondition. mallinfo2 has wider fields, but not every glibc has it.
        let info = unsafe { libc::mallinfo() };
        info.fordblks.cast_unsigned() as usize
    }

    pub fn trim() {
        // SAFETY: no precondition.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(target_env = "gnu"))]
mod heap {
    pub fn free_bytes() -> usize {
        0
    }

    pub fn trim() {}
}

mod code {
    use std::ffi::c_void;

    /// Unmaps the binary's code and constants. What has been written to since it was mapped (relocated data) is not touched.
    pub fn unmap() {
        let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
        let Ok(binary) = std::fs::read_link("/proc/self/exe") else { return };
        for (start, length) in shared_parts(&maps, &binary.to_string_lossy()) {
            // SAFETY: a private file mapping that is not writable holds nothing but the file's pages, which come back
            // from there when they are touched.
            unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
        }
    }

    /// Address and length of the file's executable mapping and of the constants before it. A read-only mapping behind the
    /// code is data that was relocated before it was sealed.
    fn shared_parts(maps: &str, binary: &str) -> Vec<(usize, usize)> {
        let mut parts = Vec::new();
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
            // After offset, device and inode; it may hold spaces.
            if !line.ends_with(binary) || fields.nth(3).is_none_or(|path| !binary.starts_with(path)) {
                continue;
            }
            let bounds = range.split_once('-').map(|(start, end)| {
                (usize::from_str_radix(start, 16).unwrap_or(0), usize::from_str_radix(end, 16).unwrap_or(0))
            });
            let Some((start, end)) = bounds.filter(|(start, end)| start < end) else { continue };
            match rights {
                "r--p" => parts.push((start, end - start)),
                "r-xp" => {
                    parts.push((start, end - start));
                    return parts;
                }
                // Data before the code: a layout that is not known here.
                _ => return Vec::new(),
            }
        }
        Vec::new()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_what_stands_before_the_end_of_the_code_is_unmapped() {
            let head = "1000-3000 r--p 00000000 fe:00 12 /opt/a b\n";
            let code = "3000-9000 r-xp 00002000 fe:00 12 /opt/a b\n";
            let sealed = "9000-a000 r--p 00008000 fe:00 12 /opt/a b\n";
            let data = "a000-b000 rw-p 00009000 fe:00 12 /opt/a b\n";
            let other = "c000-d000 r-xp 00000000 fe:00 13 /lib/libc.so\n";
            for (maps, want) in [
                ([head, code, sealed, data, other].concat(), vec![(0x1000, 0x2000), (0x3000, 0x6000)]),
                ([other, code, sealed].concat(), vec![(0x3000, 0x6000)]),
                ([data, code].concat(), vec![]),
                ([head, sealed, data].concat(), vec![]),
                (other.to_owned(), vec![]),
                (String::new(), vec![]),
            ] {
                assert_eq!(shared_parts(&maps, "/opt/a b"), want, "{maps}");
            }
        }

        #[test]
        fn code_that_was_unmapped_runs_again() {
            unmap();
            assert_eq!("1,2".split(',').filter_map(|n| n.parse::<u8>().ok()).sum::<u8>(), 3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_became_free_since_the_last_time_is_worth_it() {
        let mut free = Free::default();
        for (now, want) in [
            (WORTH_BYTES - 1, false),
            (WORTH_BYTES, true),
            (WORTH_BYTES, false),
            (WORTH_BYTES * 2 - 1, false),
            (WORTH_BYTES * 2, true),
            (10, false),
            (WORTH_BYTES + 9, false),
            (WORTH_BYTES + 10, true),
        ] {
            assert_eq!(free.is_worth(now), want, "{now}");
        }
    }

    #[test]
    fn rest_begins_once_after_work() {
        let mut rest = Rest::default();
        for (used, want) in
            [(500, false), (510, true), (520, false), (900, false), (1200, false), (1201, true)]
        {
            assert_eq!(rest.began(Duration::from_millis(used)), want, "{used}");
        }
    }
}
