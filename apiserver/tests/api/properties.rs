//! What holds whatever happens between: a watch from anywhere replays to the list, pages show one state, and every
//! watcher hears of every change once and in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const NAMES: u64 = 10;

/// The same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Names and versions.
type State = BTreeMap<String, String>;

fn entry(object: &Value) -> (String, String) {
    let text = |key: &str| object["metadata"][key].as_str().unwrap().to_owned();
    (text("name"), text("resourceVersion"))
}

async fn state(server: &Server, query: &str) -> (u64, State) {
    let list = server.get(&format!("{MAPS}?{query}")).await.expect(200);
    (list.version(), list.json["items"].as_array().unwrap().iter().map(entry).collect())
}

/// Creates, changes and deletes, whatever comes of each.
async fn stir(server: &Server, seed: u64, times: usize) {
    let mut random = Random(seed);
    for _ in 0..times {
        let name = format!("m{}", random.below(NAMES));
        let label = random.below(2).to_string();
        match random.below(4) {
            0 => drop(server.delete(&format!("{MAPS}/{name}")).await),
            1 => drop(
                server.merge(&format!("{MAPS}/{name}"), json!({"metadata": {"labels": {"l": label}}})).await,
            ),
            2 => drop(
                server
                    .merge(&format!("{MAPS}/{name}"), json!({"data": {"k": random.below(99).to_string()}}))
                    .await,
            ),
            _ => drop(server.post(MAPS, json!({"metadata": {"name": name, "labels": {"l": label}}})).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_anywhere_replays_to_the_list() {
    let server = Server::start().await;
    let mut starts = Vec::new();
    for round in 0..6u64 {
        for selector in ["", "l%3D1", "l!%3D1"] {
            starts.push((selector, state(&server, &format!("labelSelector={selector}")).await));
        }
        join_all((0..3).map(|writer| stir(&server, round * 31 + writer, 15))).await;
    }
    let last: Vec<State> = join_all(starts.iter().map(|(selector, _)| {
        let server = &server;
        async move { state(server, &format!("labelSelector={selector}")).await.1 }
    }))
    .await;
    let server = &server;
    let replays = starts.into_iter().zip(last).map(|((selector, (revision, mut have)), want)| async move {
        let path =
            format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector={selector}&resourceVersion={revision}");
        let mut events = server.watch(&path).await;
        let mut reached = revision;
        while let Some(event) = events.next().await {
            let (name, version) = entry(&event["object"]);
            let at: u64 = version.parse().unwrap();
            assert!(at > reached, "{at} after {reached}");
            reached = at;
            let known = match event["type"].as_str().unwrap() {
                "DELETED" => have.remove(&name).is_some(),
                "ADDED" => have.insert(name.clone(), version).is_none(),
                _ => have.insert(name.clone(), version).is_some(),
            };
            assert!(known, "{} of {name} at {at}", event["type"]);
        }
        assert_eq!(have, want, "{selector} from {revision}");
    });
    join_all(replays).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_one_state_while_others_write() {
    let server = Server::start().await;
    for i in 0..NAMES {
        server.post(MAPS, json!({"metadata": {"name": format!("m{i}")}})).await.expect(201);
    }
    let paging = async {
        for _ in 0..8 {
            let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
            let revision = first.version();
            let mut pages = vec![first];
            while let Some(token) = pages.last().unwrap().json["metadata"]["continue"].as_str() {
                let next = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
                assert_eq!(next.version(), revision);
                pages.push(next);
            }
            let paged: Vec<_> =
                pages.iter().flat_map(|p| p.json["items"].as_array().unwrap()).map(entry).collect();
            let exact = format!("resourceVersion={revision}&resourceVersionMatch=Exact");
            let (_, whole) = state(&server, &exact).await;
            assert_eq!(paged, whole.into_iter().collect::<Vec<_>>());
        }
    };
    tokio::join!(paging, stir(&server, 7, 60), stir(&server, 8, 60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_hears_of_every_change_once_and_in_order() {
    const WATCHERS: usize = 40;
    const WRITERS: usize = 8;
    const WRITES: usize = 40;
    let server = Arc::new(Server::start().await);
    let start = server.get(MAPS).await.version();
    let watching = (0..WATCHERS).map(|_| {
        let server = server.clone();
        tokio::spawn(async move {
            let mut events = server.watch(&format!("{MAPS}?watch=1&resourceVersion={start}")).await;
            let (mut reached, mut stamps) = (start, [0; WRITERS]);
            for _ in 0..WRITERS * WRITES {
                let event = events.next().await.expect("the watch ended");
                let object = &event["object"];
                let at: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                assert!(at > reached);
                reached = at;
                let number = |key: &str| object["data"][key].as_str().unwrap().parse::<usize>().unwrap();
                let stamp = &mut stamps[number("writer")];
                *stamp += 1;
                assert_eq!(number("stamp"), *stamp);
            }
        })
    });
    let watching: Vec<_> = watching.collect();
    let writing = (0..WRITERS).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            for stamp in 1..=WRITES {
                let data = json!({"writer": writer.to_string(), "stamp": stamp.to_string()});
                if stamp == 1 {
                    let body = json!({"metadata": {"name": format!("w{writer}")}, "data": data});
                    server.post(MAPS, body).await.expect(201);
                } else {
                    server.merge(&format!("{MAPS}/w{writer}"), json!({"data": data})).await.expect(200);
                }
            }
        })
    });
    for task in join_all(writing.collect::<Vec<_>>()).await.into_iter().chain(join_all(watching).await) {
        task.unwrap();
    }
}
