//! The `x-kubernetes-validations` of a schema, compiled, and what of an object breaks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::status::Cause;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, ValidationRule};
use serde_json::{Value, json};

use super::schema::{Additional, Schema};
use super::values::correlated;
use crate::cel::{
    Bindings, Budget, CompileError, DeclaredType, Environment, EvalErrorKind, Expected, Program, limits,
};
use crate::field_error::Errors;

const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// All rules of a schema.
pub struct Rules(Node);

/// The rules at one place of a schema and below it.
#[derive(Default)]
struct Node {
    rules: Vec<Compiled>,
    properties: BTreeMap<String, Node>,
    additional: Option<Box<Node>>,
    items: Option<Box<Node>>,
}

struct Compiled {
    said: ValidationRule,
    program: Result<Program, CompileError>,
    message: Option<Result<Program, CompileError>>,
}

impl Compiled {
    fn of(said: &ValidationRule, declared: &Arc<DeclaredType>) -> Self {
        let optional = said.optional_old_self == Some(true);
        let environment = Environment::for_rule(declared.clone(), optional);
        let program = environment.compile(said.rule.trim(), Expected::Bool);
        let expression = said.message_expression.as_deref().unwrap_or_default().trim();
        // Messages see the old object as it is.
        let environment = Environment::for_rule(declared.clone(), false);
        let message = (!expression.is_empty()).then(|| environment.compile(expression, Expected::String));
        Self { said: said.clone(), program, message }
    }

    fn is_transition(&self) -> bool {
        self.program.as_ref().is_ok_and(|program| program.uses("oldSelf"))
    }

    /// How errors name the rule.
    fn named(&self) -> &str {
        match self.said.message.as_deref().unwrap_or_default() {
            "" => self.said.rule.trim(),
            message => message.trim(),
        }
    }

    fn plain_message(&self) -> String {
        match self.said.message.as_deref().unwrap_or_default() {
            "" => format!("failed rule: {}", self.named()),
            message => message.trim().to_owned(),
        }
    }
}

impl Node {
    fn of(schema: &Schema, declared: Option<&Arc<DeclaredType>>) -> Self {
        let rules =
            declared.map(|declared| schema.rules.iter().map(|rule| Compiled::of(rule, declared)).collect());
        let properties = schema.properties.iter().filter_map(|(name, property)| {
            let node = Self::of(property, declared.and_then(|declared| declared.field(name)));
            (!node.is_empty()).then(|| (name.clone(), node))
        });
        let element = declared.and_then(|declared| declared.element());
        let inner = |schema: Option<&Schema>| {
            schema.map(|schema| Self::of(schema, element)).filter(|node| !node.is_empty()).map(Box::new)
        };
        let additional = match &schema.additional {
            Additional::Schema(schema) => Some(&**schema),
            _ => None,
        };
        Self {
            rules: rules.unwrap_or_default(),
            properties: properties.collect(),
            additional: inner(additional),
            items: inner(schema.items.as_deref()),
        }
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.properties.is_empty()
            && self.additional.is_none()
            && self.items.is_none()
    }
}

impl Rules {
    /// `open_api`: the schema as JSON. None: there are no rules.
    pub fn of(schema: &Schema, open_api: &Value) -> Option<Self> {
        let node = Node::of(schema, DeclaredType::from_schema(open_api, true).as_ref());
        (!node.is_empty()).then_some(Self(node))
    }

    /// What breaks a rule. `before`: the object as it was, on updates.
    pub fn check(&self, schema: &Schema, whole: &Value, before: Option<&Value>) -> Vec<Cause> {
        let mut check = Check { budget: Budget::object(), ended: false, causes: Vec::new() };
        check.node(&self.0, schema, "", whole, before);
        check.causes
    }
}

struct Check {
    budget: Budget,
    /// Nothing more is evaluated.
    ended: bool,
    causes: Vec<Cause>,
}

impl Check {
    fn node(&mut self, node: &Node, schema: &Schema, path: &str, value: &Value, old: Option<&Value>) {
        let old = old.filter(|old| !old.is_null());
        if value.is_null() || self.ended {
            return;
        }
        for rule in &node.rules {
            self.rule(rule, schema, path, value, old);
            if self.ended {
                return;
            }
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let old = old.and_then(|old| old.get(name));
                    let (inner, of_member, path) =
                        match (node.properties.get(name), schema.properties.get(name)) {
                            (Some(inner), Some(of_member)) => {
                                let path =
                                    if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                                (inner, of_member, path)
                            }
                            (None, None) => match (&node.additional, &schema.additional) {
                                (Some(inner), Additional::Schema(of_member)) => {
                                    (&**inner, &**of_member, format!("{path}[{name}]"))
                                }
                                _ => continue,
                            },
                            _ => continue,
                        };
                    self.node(inner, of_member, &path, member, old);
                }
            }
            Value::Array(items) => {
                let (Some(inner), Some(of_item)) = (&node.items, schema.items.as_deref()) else { return };
                let before = old.and_then(Value::as_array);
                for (i, item) in items.iter().enumerate() {
                    let old = before.and_then(|before| correlated(schema, item, before));
                    self.node(inner, of_item, &format!("{path}[{i}]"), item, old);
                }
            }
            _ => {}
        }
    }

    fn fault(&mut self, schema: &Schema, path: &str, detail: String) {
        let message = format!("Invalid value: {}: {detail}", json!(schema.type_));
        self.causes.push(Cause { reason: "FieldValueInvalid".into(), message, field: at(path) });
    }

    fn rule(&mut self, rule: &Compiled, schema: &Schema, path: &str, value: &Value, old: Option<&Value>) {
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => return self.fault(schema, path, format!("rule compile error: {error}")),
        };
        let optional = rule.said.optional_old_self == Some(true);
        if rule.is_transition() && old.is_none() && !optional {
            return;
        }
        let mut bindings = Bindings::new().json("self", value);
        bindings = match old {
            old if optional => bindings.optional("oldSelf", old),
            Some(old) => bindings.json("oldSelf", old),
            None => bindings,
        };
        let result = program.evaluate(&bindings, &mut self.budget).map(|value| value.as_bool());
        match result {
            Ok(Some(true)) => {}
            Ok(_) => self.broken(rule, schema, path, value, old),
            Err(error) => {
                let detail = match error.kind {
                    EvalErrorKind::NoSuchOverload => format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                        rule.named()
                    ),
                    EvalErrorKind::CallLimit => format!(
                        "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        rule.named()
                    ),
                    EvalErrorKind::Budget => error.to_string(),
                    EvalErrorKind::Ordinary => format!("{error} evaluating rule: {}", rule.named()),
                };
                self.ended = matches!(error.kind, EvalErrorKind::CallLimit | EvalErrorKind::Budget);
                self.fault(schema, path, detail);
            }
        }
    }

    /// A rule that does not hold; what was so before and has not changed is let pass.
    fn broken(&mut self, rule: &Compiled, schema: &Schema, path: &str, value: &Value, old: Option<&Value>) {
        let mut bindings = Bindings::new().json("self", value);
        if let Some(old) = old {
            bindings = bindings.json("oldSelf", old);
        }
        let message = match &rule.message {
            Some(Ok(program)) => match program.evaluate(&bindings, &mut self.budget) {
                Ok(text) => text
                    .as_str()
                    .map(str::trim)
                    .filter(|t| !t.is_empty() && !t.contains('\n'))
                    .map(str::to_owned),
                Err(error) if error.kind == EvalErrorKind::Budget => {
                    self.ended = true;
                    return self.fault(schema, path, error.to_string());
                }
                Err(_) => None,
            },
            _ => None,
        };
        if !rule.is_transition() && old == Some(value) {
            return;
        }
        let detail = message.unwrap_or_else(|| rule.plain_message());
        let field = match rule.said.field_path.as_deref().unwrap_or_default().trim() {
            "" => at(path),
            relative => at(format!("{path}{}", normal(relative)).trim_start_matches('.')),
        };
        let shown = match schema.type_.as_str() {
            "object" | "array" => String::new(),
            _ => format!("{value}: "),
        };
        let (reason, message) = match rule.said.reason.as_deref() {
            Some(reason @ "FieldValueForbidden") => (reason, format!("Forbidden: {detail}")),
            Some(reason @ "FieldValueRequired") => (reason, format!("Required value: {detail}")),
            Some(reason @ "FieldValueDuplicate") => (reason, format!("Duplicate value: {value}")),
            _ => ("FieldValueInvalid", format!("Invalid value: {shown}{detail}")),
        };
        self.causes.push(Cause { reason: reason.into(), message, field });
    }
}

fn at(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}

/// `.a['b.c']` as errors write it: `.a[b.c]`.
fn normal(path: &str) -> String {
    let path = path.replace("['", "[").replace("']", "]");
    if path.starts_with(['.', '[']) { path } else { format!(".{path}") }
}

/// How rules are written down, whatever they say.
pub fn check_form(props: &JSONSchemaProps, path: &str, errors: &mut Errors) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in props.x_kubernetes_validations.iter().flatten().enumerate() {
        let at = |name: &str| format!("{path}.x-kubernetes-validations[{i}].{name}");
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (message, expression) = (text(&rule.message), text(&rule.message_expression));
        if rule.rule.trim().is_empty() {
            errors.required(at("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(at("message"), &message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid(at("message"), &message, "must not contain line breaks");
        } else if breaks(rule.rule.trim()) && message.trim().is_empty() {
            errors.required(at("message"), "message must be specified if rule contains line breaks");
        }
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(at("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(at("reason"), reason, REASONS);
        }
        if let Some(field) = rule.field_path.as_deref().filter(|field| !field.is_empty()) {
            if field.trim().is_empty() {
                errors.invalid(at("fieldPath"), field, "must be non-empty if specified");
            }
            if breaks(field) {
                errors.invalid(at("fieldPath"), field, "must not contain line breaks");
            }
        }
    }
}

/// What the rules of a schema say: that they compile, and what they may cost. `unchanged`: the cost of each is not
/// asked again. `open_api`: the schema as JSON.
pub fn check_schema(schema: &Schema, open_api: &Value, path: &str, unchanged: bool, errors: &mut Errors) {
    let Some(declared) = DeclaredType::from_schema(open_api, true) else { return };
    let mut judged = Judged { unchanged, total: 0, costs: Vec::new(), errors };
    judged.schema(schema, Some(&declared), path, Some(1), None);
    let Judged { total, mut costs, errors, .. } = judged;
    if total > limits::DEFINITION {
        costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (at, _) in costs.iter().take(COSTLIEST_MAX) {
            let detail =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.forbidden(at.as_str(), detail);
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, &too_costly(what, total, limits::DEFINITION));
    }
}

/// Rules that an error about the cost of all of them names.
const COSTLIEST_MAX: usize = 4;

fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    let times = cost as f64 / limit as f64;
    let factor = if times > 100.0 {
        "more than 100x".to_owned()
    } else if times < 1.5 {
        format!("{times:.6}x")
    } else {
        format!("{times:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

struct Judged<'e> {
    unchanged: bool,
    total: u64,
    costs: Vec<(String, u64)>,
    errors: &'e mut Errors,
}

impl Judged<'_> {
    /// `times`: how often the value can be there, where that is bounded. `apart`: the list or map whose items cannot
    /// be found again in the old object.
    fn schema(
        &mut self,
        schema: &Schema,
        declared: Option<&Arc<DeclaredType>>,
        path: &str,
        times: Option<u64>,
        apart: Option<&str>,
    ) {
        for (name, property) in &schema.properties {
            let declared = declared.and_then(|declared| declared.field(name));
            self.schema(property, declared, &format!("{path}.properties[{name}]"), times, apart);
        }
        let element = declared.and_then(|declared| declared.element());
        let most = |max: Option<i64>| Some(times?.saturating_mul(u64::try_from(max?).ok()?));
        if let Additional::Schema(inner) = &schema.additional {
            let path = format!("{path}.additionalProperties");
            self.schema(inner, element, &path, most(schema.max_properties), apart);
        }
        if let Some(items) = schema.items.as_deref() {
            let apart = if schema.is_map_list() { apart } else { apart.or(Some(path)) };
            self.schema(items, element, &format!("{path}.items"), most(schema.max_items), apart);
        }
        let Some(declared) = declared else { return };
        for (i, rule) in schema.rules.iter().enumerate() {
            let compiled = Compiled::of(rule, declared);
            let path = format!("{path}.x-kubernetes-validations[{i}]");
            self.rule(&compiled, &path, times.unwrap_or_else(|| declared.cardinality_max()), apart);
        }
    }

    fn cost(&mut self, path: String, what: &str, program: &Program, times: u64) {
        let cost = program.estimated_cost().saturating_mul(times);
        if !self.unchanged && cost > limits::EXPRESSION {
            let detail = too_costly(&format!("estimated {what} cost"), cost, limits::EXPRESSION);
            self.errors.forbidden(path.as_str(), &detail);
        }
        self.total = self.total.saturating_add(cost);
        self.costs.push((path, cost));
    }

    fn rule(&mut self, rule: &Compiled, path: &str, times: u64, apart: Option<&str>) {
        let said = &rule.said;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let shown = json!({
            "Rule": said.rule, "Message": text(&said.message), "MessageExpression": text(&said.message_expression),
            "Reason": said.reason, "FieldPath": text(&said.field_path), "OptionalOldSelf": said.optional_old_self,
        });
        match &rule.program {
            Ok(program) => self.cost(format!("{path}.rule"), "rule", program, times),
            Err(error) => {
                self.errors.invalid(format!("{path}.rule"), Ordered(&shown), error.of_rule());
            }
        }
        match &rule.message {
            Some(Ok(program)) => {
                self.cost(format!("{path}.messageExpression"), "messageExpression", program, times)
            }
            Some(Err(error)) => {
                let detail = error.of_message_expression();
                self.errors.invalid(format!("{path}.messageExpression"), Ordered(&shown), detail);
            }
            None => {}
        }
        if rule.is_transition() {
            if let Some(apart) = apart {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}"
                );
                self.errors.invalid(format!("{path}.rule"), &said.rule, detail);
            }
        } else if let Some(optional) = said.optional_old_self {
            let detail = "may not be set if oldSelf is not used in rule";
            self.errors.invalid(format!("{path}.optionalOldSelf"), optional, detail);
        }
    }
}

/// A rule with its parts in the order in which upstream shows them.
struct Ordered<'v>(&'v Value);

impl serde::Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const ORDER: &[&str] =
            &["Rule", "Message", "MessageExpression", "Reason", "FieldPath", "OptionalOldSelf"];
        serializer.collect_map(ORDER.iter().map(|name| (name, self.0.get(name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn schema(open_api: &Value) -> Schema {
        Schema::of(&serde_json::from_value(open_api.clone()).unwrap())
    }

    #[test]
    fn rules_hold_or_are_named() {
        let open_api = json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "has(self.spec)", "message": "spec is needed"}],
            "properties": {"spec": {"type": "object",
                "x-kubernetes-validations": [
                    {"rule": "!has(self.max) || self.min <= self.max", "messageExpression": "\"min \" + string(self.min)", "fieldPath": ".min", "reason": "FieldValueForbidden"},
                    {"rule": "self.max >= oldSelf.max", "message": "max may not shrink"}],
                "properties": {
                    "min": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= 0"}]},
                    "max": {"type": "integer"},
                    "list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'x'"}]}}}}}});
        let schema = schema(&open_api);
        let rules = Rules::of(&schema, &open_api).unwrap();
        let spec = |spec: Value| json!({"spec": spec});
        for (new, old, want) in [
            (json!({}), None, vec!["<nil>: Invalid value: spec is needed"]),
            (spec(json!({"min": 1, "max": 2})), None, vec![]),
            (spec(json!({"min": 5, "max": 2})), None, vec!["spec.min: Forbidden: min 5"]),
            (
                spec(json!({"min": -1, "max": 2})),
                None,
                vec!["spec.min: Invalid value: -1: failed rule: self >= 0"],
            ),
            (
                spec(json!({"min": 1, "list": ["a", "x"]})),
                None,
                vec!["spec.list[1]: Invalid value: \"x\": failed rule: self != 'x'"],
            ),
            (
                spec(json!({"min": 1, "max": 2})),
                Some(spec(json!({"min": 1, "max": 3}))),
                vec!["spec: Invalid value: max may not shrink"],
            ),
            (spec(json!({"min": -1, "max": 4})), Some(spec(json!({"min": -1, "max": 3}))), vec![]),
        ] {
            assert_eq!(lines(rules.check(&schema, &new, old.as_ref())), want, "{new}");
        }
    }

    #[test]
    fn rules_are_judged_before_any_object() {
        let open_api = json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [{"rule": "self.nope > 1"}, {"rule": "1 + 1"}, {"rule": "self.a == 1", "optionalOldSelf": true}],
            "properties": {"a": {"type": "integer"}, "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5,
                "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}}}});
        let mut errors = Errors::default();
        check_schema(&schema(&open_api), &open_api, "s", false, &mut errors);
        let found = lines(errors.into_causes());
        for (found, want) in found.iter().zip([
            "s.properties[spec].properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[spec].properties[l]",
            "s.properties[spec].x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self.nope > 1\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: compilation failed: ERROR: <input>:1:5: undefined field 'nope'",
            "s.properties[spec].x-kubernetes-validations[1].rule: Invalid value: {\"Rule\":\"1 + 1\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: cel expression must evaluate to a bool",
            "s.properties[spec].x-kubernetes-validations[2].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ]) {
            assert!(found.starts_with(want), "{found}\n{want}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }
}
