//! The garbage collector against a fake API.

use coracle_client::fake::Fake;
use coracle_client::{DeleteOptions, PatchType, Propagation};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::testing::{Cluster, from};

/// A config map owned by others, given as (name, uid, blocking).
fn map(name: &str, owners: &[(&str, &str, bool)]) -> ConfigMap {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(name, uid, block)| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": block})
        })
        .collect();
    from(json!({"metadata": {"namespace": "ns", "name": name, "ownerReferences": owners}}))
}

async fn create(cluster: &Cluster, map: ConfigMap) -> String {
    let made = cluster.context.client.create(&map).await.unwrap().decode().unwrap();
    made.metadata.uid.unwrap()
}

async fn delete(cluster: &Cluster, name: &str, policy: Propagation) {
    let options = DeleteOptions::propagation(policy);
    cluster.context.client.delete::<ConfigMap>("ns", name, options).await.unwrap();
}

fn names(fake: &Fake) -> Vec<String> {
    fake.list::<ConfigMap>("ns").into_iter().filter_map(|m| m.metadata.name).collect()
}

fn start() -> Cluster {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster
}

/// a <- b <- c
async fn chain(cluster: &Cluster, block: bool) {
    let a = create(cluster, map("a", &[])).await;
    let b = create(cluster, map("b", &[("a", &a, block)])).await;
    create(cluster, map("c", &[("b", &b, block)])).await;
    create(cluster, map("other", &[])).await;
    cluster.settle().await;
    assert_eq!(names(&cluster.fake).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn background_deletes_the_chain() {
    let cluster = start();
    chain(&cluster, true).await;
    delete(&cluster, "a", Propagation::Background).await;
    cluster.until("only the other", |f| names(f) == ["other"]).await;
}

#[tokio::test(start_paused = true)]
async fn foreground_waits_for_the_last_dependent() {
    let cluster = start();
    chain(&cluster, true).await;
    let hold = json!({"metadata": {"finalizers": ["a/b"]}});
    cluster.context.client.patch::<ConfigMap>("ns", "c", None, PatchType::Merge, &hold).await.unwrap();
    delete(&cluster, "a", Propagation::Foreground).await;
    cluster.settle().await;
    assert_eq!(names(&cluster.fake), ["a", "b", "c", "other"], "c holds them all");
    for name in ["a", "b", "c"] {
        assert!(
            cluster.fake.get::<ConfigMap>("ns", name).unwrap().metadata.deletion_timestamp.is_some(),
            "{name}"
        );
    }
    let release = json!({"metadata": {"finalizers": null}});
    cluster.context.client.patch::<ConfigMap>("ns", "c", None, PatchType::Merge, &release).await.unwrap();
    cluster.until("only the other", |f| names(f) == ["other"]).await;
}

#[tokio::test(start_paused = true)]
async fn foreground_does_not_wait_for_what_does_not_block() {
    let cluster = start();
    let a = create(&cluster, map("a", &[])).await;
    let mut b = map("b", &[("a", &a, false)]);
    b.metadata.finalizers = Some(vec!["a/b".into()]);
    create(&cluster, b).await;
    delete(&cluster, "a", Propagation::Foreground).await;
    cluster.until("a is gone", |f| names(f) == ["b"]).await;
    assert!(cluster.fake.get::<ConfigMap>("ns", "b").unwrap().metadata.deletion_timestamp.is_some());
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_without_their_owner() {
    let cluster = start();
    chain(&cluster, true).await;
    delete(&cluster, "a", Propagation::Orphan).await;
    cluster.until("a is gone", |f| names(f) == ["b", "c", "other"]).await;
    let b = cluster.fake.get::<ConfigMap>("ns", "b").unwrap();
    assert!(b.metadata.owner_references.unwrap_or_default().is_empty());
    cluster.settle().await;
    assert_eq!(names(&cluster.fake), ["b", "c", "other"]);
}

#[tokio::test(start_paused = true)]
async fn one_solid_owner_is_enough_and_absent_ones_are_dropped() {
    let cluster = start();
    let a = create(&cluster, map("a", &[])).await;
    let z = create(&cluster, map("z", &[])).await;
    create(&cluster, map("both", &[("a", &a, true), ("z", &z, true)])).await;
    cluster.settle().await;
    delete(&cluster, "a", Propagation::Background).await;
    let owners = |f: &Fake| {
        f.get::<ConfigMap>("ns", "both").and_then(|m| m.metadata.owner_references).unwrap_or_default()
    };
    cluster.until("one owner left", |f| owners(f).len() == 1).await;
    assert_eq!(owners(&cluster.fake)[0].name, "z");
    delete(&cluster, "z", Propagation::Foreground).await;
    cluster.until("all gone", |f| names(f).is_empty()).await;
}

/// Upstream: "should not delete dependents that have both valid owner and owner that's waiting for dependents to be
/// deleted", and "should keep the rc around until all its pods are deleted if the deleteOptions says so".
#[tokio::test(start_paused = true)]
async fn a_valid_owner_keeps_what_a_waiting_one_waits_for() {
    let cluster = start();
    let going = create(&cluster, map("going", &[])).await;
    let stays = create(&cluster, map("stays", &[])).await;
    create(&cluster, map("both", &[("going", &going, true), ("stays", &stays, true)])).await;
    let mut held = map("held", &[("going", &going, true)]);
    held.metadata.finalizers = Some(vec!["a/b".into()]);
    create(&cluster, held).await;
    cluster.settle().await;
    delete(&cluster, "going", Propagation::Foreground).await;
    cluster
        .until("the valid owner is the only one", |f| {
            let owners = f.get::<ConfigMap>("ns", "both").and_then(|m| m.metadata.owner_references);
            owners.is_some_and(|o| o.len() == 1 && o[0].name == "stays")
        })
        .await;
    cluster.settle().await;
    assert_eq!(names(&cluster.fake), ["both", "going", "held", "stays"], "it waits for the held one");
    let release = json!({"metadata": {"finalizers": null}});
    cluster.context.client.patch::<ConfigMap>("ns", "held", None, PatchType::Merge, &release).await.unwrap();
    cluster.until("gone with its last dependent", |f| names(f) == ["both", "stays"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_made_anew_under_its_name_is_another() {
    let cluster = start();
    let first = create(&cluster, map("a", &[])).await;
    create(&cluster, map("b", &[("a", &first, true)])).await;
    cluster.settle().await;
    delete(&cluster, "a", Propagation::Background).await;
    let second = create(&cluster, map("a", &[])).await;
    create(&cluster, map("c", &[("a", &second, true)])).await;
    cluster.until("what the first owned is gone", |f| names(f) == ["a", "c"]).await;
    cluster.settle().await;
    assert_eq!(names(&cluster.fake), ["a", "c"]);
}

/// Upstream: "should not be blocked by dependency circle".
#[tokio::test(start_paused = true)]
async fn a_circle_of_three_goes() {
    let cluster = start();
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        uids.push(create(&cluster, map(name, &[])).await);
    }
    for (name, owner, uid) in [("a", "c", &uids[2]), ("b", "a", &uids[0]), ("c", "b", &uids[1])] {
        let reference = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
            "name": owner, "uid": uid, "controller": true, "blockOwnerDeletion": true}]}});
        cluster
            .context
            .client
            .patch::<ConfigMap>("ns", name, None, PatchType::Merge, &reference)
            .await
            .unwrap();
    }
    cluster.settle().await;
    delete(&cluster, "a", Propagation::Foreground).await;
    cluster.until("the circle is gone", |f| names(f).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn owners_that_never_were_and_cycles() {
    let cluster = start();
    create(&cluster, map("stray", &[("never", "no-such-uid", true)])).await;
    cluster.until("the stray goes", |f| names(f).is_empty()).await;

    let a = create(&cluster, map("a", &[])).await;
    let b = create(&cluster, map("b", &[("a", &a, true)])).await;
    let reference = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": b, "blockOwnerDeletion": true}]}});
    cluster.context.client.patch::<ConfigMap>("ns", "a", None, PatchType::Merge, &reference).await.unwrap();
    cluster.settle().await;
    assert_eq!(names(&cluster.fake), ["a", "b"], "each holds the other");
    delete(&cluster, "a", Propagation::Foreground).await;
    cluster.until("the cycle is broken", |f| names(f).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn references_across_namespaces_are_reported() {
    let cluster = start();
    let mut far = map("far", &[]);
    far.metadata.namespace = Some("elsewhere".into());
    let uid = create(&cluster, far).await;
    cluster.settle().await;
    create(&cluster, map("near", &[("far", &uid, true)])).await;
    let node: Node = from(json!({"metadata": {"name": "n", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "far", "uid": uid}]}}));
    cluster.context.client.create(&node).await.unwrap();
    cluster
        .until("both are reported", |_| {
            cluster.events().iter().filter(|(reason, _)| reason == "OwnerRefInvalidNamespace").count() == 2
        })
        .await;
    cluster.settle().await;
    assert!(cluster.fake.get::<Node>("", "n").is_some(), "what cannot be judged stays");
}

fn boats() -> CustomResourceDefinition {
    from(json!({"metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]}}))
}

/// A config map owned by a custom resource.
fn cargo(name: &str, boat: &str, uid: &str) -> ConfigMap {
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Boat", "name": boat, "uid": uid});
    from(json!({"metadata": {"namespace": "ns", "name": name, "ownerReferences": [owner]}}))
}

#[tokio::test(start_paused = true)]
async fn what_custom_resources_own_goes_with_them_once_their_kind_is_known() {
    let cluster = start();
    create(&cluster, cargo("lost", "sunk", "no-such-uid")).await;
    cluster.settle().await;
    assert_eq!(names(&cluster.fake), ["lost"], "nobody knows what a Boat is");
    cluster.context.client.create(&boats()).await.unwrap();
    cluster.until("the owner that never was", |f| names(f).is_empty()).await;
}
