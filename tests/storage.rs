//! Persistent storage as users see it: claims, classes, volumes, and data that is kept or gone when it should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::PathBuf;

use harness::{Cluster, eventually};

const COUNTER: &str = "coracle.dev/samples/counter:v1";

fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.import("counter/counter.wasm", "counter:v1");
    cluster.import("toolbox/toolbox.wasm", "toolbox:v1");
    cluster
}

fn claim(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}{spec}}}
---
"
    )
}

/// A pod that has `volume` at /data; `mount`: more of its volumeMount.
fn pod(name: &str, volume: &str, mount: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: data, {volume}}}]
  containers:
    - name: main
      image: {COUNTER}
      imagePullPolicy: IfNotPresent
      volumeMounts: [{{name: data, mountPath: /data{mount}}}]
---
"
    )
}

fn of_claim(name: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {name}}}")
}

fn ready(cluster: &Cluster, pod: &str) {
    cluster.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=60s"));
}

fn delete(cluster: &Cluster, what: &str) {
    cluster.kubectl(&format!("delete {what} --timeout=60s"));
}

fn wait_for(cluster: &Cluster, object: &str, path: &str, value: &str) {
    cluster.kubectl(&format!("wait --for=jsonpath={{{path}}}={value} {object} --timeout=60s"));
}

/// Runs a shell command in the pod.
fn shell(cluster: &Cluster, pod: &str, command: &str) -> String {
    let output = cluster.kubectl_version(33).attempt(&["exec", pod, "--", "sh", "-c", command]);
    output.success()
}

fn event(cluster: &Cluster, about: &str, part: &str) {
    eventually(part, || {
        let events = cluster.kubectl(&format!("events --for {about}"));
        if events.contains(part) { Ok(()) } else { Err(events) }
    });
}

/// The directories that volumes of the class `local-path` have on the node.
fn directories(cluster: &Cluster) -> Vec<PathBuf> {
    let found = std::fs::read_dir(cluster.data().join("local-path")).unwrap();
    found.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn data_is_kept_as_long_as_its_claim_and_no_longer() {
    let mut cluster = cluster();
    let classes = cluster.kubectl("get storageclass");
    assert!(
        classes.contains("local-path (default)") && classes.contains("WaitForFirstConsumer"),
        "{classes}"
    );
    cluster.apply(&claim("data", ""));
    event(&cluster, "pvc/data", "waiting for first consumer to be created before binding");
    assert_eq!(cluster.field("pvc/data", ".status.phase"), "Pending");
    assert_eq!(cluster.field("pvc/data", ".spec.storageClassName"), "local-path");

    cluster.apply(&pod("writer", &of_claim("data"), ""));
    ready(&cluster, "writer");
    assert_eq!(cluster.field("pvc/data", ".status.phase"), "Bound");
    event(&cluster, "pvc/data", "Successfully provisioned volume pvc-");
    let volume = cluster.field("pvc/data", ".spec.volumeName");
    assert_eq!(cluster.field(&format!("pv/{volume}"), ".status.phase"), "Bound");
    shell(&cluster, "writer", "echo kept > /data/file");
    assert_eq!(directories(&cluster).len(), 1);

    cluster.restart();
    ready(&cluster, "writer");
    assert_eq!(
        eventually("exec after the restart", || {
            let output = cluster.try_kubectl("exec writer -- cat /data/file");
            if output.code == Some(0) { Ok(output.stdout) } else { Err(output.stderr) }
        }),
        "kept\n"
    );

    delete(&cluster, "pod/writer");
    let reader = pod("reader", "persistentVolumeClaim: {claimName: data, readOnly: true}", "");
    cluster.apply(&reader);
    cluster.apply(&pod("part", &of_claim("data"), ", subPath: below/here"));
    ready(&cluster, "reader");
    ready(&cluster, "part");
    assert_eq!(shell(&cluster, "reader", "cat /data/file"), "kept\n");
    let refused =
        cluster.kubectl_version(33).attempt(&["exec", "reader", "--", "sh", "-c", "echo x > /data/file"]);
    refused.failure();
    shell(&cluster, "part", "echo deep > /data/file");
    assert_eq!(shell(&cluster, "reader", "cat /data/below/here/file"), "deep\n");

    // A claim in use is protected until its last pod is gone; then its data goes too.
    cluster.kubectl("delete pvc/data --wait=false");
    assert!(cluster.kubectl("get pvc data").contains("Terminating"));
    delete(&cluster, "pod/reader pod/part");
    cluster.kubectl("wait --for=delete pvc/data --timeout=60s");
    cluster.kubectl(&format!("wait --for=delete pv/{volume} --timeout=60s"));
    assert_eq!(directories(&cluster), Vec::<PathBuf>::new());
}

#[test]
fn retained_volumes_keep_their_data_and_claims_grow() {
    let cluster = cluster();
    cluster.apply(
        "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: kept}
provisioner: coracle.dev/local-path
reclaimPolicy: Retain
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
",
    );
    cluster.apply(&(claim("data", ", storageClassName: kept") + &pod("writer", &of_claim("data"), "")));
    ready(&cluster, "writer");
    shell(&cluster, "writer", "echo kept > /data/file");
    let volume = cluster.field("pvc/data", ".spec.volumeName");

    // With a pod the node completes it; without one it waits for the next.
    let grow = |size: &str| {
        let patch = format!("{{\"spec\":{{\"resources\":{{\"requests\":{{\"storage\":\"{size}\"}}}}}}}}");
        cluster.kubectl(&format!("patch pvc data -p {patch}"));
    };
    grow("2Gi");
    wait_for(&cluster, "pvc/data", ".status.capacity.storage", "2Gi");
    assert_eq!(cluster.field(&format!("pv/{volume}"), ".spec.capacity.storage"), "2Gi");
    assert_eq!(cluster.field("pvc/data", ".status.conditions"), "");
    event(&cluster, "pvc/data", "MountVolume.NodeExpandVolume succeeded");
    delete(&cluster, "pod/writer");
    grow("3Gi");
    cluster.kubectl("wait --for=condition=FileSystemResizePending pvc/data --timeout=60s");
    assert_eq!(cluster.field("pvc/data", ".status.capacity.storage"), "2Gi");
    cluster.apply(&pod("again", &of_claim("data"), ""));
    wait_for(&cluster, "pvc/data", ".status.capacity.storage", "3Gi");
    delete(&cluster, "pod/again");

    delete(&cluster, "pvc/data");
    wait_for(&cluster, &format!("pv/{volume}"), ".status.phase", "Released");
    delete(&cluster, &format!("pv/{volume}"));
    let left = directories(&cluster);
    assert_eq!(std::fs::read_to_string(left[0].join("file")).unwrap(), "kept\n", "Retain");
}

#[test]
fn volumes_made_by_hand_are_found_and_conflicts_are_named() {
    let cluster = cluster();
    let disk = cluster.directory().join("disk");
    std::fs::create_dir(&disk).unwrap();
    std::fs::write(disk.join("file"), "by hand\n").unwrap();
    let volume = |name: &str, size: &str, more: &str| {
        format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}, labels: {{disk: {name}}}}}
spec:
  capacity: {{storage: {size}}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: {}}}{more}
---
",
            disk.display()
        )
    };
    cluster.apply(&(volume("small", "1Mi", "") + &volume("fits", "2Gi", "") + &volume("large", "9Gi", "")));
    cluster.apply(&claim("data", ", storageClassName: manual"));
    wait_for(&cluster, "pvc/data", ".status.phase", "Bound");
    assert_eq!(cluster.field("pvc/data", ".spec.volumeName"), "fits");
    assert_eq!(cluster.field("pvc/data", ".status.capacity.storage"), "2Gi");
    cluster.apply(&claim("named", ", storageClassName: manual, volumeName: small"));
    event(&cluster, "pvc/named", "Cannot bind to requested volume \"small\": requested PV is too small");
    cluster.apply(&claim("none", ", storageClassName: ''"));
    event(&cluster, "pvc/none", "no persistent volumes available for this claim and no storage class is set");
    cluster.apply(&pod("reader", &of_claim("data"), ""));
    ready(&cluster, "reader");
    assert_eq!(shell(&cluster, "reader", "cat /data/file"), "by hand\n");

    // What is missing is said, and what comes late is taken.
    cluster.apply(&pod("early", &of_claim("late"), ""));
    event(&cluster, "pod/early", "persistentvolumeclaim \"late\" not found");
    cluster.apply(&pod("unbound", &of_claim("none"), ""));
    event(&cluster, "pod/unbound", "pod has unbound immediate PersistentVolumeClaims");
    let node = cluster.kubectl("get nodes -o name").trim().trim_start_matches("node/").to_owned();
    let placed =
        pod("placed", &of_claim("absent"), "").replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"));
    cluster.apply(&placed);
    event(&cluster, "pod/placed", "error processing PVC default/absent: failed to fetch PVC from API server");
    cluster.apply(&claim("late", ""));
    ready(&cluster, "early");

    // One pod at a time.
    let exclusive = volume("once", "1Gi", "") + &claim("alone", ", storageClassName: manual");
    let exclusive = exclusive.replace("ReadWriteOnce", "ReadWriteOncePod");
    cluster.apply(&(exclusive + &pod("first", &of_claim("alone"), "")));
    ready(&cluster, "first");
    cluster.apply(&pod("second", &of_claim("alone"), ""));
    event(
        &cluster,
        "pod/second",
        "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
    );
    delete(&cluster, "pod/first");
    ready(&cluster, "second");

    // A volume of somewhere else.
    let elsewhere = "
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [nowhere]}]}]}}
  claimRef: {namespace: default, name: far}";
    cluster.apply(&(volume("far", "1Gi", elsewhere) + &claim("far", ", storageClassName: manual")));
    wait_for(&cluster, "pvc/far", ".status.phase", "Bound");
    cluster.apply(&pod("astray", &of_claim("far"), ""));
    event(&cluster, "pod/astray", "1 node(s) didn't match PersistentVolume's node affinity");
}

#[test]
fn ephemeral_volumes_live_and_die_with_their_pod() {
    let cluster = cluster();
    let scratch = "ephemeral: {volumeClaimTemplate: {metadata: {labels: {kind: scratch}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}";
    cluster.apply(&pod("worker", scratch, ""));
    ready(&cluster, "worker");
    shell(&cluster, "worker", "echo scratch > /data/file");
    assert_eq!(cluster.field("pvc/worker-data", ".status.phase"), "Bound");
    assert_eq!(cluster.field("pvc/worker-data", ".metadata.ownerReferences[0].name"), "worker");
    let volume = cluster.field("pvc/worker-data", ".spec.volumeName");
    delete(&cluster, "pod/worker");
    cluster.kubectl("wait --for=delete pvc/worker-data --timeout=60s");
    cluster.kubectl(&format!("wait --for=delete pv/{volume} --timeout=60s"));
    assert_eq!(directories(&cluster), Vec::<PathBuf>::new());

    // A claim of that name that is somebody's is not taken.
    cluster.apply(&claim("other-data", ""));
    cluster.apply(&pod("other", scratch, ""));
    event(
        &cluster,
        "pod/other",
        "PVC default/other-data was not created for pod default/other (pod is not owner)",
    );
    assert_eq!(cluster.field("pod/other", ".status.phase"), "Pending");
}
