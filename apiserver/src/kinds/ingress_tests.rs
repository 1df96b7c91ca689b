//! Ingresses that are refused, each for one reason, and how they are shown.

use super::*;
use crate::kinds::testing;

fn backend() -> Value {
    json!({"service": {"name": "s", "port": {"number": 80}}})
}

fn rule(host: &str, path: &str, path_type: &str) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"rules": [
        {"host": host, "http": {"paths": [{"path": path, "pathType": path_type, "backend": backend()}]}}
    ]}})
}

fn default(backend: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"defaultBackend": backend}})
}

#[test]
fn rules_lead_somewhere() {
    const PATH: &str = "spec.rules[0].http.paths[0].path";
    testing::invalid::<Ingress>(&[
        (
            json!({"metadata": {"name": "a"}}),
            "spec",
            "Invalid value: null: either `defaultBackend` or `rules` must be specified",
        ),
        (
            rule("10.0.0.1", "/", "Exact"),
            "spec.rules[0].host",
            "Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ),
        (
            rule("a.*", "/", "Exact"),
            "spec.rules[0].host",
            "Invalid value: \"a.*\": a wildcard DNS-1123 subdomain must",
        ),
        (rule("a", "x", "Exact"), PATH, "Invalid value: \"x\": must be an absolute path"),
        (rule("a", "", "Prefix"), PATH, "Invalid value: \"\": must be an absolute path"),
        (rule("a", "/a//b", "Prefix"), PATH, "Invalid value: \"/a//b\": must not contain '//'"),
        (rule("a", "/a/..", "Exact"), PATH, "Invalid value: \"/a/..\": cannot end with '/..'"),
        (rule("a", "x", "ImplementationSpecific"), PATH, "Invalid value: \"x\": must be an absolute path"),
        (
            rule("a", "/", ""),
            "spec.rules[0].http.paths[0].pathType",
            "Required value: pathType must be specified",
        ),
        (
            rule("a", "/", "X"),
            "spec.rules[0].http.paths[0].pathType",
            "Unsupported value: \"X\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ),
        (json!({"spec": {"rules": [{"http": {"paths": []}}]}}), "spec.rules[0].http.paths", "Required value"),
        (
            json!({"spec": {"defaultBackend": backend(), "tls": [{"hosts": ["A"]}]}}),
            "spec.tls[0].hosts[0]",
            "Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
        (
            json!({"spec": {"defaultBackend": backend(), "tls": [{"secretName": "A"}]}}),
            "spec.tls[0].secretName",
            "Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
        (
            json!({"spec": {"defaultBackend": backend(), "ingressClassName": "A"}}),
            "spec.ingressClassName",
            "Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
    ]);
    testing::valid::<Ingress>(&[
        rule("*.a.b", "/", "Exact"),
        rule("", "", "ImplementationSpecific"),
        default(backend()),
        default(json!({"resource": {"kind": "K", "name": "n"}})),
        json!({"spec": {"rules": [{"host": "a"}]}}),
    ]);
}

#[test]
fn backends_are_one_thing() {
    const AT: &str = "spec.defaultBackend";
    testing::invalid::<Ingress>(&[
        (default(json!({})), AT, "Invalid value: \"\": resource or service backend is required"),
        (
            default(json!({"resource": {"kind": "K", "name": "n"}, "service": {"name": "s"}})),
            AT,
            "Invalid value: \"\": cannot set both resource and service backends",
        ),
        (
            default(json!({"resource": {"kind": "", "name": "n"}})),
            "spec.defaultBackend.resource.kind",
            "Required value",
        ),
        (default(json!({"service": {"name": "s"}})), AT, "Required value: port name or number is required"),
        (
            default(json!({"service": {"name": "", "port": {"number": 1}}})),
            "spec.defaultBackend.service.name",
            "Required value",
        ),
        (
            default(json!({"service": {"name": "s", "port": {"number": 1, "name": "a"}}})),
            AT,
            "Invalid value: \"\": cannot set both port name & port number",
        ),
        (
            default(json!({"service": {"name": "s", "port": {"number": 65536}}})),
            "spec.defaultBackend.service.port.number",
            "Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
    ]);
}

#[test]
fn the_old_annotation_is_warned_of() {
    let annotated = json!({"metadata": {"name": "a", "annotations": {CLASS_ANNOTATION: "x"}}, "spec": {}});
    let ingress: Ingress = testing::defaulted(annotated);
    assert_eq!(ingress.warnings(None).len(), 1);
    assert!(ingress.warnings(Some(&ingress)).is_empty());
    let mut both = ingress;
    both.spec.as_mut().unwrap().ingress_class_name = Some("y".into());
    assert!(both.warnings(None).is_empty());
    let mut errors = Errors::default();
    both.validate_create(&mut errors);
    assert_eq!(errors.into_causes()[0].field, "annotations.kubernetes.io/ingress.class");
}

#[test]
fn columns() {
    let ingress = json!({"metadata": {"name": "a"}, "spec": {"ingressClassName": "c", "tls": [{}],
        "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "h"}, {"ip": "10.0.0.1"}]}}});
    let cells = testing::cells::<Ingress>(ingress);
    assert_eq!(cells, ["a", "c", "a,b,c + 1 more...", "10.0.0.1,10.0.0.2,h", "80, 443", "<unknown>"]);
    let bare = testing::cells::<Ingress>(json!({"metadata": {"name": "a"}}));
    assert_eq!(bare, ["a", "<none>", "*", "", "80", "<unknown>"]);
}
