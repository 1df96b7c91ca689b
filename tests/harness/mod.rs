//! Starts the real `coracle` binary for a test, talks to it as users do, and leaves nothing behind.
//!
//! One cluster per test, on free ports, in a temporary directory, so that tests run side by side. A test that needs
//! nftables or a node's own addresses calls [`Namespace::enter`] first: its thread, and all it starts, then live in a
//! network namespace that dies with them.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod cloud;
mod cluster;
mod control_plane;
mod etcd;
mod https;
mod kubectl;
mod machine;
mod namespace;
pub mod objects;
mod process;
mod registry;
mod requests;
mod shared;

pub use cloud::FakeCloud;
pub use cluster::{Cluster, ClusterOptions};
pub use control_plane::ControlPlane;
pub use etcd::{Etcd, free_address};
pub use https::{Https, Response};
pub use kubectl::{KUBECTL_MINORS, Kubectl, Output, node_modules, python};
pub use machine::{Machine, Network};
pub use namespace::{MACHINE_ADDRESS, Namespace, is_root, need_root, run};
pub use process::{Process, coracle};
pub use registry::Registry;
pub use requests::{echo, http_get, tcp_connect};
pub use shared::{Shared, shared};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a test waits for something that a healthy cluster does in a second or two, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asks again until there is an answer. For what no watch can see from outside, such as a Service's traffic.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() > deadline => panic!("{what}: not within {PATIENCE:?}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
