//! wasi:config and wasi:keyvalue: what a guest reads and keeps, how long, and what it may not.

use std::path::Path;
use std::sync::Arc;

use super::Node;
use crate::images::LocalImage;
use crate::runtime::{ContainerSpec, MountedObject, ObjectKind};

/// Runs the commands one after the other in one container; a line of answer each.
async fn ask(node: &Node, spec: &ContainerSpec, commands: &[&str]) -> Vec<String> {
    let (fresh, written) = node.spec(spec.image.clone());
    let args = commands.join(" ; ").split(' ').map(str::to_owned).collect();
    let spec = ContainerSpec { args, log: fresh.log, ..spec.clone() };
    let container = node.start(spec).await;
    let exit = container.wait().await;
    assert_eq!(exit.code, 0, "{exit:?} {}", written.err());
    assert_eq!(container.stats().memory_bytes, 0, "what is kept in memory ends with the container");
    written.out().lines().map(str::to_owned).collect()
}

fn object(kind: ObjectKind, name: &str, dir: &Path, files: &[(&str, &[u8])]) -> MountedObject {
    let host_path = dir.join(name);
    std::fs::create_dir_all(&host_path).unwrap();
    for (key, value) in files {
        std::fs::write(host_path.join(key), value).unwrap();
    }
    MountedObject { kind, name: name.into(), host_path }
}

fn with_objects(node: &Node, image: &Arc<LocalImage>) -> ContainerSpec {
    let (mut spec, _) = node.spec(image.clone());
    let dir = node.dir.path();
    spec.env = vec![("LEVEL".into(), "debug".into()), ("shared".into(), "env".into())];
    spec.objects = vec![
        object(
            ObjectKind::ConfigMap,
            "app",
            dir,
            &[("color", b"blue"), ("shared", b"map"), ("binary", b"\xff\xfe")],
        ),
        object(ObjectKind::Secret, "login", dir, &[("password", b"hunter2")]),
    ];
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn config_is_the_environment_over_the_mounted_config_maps() {
    let node = Node::new().await;
    let spec = with_objects(&node, &node.guest("storeprobe"));
    let answers =
        ask(&node, &spec, &["config", "config LEVEL", "config color", "config shared", "config password"])
            .await;
    assert_eq!(
        answers,
        ["LEVEL=debug color=blue shared=env", "debug", "blue", "env", "none"],
        "no Secret's key, nothing that is no text"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mounted_objects_are_read_and_not_written() {
    let node = Node::new().await;
    let spec = with_objects(&node, &node.guest("storeprobe"));
    let answers = ask(
        &node,
        &spec,
        &[
            "configmap/app get color",
            "configmap/app keys",
            "configmap/app exists nothing",
            "secret/login get password",
            "secret/login set password x",
            "secret/login delete password",
            "secret/login add n 1",
            "secret/app get color",
            "configmap/other get x",
            "configmap/../login get password",
            "configmap/app get ../login/password",
            "UPPER get x",
        ],
    )
    .await;
    assert_eq!(
        answers,
        [
            "blue",
            "binary color shared",
            "false",
            "hunter2",
            "error access-denied",
            "error access-denied",
            "error access-denied",
            "error no-such-store",
            "error no-such-store",
            "error no-such-store",
            "none",
            "error no-such-store",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_buckets_end_with_their_container() {
    let node = Node::new().await;
    let image = node.guest("storeprobe");
    let (mut spec, _) = node.spec(image.clone());
    let answers = ask(
        &node,
        &spec,
        &[
            "- set k v",
            "default get k",
            "other get k",
            "- add n 40",
            "- add n 2",
            "- add k 1",
            "- keys",
            "- delete k",
            "- get k",
            "- batch",
            "- many 2500",
            "- keys",
            "- fill big 1048577",
        ],
    )
    .await;
    assert_eq!(
        answers,
        [
            "set",
            "v",
            "none",
            "40",
            "42",
            "error the value of \"k\" is no number",
            "k n",
            "deleted",
            "none",
            "1 none",
            "set",
            "2502 keys in 3 pages",
            "error a value has 1048576 bytes at most, this one 1048577",
        ]
    );
    assert_eq!(ask(&node, &spec, &["- get n"]).await, ["none"], "a restart begins anew");

    spec.limits.memory_bytes = Some(4 << 20);
    let fill: Vec<String> = (0..4).map(|n| format!("- fill k{n} 1000000")).collect();
    let fill: Vec<&str> = fill.iter().map(String::as_str).collect();
    let answers = ask(&node, &spec, &fill).await;
    assert!(answers[3].contains("memory limit exceeded"), "told, not killed: {answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaces_buckets_are_shared_and_stay() {
    let node = Node::new().await;
    let image = node.guest("storeprobe");
    let directory = node.dir.path().join("keyvalue/ns_uid");
    let of = || ContainerSpec { keyvalue_directory: Some(directory.clone()), ..node.spec(image.clone()).0 };
    assert_eq!(ask(&node, &of(), &["- set k v", "visits add n 1"]).await, ["set", "1"]);
    let counting = (0..8).map(|_| {
        let spec = of();
        let node = &node;
        async move { ask(node, &spec, &["visits add n 1", "visits add n 1"]).await }
    });
    futures::future::join_all(counting).await;
    assert_eq!(ask(&node, &of(), &["- get k", "visits get n", "visits keys"]).await, ["v", "17", "n"]);
    let other = ContainerSpec { keyvalue_directory: Some(node.dir.path().join("keyvalue/b_uid")), ..of() };
    assert_eq!(ask(&node, &other, &["- get k"]).await, ["none"], "another namespace's");
}
