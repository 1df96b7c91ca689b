//! Commands: exits, traps, arguments, directories, stops, and the compiled cache under them.

use std::time::{Duration, Instant};

use super::{Node, p1};
use crate::images::compiled::{CompiledCache, CompiledKey};
use crate::runtime::wasm::engine::compatibility;
use crate::runtime::{ExitReason, Mount, PrepareError, Runtime, StartError};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes() {
    let node = Node::new().await;
    for (body, code, reason) in [
        ("(call $exit (i32.const 7))", 7, ExitReason::Error),
        ("(call $exit (i32.const 0))", 0, ExitReason::Completed),
        ("", 0, ExitReason::Completed),
        ("(call $exit (i32.const 300))", 44, ExitReason::Error),
    ] {
        let (spec, _) = node.spec(node.wat(&p1(body)));
        let container = node.start(spec).await;
        let exit = container.wait().await;
        assert_eq!((exit.code, exit.reason), (code, reason), "{body}");
        assert!(exit.started_at <= exit.finished_at);
        assert_eq!(container.wait().await, exit, "waiting again gives the same");
        assert_eq!(container.stats().memory_bytes, 0, "all memory is given back");
        assert!(container.stats().memory_peak_bytes >= 65536);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_are_named_with_a_backtrace() {
    let node = Node::new().await;
    for (body, name) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(drop (i32.load (i32.const 0x7fffffff)))", "out of bounds memory access"),
    ] {
        let (spec, written) = node.spec(node.wat(&p1(body)));
        let exit = node.start(spec).await.wait().await;
        assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
        let message = exit.message.unwrap();
        assert!(message.contains(name) && message.contains("_start"), "{message}");
        assert!(written.err().contains(name), "{}", written.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_has_no_end_but_the_logs() {
    let node = Node::new().await;
    // 4096 times 60 KB, and nothing but writes; ends with the first errno.
    let body = "(local $left i32) (local $errno i32)
        (local.set $left (i32.const 4096)) (i32.store (i32.const 4) (i32.const 60000))
        (loop $l
          (local.set $errno (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (if (local.get $errno) (then (call $exit (local.get $errno))))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $l (local.get $left)))";
    let exit = node.start(node.quiet_spec(&node.wat(&p1(body)))).await.wait().await;
    assert_eq!(exit.code, 0, "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_get_arguments_and_variables() {
    let node = Node::new().await;
    let (mut spec, written) = node.spec(node.sample("job-hello"));
    spec.args = vec!["Ada".into()];
    spec.env = vec![("POD_NAME".into(), "overridden".into()), ("POD_NAME".into(), "p1".into())];
    assert_eq!(node.start(spec).await.wait().await.code, 0);
    assert_eq!(written.out(), "Hello, Ada, from job-hello! pod=p1\n");

    let (mut spec, written) = node.spec(node.sample("counter"));
    for (name, value) in [("INTERVAL_MS", "1"), ("COUNT", "3"), ("EXIT_CODE", "5")] {
        spec.env.push((name.into(), value.into()));
    }
    assert_eq!(node.start(spec).await.wait().await.code, 5);
    assert_eq!(written.out(), "count 1\ncount 2\ncount 3\n");
    assert_eq!(written.err(), "counter: exiting with code 5\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_the_only_files_and_keep_their_permissions() {
    let node = Node::new().await;
    // Opens (creating) "file" in the first preopen, which is descriptor 3; exits with the errno.
    let open = "(call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4)
        (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)))";
    let image = node.wat(&p1(open));
    let host = tempfile::tempdir().unwrap();
    let mount =
        |read_only| Mount { host_path: host.path().into(), container_path: "/data".into(), read_only };

    let (spec, _) = node.spec(image.clone());
    assert_eq!(node.start(spec).await.wait().await.code, 8, "no preopen: bad descriptor");

    let (mut spec, _) = node.spec(image.clone());
    spec.mounts = vec![mount(true)];
    assert_ne!(node.start(spec).await.wait().await.code, 0);
    assert!(!host.path().join("file").exists());

    let (mut spec, _) = node.spec(image.clone());
    spec.mounts = vec![mount(false)];
    assert_eq!(node.start(spec).await.wait().await.code, 0);
    assert!(host.path().join("file").exists());

    let (mut spec, _) = node.spec(image.clone());
    spec.mounts = vec![Mount { host_path: host.path().join("missing"), ..mount(true) }];
    let error = node.runtime.start(spec).await.err().unwrap();
    assert!(matches!(error, StartError::Mount { .. }) && error.to_string().contains("/data"), "{error}");

    // A single file: O_EXCL tells whether the guest sees it in the directory that stands for its parent.
    let exclusive =
        open.replace("(i32.const 4)\n        (i32.const 1)", "(i32.const 4)\n        (i32.const 5)");
    assert_ne!(exclusive, open);
    let exclusive = node.wat(&p1(&exclusive));
    std::fs::write(host.path().join("source"), b"x").unwrap();
    let (mut spec, _) = node.spec(exclusive);
    spec.mounts = vec![Mount {
        host_path: host.path().join("source"),
        container_path: "/etc/app/file".into(),
        read_only: false,
    }];
    assert_eq!(node.start(spec).await.wait().await.code, 20, "exists");
    let staged = node.dir.path().join("mounts");
    assert_eq!(std::fs::read_dir(staged).unwrap().count(), 0, "removed with the container");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtimes_end_is_its_containers() {
    let node = Node::new().await;
    let (mut spec, written) = node.spec(node.sample("counter"));
    spec.env.push(("INTERVAL_MS".into(), "60000".into()));
    let container = node.start(spec).await;
    written.until_out("count 1").await;
    drop(node);
    assert_eq!(container.wait().await.code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_named_at_prepare() {
    let node = Node::new().await;
    let text = r#"(module (import "env" "magic" (func)) (func (export "_start")))"#;
    let unmet = node.runtime.prepare(&node.wat(text)).await.unwrap_err();
    assert!(matches!(unmet, PrepareError::UnmetImport { .. }), "{unmet}");
    assert!(unmet.to_string().contains("env::magic"), "{unmet}");

    let library = node.runtime.prepare(&node.wat(r#"(module (func (export "add")))"#)).await.unwrap_err();
    assert!(matches!(library, PrepareError::UnsupportedWorld { .. }), "{library}");

    let text = r#"(component (import "acme:db/store@1.0.0" (instance (export "get" (func))))
        (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let unmet = node.runtime.prepare(&node.wat(text)).await.unwrap_err();
    assert!(unmet.to_string().contains("acme:db/store@1.0.0"), "{unmet}");

    let invalid = node.runtime.prepare(&node.image(b"#!/bin/sh\n")).await.unwrap_err();
    assert!(matches!(invalid, PrepareError::Invalid { .. }), "{invalid}");

    let image = node.wat(&p1(""));
    std::fs::write(&image.wasm_path, b"\0asm flipped").unwrap();
    let damaged = node.runtime.prepare(&image).await.unwrap_err();
    assert!(matches!(damaged, PrepareError::Damaged { .. }), "{damaged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_be_told_ends_at_once() {
    let node = Node::new().await;
    let (mut spec, written) = node.spec(node.sample("counter"));
    spec.env.push(("INTERVAL_MS".into(), "60000".into()));
    let container = node.start(spec).await;
    written.until_out("count 1").await;
    let asked = Instant::now();
    container.stop(Duration::from_secs(30)).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!(container.wait().await.code, 143);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_is_137_also_while_the_guest_sleeps() {
    let node = Node::new().await;
    let (mut spec, written) = node.spec(node.sample("counter"));
    spec.env.push(("INTERVAL_MS".into(), "60000".into()));
    let container = node.start(spec).await;
    written.until_out("count 1").await;
    container.kill();
    assert_eq!(container.wait().await.code, 137);
    container.stop(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_is_reused_and_never_run_when_tampered_with() {
    let node = Node::new().await;
    let image = node.wat(&p1("(call $exit (i32.const 3))"));
    node.runtime.prepare(&image).await.unwrap();
    let cache = CompiledCache::open(&node.dir.path().join("compiled")).unwrap();
    let key = CompiledKey {
        wasm_digest: image.wasm_digest.clone(),
        compatibility: compatibility(&node.runtime.inner.engine),
    };
    let path = cache.path(&key).unwrap();
    let written_at = || std::fs::metadata(&path).unwrap().modified().unwrap();

    let first = written_at();
    node.runtime.forget(&image.wasm_digest);
    node.runtime.prepare(&image).await.unwrap();
    assert_eq!(written_at(), first, "mapped, not compiled again");

    let good = std::fs::read(&path).unwrap();
    for bad in [vec![0; good.len()], good[..good.len() / 2].to_vec(), Vec::new()] {
        // A new file: the old one is still mapped by the running engine.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bad).unwrap();
        node.runtime.forget(&image.wasm_digest);
        let (spec, _) = node.spec(image.clone());
        assert_eq!(node.start(spec).await.wait().await.code, 3);
        assert_eq!(std::fs::read(&path).unwrap().len(), good.len(), "compiled again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_says_so() {
    let node = Node::new().await;
    let image = node.wat(&p1("(call $spin)"));
    let mut running = Vec::new();
    for _ in 0..node.runtime.capacity().instances_max {
        running.push(node.start(node.spec(image.clone()).0).await);
    }
    let error = node.runtime.start(node.spec(image.clone()).0).await.err().unwrap();
    assert!(matches!(error, StartError::NodeFull(_)), "{error}");
    for container in &running {
        container.kill();
    }
    for container in &running {
        container.wait().await;
    }
    let again = node.start(node.spec(image).0).await;
    again.kill();
    assert_eq!(again.wait().await.code, 137);
}
