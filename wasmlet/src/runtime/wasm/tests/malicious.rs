//! Guests that mean harm: each is contained, its end is named, and a neighbour goes on answering.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Node, get, http_guest, p1};
use crate::images::LocalImage;
use crate::runtime::{Container, ExitReason, Mount, PrepareError, Runtime, StartError};

/// A pod that serves, and how long it takes to.
struct Neighbour {
    address: SocketAddr,
    container: Arc<dyn Container>,
}

impl Neighbour {
    async fn start(node: &Node) -> Self {
        let (spec, _) = node.spec(node.sample("hello-http"));
        let address = SocketAddr::new(spec.network.ip().into(), 8080);
        let container = node.start(spec).await;
        let neighbour = Neighbour { address, container };
        neighbour.p99(20).await;
        neighbour
    }

    async fn p99(&self, requests: usize) -> Duration {
        let mut took = Vec::new();
        for _ in 0..requests {
            let began = Instant::now();
            let (status, _) = get(self.address, "/healthz").await;
            assert_eq!(status, 200);
            took.push(began.elapsed());
        }
        took.sort();
        took[requests * 99 / 100]
    }

    /// Prints it; only starvation fails, as the machine may be busy with other tests.
    async fn goes_on_under(&self, attack: &str) {
        let p99 = self.p99(200).await;
        println!("a neighbour's p99 under {attack}: {p99:?}");
        assert!(p99 < Duration::from_secs(10), "{attack}: {p99:?}");
    }

    async fn end(self) {
        self.container.kill();
        self.container.wait().await;
    }
}

async fn dies_when_killed(container: &Arc<dyn Container>, attack: &str) {
    let asked = Instant::now();
    container.kill();
    assert_eq!(container.wait().await.code, 137, "{attack}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{attack}: {:?}", asked.elapsed());
    assert_eq!(container.stats().memory_bytes, 0, "{attack}");
}

fn start_section(body: &str) -> String {
    format!(r#"(module (memory (export "memory") 1) (func $s {body}) (start $s) (func (export "_start")))"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_guests_are_dropped_and_starve_nobody() {
    let node = Node::new().await;
    let neighbour = Neighbour::start(&node).await;
    let write = "(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4))
        (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))";
    let random = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 64)
        (func (export "_start") (loop $l (drop (call $random (i32.const 0) (i32.const 4000000))) (br $l))))"#;
    let sleep = r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 1000000000000000000))
          (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;
    let fill = "(drop (memory.grow (i32.const 1600)))
        (loop $l (memory.fill (i32.const 0) (i32.const 7) (i32.const 100000000)) (br $l))";
    for (attack, guest) in [
        ("a loop", p1("(call $spin)")),
        ("a loop in the start function", start_section("(loop $l (br $l))")),
        ("a flood of output", p1(write)),
        ("a flood of host calls", random.to_owned()),
        ("a sleep of centuries", sleep.to_owned()),
        ("bulk memory", p1(fill)),
    ] {
        let container = node.start(node.quiet_spec(&node.wat(&guest))).await;
        neighbour.goes_on_under(attack).await;
        dies_when_killed(&container, attack).await;
    }
    neighbour.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_guest_that_starts_without_end_costs_its_own_request() {
    let node = Node::new().await;
    let neighbour = Neighbour::start(&node).await;
    let guest =
        http_guest("").replace("(core module $m ", "(core module $m (func $s (loop $l (br $l))) (start $s) ");
    let (mut spec, _) = node.spec(node.wat(&guest));
    spec.annotations.insert(crate::runtime::wasm::ANNOTATION_HTTP_TIMEOUT.into(), "1".into());
    let address = SocketAddr::new(spec.network.ip().into(), 8080);
    let container = node.start(spec).await;
    let request = tokio::spawn(get(address, "/"));
    neighbour.goes_on_under("an instantiation without end").await;
    assert_eq!(request.await.unwrap().0, 504);
    dies_when_killed(&container, "an instantiation without end").await;
    neighbour.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_with_their_names() {
    let node = Node::new().await;
    let neighbour = Neighbour::start(&node).await;
    let grow =
        "(loop $l (if (i32.ne (memory.grow (i32.const 16)) (i32.const -1)) (then (br $l)))) unreachable";
    let table = r#"(module (memory (export "memory") 1) (table $t 1 funcref)
        (func (export "_start")
          (loop $l
            (if (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)) (then (br $l))))))"#;
    let deep = r#"(module (memory (export "memory") 1) (func $f (call $f) (call $f)) (func (export "_start") (call $f)))"#;
    for (attack, guest, limit, code, reason, word) in [
        ("a memory bomb", p1(grow), 8 << 20, 137, ExitReason::OomKilled, "memory limit exceeded"),
        ("a table bomb", table.to_owned(), 100_000, 137, ExitReason::OomKilled, "memory limit exceeded"),
        ("endless recursion", deep.to_owned(), 8 << 20, 134, ExitReason::Error, "call stack exhausted"),
    ] {
        let (mut spec, _) = node.spec(node.wat(&guest));
        spec.limits.memory_bytes = Some(limit);
        let container = node.start(spec).await;
        let exit = container.wait().await;
        assert_eq!((exit.code, exit.reason), (code, reason), "{attack}: {exit:?}");
        assert!(exit.message.as_deref().unwrap_or_default().contains(word), "{attack}: {exit:?}");
        assert_eq!(container.stats().memory_bytes, 0, "{attack}");
        neighbour.goes_on_under(attack).await;
    }
    // Without a limit a table ends at its own bound, and the guest is told.
    let exit = node.start(node.quiet_spec(&node.wat(table))).await.wait().await;
    assert_eq!(exit.code, 0, "{exit:?}");
    neighbour.end().await;
}

/// Why an image cannot be run, as the pod's status tells it.
async fn refusal(node: &Node, image: &Arc<LocalImage>) -> String {
    match node.runtime.start(node.quiet_spec(image)).await {
        Err(StartError::Prepare(error)) => {
            assert!(!matches!(error, PrepareError::Io { .. }), "{error}");
            error.to_string()
        }
        Err(other) => panic!("{other}"),
        Ok(container) => format!("{:?}", container.wait().await),
    }
}

/// A component with another in a section of its own.
fn with_component(outer: &[u8], inner: &[u8]) -> Vec<u8> {
    let mut whole = outer.to_vec();
    whole.push(4);
    let mut length = inner.len();
    while length > 0x7f {
        whole.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    whole.push(length as u8);
    whole.extend_from_slice(inner);
    whole
}

fn command_around(inside: &str) -> String {
    format!(
        r#"(component {inside}
          (core module $main (func (export "run") (result i32) (i32.const 0)))
          (core instance $main (instantiate $main))
          (func $run (result (result)) (canon lift (core func $main "run")))
          (instance $e (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $e)))"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_that_are_none_are_refused_and_say_what_is_wrong() {
    let node = Node::new().await;
    let neighbour = Neighbour::start(&node).await;
    let sample = std::fs::read(&node.sample("tcp-echo").wasm_path).unwrap();
    for cut in [9, 100, sample.len() / 2, sample.len() - 1] {
        let text = refusal(&node, &node.image(&sample[..cut])).await;
        assert!(text.contains("not a valid Wasm module") || text.contains("compile"), "cut at {cut}: {text}");
    }
    for seed in 0..40_usize {
        let mut broken = sample.clone();
        for n in 0..8 {
            let at = (seed * 7919 + n * 104_729) % broken.len();
            broken[at] = broken[at].wrapping_add(1 + (seed % 250) as u8);
        }
        // Whatever comes of it, it comes to an end of its own.
        let (spec, _) = node.spec(node.image(&broken));
        if let Ok(container) = node.runtime.start(spec).await {
            container.kill();
            container.wait().await;
        }
    }
    let instances = |count| {
        let instances = "(core instance (instantiate $x))".repeat(count);
        command_around(&format!("(core module $x (memory 1)) {instances}"))
    };
    let imports = (0..20_000).map(|n| format!("(import \"i{n}\" (func))")).collect::<String>();
    let imports = command_around(&imports);
    let core_imports = |count| {
        let imports = (0..count).map(|n| format!("(import \"m\" \"f{n}\" (func))")).collect::<String>();
        format!(r#"(module {imports} (func (export "_start")))"#)
    };
    let memory = r#"(module (memory (export "memory") 65536) (func (export "_start")))"#.to_owned();
    for (attack, guest, words) in [
        ("an instance bomb", instances(5_000), &["instances count exceeds"][..]),
        ("a smaller one", instances(900), &["core module instances", "exceeds"]),
        ("imports by the thousand", imports, &["unmet import", "i0"]),
        ("imports of a core module", core_imports(10_000), &["unmet import", "m::f0"]),
        ("more than an instance holds", core_imports(100_000), &["exceeds the configured maximum"]),
        ("a module of 4 GiB", memory, &["memory"]),
    ] {
        let (mut spec, _) = node.spec(node.wat(&guest));
        spec.limits.memory_bytes = Some(8 << 20);
        let text = match node.runtime.start(spec).await {
            Err(error) => error.to_string(),
            Ok(container) => container.wait().await.message.unwrap_or_default(),
        };
        assert!(words.iter().all(|word| text.contains(word)), "{attack}: {text}");
        assert!(text.len() < 5_000, "{attack}: {} bytes", text.len());
        neighbour.goes_on_under(attack).await;
    }
    // Components in components, far deeper than anybody's stack: refused or run, but not the node's end.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    let mut nested = EMPTY.to_vec();
    while nested.len() < 100_000 {
        nested = with_component(EMPTY, &nested);
    }
    let nested = with_component(&wat::parse_str(command_around("")).unwrap(), &nested);
    println!("components in components: {}", refusal(&node, &node.image(&nested)).await);
    neighbour.goes_on_under("modules that are none").await;
    neighbour.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_are_bounded_and_paths_do_not_lead_out() {
    let node = Node::new().await;
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("mount");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), "x").unwrap();
    std::fs::write(host.path().join("outside"), "secret").unwrap();
    for (link, target) in [("abs1", "/etc/passwd"), ("rel1", "../outside"), ("dir1", "..")] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    let mount = Mount { host_path: root.clone(), container_path: "/data".into(), read_only: false };
    // Opens a path until it fails, and ends with 0 when it failed with `want` after `count` times.
    let guest = |path: &str, want: u32, count: u32| {
        format!(
            r#"(module
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
              (memory (export "memory") 1)
              (data (i32.const 1024) "{path}")
              (func (export "_start") (local $count i32) (local $errno i32)
                (loop $l
                  (local.set $errno (call $open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const {})
                    (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
                  (if (i32.eqz (local.get $errno)) (then
                    (local.set $count (i32.add (local.get $count) (i32.const 1))) (br $l))))
                (if (i32.ne (local.get $count) (i32.const {count})) (then (call $exit (i32.const 200))))
                (if (i32.ne (local.get $errno) (i32.const {want})) (then (call $exit (local.get $errno))))))"#,
            path.len()
        )
    };
    let (mfile, denied) = (33, 63);
    for (path, want, count) in [
        // Less the three streams and the mount.
        ("file", mfile, 4_096 - 4),
        ("abs1", denied, 0),
        ("rel1", denied, 0),
        ("dir1/outside", denied, 0),
        ("../outside", denied, 0),
        ("/etc/passwd", denied, 0),
        ("file/../../outside", 54, 0),
    ] {
        let (mut spec, _) = node.spec(node.wat(&guest(path, want, count)));
        spec.mounts = vec![mount.clone()];
        let exit = node.start(spec).await.wait().await;
        assert_eq!(exit.code, 0, "{path}: {exit:?}");
    }
}
