//! Policies and bindings that are refused, each for one reason.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBinding,
};

use super::*;
use crate::kinds::testing;

fn matches() -> Value {
    json!({"resourceRules": [
        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    ]})
}

fn with(field: &str, value: Value) -> Value {
    let mut spec = json!({"matchConstraints": matches(), "validations": [{"expression": "true"}]});
    spec[field] = value;
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn mutating(field: &str, value: Value) -> Value {
    let mut spec = json!({"matchConstraints": matches(), "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]});
    spec[field] = value;
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn binding(field: &str, value: Value) -> Value {
    let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    spec[field] = value;
    json!({"metadata": {"name": "b"}, "spec": spec})
}

#[test]
fn policies_are_whole() {
    testing::valid::<ValidatingAdmissionPolicy>(&[with(
        "variables",
        json!([{"name": "v", "expression": "1"}]),
    )]);
    testing::invalid::<ValidatingAdmissionPolicy>(&[
        (
            with("failurePolicy", json!("X")),
            "spec.failurePolicy",
            "Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
        ),
        (with("matchConstraints", Value::Null), "spec.matchConstraints", "Required value"),
        (with("matchConstraints", json!({})), "spec.matchConstraints.resourceRules", "Required value"),
        (
            with(
                "matchConstraints",
                json!({"resourceRules": [{"apiGroups": ["a"], "apiVersions": ["v1"],
                "resources": ["b"], "operations": ["CREATE"], "resourceNames": ["a", "a"]}]}),
            ),
            "spec.matchConstraints.resourceRules[0].resourceNames[1]",
            "Duplicate value: \"a\"",
        ),
        (with("paramKind", json!({"kind": "K"})), "spec.paramKind.apiVersion", "Required value"),
        (
            with("paramKind", json!({"apiVersion": "a/b/c", "kind": "K"})),
            "spec.paramKind.apiVersion",
            "Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ),
        (
            with("paramKind", json!({"apiVersion": "a/v1", "kind": "K/"})),
            "spec.paramKind.kind",
            "Invalid value: \"K/\": may have mixed case, but should otherwise match: a DNS-1035 label",
        ),
        (
            with("matchConditions", json!([{"name": "a b", "expression": "true"}])),
            "spec.matchConditions[0].name",
            "Invalid value: \"a b\": name part must",
        ),
        (
            with("variables", json!([{"name": "in", "expression": "1"}])),
            "spec.variables[0].name",
            "Invalid value: \"in\": must be a valid CEL identifier",
        ),
        (
            with("variables", json!([{"name": "a", "expression": " "}])),
            "spec.variables[0].expression",
            "Required value: expression is not specified",
        ),
        (
            with("validations", json!([{"expression": ""}])),
            "spec.validations[0].expression",
            "Required value: expression is not specified",
        ),
        (
            with("validations", json!([{"expression": "object."}])),
            "spec.validations[0].expression",
            "Invalid value: \"object.\": compilation failed: ERROR: <input>:1:8: Syntax error",
        ),
        (
            with("validations", json!([{"expression": "1"}])),
            "spec.validations[0].expression",
            "Invalid value: \"1\": must evaluate to bool",
        ),
        (
            with("validations", json!([{"expression": "params.a == 1"}])),
            "spec.validations[0].expression",
            "Invalid value: \"params.a == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
        ),
        (
            with("validations", json!([{"expression": "true", "message": "a\nb"}])),
            "spec.validations[0].message",
            "Invalid value: \"a\\nb\": must not contain line breaks",
        ),
        (
            with("validations", json!([{"expression": "true", "messageExpression": " "}])),
            "spec.validations[0].messageExpression",
            "Invalid value: \" \": must be non-empty if specified",
        ),
        (
            with("validations", json!([{"expression": "true", "reason": "X"}])),
            "spec.validations[0].reason",
            "Unsupported value: \"X\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
        ),
        (
            with("auditAnnotations", json!([{"key": "a b", "valueExpression": "'x'"}])),
            "spec.auditAnnotations[0].key",
            "Invalid value: \"p/a b\": name part must",
        ),
        (
            with("auditAnnotations", json!([{"key": "a", "valueExpression": ""}])),
            "spec.auditAnnotations[0].valueExpression",
            "Required value: valueExpression is not specified",
        ),
    ]);
}

#[test]
fn mutations_are_of_one_type() {
    testing::valid::<MutatingAdmissionPolicy>(&[mutating("failurePolicy", json!("Ignore"))]);
    testing::invalid::<MutatingAdmissionPolicy>(&[
        (
            mutating("mutations", json!([])),
            "spec.mutations",
            "Required value: mutations must contain at least one item",
        ),
        (mutating("mutations", json!([{"patchType": ""}])), "spec.mutations[0].patchType", "Required value"),
        (
            mutating("mutations", json!([{"patchType": "X"}])),
            "spec.mutations[0].patchType",
            "Unsupported value: \"X\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
        ),
        (
            mutating("mutations", json!([{"patchType": "JSONPatch"}])),
            "spec.mutations[0].jsonPatch",
            "Required value: must be specified when patchType is JSONPatch",
        ),
        (
            mutating(
                "mutations",
                json!([{"patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": "Object{}"}, "jsonPatch": {"expression": "[]"}}]),
            ),
            "spec.mutations[0].jsonPatch",
            "Invalid value: \"{jsonPatch}\": must not be specified when patchType is ApplyConfiguration",
        ),
        (
            mutating("mutations", json!([{"patchType": "JSONPatch", "jsonPatch": {}}])),
            "spec.mutations[0].jsonPatch.expression",
            "Required value",
        ),
        (mutating("reinvocationPolicy", Value::Null), "spec.reinvocationPolicy", "Required value"),
        (
            mutating(
                "matchConstraints",
                json!({"resourceRules": [{"operations": ["DELETE"], "apiGroups": [""],
                "apiVersions": ["v1"], "resources": ["pods"]}]}),
            ),
            "spec.matchConstraints.resourceRules.operations",
            "Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
        ),
    ]);
}

#[test]
fn bindings_name_a_policy() {
    let reference = |field: &str, value: Value| {
        let mut reference = json!({"name": "n", "parameterNotFoundAction": "Deny"});
        reference[field] = value;
        binding("paramRef", reference)
    };
    testing::valid::<ValidatingAdmissionPolicyBinding>(&[reference("namespace", json!("x"))]);
    testing::invalid::<ValidatingAdmissionPolicyBinding>(&[
        (binding("policyName", json!("")), "spec.policyName", "Required value"),
        (binding("policyName", json!("A")), "spec.policyName", "Invalid value: \"A\": a lowercase RFC 1123"),
        (
            binding("validationActions", json!([])),
            "spec.validationActions",
            "Required value: at least one validation action is required",
        ),
        (
            binding("validationActions", json!(["X"])),
            "spec.validationActions[0]",
            "Unsupported value: \"X\": supported values: \"Audit\", \"Deny\", \"Warn\"",
        ),
        (
            binding("validationActions", json!(["Deny", "Deny"])),
            "spec.validationActions[1]",
            "Duplicate value: \"Deny\"",
        ),
        (
            binding("validationActions", json!(["Deny", "Warn"])),
            "spec.validationActions",
            "Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn",
        ),
        (
            reference("name", json!("")),
            "spec.paramRef",
            "Required value: one of name or selector must be specified",
        ),
        (
            reference("name", json!("a/b")),
            "spec.paramRef.name",
            "Invalid value: \"a/b\": may not contain '/'",
        ),
        (
            reference("parameterNotFoundAction", json!("X")),
            "spec.paramRef.parameterNotFoundAction",
            "Unsupported value: \"X\": supported values: \"Deny\", \"Allow\"",
        ),
    ]);
    testing::invalid::<MutatingAdmissionPolicyBinding>(&[(json!({}), "spec.policyName", "Required value")]);
}

#[test]
fn columns() {
    let policy = with("paramKind", json!({"apiVersion": "a/v1", "kind": "K"}));
    assert_eq!(testing::cells::<ValidatingAdmissionPolicy>(policy), ["p", "1", "a/v1/K", "<unknown>"]);
    let policy = mutating("failurePolicy", json!("Fail"));
    assert_eq!(testing::cells::<MutatingAdmissionPolicy>(policy), ["p", "1", "<unset>", "<unknown>"]);
    for (reference, want) in [
        (Value::Null, "<unset>"),
        (json!({"name": "n"}), "*/n"),
        (json!({"name": "n", "namespace": "x"}), "x/n"),
        (json!({"selector": {"matchLabels": {"a": "b"}}}), "a=b"),
    ] {
        let cells = testing::cells::<ValidatingAdmissionPolicyBinding>(binding("paramRef", reference));
        assert_eq!(cells, ["b", "p", want, "<unknown>"]);
    }
}
