//! An apiserver whose cache lags behind what another one wrote: no decision may rest on the old state.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_apiserver::authn::{Identity, MASTERS_GROUP};
use coracle_apiserver::direct::Direct;
use coracle_client::{ApiError, Client, PatchType, Request, Resource, Verb};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::server::Server;
use crate::store::Disk;

struct Pair {
    ahead: Client,
    behind: Client,
    late: Arc<Faults>,
    _servers: [Server; 2],
}

async fn server(disk: &Arc<Disk>, faults: &Arc<Faults>) -> (Server, Client) {
    let server = Server::new(disk, faults);
    server.start().await;
    let admin = Identity::new("kubernetes-admin", &[MASTERS_GROUP]);
    let client = Client::new(Direct::new(server.running().unwrap().api, admin), "user");
    (server, client)
}

impl Pair {
    async fn new() -> Self {
        let disk = Disk::new(|_, _, _| {});
        let late = Arc::new(Faults::new(1));
        let (first, ahead) = server(&disk, &Arc::new(Faults::new(2))).await;
        let (second, behind) = server(&disk, &late).await;
        Self { ahead, behind, late, _servers: [first, second] }
    }

    /// Both know `{"a": "1"}`; then one writes `{"a": "2"}`, and the other, which does not know, is asked. It learns of
    /// it half a second later.
    async fn ask<T>(&self, ask: impl Future<Output = T>) -> T {
        let made =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "it"}, "data": {"a": "1"}});
        send(&self.ahead, Verb::Create, made).await.unwrap();
        send(&self.behind, Verb::Get, Value::Null).await.unwrap();
        self.late.hold_watches(true);
        let patch = json!({"data": {"a": "2"}});
        send(&self.ahead, Verb::Patch(PatchType::Merge), patch).await.unwrap();
        let release = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.late.hold_watches(false);
        };
        tokio::join!(ask, release).0
    }
}

async fn send(client: &Client, verb: Verb, body: Value) -> Result<Bytes, ApiError> {
    let mut request = Request::new(verb, Resource::of::<ConfigMap>());
    request.namespace = Some("default".into());
    if verb != Verb::Create {
        request.name = Some("it".into());
    }
    if verb != Verb::Get {
        request.body = body.to_string().into();
    }
    client.raw(request).await
}

fn value(answer: Bytes) -> Option<String> {
    serde_json::from_slice::<ConfigMap>(&answer).unwrap().data?.remove("a")
}

async fn newest_version(client: &Client) -> String {
    let answer = send(client, Verb::Get, Value::Null).await.unwrap();
    serde_json::from_slice::<ConfigMap>(&answer).unwrap().metadata.resource_version.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_changes_nothing_of_an_old_state_is_made_on_the_newest() {
    let pair = Pair::new().await;
    let patch = send(&pair.behind, Verb::Patch(PatchType::Merge), json!({"data": {"a": "1"}}));
    let patched = pair.ask(patch).await;
    assert_eq!(value(patched.unwrap()).as_deref(), Some("1"));
    let now = send(&pair.ahead, Verb::Get, Value::Null).await.unwrap();
    assert_eq!(value(now).as_deref(), Some("1"), "the patch was answered and not made");
}

#[tokio::test(start_paused = true)]
async fn what_an_old_state_forbids_is_asked_of_the_newest() {
    let pair = Pair::new().await;
    let patch = json!([{"op": "test", "path": "/data/a", "value": "2"}, {"op": "remove", "path": "/data/a"}]);
    let patched = pair.ask(send(&pair.behind, Verb::Patch(PatchType::Json), patch)).await;
    assert_eq!(value(patched.unwrap()), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_newest_state_forbids_stays_forbidden() {
    let pair = Pair::new().await;
    let patch = json!([{"op": "test", "path": "/data/a", "value": "3"}]);
    let patched = pair.ask(send(&pair.behind, Verb::Patch(PatchType::Json), patch)).await;
    assert_eq!(patched.unwrap_err().code(), 422);
}

#[tokio::test(start_paused = true)]
async fn a_delete_with_the_newest_version_finds_it() {
    let pair = Pair::new().await;
    let delete = async {
        let newest = newest_version(&pair.ahead).await;
        let options = json!({"preconditions": {"resourceVersion": newest}});
        send(&pair.behind, Verb::Delete, options).await.map(drop)
    };
    pair.ask(delete).await.unwrap();
    assert!(send(&pair.ahead, Verb::Get, Value::Null).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn an_update_of_the_newest_version_is_no_conflict() {
    let pair = Pair::new().await;
    let update = async {
        let metadata = json!({"name": "it", "resourceVersion": newest_version(&pair.ahead).await});
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "3"}});
        send(&pair.behind, Verb::Update, object).await
    };
    assert_eq!(value(pair.ask(update).await.unwrap()).as_deref(), Some("3"));
}
