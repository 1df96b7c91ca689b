//! Helm, in its two major versions: a chart with hooks is installed, tested, upgraded, rolled back and uninstalled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, Kubectl, eventually, http_get, repository};

#[test]
fn helm_3_carries_a_release_through_its_life() {
    a_release_lives(3);
}

#[test]
fn helm_4_carries_a_release_through_its_life() {
    a_release_lives(4);
}

fn a_release_lives(major: u32) {
    let cluster = Cluster::start_with_samples();
    let helm = Kubectl::helm(major, &cluster.kubeconfig(), cluster.directory());
    let chart = repository("tests/fixtures/chart");
    let chart = chart.to_str().unwrap();
    let settings = |key: &str| cluster.field("configmap/web-settings", &format!(".data.{key}"));

    let installed = helm.attempt(&["install", "web", chart, "--wait", "--timeout", "60s"]).success();
    assert!(installed.contains("STATUS: deployed"), "{installed}");
    assert_eq!(cluster.field("pod/web-before", ".status.phase"), "Succeeded");
    assert!(cluster.kubectl("logs web-before").contains("hello"));
    assert_eq!((settings("greeting"), settings("revision")), ("hello".into(), "1".into()));
    let service = format!("{}:8080", cluster.field("service/web", ".spec.clusterIP"));
    let (_, body) = eventually("an answer", || http_get(&service, "/"));
    assert!(body.contains("version=v1"), "{body}");
    let before = cluster.field("pod/web-before", ".metadata.uid");

    let tested = helm.run("test web --timeout 60s");
    assert!(tested.contains("Succeeded"), "{tested}");

    let again = helm.attempt(&["install", "web", chart]).failure();
    assert!(again.contains("a name that is still in use"), "{again}");

    let upgrade = "--set version=v2,replicas=2,greeting=goodbye --wait --timeout 60s";
    let mut arguments = vec!["upgrade", "web", chart];
    arguments.extend(upgrade.split(' '));
    helm.attempt(&arguments).success();
    assert_ne!(cluster.field("pod/web-before", ".metadata.uid"), before, "the hook did not run again");
    assert_eq!((settings("greeting"), settings("revision")), ("goodbye".into(), "2".into()));
    assert_eq!(cluster.field("deployment/web", ".status.readyReplicas"), "2");
    let (_, body) = eventually("an answer", || http_get(&service, "/"));
    assert!(body.contains("version=v2"), "{body}");

    // An upgrade that cannot work changes nothing but the history.
    let mut arguments = vec!["upgrade", "web", chart, "--set", "replicas=many"];
    let refused = helm.attempt(&arguments).failure();
    assert!(refused.contains("replicas"), "{refused}");
    assert_eq!(cluster.field("deployment/web", ".spec.replicas"), "2");

    helm.run("rollback web 1 --wait --timeout 60s");
    assert_eq!((settings("greeting"), settings("revision")), ("hello".into(), "1".into()));
    assert_eq!(cluster.field("deployment/web", ".spec.replicas"), "1");
    let history = helm.run("history web");
    for part in ["superseded", "failed", "deployed", "Rollback to 1"] {
        assert!(history.contains(part), "{part} is not in\n{history}");
    }
    assert!(helm.run("list").contains("greeter-0.1.0"));
    assert!(helm.run("get manifest web").contains("kind: Deployment"));
    assert!(helm.run("status web").contains("STATUS: deployed"));
    arguments = vec!["upgrade", "web", chart, "--dry-run=server", "--set", "greeting=dry"];
    let dry = helm.attempt(&arguments).success();
    assert!(dry.contains("greeting: \"dry\""), "{dry}");
    assert_eq!(settings("greeting"), "hello");

    helm.run("uninstall web --wait --timeout 60s");
    let left = cluster
        .kubectl("get deployments,services,configmaps,serviceaccounts,roles,rolebindings,secrets -o name");
    for name in [
        "deployment.apps/web",
        "service/web",
        "serviceaccount/web",
        "role.rbac.authorization.k8s.io/web",
        "helm.release",
    ] {
        assert!(!left.contains(name), "{name} is left:\n{left}");
    }
    assert!(left.contains("configmap/web-after"), "{left}");
    assert!(!helm.run("list").contains("greeter"));
}
