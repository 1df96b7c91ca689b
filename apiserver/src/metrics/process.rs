//! What the kernel says of this process.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Float = Gauge<f64, AtomicU64>;

#[derive(Default)]
pub struct Process {
    cpu: Float,
    resident: Float,
    virtual_memory: Float,
    files: Float,
    files_max: Float,
    started: Float,
}

/// The kernel counts processor time in hundredths of a second for everybody who asks through `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    pub fn register(registry: &mut Registry) -> Self {
        let process = Self::default();
        for (name, help, gauge) in [
            ("process_cpu_seconds_total", "Processor time used, in seconds", &process.cpu),
            ("process_resident_memory_bytes", "Memory that is resident", &process.resident),
            ("process_virtual_memory_bytes", "Memory that is mapped", &process.virtual_memory),
            ("process_open_fds", "Open files", &process.files),
            ("process_max_fds", "Most files that may be open", &process.files_max),
            ("process_start_time_seconds", "Start of the process, seconds since 1970", &process.started),
        ] {
            registry.register(name, help, gauge.clone());
        }
        process
    }

    /// Takes what can be read; what cannot (on other systems, or without `/proc`) stays as it was.
    pub fn read(&self) {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        // The name is in parentheses and may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let field = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
        if let (Some(user), Some(system)) = (field(11), field(12)) {
            self.cpu.set((user + system) / TICKS_PER_SECOND);
        }
        if let Some(bytes) = field(20) {
            self.virtual_memory.set(bytes);
        }
        let kilobytes = |name: &str| {
            let status = text("/proc/self/status");
            let line = status.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))?;
            line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()
        };
        if let Some(resident) = kilobytes("VmRSS:") {
            self.resident.set(resident * 1024.0);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(files.count() as f64);
        }
        let limits = text("/proc/self/limits");
        if let Some(most) = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        {
            self.files_max.set(most);
        }
        let booted = text("/proc/stat");
        let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        if let (Some(booted), Some(ticks)) = (booted, field(19)) {
            self.started.set(booted + ticks / TICKS_PER_SECOND);
        }
    }
}
