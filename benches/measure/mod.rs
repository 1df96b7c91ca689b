//! What every benchmark needs: figures of a process from /proc, percentiles, one form of table, the machine's description.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod load;
pub mod watchers;

use std::time::Duration;

/// A row of the table that goes into benches/README.md.
pub fn row(what: &str, figure: &str, promise: &str) {
    println!("| {what} | {figure} | {promise} |");
}

pub fn header(title: &str) {
    println!("\n{title} ({})\n", machine());
    println!("| what | measured | promise |");
    println!("|---|---|---|");
}

pub fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// The value below which `share` of the samples lie; nothing where there are none.
pub fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let Some(last) = samples.len().checked_sub(1) else { return Duration::ZERO };
    samples[((last as f64) * share).round() as usize]
}

/// Memory of a process in KiB, by the kernel's own sums: resident, its anonymous part, and the proportional share.
pub struct Memory {
    pub resident: u64,
    pub anonymous: u64,
    pub proportional: u64,
}

pub fn memory(pid: u32) -> Memory {
    let field = |file: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Memory {
        resident: field("status", "VmRSS:"),
        anonymous: field("status", "RssAnon:"),
        proportional: field("smaps_rollup", "Pss:"),
    }
}

/// Processor time that a process has used so far.
pub fn processor_time(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in brackets may hold spaces; what follows it does not.
    let fields: Vec<_> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // SAFETY: sysconf has no conditions.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64)
}

/// Bytes that a process has caused to be written to the device so far.
pub fn device_writes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn machine() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")))
        .map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{cores} cores of {model}, load {}", load.split(' ').next().unwrap_or_default())
}
