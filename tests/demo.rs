//! `make demo`'s script, run by an ordinary user: an answer through the Service, and nothing left after Ctrl-C.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use harness::{PATIENCE, Process, coracle, http_get, repository};

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

#[test]
fn an_ordinary_user_sees_the_demo_answer_and_leaves_nothing_behind() {
    let directory = tempfile::Builder::new().prefix("coracle-demo-test-").tempdir().unwrap();
    let home = directory.path();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    // Whose home it is may not be able to enter the checkout or its target directory.
    let program = home.join("coracle");
    fs::copy(coracle().get_program(), &program).unwrap();
    let samples = home.join("samples");
    fs::create_dir_all(samples.join("hello-http")).unwrap();
    for file in ["demo.sh", "hello-http"] {
        copy(&repository("samples").join(file), &samples.join(file));
    }
    let temporary = home.join("tmp");
    fs::create_dir(&temporary).unwrap();

    let mut command = Command::new(samples.join("demo.sh"));
    command.arg(&program).arg("127.0.0.1:0").env("HOME", home).env("TMPDIR", &temporary).process_group(0);
    if nix::unistd::geteuid().is_root() {
        chown(&temporary, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut demo = Process::start(command, &home.join("log"));
    let url = demo.line("URL", PATIENCE, |line| line.starts_with("URL "));
    let answer = demo.seen();
    assert!(answer.contains("Hello from Coracle! version=v1"), "{answer}");
    let address = url.trim_start_matches("URL").trim().trim_start_matches("http://").trim_end_matches('/');
    assert_eq!(http_get(address, "/").unwrap().0, 200);
    demo.line("the end of the hints", PATIENCE, |line| line == "The cluster runs until Ctrl-C.");

    // A terminal's Ctrl-C goes to the whole process group.
    // SAFETY: the group is the script's own, which has not been waited for.
    unsafe { libc::kill(-(demo.pid() as libc::pid_t), libc::SIGINT) };
    let status = demo.wait(PATIENCE).expect("the demo goes on after Ctrl-C");
    assert!(status.success(), "{status}: {}", demo.seen());
    assert!(demo.seen().contains("demo: stopping"), "{}", demo.seen());
    assert!(http_get(address, "/").is_err(), "somebody still answers at {address}");
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                copy(&path, &to.join(path.file_name().unwrap()));
            }
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}
