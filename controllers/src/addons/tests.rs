//! Tables of what manifests come to, and the manager over a fake API and a real directory.

use std::path::Path;

use coracle_client::fake::Fake;
use coracle_client::{Object, Resource};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::plan::{self, Reference};
use super::{Addons, FIELD_MANAGER};
use crate::Options;
use crate::manifest::documents;
use crate::testing::{Cluster, from};

fn resource(api_version: &str, kind: &str) -> Option<Resource> {
    match (api_version, kind) {
        ("v1", "ConfigMap") => Some(Resource::new("", "v1", "configmaps", "ConfigMap", true)),
        ("v1", "Namespace") => Some(Resource::new("", "v1", "namespaces", "Namespace", false)),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => Some(Resource::new(
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            "CustomResourceDefinition",
            false,
        )),
        _ => None,
    }
}

fn reference(line: &str) -> Reference {
    Reference::from_line(line).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn documents_become_objects_in_the_right_order() {
    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    let crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: boats.example.com}\n";
    let boat = "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: b, namespace: sea}\n";
    let space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: sea, namespace: ignored}\n";
    for (texts, want, failures) in [
        (vec![map("a")], vec!["v1 ConfigMap default/a"], vec![]),
        (
            vec![boat.to_owned(), map("a"), crd.to_owned(), space.to_owned()],
            vec![
                "v1 Namespace /sea",
                "apiextensions.k8s.io/v1 CustomResourceDefinition /boats.example.com",
                "example.com/v1 Boat sea/b",
                "v1 ConfigMap default/a",
            ],
            vec![],
        ),
        (
            vec![map("a"), map("a")],
            vec!["v1 ConfigMap default/a"],
            vec![(2, "ConfigMap default/a is declared by document 1 already")],
        ),
        (
            vec![map("''"), map("b")],
            vec!["v1 ConfigMap default/b"],
            vec![(1, "ConfigMap: metadata.name not set")],
        ),
        (vec![], vec![], vec![]),
    ] {
        let text = texts.join("---\n");
        let (items, failed) = plan::items(&documents(&text).unwrap(), resource);
        let lines: Vec<_> = plan::ordered(items).iter().map(|item| item.reference.line()).collect();
        assert_eq!(lines, want, "{text}");
        let failures: Vec<_> = failures.into_iter().map(|(n, w): (usize, &str)| (n, w.to_owned())).collect();
        assert_eq!(failed, failures, "{text}");
    }
}

#[test]
fn an_object_of_two_files_is_the_first_ones() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n";
    let (items, _) = plan::items(&documents(text).unwrap(), resource);
    let (ours, failed) =
        plan::uncontested(items, |reference| (reference.name == "b").then(|| "0.yaml".into()));
    assert_eq!(ours.len(), 1);
    assert_eq!(failed, [(2, "ConfigMap default/b is declared by 0.yaml already".to_owned())]);
}

#[test]
fn what_left_goes_and_what_lives_in_it_first() {
    for (recorded, declared, want) in [
        (vec!["v1 ConfigMap a/b"], vec!["v1 ConfigMap a/b"], vec![]),
        (vec!["v1 ConfigMap a/b", "v1 ConfigMap a/c"], vec!["v1 ConfigMap a/c"], vec!["v1 ConfigMap a/b"]),
        // Another version of the same object.
        (
            vec!["autoscaling/v1 HorizontalPodAutoscaler a/b"],
            vec!["autoscaling/v2 HorizontalPodAutoscaler a/b"],
            vec![],
        ),
        // Another group's kind of the same name is another object.
        (vec!["x/v1 Boat a/b"], vec!["y/v1 Boat a/b"], vec!["x/v1 Boat a/b"]),
        (
            vec!["v1 Namespace /a", "apiextensions.k8s.io/v1 CustomResourceDefinition /c", "v1 Secret a/b"],
            vec![],
            vec!["v1 Secret a/b", "apiextensions.k8s.io/v1 CustomResourceDefinition /c", "v1 Namespace /a"],
        ),
        (vec![], vec!["v1 Secret a/b"], vec![]),
    ] {
        let all = |lines: &[&str]| lines.iter().map(|l| reference(l)).collect::<Vec<_>>();
        let gone: Vec<_> = plan::gone(&all(&recorded), &all(&declared)).iter().map(Reference::line).collect();
        assert_eq!(gone, want, "{recorded:?} {declared:?}");
    }
}

#[test]
fn lines_of_records_are_read_as_written() {
    for line in ["v1 ConfigMap a/b", "apps/v1 Deployment a/b", "v1 Namespace /a"] {
        assert_eq!(reference(line).line(), line);
    }
    for bad in ["", "v1", "v1 ConfigMap", "v1 ConfigMap name"] {
        assert_eq!(Reference::from_line(bad), None, "{bad}");
    }
}

#[test]
fn only_what_matters_is_a_difference() {
    let object = |value: Value| Object::parse(value.to_string().into(), &[]).unwrap();
    let base = || json!({"metadata": {"name": "a", "resourceVersion": "1", "generation": 1, "labels": {"x": "y"}}, "spec": {"n": 1}, "status": {"n": 1}});
    for (path, value, want) in [
        ("/metadata/resourceVersion", json!("2"), false),
        ("/metadata/generation", json!(2), false),
        ("/status", json!({"n": 2}), false),
        ("/spec/n", json!(2), true),
        ("/metadata/labels", json!({}), true),
    ] {
        let mut changed = base();
        *changed.pointer_mut(path).unwrap() = value;
        assert_eq!(plan::differs(&object(base()), &object(changed)), want, "{path}");
    }
}

#[test]
fn marks_are_added_to_what_is_there() {
    for meta in [json!({"name": "a"}), json!({"name": "a", "labels": null, "annotations": {"k": "v"}})] {
        let object = json!({"kind": "X", "metadata": meta});
        let marked = plan::marked(object.as_object().unwrap().clone(), super::LABEL, "rec", "f.yaml");
        assert_eq!(marked["metadata"]["labels"][super::LABEL], "rec");
        assert_eq!(marked["metadata"]["annotations"][plan::FILE_ANNOTATION], "f.yaml");
    }
}

struct Site {
    cluster: Cluster,
    directory: TempDir,
}

fn map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: '{value}'}}\n")
}

impl Site {
    fn new(files: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        Self::over(Fake::new(), directory)
    }

    fn over(fake: std::sync::Arc<Fake>, directory: TempDir) -> Self {
        let addons = Addons { directory: directory.path().into(), client: fake.client(FIELD_MANAGER) };
        let cluster = Cluster::over(fake, Options { addons: Some(addons), ..Options::default() });
        cluster.start(|c| Box::pin(super::run(c)));
        Self { cluster, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn value(&self, name: &str) -> Option<String> {
        self.cluster.fake.get::<ConfigMap>("default", name)?.data?.get("k").cloned()
    }

    /// Real time: the directory's changes come from the kernel.
    async fn until(&self, what: &str, check: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if check(self) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    fn records(&self) -> usize {
        self.cluster.fake.list::<ConfigMap>("kube-system").len()
    }
}

#[tokio::test]
async fn files_are_applied_kept_and_pruned() {
    let both = format!("{}---\n{}", map("a", "1"), map("b", "1"));
    let site = Site::new(&[("one.yaml", both), ("two.yaml", map("c", "1")), ("note.txt", "no".into())]);
    site.until("all applied", |s| ["a", "b", "c"].iter().all(|n| s.value(n).as_deref() == Some("1"))).await;
    // Drift is put back, and so is what was deleted.
    let mut drifted = site.cluster.fake.get::<ConfigMap>("default", "a").unwrap();
    drifted.data = Some([("k".to_owned(), "drift".to_owned())].into());
    site.cluster.fake.put(&drifted).unwrap();
    site.until("a is back", |s| s.value("a").as_deref() == Some("1")).await;
    site.cluster.fake.remove::<ConfigMap>("default", "c");
    site.until("c is back", |s| s.value("c").is_some()).await;
    // What leaves a file goes, the rest follows it.
    std::fs::write(site.path().join("one.yaml"), map("a", "2")).unwrap();
    site.until("b is gone", |s| s.value("b").is_none() && s.value("a").as_deref() == Some("2")).await;
    std::fs::create_dir(site.path().join("sub")).unwrap();
    std::fs::write(site.path().join("sub/three.yaml"), map("d", "1")).unwrap();
    site.until("d in a new directory", |s| s.value("d").is_some()).await;
    std::fs::remove_file(site.path().join("two.yaml")).unwrap();
    site.until("c is gone, and its record", |s| s.value("c").is_none() && s.records() == 2).await;
    assert_eq!(site.value("a").as_deref(), Some("2"));
}

#[tokio::test]
async fn an_object_that_moves_between_files_stays() {
    let site = Site::new(&[("a.yaml", map("x", "1")), ("b.yaml", map("y", "1"))]);
    site.until("applied", |s| s.value("x").is_some() && s.value("y").is_some()).await;
    let uid = site.cluster.fake.get::<ConfigMap>("default", "x").unwrap().metadata.uid;
    std::fs::write(site.path().join("b.yaml"), format!("{}---\n{}", map("y", "1"), map("x", "2"))).unwrap();
    // The first file has it until it gives it up.
    site.until("said", |s| {
        s.cluster
            .events()
            .iter()
            .any(|(_, m)| m.contains("document 2: ConfigMap default/x is declared by a.yaml already"))
    })
    .await;
    std::fs::remove_file(site.path().join("a.yaml")).unwrap();
    site.until("b has it", |s| s.value("x").as_deref() == Some("2")).await;
    assert_eq!(
        site.cluster.fake.get::<ConfigMap>("default", "x").unwrap().metadata.uid,
        uid,
        "never deleted"
    );
}

#[tokio::test]
async fn a_bad_file_keeps_what_it_had_and_harms_no_other() {
    let site = Site::new(&[("a.yaml", map("x", "1"))]);
    site.until("applied", |s| s.value("x").is_some()).await;
    std::fs::write(site.path().join("a.yaml"), format!("{}---\nkind: [\n", map("x", "2"))).unwrap();
    std::fs::write(site.path().join("b.yaml"), map("y", "1")).unwrap();
    site.until("the other one", |s| s.value("y").is_some()).await;
    site.until("an event", |s| {
        s.cluster.events().iter().any(|(r, m)| r == "ParseManifestFailed" && m.contains("document 2"))
    })
    .await;
    assert_eq!(site.value("x").as_deref(), Some("1"), "nothing of a bad file is applied, nothing pruned");
    std::fs::write(site.path().join("a.yaml.skip"), "").unwrap();
    std::fs::remove_file(site.path().join("a.yaml")).unwrap();
    std::fs::write(site.path().join("a.yaml"), map("z", "1")).unwrap();
    std::fs::remove_file(site.path().join("a.yaml.skip")).unwrap();
    site.until("z for x", |s| s.value("z").is_some() && s.value("x").is_none()).await;
}

#[tokio::test]
async fn what_left_while_nobody_led_goes_at_the_next_start() {
    let site = Site::new(&[
        ("a.yaml", format!("{}---\n{}", map("x", "1"), map("y", "1"))),
        ("b.yaml", map("z", "1")),
    ]);
    site.until("applied", |s| ["x", "y", "z"].iter().all(|n| s.value(n).is_some())).await;
    let Site { cluster, directory } = site;
    let fake = cluster.fake.clone();
    drop(cluster);
    std::fs::remove_file(directory.path().join("b.yaml")).unwrap();
    std::fs::write(directory.path().join("a.yaml"), map("x", "1")).unwrap();
    // Somebody made y anew meanwhile: it is theirs.
    fake.put(&from::<ConfigMap>(
        json!({"metadata": {"name": "y", "namespace": "default"}, "data": {"k": "own"}}),
    ))
    .unwrap();
    let site = Site::over(fake, directory);
    site.until("z is gone", |s| s.value("z").is_none()).await;
    site.until("one record", |s| s.records() == 1).await;
    assert_eq!(site.value("y").as_deref(), Some("own"));
    assert_eq!(site.value("x").as_deref(), Some("1"));
}
