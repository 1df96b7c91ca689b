//! A real etcd of the test's own.

use std::net::TcpListener;
use std::process::Command;

use tempfile::TempDir;

use super::{Process, eventually, tcp_connect};

pub struct Etcd {
    // The process ends before its directory goes.
    _process: Process,
    pub endpoint: String,
    _directory: TempDir,
}

impl Etcd {
    pub fn start() -> Etcd {
        let directory = tempfile::Builder::new().prefix("coracle-test-etcd-").tempdir().unwrap();
        let (client, peer) = (free_address(), free_address());
        let mut command = Command::new("etcd");
        command
            .args([
                "--listen-client-urls",
                &format!("http://{client}"),
                "--advertise-client-urls",
                &format!("http://{client}"),
            ])
            .args(["--listen-peer-urls", &format!("http://{peer}"), "--data-dir"])
            .arg(directory.path().join("data"));
        let process = Process::start(command, &directory.path().join("log"));
        eventually("etcd", || tcp_connect(&client));
        Etcd { _process: process, endpoint: format!("http://{client}"), _directory: directory }
    }

    pub fn keys(&self) -> Vec<String> {
        let listing = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint, "get", "/registry/", "--prefix", "--keys-only"])
            .output();
        match listing {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
                .lines()
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect(),
            other => panic!("etcdctl: {other:?}"),
        }
    }
}

pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
