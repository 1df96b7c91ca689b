//! Bodies, and what is answered to them.

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;

fn config_map() -> KindDef {
    KindDef::of::<k8s_openapi::api::core::v1::ConfigMap>()
}

fn message(body_text: &str, validation: FieldValidation) -> String {
    match body(&config_map(), None, body_text.as_bytes(), validation) {
        Ok(_) => "fine".to_owned(),
        Err(error) => {
            assert_eq!((error.code(), error.reason()), (400, "BadRequest"));
            error.message().to_owned()
        }
    }
}

fn pod(text: &str) -> Result<(Pod, Vec<String>), ApiError> {
    document("v1", "Pod", None, text.as_bytes(), FieldValidation::Strict)
}

fn fails<T: DeserializeOwned + std::fmt::Debug>(kind: &str, text: &str) -> String {
    document::<T>("v1", kind, None, text.as_bytes(), FieldValidation::Warn).unwrap_err().message().to_owned()
}

#[test]
fn a_body_without_trouble() {
    let kind = config_map();
    for content_type in [None, Some("application/json"), Some("application/json; charset=utf-8")] {
        let text = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"}}"#;
        let decoded = body(&kind, content_type, text, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object.meta().name.as_deref(), Some("a"));
        assert!(decoded.warnings.is_empty());
    }
    let decoded = body(&kind, None, br#"{"metadata":{"name":"b"}}"#, FieldValidation::Strict).unwrap();
    assert_eq!(decoded.object.to_value().unwrap()["kind"], "ConfigMap");
}

#[test]
fn syntax() {
    for (text, want) in [
        (
            "",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse \
             error: unexpected end of JSON input (<empty>)",
        ),
        (
            "{\"a\":1",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse \
             error: unexpected end of JSON input ({\"a\":1)",
        ),
        (
            "xyz",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse \
             error: invalid character 'x' looking for beginning of value (78797a)",
        ),
        (
            r#"{"apiVersion":"v1","kind":"ConfigMap"} trailing"#,
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse \
             error: invalid character 't' after top-level value ({\"apiVersion\":\"v1\",\"kind\":\"Con ...)",
        ),
    ] {
        assert_eq!(message(text, FieldValidation::Ignore), want);
    }
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(message(&deep, FieldValidation::Warn).contains("json parse error: exceeded max depth"));
    assert!(message(r#"{"kind":5}"#, FieldValidation::Warn).contains(
        "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type \
         string"
    ));
}

#[test]
fn another_version_or_kind() {
    for (text, want) in [
        (
            r#"{"apiVersion":"v1beta1","kind":"ConfigMap"}"#,
            "ConfigMap in version \"v1beta1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \
             \"v1beta1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            r#"{"apiVersion":"apps/v1","kind":"ConfigMap"}"#,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \
             \"apps/v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Status"}"#,
            "Status in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Status) to (core.ConfigMap): unknown \
             conversion",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Frob"}"#,
            "Frob in version \"v1\" cannot be handled as a ConfigMap: no kind \"Frob\" is registered for version \"v1\" \
             in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
    ] {
        assert_eq!(message(text, FieldValidation::Warn), want);
    }
}

#[test]
fn unknown_and_duplicate_fields() {
    let text = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"},
        "foo":1},"Data":{},"data":{"k":"v"}}"#;
    let issues = [
        r#"duplicate field "metadata.name""#,
        r#"duplicate field "metadata.labels.x""#,
        r#"unknown field "metadata.foo""#,
        r#"unknown field "Data""#,
    ];
    assert_eq!(
        message(text, FieldValidation::Strict),
        format!(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {}",
            issues.join(", ")
        )
    );
    let warned = body(&config_map(), None, text.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, issues);
    assert_eq!(warned.object.meta().name.as_deref(), Some("b"));
    assert!(body(&config_map(), None, text.as_bytes(), FieldValidation::Ignore).unwrap().warnings.is_empty());

    let error =
        pod(r#"{"spec":{"containers":[{"name":"a","foo":1},{"ports":[{"containerport":1}]}]}}"#).unwrap_err();
    assert_eq!(
        error.message(),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
         \"spec.containers[0].foo\", unknown field \"spec.containers[1].ports[0].containerport\""
    );
}

#[test]
fn issues_are_bounded() {
    let fields: Vec<String> = (0..500).map(|n| format!("\"f{n}\":1")).collect();
    let text = format!("{{{}}}", fields.join(","));
    let warned = body(&config_map(), None, text.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 100);
}

#[test]
fn many_keys_in_a_map() {
    let mut keys: Vec<String> = (0..200).map(|n| format!("\"k{n}\":\"v\"")).collect();
    keys.push("\"k77\":\"w\"".to_owned());
    let text = format!("{{\"data\":{{{}}}}}", keys.join(","));
    let warned = body(&config_map(), None, text.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, [r#"duplicate field "data.k77""#]);
}

#[test]
fn wrong_types() {
    for (text, want) in [
        (
            r#"{"spec":{"containers":[{"ports":"x"}]}}"#,
            "cannot unmarshal string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort",
        ),
        (
            r#"{"spec":{"containers":{}}}"#,
            "cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"hostNetwork":"yes"}}"#,
            "cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (
            r#"{"spec":{"priority":"1"}}"#,
            "cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"priority":3000000000}}"#,
            "cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"terminationGracePeriodSeconds":1.5}}"#,
            "cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            r#"{"metadata":{"labels":{"a":5}}}"#,
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"metadata":{"labels":["a"]}}"#,
            "cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            r#"{"spec":{"containers":["x"]}}"#,
            "cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
        ),
        (
            r#"{"metadata":{"creationTimestamp":5}}"#,
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":true}}}]}}"#,
            "cannot unmarshal bool into Go struct field HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port \
             of type int32",
        ),
        (r#"{"spec":true}"#, "cannot unmarshal bool into Go struct field Pod.spec of type v1.PodSpec"),
    ] {
        assert_eq!(
            fails::<Pod>("Pod", text),
            format!("Pod in version \"v1\" cannot be handled as a Pod: json: {want}")
        );
    }
}

#[test]
fn quantities_times_and_bytes() {
    for (text, want) in [
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"abc"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
        ),
    ] {
        assert_eq!(
            fails::<Pod>("Pod", text),
            format!("Pod in version \"v1\" cannot be handled as a Pod: {want}")
        );
    }
    assert_eq!(
        fails::<Secret>("Secret", r#"{"data":{"k":"!!!!"}}"#),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
    );
    let (pod, _) = pod(
        r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":0.5,"memory":"1.5Gi","x":"1000m","y":2}}}]}}"#,
    )
    .unwrap();
    let limits = serde_json::to_value(&pod).unwrap()["spec"]["containers"][0]["resources"]["limits"].clone();
    assert_eq!(limits, json!({"cpu": "500m", "memory": "1536Mi", "x": "1", "y": "2"}));
}

#[test]
fn nulls_are_zero_values() {
    let (pod, _) = pod(r#"{"metadata":{"labels":{"a":null},"creationTimestamp":null},"spec":null}"#).unwrap();
    assert_eq!(pod.metadata.labels.unwrap()["a"], "");
    assert!(pod.spec.is_none());
    let (service, _) = document::<Service>(
        "v1",
        "Service",
        None,
        br#"{"spec":{"ports":[null,{"port":80,"targetPort":"http"},{"port":1,"targetPort":8080}]}}"#,
        FieldValidation::Strict,
    )
    .unwrap();
    assert_eq!(service.spec.unwrap().ports.unwrap().len(), 3);
}

#[test]
fn yaml() {
    let text = b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  hostNetwork: yes\n  containers:\n  - name: c\n    \
        image: x\n  volumes:\n  - name: v\n    configMap:\n      defaultMode: 0644\n";
    let (pod, warnings): (Pod, _) =
        document("v1", "Pod", Some("application/yaml"), text, FieldValidation::Strict).unwrap();
    assert!(warnings.is_empty());
    let spec = pod.spec.unwrap();
    assert_eq!(spec.host_network, Some(true));
    assert_eq!(spec.volumes.unwrap()[0].config_map.as_ref().unwrap().default_mode, Some(420));
    let twice = b"kind: Pod\nmetadata:\n  name: a\n  name: b\nspec:\n  foo: 1\n";
    let (pod, warnings): (Pod, _) =
        document("v1", "Pod", Some("application/yaml"), twice, FieldValidation::Warn).unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("b"));
    assert_eq!(warnings, ["line 4: key \"name\" already set in map", "unknown field \"spec.foo\""]);
}

#[test]
fn unknown_media_types() {
    let error = body(&config_map(), Some("text/plain"), b"{}", FieldValidation::Warn).err().unwrap();
    assert_eq!((error.code(), error.reason()), (415, "UnsupportedMediaType"));
}

#[test]
fn patch_results() {
    let kind = config_map();
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "foo": 1});
    assert_eq!(check_fields(&kind, &value, FieldValidation::Warn).unwrap(), [r#"unknown field "foo""#]);
    let error = patched(&kind, &value, FieldValidation::Strict).err().unwrap();
    assert_eq!((error.code(), error.reason()), (422, "Invalid"));
    assert!(
        error.message().starts_with(" \"\" is invalid: patch: Invalid value: \"{"),
        "{}",
        error.message()
    );
    assert!(error.message().ends_with("strict decoding error: unknown field \"foo\""), "{}", error.message());
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": 1}});
    let error = patched(&kind, &wrong, FieldValidation::Warn).err().unwrap();
    assert!(
        error
            .message()
            .ends_with("json: cannot unmarshal number into Go struct field ConfigMap.data of type string")
    );
}

#[test]
fn damaged_bodies_get_an_answer() {
    let kind = config_map();
    let json = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"\u00e9"}},"data":{"k":"v"}}"#;
    let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: a, labels: {x: y}}\ndata:\n  k: |\n    v\n  l: !t 5\n";
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize
    };
    for (content_type, good) in [("application/json", &json[..]), ("application/yaml", yaml)] {
        for _ in 0..3_000 {
            let mut bad = good.to_vec();
            for _ in 0..1 + random() % 3 {
                let at = random() % bad.len();
                match random() % 3 {
                    0 => bad[at] = random() as u8,
                    1 => bad.truncate(at.max(1)),
                    _ => bad.insert(at, b"{}[],:\"'&*!|>-\n \\0e"[random() % 19]),
                }
            }
            if let Err(error) = body(&kind, Some(content_type), &bad, FieldValidation::Strict) {
                assert_eq!(error.code(), 400, "{}", String::from_utf8_lossy(&bad));
            }
        }
    }
}

#[test]
fn what_a_strategic_patch_makes_is_restored_from_a_tree() {
    use k8s_openapi::api::apps::v1::Deployment;
    let kind = KindDef::of::<Deployment>();
    for (patch, want) in [
        (r#"{"spec":1}"#, "map[spec:1]\": cannot restore struct from: int64"),
        (r#"{"spec":{"replicas":"x"}}"#, "map[spec:map[replicas:x]]\": unrecognized type: int32"),
        (r#"{"spec":{"replicas":1.5}}"#, "map[spec:map[replicas:1.5]]\": cannot convert float64 to int32"),
        (r#"{"spec":{"paused":1}}"#, "map[spec:map[paused:1]]\": unrecognized type: bool"),
        (r#"{"metadata":{"labels":[1]}}"#, "map[metadata:map[labels:[1]]]\": cannot restore map from slice"),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "map[metadata:map[labels:map[a:1]]]\": cannot convert int64 to string",
        ),
        (
            r#"{"metadata":{"finalizers":{}}}"#,
            "map[metadata:map[finalizers:map[]]]\": cannot restore slice from map",
        ),
        (
            r#"{"metadata":{"creationTimestamp":5}}"#,
            "map[metadata:map[creationTimestamp:5]]\": json: cannot unmarshal number into Go value of type string",
        ),
        (r#"{"frob":1}"#, "map[frob:1]\": strict decoding error: unknown field \\\"frob\\\""),
    ] {
        let value: serde_json::Value = serde_json::from_str(patch).unwrap();
        let error =
            super::patched_as_tree(&kind, &value, FieldValidation::Strict, patch.as_bytes()).err().unwrap();
        let want = want.replace("\\\"", "\"");
        assert_eq!(error.message(), format!(" \"\" is invalid: patch: Invalid value: \"{want}"));
    }
}

#[test]
fn options_of_a_delete_fail_without_a_frame() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
    for (text, want) in [
        ("{", "couldn't get version/kind; json parse error: unexpected end of JSON input"),
        (
            r#"{"gracePeriodSeconds":"x"}"#,
            "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Status"}"#,
            "converting (v1.Status) to (v1.DeleteOptions): unknown conversion",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            "no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
    ] {
        let read = super::options::<DeleteOptions>("DeleteOptions", None, text.as_bytes());
        assert_eq!(read.err().unwrap().message(), want);
    }
    let fine = br#"{"apiVersion":"apps/v1","kind":"DeleteOptions","frob":1,"gracePeriodSeconds":3}"#;
    let read = super::options::<DeleteOptions>("DeleteOptions", None, fine).unwrap();
    assert_eq!(read.grace_period_seconds, Some(3));
}
