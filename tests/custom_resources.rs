//! Custom resources as kubectl's users meet them: defined, explained, made, applied, scaled and gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::{Path, PathBuf};

use harness::{Cluster, eventually};

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: crontabs.stable.example.com
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= 10", message: "not more than ten"}
            properties:
              cronSpec: {type: string, description: "When it runs."}
              replicas: {type: integer, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
"#;

const OBJECT: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine}
spec: {cronSpec: "* * * * *"}
"#;

fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn says(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in:\n{text}");
}

#[test]
fn a_kind_of_ones_own() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let k = |command: &str| cluster.kubectl(command);
    let definition = file(directory.path(), "crd.yaml", DEFINITION);
    let object = file(directory.path(), "mine.yaml", OBJECT);
    let (definition, object) = (definition.display(), object.display());
    says(&k(&format!("apply -f {definition}")), "created");
    k("wait --for condition=established crd/crontabs.stable.example.com --timeout 20s");
    says(&k(&format!("apply -f {object}")), "crontab.stable.example.com/mine created");
    says(&k(&format!("apply -f {object}")), "unchanged");
    says(&k("get crd"), "CREATED AT");
    let listed = k("get ct");
    for part in ["SPEC", "REPLICAS", "AGE", "* * * * *", "mine"] {
        says(&listed, part);
    }
    says(&k("explain crontab.spec.cronSpec"), "When it runs.");
    says(&k("api-resources --api-group stable.example.com"), "CronTab");
    says(&k("get all"), "crontab.stable.example.com/mine");
    k("scale crontab mine --replicas 3");
    assert_eq!(k("get crontab mine -o jsonpath={.spec.replicas}"), "3");
    says(&cluster.try_kubectl("scale crontab mine --replicas 11").failure(), "not more than ten");
    k(&format!("apply --server-side --force-conflicts -f {object}"));
    says(&k("label crontab mine a=b"), "labeled");
    says(&k("get crontab -l a=b -o name"), "mine");
    let bad = file(directory.path(), "bad.yaml", &OBJECT.replace("cronSpec", "cronspec"));
    says(
        &cluster.try_kubectl(&format!("apply -f {}", bad.display())).failure(),
        "unknown field \"spec.cronspec\"",
    );
    k("delete crd crontabs.stable.example.com --timeout 30s");
    eventually("the resource to be gone", || {
        let answer = cluster.try_kubectl("get --raw /apis/stable.example.com");
        if answer.stderr.contains("NotFound") || answer.stderr.contains("not find") {
            Ok(())
        } else {
            Err(answer.stderr)
        }
    });
}
