//! The command line is a contract: what the binary prints, where it writes, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::{Cluster, PATIENCE, Process, coracle, is_root};

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `coracle up` that must refuse to start: the one line it leaves on standard error.
fn refusal(arguments: &[&str], data: &Path, kubeconfig: &Path) -> String {
    let mut command = coracle();
    command.args(["up", "--rootless", "--log-level", "error"]).args(arguments);
    command.arg("--data-dir").arg(data).arg("--kubeconfig").arg(kubeconfig);
    let started = Instant::now();
    let output = output(&mut command);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "stderr: {stderr}");
    assert!(started.elapsed() < PATIENCE);
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "more than one line: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    lines[0].to_owned()
}

#[test]
fn version_names_the_program_and_its_kubernetes() {
    let output = output(coracle().arg("version"));
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    assert!(stdout.contains(env!("CARGO_PKG_VERSION")), "{stdout}");
    assert!(stdout.contains("v1.37"), "{stdout}");
}

#[test]
fn help_lists_every_subcommand() {
    let output = output(coracle().arg("--help"));
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    for subcommand in [
        "up",
        "server",
        "node",
        "apiserver",
        "scheduler",
        "controllers",
        "wasmlet",
        "proxy",
        "image",
        "version",
        "apply",
        "get",
        "logs",
        "delete",
        "wait",
    ] {
        let listed = stdout.lines().any(|line| line.split_whitespace().next() == Some(subcommand));
        assert!(listed, "{subcommand} is not in\n{stdout}");
    }
}

#[test]
fn up_takes_the_flags_of_the_contract() {
    let stdout = text(&output(coracle().args(["up", "--help"])).stdout);
    for flag in [
        "--data-dir",
        "--listen",
        "--kubeconfig",
        "--etcd-servers",
        "--node-name",
        "--pod-cidr",
        "--service-cidr",
        "--rootless",
        "--log-level",
    ] {
        assert!(stdout.contains(flag), "up has no {flag}:\n{stdout}");
    }
    let stdout = text(&output(coracle().args(["server", "--help"])).stdout);
    for flag in ["--data-dir", "--listen", "--kubeconfig", "--etcd-servers", "--service-cidr", "--log-level"]
    {
        assert!(stdout.contains(flag), "server has no {flag}:\n{stdout}");
    }
    let stdout = text(&output(coracle().args(["node", "--help"])).stdout);
    for flag in ["--server", "--token", "--data-dir", "--node-name"] {
        assert!(stdout.contains(flag), "node has no {flag}:\n{stdout}");
    }
}

#[test]
fn a_wrong_flag_is_named() {
    let output = output(coracle().args(["up", "--no-such-flag"]));
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("--no-such-flag"));
}

#[test]
fn up_says_when_it_is_ready_and_stops_on_sigterm_with_zero() {
    let mut cluster = Cluster::start();
    let line = cluster
        .process()
        .line("API", PATIENCE, |line| line.starts_with("API server ready: https://127.0.0.1:"));
    assert!(
        line.ends_with(&format!("kubeconfig={}", cluster.kubeconfig().display())),
        "the line does not name the kubeconfig: {line}"
    );
    let kubeconfig = std::fs::metadata(cluster.kubeconfig()).unwrap();
    assert_eq!(kubeconfig.permissions().mode() & 0o077, 0, "others may read the administrator's key");
    assert_eq!(cluster.https().get("/readyz").status, 200);

    let started = Instant::now();
    let status = cluster.process().stop();
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "stopping took {:?}", started.elapsed());
}

#[test]
fn up_stops_on_sigint_with_zero_and_with_pods_running() {
    let mut cluster = Cluster::start();
    cluster.import_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    let started = Instant::now();
    cluster.process().signal(libc::SIGINT);
    let status = cluster.process().wait(Duration::from_secs(15)).expect("still running after SIGINT");
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "stopping took {:?}", started.elapsed());
}

#[test]
fn a_taken_port_is_refused_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let line = refusal(
        &["--listen", &address],
        &directory.path().join("data"),
        &directory.path().join("kubeconfig"),
    );
    assert!(line.contains(&address), "{line}");
    assert!(line.to_lowercase().contains("in use"), "{line}");
}

#[test]
fn an_unwritable_data_directory_is_refused_in_one_line() {
    // A path below a file can be written by nobody, not even by root.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let data = file.join("data");
    let line = refusal(&["--listen", "127.0.0.1:0"], &data, &directory.path().join("kubeconfig"));
    assert!(line.contains(&data.display().to_string()), "{line}");
}

#[test]
fn a_second_instance_on_the_same_directory_is_refused_in_one_line() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let line = refusal(&["--listen", "127.0.0.1:0"], &cluster.data(), &directory.path().join("kubeconfig"));
    assert!(line.contains(&cluster.data().display().to_string()), "{line}");
    assert_eq!(cluster.https().get("/readyz").status, 200, "the first instance suffered");
}

#[test]
fn a_corrupt_store_is_refused_in_one_line() {
    let mut cluster = Cluster::start();
    cluster.kubectl("create configmap kept --from-literal=a=b");
    cluster.process().stop();

    let largest = store_files(&cluster.data());
    assert!(!largest.is_empty(), "no store under {}", cluster.data().display());
    for path in &largest {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        let noise: Vec<u8> =
            (0..64 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut at = 0;
        while at < length.min(4 << 20) {
            let part = noise.len().min((length - at) as usize);
            file.write_all_at(&noise[..part], at).unwrap();
            at += part as u64;
        }
    }
    let line =
        refusal(&["--listen", "127.0.0.1:0"], &cluster.data(), &cluster.directory().join("other-kubeconfig"));
    assert!(line.contains(&cluster.data().display().to_string()), "{line}");
}

/// The files of the store: everything under a folder whose name says so.
fn store_files(data: &Path) -> Vec<PathBuf> {
    fn walk(directory: &Path, inside: bool, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                walk(&path, inside || name == "store" || name == "db", found);
            } else if inside && path.metadata().unwrap().len() > 0 && !name.contains("lock") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(data, false, &mut found);
    found
}

#[test]
fn an_ordinary_user_gets_a_rootless_cluster_and_is_told_so() {
    if !is_root() {
        return; // Then every other test of this file shows it already.
    }
    const NOBODY: u32 = 65534;
    let directory = tempfile::Builder::new().prefix("coracle-test-user-").tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // The build directory may be closed to others, so the user gets a copy of the binary.
    let binary = directory.path().join("coracle");
    std::fs::copy(env!("CARGO_BIN_EXE_coracle"), &binary).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&binary);
    command
        .args(["up", "--listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(directory.path().join("kubeconfig"))
        .env("HOME", directory.path())
        .env_remove("XDG_DATA_HOME")
        .current_dir(directory.path())
        .uid(NOBODY)
        .gid(NOBODY);
    let mut process = Process::start(command, &directory.path().join("log"));
    process.line("Node … ready", PATIENCE, |line| line.starts_with("Node ") && line.ends_with(" ready"));
    assert!(
        directory.path().join(".local/share/coracle").is_dir(),
        "the data directory is not the user's own default"
    );
    let status = process.stop();
    assert_eq!(status.code(), Some(0), "{status:?}");
    let said = process.log().to_lowercase();
    let stdout = process.seen().to_lowercase();
    assert!(
        said.contains("rootless") || stdout.contains("rootless"),
        "it did not say that it is rootless: {said}"
    );
}

#[test]
fn the_thin_client_applies_gets_waits_logs_and_deletes() {
    let cluster = Cluster::start();
    cluster.import_samples();
    let sample = harness::repository("samples/hello-http");
    let run = |arguments: &[&str]| {
        let output = output(cluster.coracle().args(arguments));
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    let applied = run(&["apply", "-f", &sample.display().to_string()]);
    assert!(applied.contains("deployment.apps/hello-http created"), "{applied}");
    assert!(applied.contains("service/hello-http created"), "{applied}");
    run(&["wait", "--for=condition=Available", "deployment/hello-http", "--timeout=60s"]);
    let table = run(&["get", "deployments"]);
    let expected = ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"];
    assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), expected);
    assert!(table.contains("2/2"), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&["get", "service", "hello-http", "-o", "json"])).unwrap();
    assert!(json["spec"]["clusterIP"].is_string());

    cluster.apply_sample("job-hello");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/job-hello --timeout=60s");
    assert_eq!(run(&["logs", "job-hello"]), "Hello, Coracle, from job-hello! pod=job-hello\n");

    let deleted = run(&["delete", "-f", &sample.display().to_string()]);
    assert!(deleted.contains("hello-http"), "{deleted}");
    let missing = output(cluster.coracle().args(["get", "pod", "nothing"]));
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("Error from server (NotFound): pods \"nothing\" not found"),
        "{}",
        text(&missing.stderr)
    );
}
