//! Watches under load: every watcher hears every write once and in order; one that does not read is cut off and recovers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;
#[path = "../benches/measure/mod.rs"]
mod measure;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Cluster, Https};
use measure::load::Kept;
use measure::watchers::{Load, run};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn no_event_is_lost_doubled_or_out_of_order() {
    let cluster = Cluster::start();
    let https = cluster.https();
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "load"}});
    assert_eq!(https.post("/api/v1/namespaces", body.to_string()).status, 201);
    let load = Load {
        watchers: 60,
        writers: 16,
        lasting: Duration::from_secs(6),
        write_every: Duration::from_millis(40),
    };
    let outcome = run(&https, "load", &load);
    assert!(outcome.writes > load.writers, "only {} writes", outcome.writes);
}

/// Far more than the socket, the watcher's queue and the server's memory of changes hold.
const LARGE_WRITES: usize = 250;
const LARGE_BYTES: usize = 200 * 1024;

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_recovers() {
    let mut cluster = Cluster::start();
    let https = cluster.https();
    let start = https.get(CONFIG_MAPS).json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut slow = Kept::open(&https);
    slow.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}"));
    let mut quick = Kept::open(&https);
    quick.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}"));
    let reader = std::thread::spawn(move || {
        let mut heard = 0;
        while heard < LARGE_WRITES {
            let bytes = quick.chunk(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
            heard += bytes.expect("a watcher that reads was cut off");
        }
    });
    let fill = "x".repeat(LARGE_BYTES);
    let mut connection = Kept::open(&https);
    for number in 0..LARGE_WRITES {
        let name = format!("large-{}", number % 20);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"number": number.to_string(), "fill": fill}});
        let (method, path) = if number < 20 {
            ("POST", CONFIG_MAPS.to_owned())
        } else {
            ("PUT", format!("{CONFIG_MAPS}/{name}"))
        };
        let answer = connection.exchange(method, &path, body.to_string().as_bytes());
        assert!(matches!(answer.status, 200 | 201), "{}", answer.status);
    }
    reader.join().unwrap();

    // What was on its way is still read; then the watch ends, though nobody asked it to.
    let mut model = BTreeMap::new();
    let mut version = start;
    let mut rest = Vec::new();
    while let Some(bytes) = slow.chunk(<[u8]>::to_vec) {
        rest.extend(bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let event: Value = serde_json::from_slice(&rest[..end]).unwrap();
            rest.drain(..=end);
            if event["type"] == "ERROR" {
                assert_eq!(event["object"]["code"], 410, "{event}");
                continue;
            }
            let object = &event["object"];
            version = object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
            model.insert(name(object), number(object));
        }
    }
    let heard: usize = version.parse().unwrap();
    assert!(model != listed(&https), "the slow watcher was not cut off: it heard of revision {heard}");

    // Where it stopped is too long ago, and it is told so: it lists, and watches from there.
    let answer = https.get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=5"));
    let said = answer.json();
    let status = if said["type"] == "ERROR" { &said["object"] } else { &said };
    assert_eq!((status["code"].as_u64(), status["reason"].as_str()), (Some(410), Some("Expired")), "{said}");
    let last = LARGE_WRITES - 1;
    assert_eq!(listed(&https)[&format!("large-{}", last % 20)], last.to_string());
    assert!(cluster.process().running());
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn number(object: &Value) -> String {
    object["data"]["number"].as_str().unwrap_or_default().to_owned()
}

fn listed(https: &Https) -> BTreeMap<String, String> {
    let list = https.get(CONFIG_MAPS).json();
    list["items"].as_array().unwrap().iter().map(|object| (name(object), number(object))).collect()
}
