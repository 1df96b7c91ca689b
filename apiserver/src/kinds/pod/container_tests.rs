//! One bad container per rule.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::kinds::testing;

fn pod(container: Value) -> Value {
    json!({"spec": {"containers": [container]}})
}

fn with(field: &str, value: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    container[field] = value;
    pod(container)
}

fn init(field: &str, value: Value) -> Value {
    let mut container = json!({"name": "i", "image": "i"});
    container[field] = value;
    json!({"spec": {"containers": [{"name": "c", "image": "i"}], "initContainers": [container]}})
}

#[test]
fn names_and_images() {
    testing::invalid::<Pod>(&[
        (json!({"spec": {}}), "spec.containers", "Required value"),
        (pod(json!({"image": "i"})), "spec.containers[0].name", "Required value"),
        (
            pod(json!({"name": "A", "image": "i"})),
            "spec.containers[0].name",
            "Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (pod(json!({"name": "c"})), "spec.containers[0].image", "Required value"),
        (
            with("image", json!(" i")),
            "spec.containers[0].image",
            "Invalid value: \" i\": must not have leading",
        ),
        (
            with("imagePullPolicy", json!("X")),
            "spec.containers[0].imagePullPolicy",
            "Unsupported value: \"X\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}}),
            "spec.containers[1].name",
            "Duplicate value: \"c\"",
        ),
        (init("name", json!("c")), "spec.initContainers[0].name", "Duplicate value: \"c\""),
        (
            init("livenessProbe", json!({"tcpSocket": {"port": 1}})),
            "spec.initContainers[0].livenessProbe",
            "Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            with("terminationMessagePolicy", json!("X")),
            "spec.containers[0].terminationMessagePolicy",
            "Unsupported value: \"X\"",
        ),
    ]);
}

#[test]
fn ports() {
    testing::invalid::<Pod>(&[
        (with("ports", json!([{}])), "spec.containers[0].ports[0].containerPort", "Required value"),
        (
            with("ports", json!([{"containerPort": 70000}])),
            "spec.containers[0].ports[0].containerPort",
            "Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            with("ports", json!([{"containerPort": 1, "protocol": "X"}])),
            "spec.containers[0].ports[0].protocol",
            "Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            with("ports", json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}])),
            "spec.containers[0].ports[1].name",
            "Duplicate value: \"a\"",
        ),
        (
            with("ports", json!([{"containerPort": 1, "name": "a--b"}])),
            "spec.containers[0].ports[0].name",
            "Invalid value: \"a--b\": must not contain consecutive hyphens",
        ),
        (
            with("ports", json!([{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}])),
            "spec.containers[0].ports[1].hostPort",
            "Duplicate value: \"TCP//5\"",
        ),
    ]);
}

#[test]
fn environment() {
    let at = |rest: &str| format!("spec.containers[0].env[0]{rest}");
    let cases = [
        (json!({"value": "a"}), at(".name"), "Required value"),
        (json!({"name": "a=b"}), at(".name"), "Invalid value: \"a=b\": a valid environment variable name"),
        (
            json!({"name": "a", "valueFrom": {}}),
            at(".valueFrom"),
            "Invalid value: \"\": must specify one of:",
        ),
        (
            json!({"name": "a", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            at(".valueFrom"),
            "Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}),
            at(".valueFrom.fieldRef.fieldPath"),
            "Unsupported value: \"spec.x\": supported values: \"metadata.name\"",
        ),
        (
            json!({"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a b']"}}}),
            at(".valueFrom.fieldRef.fieldPath"),
            "Invalid value: \"a b\": name part",
        ),
        (
            json!({"name": "a", "valueFrom": {"configMapKeyRef": {"name": "m"}}}),
            at(".valueFrom.configMapKeyRef.key"),
            "Required value",
        ),
        (
            json!({"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "x"}}}),
            at(".valueFrom.resourceFieldRef.resource"),
            "Unsupported value: \"x\"",
        ),
    ];
    for (env, field, message) in cases {
        testing::invalid::<Pod>(&[(with("env", json!([env])), &field, message)]);
    }
    testing::invalid::<Pod>(&[(
        with("envFrom", json!([{}])),
        "spec.containers[0].envFrom[0]",
        "Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
    )]);
    testing::valid::<Pod>(&[with(
        "env",
        json!([{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]),
    )]);
}

#[test]
fn mounts() {
    let pod = |mount: Value| json!({"spec": {"volumes": [{"name": "v"}], "containers": [{"name": "c", "image": "i", "volumeMounts": mount}]}});
    testing::invalid::<Pod>(&[
        (
            pod(json!([{"name": "w", "mountPath": "/w"}])),
            "spec.containers[0].volumeMounts[0].name",
            "Not found: \"w\"",
        ),
        (pod(json!([{"name": "v"}])), "spec.containers[0].volumeMounts[0].mountPath", "Required value"),
        (
            pod(json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}])),
            "spec.containers[0].volumeMounts[1].mountPath",
            "Invalid value: \"/a\": must be unique",
        ),
        (
            pod(json!([{"name": "v", "mountPath": "/a", "subPath": "../b"}])),
            "spec.containers[0].volumeMounts[0].subPath",
            "Invalid value: \"../b\": must not contain '..'",
        ),
    ]);
}

#[test]
fn probes_and_hooks() {
    testing::invalid::<Pod>(&[
        (
            with("livenessProbe", json!({})),
            "spec.containers[0].livenessProbe",
            "Required value: must specify a handler type",
        ),
        (
            with("livenessProbe", json!({"tcpSocket": {"port": 1}, "exec": {"command": ["a"]}})),
            "spec.containers[0].livenessProbe.tcpSocket",
            "Forbidden: may not specify more than 1 handler type",
        ),
        (
            with("livenessProbe", json!({"tcpSocket": {"port": 1}, "successThreshold": 2})),
            "spec.containers[0].livenessProbe.successThreshold",
            "Invalid value: 2: must be 1",
        ),
        (
            with("readinessProbe", json!({"httpGet": {"port": 0}})),
            "spec.containers[0].readinessProbe.httpGet.port",
            "Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            with("readinessProbe", json!({"httpGet": {"port": 80, "scheme": "X"}})),
            "spec.containers[0].readinessProbe.httpGet.scheme",
            "Unsupported value: \"X\": supported values: \"HTTP\", \"HTTPS\"",
        ),
        (
            with("readinessProbe", json!({"tcpSocket": {"port": "http"}, "periodSeconds": -1})),
            "spec.containers[0].readinessProbe.periodSeconds",
            "Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            with("lifecycle", json!({"preStop": {"exec": {}}})),
            "spec.containers[0].lifecycle.preStop.exec.command",
            "Required value",
        ),
        (
            with("lifecycle", json!({"preStop": {"sleep": {"seconds": 60}}})),
            "spec.containers[0].lifecycle.preStop.sleep",
            "Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
    ]);
}

#[test]
fn rights() {
    testing::invalid::<Pod>(&[
        (
            with("securityContext", json!({"runAsUser": -1})),
            "spec.containers[0].securityContext.runAsUser",
            "Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            with("securityContext", json!({"privileged": true, "allowPrivilegeEscalation": false})),
            "spec.containers[0].securityContext",
            "Invalid value: ",
        ),
        (
            with("securityContext", json!({"seccompProfile": {"type": "X"}})),
            "spec.containers[0].securityContext.seccompProfile.type",
            "Unsupported value: \"X\"",
        ),
    ]);
}
