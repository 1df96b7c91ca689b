//! The binder on a fake API: claims and volumes end where upstream's do, and say so.

use coracle_client::DeleteOptions;
use coracle_client::fake::Fake;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Cluster, from};

fn cluster() -> Cluster {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster
}

fn claim(name: &str, spec: Value) -> PersistentVolumeClaim {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    from(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": all, "status": {"phase": "Pending"}}))
}

fn volume(name: &str, spec: Value) -> PersistentVolume {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    from(json!({"metadata": {"name": name}, "spec": all, "status": {"phase": "Pending"}}))
}

fn claim_phase(fake: &Fake, name: &str) -> String {
    fake.get::<PersistentVolumeClaim>("ns", name).and_then(|c| c.status?.phase).unwrap_or_default()
}

fn volume_phase(fake: &Fake, name: &str) -> String {
    fake.get::<PersistentVolume>("", name).and_then(|v| v.status?.phase).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_bound_and_its_volume_released_when_it_goes() {
    let cluster = cluster();
    let client = &cluster.context.client;
    client.create(&claim("c", json!({}))).await.unwrap();
    cluster
        .until("nothing to bind", |_| cluster.events().iter().any(|(reason, _)| reason == "FailedBinding"))
        .await;
    client.create(&volume("v", json!({}))).await.unwrap();
    cluster.until("bound", |f| claim_phase(f, "c") == "Bound" && volume_phase(f, "v") == "Bound").await;
    let bound = cluster.fake.get::<PersistentVolumeClaim>("ns", "c").unwrap();
    assert_eq!(bound.spec.as_ref().unwrap().volume_name.as_deref(), Some("v"));
    assert_eq!(bound.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "2Gi");
    for name in [BIND_COMPLETED, BOUND_BY_CONTROLLER] {
        assert!(has_annotation(&bound.metadata, name), "{name}");
    }
    client.delete::<PersistentVolumeClaim>("ns", "c", DeleteOptions::default()).await.unwrap();
    cluster.until("released", |f| volume_phase(f, "v") == "Released").await;
    // A new claim of that name is another: it does not get the old one's data.
    client.create(&claim("c", json!({}))).await.unwrap();
    cluster.settle().await;
    assert_eq!(
        (claim_phase(&cluster.fake, "c").as_str(), volume_phase(&cluster.fake, "v").as_str()),
        ("Pending", "Released")
    );
}

#[tokio::test(start_paused = true)]
async fn twenty_claims_get_a_volume_each() {
    let cluster = cluster();
    let client = &cluster.context.client;
    for n in 0..20 {
        client.create(&claim(&format!("c{n}"), json!({}))).await.unwrap();
        client.create(&volume(&format!("v{n}"), json!({}))).await.unwrap();
    }
    cluster.until("all bound", |f| (0..20).all(|n| claim_phase(f, &format!("c{n}")) == "Bound")).await;
    let mut names: Vec<_> = cluster
        .fake
        .list::<PersistentVolumeClaim>("ns")
        .into_iter()
        .filter_map(|c| c.spec?.volume_name)
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn volumes_and_claims_that_name_each_other() {
    let cluster = cluster();
    let client = &cluster.context.client;
    client.create(&volume("small", json!({"capacity": {"storage": "1Mi"}}))).await.unwrap();
    client
        .create(&volume(
            "reserved",
            json!({"claimRef": {"namespace": "ns", "name": "late"}, "storageClassName": "x"}),
        ))
        .await
        .unwrap();
    client.create(&volume("named", json!({}))).await.unwrap();
    client.create(&claim("wants-small", json!({"volumeName": "small"}))).await.unwrap();
    cluster
        .until("mismatch", |_| {
            cluster.events().contains(&(
                "VolumeMismatch".into(),
                "Cannot bind to requested volume \"small\": requested PV is too small".into(),
            ))
        })
        .await;
    cluster.until("reserved, so available", |f| volume_phase(f, "reserved") == "Available").await;
    client.create(&claim("late", json!({"storageClassName": "x"}))).await.unwrap();
    client.create(&claim("picky", json!({"volumeName": "named"}))).await.unwrap();
    cluster
        .until("both bound", |f| claim_phase(f, "late") == "Bound" && claim_phase(f, "picky") == "Bound")
        .await;
    let named = cluster.fake.get::<PersistentVolume>("", "named").unwrap();
    assert!(has_annotation(&named.metadata, BOUND_BY_CONTROLLER));
    let reserved = cluster.fake.get::<PersistentVolume>("", "reserved").unwrap();
    assert!(!has_annotation(&reserved.metadata, BOUND_BY_CONTROLLER), "a user chose it");
}

#[tokio::test(start_paused = true)]
async fn classes_that_come_late_are_given() {
    let cluster = cluster();
    let client = &cluster.context.client;
    client.create(&claim("c", json!({}))).await.unwrap();
    cluster.settle().await;
    let class: StorageClass = from(json!({"metadata": {"name": "std",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/p", "volumeBindingMode": "Immediate"}));
    client.create(&class).await.unwrap();
    cluster
        .until("class and provisioner", |f| {
            let claim = f.get::<PersistentVolumeClaim>("ns", "c").unwrap();
            class_of(&claim) == Some("std") && has_annotation(&claim.metadata, STORAGE_PROVISIONER)
        })
        .await;
    assert!(cluster.events().iter().any(|(reason, _)| reason == "ExternalProvisioning"));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_volume_vanished_is_lost() {
    let cluster = cluster();
    let client = &cluster.context.client;
    client.create(&volume("v", json!({}))).await.unwrap();
    client.create(&claim("c", json!({}))).await.unwrap();
    cluster.until("bound", |f| claim_phase(f, "c") == "Bound").await;
    cluster.fake.remove::<PersistentVolume>("", "v");
    cluster.until("lost", |f| claim_phase(f, "c") == "Lost").await;
    cluster.until("said", |_| cluster.events().iter().any(|(reason, _)| reason == "ClaimLost")).await;
}
