//! One object at a time: creates with few and many clients, reads, and every kind of change.

use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::Https;
use crate::measure::load::Kept;
use crate::measure::{milliseconds, percentile, row};

const SPAN: Duration = Duration::from_secs(5);
const CHANGERS: usize = 16;

/// Runs `turn` in a loop on so many connections; how many turns a second, and how long they took.
fn run(https: &Https, clients: usize, turn: impl Fn(&mut Kept, usize, usize) + Sync) -> (f64, Vec<Duration>) {
    let barrier = Barrier::new(clients);
    let all = Mutex::new((Vec::<Duration>::new(), Duration::ZERO));
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (barrier, all, turn) = (&barrier, &all, &turn);
            scope.spawn(move || {
                let mut connection = Kept::open(https);
                connection.exchange("GET", "/version", b"");
                let mut own = Vec::new();
                barrier.wait();
                let begun = Instant::now();
                while begun.elapsed() < SPAN {
                    let sent = Instant::now();
                    turn(&mut connection, client, own.len());
                    own.push(sent.elapsed());
                }
                let mut all = all.lock().unwrap();
                all.0.append(&mut own);
                all.1 = all.1.max(begun.elapsed());
            });
        }
    });
    let (latencies, span) = all.into_inner().unwrap();
    (latencies.len() as f64 / span.as_secs_f64(), latencies)
}

fn report(what: &str, (rate, mut latencies): (f64, Vec<Duration>), promise: &str) {
    let figure = format!(
        "{rate:.0}/s (p50 {}, p99 {})",
        milliseconds(percentile(&mut latencies, 0.5)),
        milliseconds(percentile(&mut latencies, 0.99))
    );
    row(what, &figure, promise);
}

fn pod(name: &str) -> Vec<u8> {
    let container = json!({"name": "c", "image": "example.com/app:1", "env": [{"name": "A", "value": "b"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}, "ports": [{"containerPort": 8080}]});
    // Nobody schedules it: what is measured is the API.
    let spec = json!({"schedulerName": "nobody", "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}}, "spec": spec})
        .to_string()
        .into_bytes()
}

pub fn creates(https: &Https, clients: usize, who: &str) {
    let promise = if clients == 64 { "≥ 10,000/s" } else { "" };
    let maps = run(https, clients, |connection, client, number| {
        let body = crate::config_map(&format!("c{clients}-{client}-{number}"), 0);
        let made = connection.exchange("POST", "/api/v1/namespaces/bench-creates/configmaps", &body);
        assert_eq!(made.status, 201);
    });
    report(&format!("durable creates of ConfigMaps, {clients} clients{who}"), maps, promise);
    let pods = run(https, clients, |connection, client, number| {
        let body = pod(&format!("p{clients}-{client}-{number}"));
        let made = connection.exchange("POST", "/api/v1/namespaces/bench-creates/pods", &body);
        assert_eq!(made.status, 201);
    });
    report(&format!("durable creates of Pods, {clients} clients{who}"), pods, "");
}

/// Each client has an object of its own.
pub fn changes(https: &Https, who: &str) {
    let path = "/api/v1/namespaces/bench-creates/configmaps";
    let of = |client: usize| format!("{path}/own-{client}");
    for client in 0..CHANGERS {
        let body = crate::config_map(&format!("own-{client}"), 0);
        assert_eq!(Kept::open(https).exchange("POST", path, &body).status, 201);
    }
    let patch = |media: &'static str, query: &'static str| {
        move |connection: &mut Kept, client: usize, number: usize| {
            let body =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"stamp": number.to_string()}});
            let headers = format!("content-type: {media}\r\naccept: application/json\r\n");
            let path = format!("{}{query}", of(client));
            let done = connection.exchange_as("PATCH", &path, &headers, body.to_string().as_bytes());
            assert_eq!(done.status, 200);
        }
    };
    let (merge, strategic, apply) = (
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    );
    report(
        &format!("GET, {CHANGERS} clients{who}"),
        run(https, CHANGERS, |connection, client, _| {
            assert_eq!(connection.exchange("GET", &of(client), b"").status, 200);
        }),
        "",
    );
    report(
        &format!("PUT, {CHANGERS} clients{who}"),
        run(https, CHANGERS, |connection, client, number| {
            let body = crate::config_map(&format!("own-{client}"), number as u128 + 1);
            assert_eq!(connection.exchange("PUT", &of(client), &body).status, 200);
        }),
        "",
    );
    for (what, turn) in [
        ("merge patch", patch(merge, "")),
        ("strategic merge patch", patch(strategic, "")),
        ("server-side apply", patch(apply, "?fieldManager=bench&force=true")),
    ] {
        report(&format!("{what}, {CHANGERS} clients{who}"), run(https, CHANGERS, turn), "");
    }
    report(
        &format!("create and delete, {CHANGERS} clients{who}"),
        run(https, CHANGERS, |connection, client, number| {
            let name = format!("gone-{client}-{number}");
            assert_eq!(connection.exchange("POST", path, &crate::config_map(&name, 0)).status, 201);
            assert_eq!(connection.exchange("DELETE", &format!("{path}/{name}"), b"").status, 200);
        }),
        "",
    );
}
