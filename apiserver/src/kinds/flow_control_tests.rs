//! Flow schemas and priority levels that are refused, each for one reason.

use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;

use super::*;
use crate::kinds::testing;

fn user() -> Value {
    json!({"kind": "User", "user": {"name": "u"}})
}

fn schema(field: &str, value: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": "l"}});
    spec[field] = value;
    json!({"metadata": {"name": "s"}, "spec": spec})
}

fn subject(subject: Value) -> Value {
    let rule = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
    schema("rules", json!([{"subjects": [subject], "nonResourceRules": [rule]}]))
}

fn resource_rule(field: &str, value: Value) -> Value {
    let mut rule = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]});
    rule[field] = value;
    schema("rules", json!([{"subjects": [user()], "resourceRules": [rule]}]))
}

fn other_rule(field: &str, value: Value) -> Value {
    let mut rule = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]});
    rule[field] = value;
    schema("rules", json!([{"subjects": [user()], "nonResourceRules": [rule]}]))
}

fn limited(field: &str, value: Value) -> Value {
    let mut limited = json!({"limitResponse": {"type": "Reject"}});
    limited[field] = value;
    json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": limited}})
}

fn queuing(field: &str, value: Value) -> Value {
    let mut queuing = json!({});
    queuing[field] = value;
    limited("limitResponse", json!({"type": "Queue", "queuing": queuing}))
}

#[test]
fn schemas_are_whole() {
    testing::valid::<FlowSchema>(&[
        schema("matchingPrecedence", json!(10_000)),
        subject(user()),
        resource_rule("namespaces", json!(["a"])),
        other_rule("nonResourceURLs", json!(["/a/*", "/"])),
    ]);
    testing::invalid::<FlowSchema>(&[
        (
            schema("matchingPrecedence", json!(-1)),
            "spec.matchingPrecedence",
            "Invalid value: -1: must be a positive value",
        ),
        (
            schema("matchingPrecedence", json!(10_001)),
            "spec.matchingPrecedence",
            "Invalid value: 10001: must not be greater than 10000",
        ),
        (
            schema("matchingPrecedence", json!(1)),
            "spec.matchingPrecedence",
            "Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        ),
        (
            schema("distinguisherMethod", json!({"type": "X"})),
            "spec.distinguisherMethod.type",
            "Unsupported value: {\"Type\":\"X\"}: supported values: \"ByNamespace\", \"ByUser\"",
        ),
        (
            schema("priorityLevelConfiguration", json!({"name": ""})),
            "spec.priorityLevelConfiguration.name",
            "Required value: must reference a priority level",
        ),
        (
            schema("rules", json!([{"subjects": [user()]}])),
            "spec.rules[0]",
            "Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        ),
        (
            schema(
                "rules",
                json!([{"subjects": [], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]),
            ),
            "spec.rules[0].subjects",
            "Required value: subjects must contain at least one value",
        ),
        (
            json!({"metadata": {"name": "catch-all"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}}),
            "spec",
            "Invalid value: {\"matchingPrecedence\":1000,",
        ),
    ]);
}

#[test]
fn subjects_are_of_one_kind() {
    testing::invalid::<FlowSchema>(&[
        (
            subject(json!({"kind": "X"})),
            "spec.rules[0].subjects[0].kind",
            "Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
        ),
        (
            subject(json!({"kind": "User"})),
            "spec.rules[0].subjects[0].user",
            "Required value: user is required when subject kind is 'User'",
        ),
        (
            subject(json!({"kind": "User", "user": {"name": ""}})),
            "spec.rules[0].subjects[0].user.name",
            "Required",
        ),
        (
            subject(json!({"kind": "User", "user": {"name": "u"}, "group": {"name": "g"}})),
            "spec.rules[0].subjects[0].group",
            "Forbidden: group is forbidden when subject kind is not 'Group'",
        ),
        (
            subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": ""}})),
            "spec.rules[0].subjects[0].serviceAccount.namespace",
            "Required value: must specify namespace for service account",
        ),
    ]);
}

#[test]
fn rules_say_what() {
    testing::invalid::<FlowSchema>(&[
        (
            resource_rule("verbs", json!(["x"])),
            "spec.rules[0].resourceRules[0].verbs",
            "Unsupported value: [\"x\"]: supported values: \"create\", \"delete\",",
        ),
        (
            resource_rule("verbs", json!([])),
            "spec.rules[0].resourceRules[0].verbs",
            "Required value: verbs must contain at least one value",
        ),
        (
            resource_rule("apiGroups", json!(["*", "a"])),
            "spec.rules[0].resourceRules[0].apiGroups",
            "Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
        ),
        (
            resource_rule("namespaces", json!([])),
            "spec.rules[0].resourceRules[0].namespaces",
            "Required value: resource rules that are not cluster scoped must supply at least one namespace",
        ),
        (
            resource_rule("namespaces", json!(["A"])),
            "spec.rules[0].resourceRules[0].namespaces[0]",
            "Invalid value: \"A\": each member of this list must be '*' or a DNS-1123 label; a lowercase",
        ),
        (
            other_rule("nonResourceURLs", json!(["a"])),
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]",
            "Invalid value: \"a\": must start with slash",
        ),
        (
            other_rule("nonResourceURLs", json!(["/a*"])),
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]",
            "Invalid value: \"/a*\": wildcard can only do suffix matching",
        ),
    ]);
}

#[test]
fn levels_are_whole() {
    testing::valid::<PriorityLevelConfiguration>(&[
        limited("nominalConcurrencyShares", json!(0)),
        queuing("queues", json!(64)),
    ]);
    testing::invalid::<PriorityLevelConfiguration>(&[
        (
            json!({"metadata": {"name": "l"}, "spec": {"type": "Exempt"}}),
            "spec.type",
            "Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
        ),
        (json!({"metadata": {"name": "l"}, "spec": {"type": ""}}), "spec.type", "Required value"),
        (
            json!({"metadata": {"name": "l"}, "spec": {"type": "Limited"}}),
            "spec.limited",
            "Required value: must not be empty when type is Limited",
        ),
        (
            json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "exempt": {}, "limited": {"limitResponse": {"type": "Reject"}}}}),
            "spec.exempt",
            "Forbidden: must be nil if the type is Limited",
        ),
        (
            limited("nominalConcurrencyShares", json!(-1)),
            "spec.limited.nominalConcurrencyShares",
            "Invalid value: -1: must be a non-negative integer",
        ),
        (
            limited("lendablePercent", json!(101)),
            "spec.limited.lendablePercent",
            "Invalid value: 101: must be between 0 and 100, inclusive",
        ),
        (
            limited("borrowingLimitPercent", json!(-1)),
            "spec.limited.borrowingLimitPercent",
            "Invalid value: -1: if specified, must be a non-negative integer",
        ),
        (limited("limitResponse", json!({"type": ""})), "spec.limited.limitResponse.type", "Required value"),
        (
            limited("limitResponse", json!({"type": "Queue"})),
            "spec.limited.limitResponse.queuing",
            "Required value: must not be empty if limited.limitResponse.type is Limited",
        ),
        (
            limited("limitResponse", json!({"type": "Reject", "queuing": {}})),
            "spec.limited.limitResponse.queuing",
            "Forbidden: must be nil if limited.limitResponse.type is not Limited",
        ),
        (
            queuing("queues", json!(-1)),
            "spec.limited.limitResponse.queuing.queues",
            "Invalid value: -1: must be positive",
        ),
        (
            queuing("handSize", json!(65)),
            "spec.limited.limitResponse.queuing.handSize",
            "Invalid value: 65: should not be greater than queues (64)",
        ),
        (
            queuing("handSize", json!(20)),
            "spec.limited.limitResponse.queuing.handSize",
            "Invalid value: 20: required entropy bits of deckSize 64 and handSize 20 should not be greater than 60",
        ),
        (
            json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
            "spec",
            "Invalid value: {",
        ),
    ]);
}

#[test]
fn the_server_s_own_objects_are_valid() {
    for mut schema in built_in::flow_schemas() {
        let before = schema.clone();
        schema.set_defaults();
        assert_eq!(schema.spec, before.spec);
        let mut errors = Errors::default();
        schema.validate(&mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(
            built_in::priority_levels()
                .iter()
                .any(|l| l.metadata.name.as_ref() == Some(&schema.spec.priority_level_configuration.name))
        );
    }
    for mut level in built_in::priority_levels() {
        let before = level.clone();
        level.set_defaults();
        assert_eq!(level.spec, before.spec);
        let mut errors = Errors::default();
        level.validate(&mut errors);
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert_eq!((built_in::flow_schemas().len(), built_in::priority_levels().len()), (11, 8));
}

#[test]
fn columns() {
    let cells = testing::cells::<FlowSchema>(schema("distinguisherMethod", json!({"type": "ByUser"})));
    assert_eq!(cells, ["s", "l", "0", "ByUser", "<unknown>", "?"]);
    let level: PriorityLevelConfiguration = testing::defaulted(queuing("queues", json!(5)));
    let cells = testing::cells::<PriorityLevelConfiguration>(serde_json::to_value(level).unwrap());
    assert_eq!(cells, ["l", "Limited", "30", "5", "8", "50", "<unknown>"]);
}
