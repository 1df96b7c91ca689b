//! A network namespace for the calling thread and everything it starts.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Proof that this thread has a network of its own. It needs no clean-up: the kernel drops the namespace with the last
/// thread and process in it.
pub struct Namespace(());

/// The address by which a machine in a namespace is known to itself.
pub const MACHINE_ADDRESS: &str = "192.0.2.10";

impl Namespace {
    /// Gives the calling thread an empty network that looks like a small machine's: loopback, one interface with an
    /// address, a default route.
    pub fn enter() -> Namespace {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "uplink"]);
        run("ip", &["address", "add", &format!("{MACHINE_ADDRESS}/24"), "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "up"]);
        run("ip", &["link", "set", "uplink", "up"]);
        run("ip", &["route", "add", "default", "via", "192.0.2.1", "dev", "eth0"]);
        Namespace(())
    }
}

/// Runs a system program to its end; a panic with its words when it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (is it installed? see `make tools`)"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says that a test cannot run and why. `make test` runs these tests as root.
pub fn need_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("{test}: NOT RUN, it needs root for a network namespace (make test runs it by sudo)");
    }
    is_root()
}
