//! What admission adds to objects: default classes, finalizers, taints; and the one default priority.

use serde_json::{Value, json};

use crate::harness::Server;

const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

#[tokio::test]
async fn claims_get_the_default_class_and_a_finalizer() {
    let server = Server::start().await;
    let plain = server.post(CLAIMS, claim("plain")).await.expect(201);
    assert_eq!(plain.json["spec"].get("storageClassName"), None);
    assert_eq!(plain.json["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let class = json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/disk", "allowVolumeExpansion": false});
    server.post(CLASSES, class).await.expect(201);
    let mut made = server.post(CLAIMS, claim("fast")).await.expect(201).json;
    assert_eq!(made["spec"]["storageClassName"], "fast");
    let mut none = claim("none");
    none["spec"]["storageClassName"] = json!("");
    assert_eq!(server.post(CLAIMS, none).await.expect(201).json["spec"]["storageClassName"], "");
    made["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    let refused = server.put(&format!("{CLAIMS}/fast"), made).await;
    assert!(refused.code >= 400, "{}", refused.json);
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/v"}}});
    let volume = server.post("/api/v1/persistentvolumes", volume).await.expect(201);
    assert_eq!(volume.json["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
}

#[tokio::test]
async fn ingresses_get_the_default_class() {
    let server = Server::start().await;
    let class = json!({"metadata": {"name": "c", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "example.com/c"}});
    server.post("/apis/networking.k8s.io/v1/ingressclasses", class).await.expect(201);
    let ingress = json!({"metadata": {"name": "i"},
        "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let made = server.post(path, ingress.clone()).await.expect(201);
    assert_eq!(made.json["spec"]["ingressClassName"], "c");
    assert_eq!(made.json["status"], json!({"loadBalancer": {}}));
    let mut annotated = ingress;
    annotated["metadata"] = json!({"name": "j", "annotations": {"kubernetes.io/ingress.class": "x"}});
    let made = server.post(path, annotated).await.expect(201);
    assert_eq!(made.json["spec"].get("ingressClassName"), None);
    let warning = made.headers["warning"].to_str().unwrap();
    assert!(warning.contains("annotation \\\"kubernetes.io/ingress.class\\\" is deprecated"), "{warning}");
}

#[tokio::test]
async fn new_nodes_are_tainted_and_one_priority_is_the_default() {
    let server = Server::start().await;
    let node = server.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.expect(201);
    assert_eq!(
        node.json["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 1, "globalDefault": true});
    server.post(path, class("a")).await.expect(201);
    server.put(&format!("{path}/a"), class("a")).await.expect(200);
    let refused = server.post(path, class("b")).await.expect(403);
    assert_eq!(
        refused.message(),
        "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass a is already marked as default. Only one default can exist"
    );
}
