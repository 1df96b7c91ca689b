//! Webhooks that are refused, each for one reason.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use serde_json::Value;

use super::*;
use crate::kinds::testing;

fn hook() -> Value {
    json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "n", "name": "s"}}})
}

fn with(field: &str, value: Value) -> Value {
    let mut hook = hook();
    hook[field] = value;
    json!({"metadata": {"name": "a"}, "webhooks": [hook]})
}

fn rule(field: &str, value: Value) -> Value {
    let mut rule =
        json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    rule[field] = value;
    with("rules", json!([rule]))
}

fn service(field: &str, value: Value) -> Value {
    let mut service = json!({"namespace": "n", "name": "s"});
    service[field] = value;
    with("clientConfig", json!({"service": service}))
}

fn at_url(url: &str) -> Value {
    with("clientConfig", json!({ "url": url }))
}

#[test]
fn webhooks_are_whole() {
    testing::valid::<ValidatingWebhookConfiguration>(&[
        json!({}),
        with("timeoutSeconds", json!(30)),
        with("matchConditions", json!([{"name": "c", "expression": "object.metadata.name != 'skip-me'"}])),
        rule("resources", json!(["pods", "pods/log"])),
        rule("resources", json!(["*", "*/scale"])),
        service("path", json!("/a/b/")),
        at_url("https://h:8443/a"),
    ]);
    testing::invalid::<ValidatingWebhookConfiguration>(&[
        (with("name", json!("")), "webhooks[0].name", "Required value"),
        (with("name", json!("A.b.c")), "webhooks[0].name", "Invalid value: \"A.b.c\": a lowercase RFC 1123"),
        (
            with("name", json!("a.b")),
            "webhooks[0].name",
            "Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
        ),
        (json!({"webhooks": [hook(), hook()]}), "webhooks[1].name", "Duplicate value: \"a.b.c\""),
        (
            with("sideEffects", json!("")),
            "webhooks[0].sideEffects",
            "Required value: must specify one of None, NoneOnDryRun",
        ),
        (
            with("sideEffects", json!("Some")),
            "webhooks[0].sideEffects",
            "Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            with("matchConditions", json!([{"name": "c", "expression": "..."}])),
            "webhooks[0].matchConditions[0].expression",
            "Invalid value: \"...\": compilation failed",
        ),
        (
            with("failurePolicy", json!("X")),
            "webhooks[0].failurePolicy",
            "Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
        ),
        (
            with("matchPolicy", json!("X")),
            "webhooks[0].matchPolicy",
            "Unsupported value: \"X\": supported values: \"Equivalent\", \"Exact\"",
        ),
        (
            with("timeoutSeconds", json!(31)),
            "webhooks[0].timeoutSeconds",
            "Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            with("admissionReviewVersions", json!([])),
            "webhooks[0].admissionReviewVersions",
            "Required value: must specify one of v1, v1beta1",
        ),
        (
            with("admissionReviewVersions", json!(["v2"])),
            "webhooks[0].admissionReviewVersions",
            "Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ),
        (
            with("admissionReviewVersions", json!(["v1", "v1"])),
            "webhooks[0].admissionReviewVersions[1]",
            "Invalid value: \"v1\": duplicate version",
        ),
        (
            with("matchConditions", json!([{"name": "a", "expression": ""}])),
            "webhooks[0].matchConditions[0].expression",
            "Required value",
        ),
        (
            with("objectSelector", json!({"matchLabels": {"a": "b c"}})),
            "webhooks[0].objectSelector.matchLabels",
            "Invalid value: \"b c\": a valid label",
        ),
    ]);
}

#[test]
fn webhooks_can_be_called() {
    const URL: &str = "webhooks[0].clientConfig.url";
    testing::invalid::<ValidatingWebhookConfiguration>(&[
        (
            with("clientConfig", json!({})),
            "webhooks[0].clientConfig",
            "Required value: exactly one of url or service is required",
        ),
        (at_url("http://h"), URL, "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired"),
        (at_url("https:///a"), URL, "Invalid value: \"\": host must be specified; desired format"),
        (at_url("https://u@h"), URL, "Invalid value: \"u\": user information is not permitted in the URL"),
        (at_url("https://h#f"), URL, "Invalid value: \"f\": fragments are not permitted in the URL"),
        (at_url("https://h?q"), URL, "Invalid value: \"q\": query parameters are not permitted in the URL"),
        (
            service("port", json!(0)),
            "webhooks[0].clientConfig.service.port",
            "Invalid value: 0: port is not valid:",
        ),
        (
            service("path", json!("ab")),
            "webhooks[0].clientConfig.service.path",
            "Invalid value: \"ab\": must start with a '/'",
        ),
        (
            service("path", json!("/A")),
            "webhooks[0].clientConfig.service.path",
            "Invalid value: \"/A\": segment[0]: a lowercase RFC 1123",
        ),
    ]);
}

#[test]
fn rules_do_not_repeat_themselves() {
    const RESOURCES: &str = "webhooks[0].rules[0].resources";
    testing::invalid::<ValidatingWebhookConfiguration>(&[
        (rule("operations", json!([])), "webhooks[0].rules[0].operations", "Required value"),
        (
            rule("operations", json!(["X"])),
            "webhooks[0].rules[0].operations[0]",
            "Unsupported value: \"X\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            rule("operations", json!(["*", "CREATE"])),
            "webhooks[0].rules[0].operations",
            "Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
        ),
        (
            rule("apiGroups", json!(["*", "a"])),
            "webhooks[0].rules[0].apiGroups",
            "Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups",
        ),
        (rule("apiVersions", json!([""])), "webhooks[0].rules[0].apiVersions[0]", "Required value"),
        (rule("resources", json!([])), RESOURCES, "Required value"),
        (rule("resources", json!([""])), "webhooks[0].rules[0].resources[0]", "Required value"),
        (
            rule("resources", json!(["pods/*", "pods/log"])),
            "webhooks[0].rules[0].resources[1]",
            "Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
        ),
        (
            rule("resources", json!(["*/log", "pods/log"])),
            "webhooks[0].rules[0].resources[1]",
            "Invalid value: \"pods/log\": if '*/log' is present, must not specify pods/log",
        ),
        (
            rule("resources", json!(["*/*", "pods"])),
            RESOURCES,
            "Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
        ),
        (
            rule("resources", json!(["*", "pods"])),
            RESOURCES,
            "Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without",
        ),
        (
            rule("scope", json!("X")),
            "webhooks[0].rules[0].scope",
            "Unsupported value: \"X\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
        ),
    ]);
}

#[test]
fn what_is_left_out_is_said() {
    let object: ValidatingWebhookConfiguration = testing::defaulted(rule("scope", Value::Null));
    let hook = object.webhooks.unwrap().remove(0);
    assert_eq!(hook.failure_policy.as_deref(), Some("Fail"));
    assert_eq!(hook.match_policy.as_deref(), Some("Equivalent"));
    assert_eq!(hook.timeout_seconds, Some(10));
    assert_eq!(hook.rules.unwrap()[0].scope.as_deref(), Some("*"));
    assert_eq!(hook.client_config.service.unwrap().port, Some(443));
}
