//! Manifests in the data directory: applied, kept, pruned, across restarts and servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::Path;

use harness::{Cluster, eventually};

fn map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  key: '{value}'\n")
}

/// As careful people write files: beside it, then moved.
fn write(cluster: &Cluster, file: &str, text: &str) {
    let path = cluster.data().join("manifests").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, path).unwrap();
}

fn remove(cluster: &Cluster, file: &str) {
    std::fs::remove_file(cluster.data().join("manifests").join(file)).unwrap();
}

fn value(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&format!("get configmap {name} --ignore-not-found -o jsonpath={{.data.key}}"))
}

fn until(cluster: &Cluster, name: &str, wanted: &str) {
    eventually(&format!("ConfigMap {name} = {wanted:?}"), || {
        let found = value(cluster, name);
        if found == wanted { Ok(()) } else { Err(found) }
    });
}

fn events(cluster: &Cluster, reason: &str) -> String {
    cluster.kubectl(&format!(
        "get events -n kube-system --field-selector reason={reason} -o jsonpath={{.items[*].message}}"
    ))
}

const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {oars: {type: integer}}}}
";

#[test]
fn manifests_are_applied_kept_and_pruned() {
    let mut cluster = Cluster::start();
    write(&cluster, "one.yaml", &format!("{}---\n{}", map("a", "1"), map("b", "1")));
    until(&cluster, "a", "1");
    until(&cluster, "b", "1");
    let owners = cluster
        .kubectl("get configmap a --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}");
    assert_eq!(owners, "coracle-addons");

    // Drift is put back, what was deleted comes again, and what others add stays.
    cluster.kubectl("patch configmap a --type=merge -p {\"data\":{\"key\":\"drift\",\"more\":\"mine\"}}");
    until(&cluster, "a", "1");
    assert_eq!(cluster.field("configmap/a", ".data.more"), "mine");
    cluster.kubectl("delete configmap b");
    until(&cluster, "b", "1");

    // A file follows its changes; what left it goes.
    write(&cluster, "one.yaml", &map("a", "2"));
    until(&cluster, "a", "2");
    until(&cluster, "b", "");

    // Files in directories, JSON, and an object that moves from one file to the other.
    write(
        &cluster,
        "sub/two.json",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"key":"1"}}"#,
    );
    until(&cluster, "c", "1");
    let uid = cluster.field("configmap/a", ".metadata.uid");
    write(&cluster, "zwei.yaml", &map("a", "3"));
    eventually("an event about two files", || {
        let said = events(&cluster, "ApplyManifestFailed");
        if said.contains("ConfigMap default/a is declared by one.yaml already") { Ok(()) } else { Err(said) }
    });
    remove(&cluster, "one.yaml");
    until(&cluster, "a", "3");
    assert_eq!(cluster.field("configmap/a", ".metadata.uid"), uid);

    // What leaves while nobody runs goes at the next start, also after a hard end.
    cluster.process().kill();
    remove(&cluster, "sub/two.json");
    write(&cluster, "zwei.yaml", &map("d", "1"));
    cluster.restart();
    until(&cluster, "c", "");
    until(&cluster, "d", "1");
    until(&cluster, "a", "");
    let records = cluster.kubectl(
        "get configmaps -n kube-system -l coracle.dev/addon-record -o jsonpath={.items[*].data.file}",
    );
    assert_eq!(records, "zwei.yaml");
}

#[test]
fn namespaces_and_definitions_come_first_and_unknown_kinds_are_waited_for() {
    let cluster = Cluster::start();
    let boat =
        "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: gig, namespace: sea}\nspec: {oars: 6}\n";
    write(&cluster, "a-boat.yaml", boat);
    eventually("an event about the unknown kind", || {
        let said = events(&cluster, "ApplyManifestFailed");
        if said.contains("document 1: Boat sea/gig: no matches for kind") { Ok(()) } else { Err(said) }
    });
    let rest = format!(
        "{}---\n{}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: sea}}\n---\n{DEFINITION}",
        map("x", "1"),
        "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: raft, namespace: sea}\nspec: {oars: 1}\n"
    );
    write(&cluster, "z-rest.yaml", &rest);
    for (name, oars) in [("gig", "6"), ("raft", "1")] {
        eventually(name, || {
            let found = cluster.try_kubectl(&format!("get boat {name} -n sea -o jsonpath={{.spec.oars}}"));
            if found.stdout == oars { Ok(()) } else { Err(found.stderr) }
        });
    }
    until(&cluster, "x", "1");
    cluster.kubectl("patch boat gig -n sea --type=merge -p {\"spec\":{\"oars\":1}}");
    eventually("six oars again", || {
        let found = cluster.kubectl("get boat gig -n sea -o jsonpath={.spec.oars}");
        if found == "6" { Ok(()) } else { Err(found) }
    });
    remove(&cluster, "a-boat.yaml");
    cluster.kubectl("wait boat/gig -n sea --for=delete --timeout=60s");
}

#[test]
fn a_bad_file_is_named_and_harms_no_other() {
    let mut cluster = Cluster::start();
    write(&cluster, "a.yaml", &map("a", "1"));
    until(&cluster, "a", "1");
    write(&cluster, "a.yaml", &format!("{}---\nkind: [\n", map("a", "2")));
    write(&cluster, "b.yaml", &map("b", "1"));
    let invalid = "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 99999}]}\n";
    write(&cluster, "c.yaml", &format!("{}{invalid}", map("c", "1")));
    until(&cluster, "b", "1");
    until(&cluster, "c", "1");
    for (reason, words) in [
        ("ParseManifestFailed", ["a.yaml", "document 2"]),
        ("ApplyManifestFailed", ["c.yaml", "document 2: Service default/s: Service \"s\" is invalid"]),
    ] {
        let said = eventually(reason, || {
            let said = events(&cluster, reason);
            if said.is_empty() { Err("no event".to_owned()) } else { Ok(said) }
        });
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert_eq!(value(&cluster, "a"), "1", "nothing of a bad file is applied, and nothing pruned");
    let log = cluster.process().log();
    assert!(log.lines().any(|line| line.contains("a.yaml") && line.contains("document 2")), "{log}");
    write(&cluster, "a.yaml", &map("a", "3"));
    until(&cluster, "a", "3");
}

#[test]
fn a_role_and_a_deployment_are_applied_as_by_an_administrator() {
    let cluster = Cluster::start_with_samples();
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: everything}\nrules:\n- {apiGroups: ['*'], resources: ['*'], verbs: ['*']}\n---\n";
    let sample = std::fs::read_dir(harness::repository("samples/hello-http")).unwrap();
    let mut text = role.to_owned();
    for path in sample.map(|entry| entry.unwrap().path()) {
        if Path::new(&path).extension().is_some_and(|e| e == "yaml") {
            text.push_str(&format!("{}\n---\n", std::fs::read_to_string(&path).unwrap()));
        }
    }
    write(&cluster, "hello.yaml", &text);
    eventually("the deployment", || {
        let found = cluster.try_kubectl("rollout status deployment/hello-http --timeout=60s");
        if found.stderr.is_empty() { Ok(()) } else { Err(found.stderr) }
    });
    assert_eq!(cluster.field("clusterrole/everything", ".rules[0].verbs[0]"), "*");
    cluster.kubectl("scale deployment hello-http --replicas=3");
    eventually("the replicas of the manifest", || {
        let found = cluster.field("deployment/hello-http", ".spec.replicas");
        if found == "2" { Ok(()) } else { Err(found) }
    });
    // The deployment's controller writes all the time, and that is no drift: it comes to rest.
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    assert_eq!(
        cluster.field("deployment/hello-http", ".status.observedGeneration"),
        cluster.field("deployment/hello-http", ".metadata.generation")
    );
}
