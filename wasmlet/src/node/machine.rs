//! What this machine is and has: read from /proc, /etc and the file system.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;

/// Facts that do not change while the node runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    pub architecture: String,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// What is left of what can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Available {
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub disk_total_bytes: u64,
    pub inodes: u64,
    pub inodes_total: u64,
    pub pids: u64,
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

impl Machine {
    /// `data`: the directory whose file system the node's pods use.
    pub fn probe(data: &Path) -> Self {
        let machine_id = read("/etc/machine-id").or_else(|| read("/var/lib/dbus/machine-id"));
        let kernel = uname().map(|u| u.release().to_string_lossy().into_owned());
        Machine {
            architecture: architecture(std::env::consts::ARCH).to_owned(),
            kernel: kernel.unwrap_or_default(),
            os_image: os_image(&read("/etc/os-release").unwrap_or_default()),
            system_uuid: read("/sys/class/dmi/id/product_uuid").or(machine_id.clone()).unwrap_or_default(),
            machine_id: machine_id.unwrap_or_default(),
            boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory_bytes: memory().map_or(0, |(total, _)| total),
            disk_bytes: Available::probe(data).disk_total_bytes,
        }
    }
}

impl Available {
    pub fn probe(data: &Path) -> Self {
        let mut available = Available {
            // What cannot be told is no pressure, or the node would be tainted for ever.
            memory_bytes: memory().map_or(u64::MAX, |(_, available)| available),
            pids: pids_left(
                &read("/proc/loadavg").unwrap_or_default(),
                &read("/proc/sys/kernel/pid_max").unwrap_or_default(),
            ),
            ..Available::default()
        };
        if let Ok(fs) = statvfs(data) {
            let block = fs.fragment_size();
            available.disk_bytes = fs.blocks_available().saturating_mul(block);
            available.disk_total_bytes = fs.blocks().saturating_mul(block);
            available.inodes = fs.files_available();
            available.inodes_total = fs.files();
        }
        available
    }
}

/// Go's name of the architecture.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn os_image(os_release: &str) -> String {
    let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}

/// All and available memory. Some sandboxes keep /proc/meminfo from ordinary users; the system call, which does not
/// count the page cache as available, is always there.
pub fn memory() -> Option<(u64, u64)> {
    let text = read("/proc/meminfo").unwrap_or_default();
    if let (Some(total), Some(available)) = (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable")) {
        return Some((total, available));
    }
    let info = sysinfo().ok()?;
    Some((info.ram_total(), info.ram_unused()))
}

/// A line of /proc/meminfo in bytes.
pub fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The fourth field of /proc/loadavg is `running/all`.
fn pids_left(loadavg: &str, pid_max: &str) -> u64 {
    let used = loadavg.split_whitespace().nth(3).and_then(|f| f.split_once('/')?.1.parse::<u64>().ok());
    match (used, pid_max.parse::<u64>()) {
        (Some(used), Ok(max)) => max.saturating_sub(used),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        let text = "MemTotal:       24689764 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_689_764 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(20_000_000 * 1024));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_image(""), "Linux");
        assert_eq!(pids_left("0.1 0.2 0.3 2/300 1234", "32768"), 32468);
        assert_eq!(pids_left("", "32768"), u64::MAX);
        assert_eq!(architecture("x86_64"), "amd64");
    }

    #[test]
    fn this_machine_has_something() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::probe(dir.path());
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && machine.disk_bytes > 0, "{machine:?}");
        let available = Available::probe(dir.path());
        assert!(available.memory_bytes > 0 && available.memory_bytes <= machine.memory_bytes);
    }
}
