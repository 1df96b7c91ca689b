//! Validation of a value against a schema, in the words of upstream's OpenAPI library. On updates, what was wrong before
//! and has not changed is let pass.

use coracle_client::status::Cause;
use serde_json::Value;

use super::formats;
use super::schema::{Additional, Schema};

/// What was found: errors, and how many checks went well, by which the best of failed alternatives is picked.
#[derive(Default)]
pub struct Found {
    pub errors: Vec<Cause>,
    passed: usize,
}

/// Where a value is.
const BODY: &str = "body";

impl Found {
    fn merge(&mut self, other: Found) {
        self.errors.extend(other.errors);
        self.passed += other.passed;
    }

    fn add(&mut self, reason: &str, path: &str, message: String) {
        let field = path.strip_prefix('.').unwrap_or(path).to_owned();
        self.errors.push(Cause { reason: reason.into(), message, field });
    }

    fn invalid(&mut self, path: &str, value: &Value, detail: String) {
        self.add("FieldValueInvalid", path, format!("Invalid value: {value}: {detail}"));
    }

    fn wrong_type(&mut self, path: &str, wanted: &str, found: &str) {
        let detail = format!("{path} in {BODY} must be of type {wanted}: {found:?}");
        self.add("FieldValueTypeInvalid", path, format!("Invalid value: {found:?}: {detail}"));
    }

    /// An error of no field: upstream's library says where in words only.
    fn whole(&mut self, message: String) {
        self.errors.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: \"\": {message}"),
            field: "<nil>".into(),
        });
    }
}

/// All that is wrong with a value. `path`: empty for a whole document. `old`: what it was before, where that is known.
pub fn check(schema: &Schema, path: &str, value: &Value, old: Option<&Value>) -> Found {
    let found = check_anew(schema, path, value, old);
    if !found.errors.is_empty() && old == Some(value) {
        return Found { errors: Vec::new(), passed: found.passed };
    }
    found
}

fn check_anew(schema: &Schema, path: &str, value: &Value, old: Option<&Value>) -> Found {
    let mut found = Found::default();
    check_type(schema, path, value, &mut found);
    if !value.is_null() {
        alternatives(schema, path, value, old, &mut found);
        match value {
            Value::String(text) => check_text(schema, path, text, &mut found),
            Value::Number(_) => check_number(schema, path, value, &mut found),
            Value::Array(items) => check_items(schema, path, items, old, &mut found),
            _ => {}
        }
    }
    if !schema.enumeration.is_empty() && !schema.enumeration.iter().any(|known| same(known, value)) {
        let names: Vec<String> = schema
            .enumeration
            .iter()
            .map(|known| format!("{:?}", known.as_str().map_or_else(|| known.to_string(), str::to_owned)))
            .collect();
        let message = format!("Unsupported value: {value}: supported values: {}", names.join(", "));
        found.add("FieldValueNotSupported", path, message);
    }
    if let Value::Object(_) = value {
        check_object(schema, path, value, old, &mut found);
    }
    found.passed += 1;
    found
}

/// Equality of JSON values, where 1 and 1.0 are the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn check_type(schema: &Schema, path: &str, value: &Value, found: &mut Found) {
    let wanted = match schema.type_.as_str() {
        "" if schema.int_or_string => "integer,string",
        type_ => type_,
    };
    if wanted.is_empty() && schema.format.is_empty() {
        return;
    }
    let wants = |type_: &str| wanted.split(',').any(|w| w == type_);
    let (type_, format) = match value {
        Value::Null => {
            if !wanted.is_empty() && !schema.nullable {
                found.wrong_type(path, wanted, "null");
            }
            return;
        }
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Number(number) if number.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    };
    let whole = value.as_f64().is_some_and(|v| v.fract() == 0.0) && type_ == "number" && wants("integer");
    let fits = wants(type_) || whole || (type_ == "integer" && wants("number"));
    let listed = matches!(value, Value::String(_) | Value::Array(_));
    if !schema.format.is_empty() {
        if !listed && !fits && format != schema.format {
            return found.wrong_type(path, &schema.format, format);
        }
        if listed && !wants("number") && !wants("integer") {
            found.passed += 1;
            return;
        }
    }
    if wanted.is_empty() || fits {
        found.passed += 1;
    } else {
        found.wrong_type(path, wanted, type_);
    }
}

fn alternatives(schema: &Schema, path: &str, value: &Value, old: Option<&Value>, found: &mut Found) {
    if !schema.any_of.is_empty() {
        let mut best: Option<Found> = None;
        let mut succeeded = false;
        for alternative in &schema.any_of {
            let result = check(alternative, path, value, old);
            if result.errors.is_empty() {
                succeeded = true;
                best = Some(result);
                break;
            }
            if best.as_ref().is_none_or(|best| result.passed > best.passed) {
                best = Some(result);
            }
        }
        if !succeeded {
            found.whole(format!("{path:?} must validate at least one schema (anyOf)"));
        }
        found.merge(best.unwrap_or_default());
    }
    if !schema.one_of.is_empty() {
        let mut best: Option<Found> = None;
        let mut valid = 0;
        for alternative in &schema.one_of {
            let result = check(alternative, path, value, old);
            if result.errors.is_empty() {
                valid += 1;
                best = None;
                if valid == 1 {
                    found.passed += result.passed;
                }
            } else if valid == 0 && best.as_ref().is_none_or(|best| result.passed > best.passed) {
                best = Some(result);
            }
        }
        if valid != 1 {
            let how_many = match valid {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            found.whole(format!("{path:?} must validate one and only one schema (oneOf). {how_many}"));
            found.merge(best.unwrap_or_default());
        }
    }
    if !schema.all_of.is_empty() {
        let mut valid = 0;
        for part in &schema.all_of {
            let result = check(part, path, value, old);
            valid += usize::from(result.errors.is_empty());
            found.merge(result);
        }
        if valid != schema.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            found.whole(format!("{path:?} must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(not) = &schema.not
        && check(not, path, value, old).errors.is_empty()
    {
        found.whole(format!("{path:?} must not validate the schema (not)"));
    }
    found.passed += 1;
}

/// The first thing wrong with a text.
fn check_text(schema: &Schema, path: &str, text: &str, found: &mut Found) {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let value = || Value::from(text);
    if let Some(max) = schema.max_length.filter(|max| length > *max) {
        found.add("FieldValueTooLong", path, format!("Too long: may not be more than {max} bytes"));
    } else if let Some(min) = schema.min_length.filter(|min| length < *min) {
        found.invalid(path, &value(), format!("{path} in {BODY} should be at least {min} chars long"));
    } else if let Some(pattern) = &schema.pattern {
        match &pattern.regex {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => {
                found.invalid(path, &value(), format!("{path} in {BODY} should match '{}'", pattern.source))
            }
            Err(why) => {
                let detail = format!(
                    "{path} in {BODY} should match '{}, but pattern is invalid: {why}'",
                    pattern.source
                );
                found.invalid(path, &value(), detail);
            }
        }
    }
    let textual = matches!(schema.type_.as_str(), "" | "string");
    if textual && !schema.format.is_empty() && !formats::matches(&schema.format, text) {
        let detail = format!("{path} in {BODY} must be of type {}: {text:?}", schema.format);
        found.add("FieldValueTypeInvalid", path, format!("Invalid value: {text:?}: {detail}"));
    }
}

/// A floating point number as Go's `%v` writes it.
fn go_number(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    value.to_string()
}

fn check_number(schema: &Schema, path: &str, value: &Value, found: &mut Found) {
    let Some(number) = value.as_f64() else { return };
    // Whole numbers are compared as such, without the loss of a floating point.
    let beyond = |limit: f64, exclusive: bool, over: bool| match value.as_i64() {
        Some(whole) => {
            let limit = limit as i64;
            if over {
                whole > limit || (exclusive && whole == limit)
            } else {
                whole < limit || (exclusive && whole == limit)
            }
        }
        None if over => number > limit || (exclusive && number == limit),
        None => number < limit || (exclusive && number == limit),
    };
    let shown = |limit: f64| if value.is_i64() { (limit as i64).to_string() } else { go_number(limit) };
    if schema.type_ == "integer"
        && schema.format == "int32"
        && !(-2_147_483_648.0..=2_147_483_647.0).contains(&number)
    {
        found.whole(format!("Checked value must be of type integer with format int32 in {path}"));
    }
    if let Some(factor) = schema.multiple_of {
        let quotient = number / factor;
        if factor > 0.0 && quotient != quotient.trunc() {
            found.invalid(path, value, format!("{path} in {BODY} should be a multiple of {}", shown(factor)));
        }
    }
    if let Some(limit) = schema.minimum.filter(|limit| beyond(*limit, schema.exclusive_minimum, false)) {
        let or_equal = if schema.exclusive_minimum { "" } else { " or equal to" };
        found.invalid(
            path,
            value,
            format!("{path} in {BODY} should be greater than{or_equal} {}", shown(limit)),
        );
    }
    if let Some(limit) = schema.maximum.filter(|limit| beyond(*limit, schema.exclusive_maximum, true)) {
        let or_equal = if schema.exclusive_maximum { "" } else { " or equal to" };
        found.invalid(
            path,
            value,
            format!("{path} in {BODY} should be less than{or_equal} {}", shown(limit)),
        );
    }
    found.passed += 1;
}

fn count(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn too_many(found: &mut Found, path: &str, size: i64, max: i64) {
    let items = if max == 1 { "item" } else { "items" };
    found.add("FieldValueTooMany", path, format!("Too many: {size}: must have at most {max} {items}"));
}

fn check_items(schema: &Schema, path: &str, items: &[Value], old: Option<&Value>, found: &mut Found) {
    if let Some(of_item) = &schema.items {
        let before = old.and_then(Value::as_array);
        for (i, item) in items.iter().enumerate() {
            let old = before.and_then(|before| correlated(schema, item, before));
            found.merge(check(of_item, &format!("{path}[{i}]"), item, old));
        }
    }
    let size = count(items.len());
    if let Some(min) = schema.min_items.filter(|min| size < *min) {
        found.invalid(path, &size.into(), format!("{path} in {BODY} should have at least {min} items"));
    }
    if let Some(max) = schema.max_items.filter(|max| size > *max) {
        too_many(found, path, size, max);
    }
    if schema.unique_items
        && items.iter().enumerate().any(|(i, item)| items.iter().take(i).any(|other| same(item, other)))
    {
        found.invalid(path, &"".into(), format!("{path} in {BODY} shouldn't contain duplicates"));
    }
    found.passed += 1;
}

/// The item that had the same keys before, in a list that is a map.
pub fn correlated<'v>(schema: &Schema, item: &Value, before: &'v [Value]) -> Option<&'v Value> {
    if !schema.is_map_list() {
        return None;
    }
    let of_item = schema.items.as_deref();
    let key = |item: &Value, name: &str| {
        let default =
            || of_item.and_then(|schema| schema.properties.get(name)).and_then(|s| s.default.clone());
        item.get(name).cloned().or_else(default)
    };
    let mut same_keys =
        before.iter().filter(|old| schema.list_map_keys.iter().all(|name| key(old, name) == key(item, name)));
    let found = same_keys.next();
    found.filter(|_| same_keys.next().is_none())
}

fn check_object(schema: &Schema, path: &str, value: &Value, old: Option<&Value>, found: &mut Found) {
    let Some(members) = value.as_object() else { return };
    let before = old.and_then(Value::as_object);
    let size = count(members.len());
    if let Some(min) = schema.min_properties.filter(|min| size < *min) {
        found.invalid(path, &size.into(), format!("{path} in {BODY} should have at least {min} properties"));
    }
    if let Some(max) = schema.max_properties.filter(|max| size > *max) {
        too_many(found, path, size, max);
    }
    for (name, member) in members {
        let old = before.and_then(|before| before.get(name));
        match (schema.properties.get(name), &schema.additional) {
            (Some(of_member), _) => {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                found.merge(check(of_member, &path, member, old));
            }
            (None, Additional::Schema(of_member)) => {
                found.merge(check(of_member, &format!("{path}.{name}"), member, old));
            }
            (None, Additional::Any(false)) => {
                found.invalid(
                    path,
                    &name.as_str().into(),
                    format!("{path}.{name} in {BODY} is a forbidden property"),
                );
            }
            _ => {}
        }
    }
    for name in schema.required.iter().filter(|name| !members.contains_key(*name)) {
        found.add("FieldValueRequired", &format!("{path}.{name}"), "Required value".into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(json: Value) -> Schema {
        Schema::of(&serde_json::from_value(json).unwrap())
    }

    fn lines(found: Found) -> Vec<String> {
        found.errors.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn every_rule_has_upstreams_words() {
        for (of, value, want) in [
            (
                json!({"type": "integer"}),
                json!("a"),
                r#"x: Invalid value: "string": x in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"x: Invalid value: "null": x in body must be of type string: "null""#,
            ),
            (
                json!({"type": "integer"}),
                json!(1.5),
                r#"x: Invalid value: "number": x in body must be of type integer: "number""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"x: Invalid value: "boolean": x in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("äöü"),
                "x: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                r#"x: Invalid value: "a": x in body should be at least 2 chars long"#,
            ),
            (
                json!({"type": "string", "pattern": "^a$"}),
                json!("b"),
                r#"x: Invalid value: "b": x in body should match '^a$'"#,
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"x: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "integer", "enum": [1, 2]}),
                json!(3),
                r#"x: Unsupported value: 3: supported values: "1", "2""#,
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("b"),
                r#"x: Invalid value: "b": x in body must be of type ipv4: "b""#,
            ),
            (
                json!({"type": "integer", "maximum": 5.0}),
                json!(6),
                "x: Invalid value: 6: x in body should be less than or equal to 5",
            ),
            (
                json!({"type": "integer", "minimum": 5.0, "exclusiveMinimum": true}),
                json!(5),
                "x: Invalid value: 5: x in body should be greater than 5",
            ),
            (
                json!({"type": "number", "minimum": 0.5}),
                json!(0.25),
                "x: Invalid value: 0.25: x in body should be greater than or equal to 0.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 3.0}),
                json!(4),
                "x: Invalid value: 4: x in body should be a multiple of 3",
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
                json!([1, 2]),
                "x: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "array", "minItems": 1, "items": {"type": "integer"}}),
                json!([]),
                "x: Invalid value: 0: x in body should have at least 1 items",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "x: Invalid value: 0: x in body should have at least 1 properties",
            ),
            (
                json!({"type": "object", "maxProperties": 1}),
                json!({"a": 1, "b": 2}),
                "x: Too many: 2: must have at most 1 item",
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "x.a: Required value"),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!(["a", 1]),
                r#"x[1]: Invalid value: "integer": x[1] in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"k": 1}),
                r#"x.k: Invalid value: "integer": x.k in body must be of type string: "integer""#,
            ),
            (
                json!({"not": {"enum": ["a"]}}),
                json!("a"),
                r#"<nil>: Invalid value: "": "x" must not validate the schema (not)"#,
            ),
            (
                json!({"oneOf": [{"minimum": 1.0}, {"maximum": 5.0}]}),
                json!(3),
                r#"<nil>: Invalid value: "": "x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ),
        ] {
            let of = schema(of);
            assert_eq!(lines(check(&of, "x", &value, None)), [want], "{value}");
        }
        let either = schema(json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}));
        assert_eq!(
            lines(check(&either, "x", &json!({}), None)),
            [
                r#"<nil>: Invalid value: "": "x" must validate at least one schema (anyOf)"#,
                "x.a: Required value"
            ]
        );
    }

    #[test]
    fn what_is_allowed_is_let_pass() {
        for (of, value) in [
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "integer"}), json!(3.0)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("50%")),
            (json!({"type": "string", "format": "novel"}), json!("x")),
            (json!({"type": "integer", "format": "int64"}), json!(7)),
            (json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"b": 1})),
            (json!({"allOf": [{"minimum": 1.0}, {"maximum": 5.0}]}), json!(3)),
        ] {
            assert_eq!(lines(check(&schema(of), "x", &value, None)), Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let of = schema(json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1},
            "list": {"type": "array", "items": {"type": "integer", "maximum": 1.0}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
                "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1.0}}}},
        }}));
        let old = json!({"a": "long", "list": [5], "map": [{"k": "x", "v": 5}, {"k": "y", "v": 5}]});
        for (new, errors) in [
            (old.clone(), 0),
            (json!({"a": "long", "list": [5], "map": [{"k": "z"}, {"k": "x", "v": 5}]}), 0),
            (json!({"a": "longer"}), 1),
            (json!({"a": "long", "list": [5, 0]}), 1),
            (json!({"a": "long", "map": [{"k": "x", "v": 6}]}), 1),
        ] {
            assert_eq!(check(&of, "", &new, Some(&old)).errors.len(), errors, "{new}");
        }
    }

    #[test]
    fn numbers_read_as_gos() {
        for (value, want) in
            [(0.5, "0.5"), (1e21, "1e+21"), (1e-7, "1e-07"), (123456789.5, "1.234567895e+08"), (0.0, "0")]
        {
            assert_eq!(go_number(value), want);
        }
    }
}
