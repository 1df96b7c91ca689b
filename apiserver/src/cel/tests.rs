//! Whole expressions, compiled and evaluated.

use serde_json::{Value as Json, json};

use super::*;

/// What an expression without variables says: its value as JSON, or what is wrong.
fn said(source: &str) -> String {
    let program = match Environment::new().compile(source, Expected::Any) {
        Ok(program) => program,
        Err(error) => {
            return format!(
                "compile: {}",
                error.mistakes.first().map_or(String::new(), |mistake| mistake.message.clone())
            );
        }
    };
    match program.evaluate(&Bindings::new(), &mut Budget::object()) {
        Ok(value) => value.to_json().map_or_else(|| format!("{value:?}"), |json| json.to_string()),
        Err(error) => format!("error: {error}"),
    }
}

fn all_say(cases: &[(&str, &str)]) {
    for (source, expected) in cases {
        assert_eq!(said(source), *expected, "{source}");
    }
}

#[test]
fn operators() {
    all_say(&[
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("-(1) - -1", "0"),
        ("!true || !!true", "true"),
        (
            "1 < 1.5 && 2u > 1 && 1.0 == 1",
            "compile: found no matching overload for '_==_' applied to '(double, int)'",
        ),
        ("dyn(1.0) == 1", "true"),
        ("1 < 1.5 && 2u > 1", "true"),
        ("'a' + 'b' == 'ab' && b'a' < b'b'", "true"),
        ("[1] + [2, 3]", "[1,2,3]"),
        ("1 in [1, 2] && 'a' in {'a': 1}", "true"),
        ("true ? 1 : 2", "1"),
        ("[1, 2][1]", "2"),
        ("[1, 2][2]", "error: index out of bounds: 2"),
        ("{'a': 1}['b']", "error: no such key: b"),
        ("{'a': 1}.a", "1"),
        ("has({'a': 1}.b)", "false"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("0u - 1u", "error: unsigned integer overflow"),
        ("-9223372036854775808 / -1", "error: integer overflow"),
        ("1 / 0", "error: division by zero"),
        ("1 % 0", "error: modulus by zero"),
        ("1.0 / 0.0 > 1.0", "true"),
        ("false && 1 / 0 == 1", "false"),
        ("1 / 0 == 1 || true", "true"),
        ("1 / 0 == 1 && true", "error: division by zero"),
        ("{1: 'a'}[dyn(1u)]", "\"a\""),
        ("type(1) == int && type('') == string && type([]) == list && type(type(1)) == type", "true"),
        ("null == null", "true"),
        ("[1, 'a']", "compile: expected type 'int' but found 'string'"),
        ("dyn([1, 2]) == [1.0, 2.0]", "true"),
    ]);
}

#[test]
fn macros_of_one_and_two_variables() {
    all_say(&[
        ("[1, 2, 3].all(x, x > 0)", "true"),
        ("[1, 0].all(x, 1 / x == 2)", "false"),
        ("[0, 1].all(x, 1 / x > 1)", "false"),
        ("[0, 1].exists(x, 1 / x == 1)", "true"),
        ("[0].exists(x, 1 / x == 1)", "error: division by zero"),
        ("[1, 2, 2].exists_one(x, x == 2)", "false"),
        ("[1, 2, 3].map(x, x * 2)", "[2,4,6]"),
        ("[1, 2, 3].map(x, x > 1, x * 2)", "[4,6]"),
        ("[1, 2, 3].filter(x, x > 1)", "[2,3]"),
        ("[[1], [2, 3]].map(x, x.map(y, y + 1))", "[[2],[3,4]]"),
        ("{'a': 1, 'b': 2}.map(k, k)", "[\"a\",\"b\"]"),
        ("{'a': 1}.all(k, v, k == 'a' && v == 1)", "true"),
        ("[5, 6].exists(i, v, i == 1 && v == 6)", "true"),
        ("[5, 6].existsOne(i, v, v > 5)", "true"),
        ("[5, 6].transformList(i, v, i + v)", "[5,7]"),
        ("[5, 6].transformList(i, v, i > 0, v)", "[6]"),
        ("{'a': 1}.transformMap(k, v, v + 1)", "{\"a\":2}"),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", "{\"x\":\"a\"}"),
        ("['a', 'a'].transformMapEntry(k, v, {v: k})", "error: insert failed: key a already exists"),
        (
            "1.all(x, true)",
            "compile: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("[1].all(1, true)", "compile: argument must be a simple name"),
        ("[1].map(x, y)", "compile: undeclared reference to 'y' (in container '')"),
    ]);
}

#[test]
fn optionals() {
    all_say(&[
        ("{'a': {'b': 1}}.?a.?b.orValue(2)", "1"),
        ("{'a': {'b': 1}}.?c.?b.orValue(2)", "2"),
        ("{'a': {'b': 1}}.?c.b.orValue(2)", "2"),
        ("[1][?3].hasValue()", "false"),
        ("[1][?0].value()", "1"),
        ("optional.none().value() == 1", "error: optional.none() dereference"),
        ("optional.of(1).or(optional.of(2)).value()", "1"),
        ("optional.of(3).optMap(x, x + 1).value()", "4"),
        ("optional.of(3).optFlatMap(x, optional.none()).hasValue()", "false"),
        ("{?'a': optional.of(1), ?'b': optional.none()}", "{\"a\":1}"),
        ("[?optional.of(1), ?optional.none(), 2]", "[1,2]"),
        ("optional.ofNonZeroValue('').hasValue()", "false"),
        ("[1, 2].first().value() + [1, 2].last().value()", "3"),
        ("[optional.of(1), optional.none()].unwrapOpt()", "[1]"),
    ]);
}

#[test]
fn texts() {
    all_say(&[
        ("'hello'.charAt(1) + 'é€'.charAt(1)", "\"e€\""),
        ("'a'.charAt(1)", "\"\""),
        ("'a'.charAt(2)", "error: index out of range: 2"),
        ("'hello'.indexOf('l') + 'hello'.lastIndexOf('l')", "5"),
        ("'hello'.indexOf('l', 3)", "3"),
        ("'hello'.lastIndexOf('l', 2)", "2"),
        ("'ab'.indexOf('', 9)", "9"),
        ("'AbC'.lowerAscii() + 'aBc'.upperAscii()", "\"abcABC\""),
        ("'  x '.trim()", "\"x\""),
        ("'aaa'.replace('a', 'b', 2)", "\"bba\""),
        ("'ab'.replace('', '_')", "\"_a_b_\""),
        ("'a,b,c'.split(',')", "[\"a\",\"b\",\"c\"]"),
        ("'a,b,c'.split(',', 2)", "[\"a\",\"b,c\"]"),
        ("'abc'.split('')", "[\"a\",\"b\",\"c\"]"),
        ("'abc'.split('', 2)", "[\"a\",\"bc\"]"),
        ("'abc'.substring(1) + 'abc'.substring(0, 2)", "\"bcab\""),
        ("'abc'.substring(2, 1)", "error: invalid substring range. start: 2, end: 1"),
        ("['a', 'b'].join('-') + ['a'].join()", "\"a-ba\""),
        ("strings.quote('a\"b')", "\"\\\"a\\\\\\\"b\\\"\""),
        ("'%s has %d'.format(['x', dyn(3)])", "\"x has 3\""),
        ("'%s has %s'.format(['x', 'y'])", "\"x has y\""),
        (
            "'%d'.format(['x'])",
            "compile: error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%d'.format([1, 2])", "compile: too many arguments supplied to string.format (expected 1, got 2)"),
        ("'abc'.matches('^a.c$') && 'foobar'.find('o+') == 'oo'", "true"),
        ("'a1b22'.findAll('[0-9]+')", "[\"1\",\"22\"]"),
        ("'x'.matches('(')", "compile: invalid matches argument"),
        ("size('é') + size(b'é') + 'abc'.size()", "6"),
    ]);
}

#[test]
fn conversions_and_times() {
    all_say(&[
        ("int('12') + int(3.9) + int(4u)", "19"),
        ("int('x')", "error: type conversion error from 'string' to 'int'"),
        ("int(1e30)", "error: integer overflow"),
        ("uint(-1)", "error: unsigned integer overflow"),
        ("double('1.5') + double(1)", "2.5"),
        ("string(1.0) + string(1u) + string(true) + string(1e30)", "\"11true1e+30\""),
        ("bool('true') && !bool('0')", "true"),
        ("duration('90s') == duration('1m30s') && duration('1h').getMinutes() == 60", "true"),
        ("string(duration('1h'))", "\"3600s\""),
        ("duration('x')", "compile: invalid duration argument"),
        ("timestamp('2024-02-30T00:00:00Z')", "compile: invalid timestamp argument"),
        ("timestamp('2024-03-01T12:30:45.5Z').getFullYear()", "2024"),
        ("timestamp('2024-03-01T12:30:45Z').getMonth()", "2"),
        (
            "timestamp('2024-03-01T12:30:45Z').getDate() + timestamp('2024-03-01T12:30:45Z').getDayOfMonth()",
            "1",
        ),
        ("timestamp('2024-03-01T12:30:45Z').getDayOfWeek()", "5"),
        ("timestamp('2024-03-01T12:30:45Z').getHours('+02:00')", "14"),
        ("timestamp('2024-03-01T00:00:00Z') - timestamp('2024-02-29T00:00:00Z') == duration('24h')", "true"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s') > timestamp(0)", "error: timestamp overflow"),
        ("string(timestamp('2024-03-01T12:30:45+02:00'))", "\"2024-03-01T10:30:45Z\""),
    ]);
}

#[test]
fn libraries() {
    all_say(&[
        (
            "[3, 1, 2].sort() == [1, 2, 3] && [1, 2].isSorted() && [2, 1].min() == 1 && ['a', 'b'].max() == 'b'",
            "true",
        ),
        ("[1, 2].sum() + [1, 2, 2].indexOf(2) + [1, 2, 2].lastIndexOf(2)", "6"),
        ("[].min() == 1", "error: min called on empty list"),
        ("[[1], [2, 3]].flatten()", "[1,2,3]"),
        ("[1, 2, 3, 4].slice(1, 3)", "[2,3]"),
        ("[1, 2].slice(1, 3)", "error: cannot slice(1, 3), list is length 2"),
        ("lists.range(3)", "[0,1,2]"),
        ("[1, 2].reverse() + [1, 1].distinct()", "[2,1,1]"),
        ("[{'n': 2}, {'n': 1}].sortBy(x, x.n)", "[{\"n\":1},{\"n\":2}]"),
        ("sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && !sets.intersects([1], [2])", "true"),
        ("url('https://a.b:80/c?d=e').getHost()", "\"a.b:80\""),
        ("url('https://a.b:80/c?d=e').getQuery()", "{\"d\":[\"e\"]}"),
        ("isURL('/x') && !isURL('x')", "true"),
        ("quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1').add(2).asInteger() == 3", "true"),
        (
            "quantity('x').isInteger()",
            "error: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && isIP('::1')", "true"),
        ("ip.isCanonical('::0001')", "false"),
        (
            "cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16')) && string(cidr('10.1.2.3/8').masked()) == '10.0.0.0/8'",
            "true",
        ),
        ("format.dns1123Label().validate('abc').hasValue()", "false"),
        ("format.named('dns1123Label').value().validate('A').value().size()", "1"),
        ("semver('1.2.3').major() + semver('v1.2', true).minor()", "3"),
        ("isSemver('1.2') || semver('1.0.0').isLessThan(semver('1.0.1'))", "true"),
        ("jsonpatch.escapeKey('a/b~c')", "\"a~1b~0c\""),
    ]);
}

fn rule(schema: Json, source: &str) -> Result<Program, CompileError> {
    let declared = DeclaredType::from_schema(&schema, false).unwrap();
    Environment::for_rule(declared, false).compile(source, Expected::Bool)
}

#[test]
fn rules_see_an_object_through_its_schema() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "name": {"type": "string"}, "ratio": {"type": "number"}, "port": {"x-kubernetes-int-or-string": true},
        "when": {"type": "string", "format": "date-time"}, "every": {"type": "string", "format": "duration"}, "data": {"type": "string", "format": "byte"},
        "namespace": {"type": "string"}, "a-b": {"type": "integer"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    }});
    let object = json!({
        "replicas": 3, "name": "x", "ratio": 2, "port": "80%", "when": "2024-03-01T12:30:45Z", "every": "1h", "data": "aGk=",
        "namespace": "ns", "a-b": 1, "set": ["a", "b"], "items": [{"n": 1}, {"n": 2}], "labels": {"k": "v"},
    });
    for source in [
        "self.replicas == 3 && self.ratio == 2.0 && self.name == 'x'",
        "type(self.port) == string && self.port.endsWith('%')",
        "self.when.getFullYear() == 2024 && self.every == duration('60m') && self.data == b'hi'",
        "self.__namespace__ == 'ns' && self.a__dash__b == 1",
        "self.set == ['b', 'a'] && (self.set + ['b', 'c']).size() == 3",
        "self.items.all(i, i.n > 0) && self.items.map(i, i.n).sum() == 3",
        "self.labels.k == 'v' && 'k' in self.labels && self.labels.exists(k, v, v == 'v')",
        "oldSelf.replicas <= self.replicas",
        "self.?name.orValue('') == 'x' && has(self.name)",
    ] {
        let program = rule(schema.clone(), source).unwrap_or_else(|error| panic!("{source}: {error}"));
        let bindings = Bindings::new().json("self", &object).json("oldSelf", &object);
        let value = program
            .evaluate(&bindings, &mut Budget::object())
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(value.as_bool(), Some(true), "{source}");
        assert_eq!(program.uses("oldSelf"), source.contains("oldSelf"));
    }
    let missing = rule(schema, "self.name == 'x'").unwrap();
    let empty = json!({});
    let error = missing.evaluate(&Bindings::new().json("self", &empty), &mut Budget::object()).unwrap_err();
    assert_eq!(error.message(), "no such key: name");
}

#[test]
fn mistakes_in_rules_are_told_as_upstream_tells_them() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}});
    for (source, message) in [
        ("self.foo > 1", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo > 1\n | ....^"),
        (
            "self.n + self.s == 1",
            "ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(int, string)'\n | self.n + self.s == 1\n | .......^",
        ),
        ("self.n", "must evaluate to a bool"),
        (
            "self.s.size(1) == 1",
            "ERROR: <input>:1:12: found no matching overload for 'size' applied to 'string.(int)'\n | self.s.size(1) == 1\n | ...........^",
        ),
        (
            "foo(self)",
            "ERROR: <input>:1:4: undeclared reference to 'foo' (in container '')\n | foo(self)\n | ...^",
        ),
    ] {
        assert_eq!(rule(schema.clone(), source).unwrap_err().to_string(), message);
    }
}

#[test]
fn costs_are_bounded_before_and_while() {
    let schema = json!({"type": "object", "properties": {"items": {"type": "array", "items": {"type": "string", "maxLength": 10}}}});
    let bounded = json!({"type": "object", "properties": {"items": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}}}});
    let source = "self.items.all(x, self.items.all(y, x == y))";
    assert!(rule(schema.clone(), source).unwrap().estimated_cost() > limits::EXPRESSION);
    assert!(rule(bounded, source).unwrap().estimated_cost() < 1500);
    let object = json!({"items": vec!["a"; 2000]});
    let program = rule(schema, source).unwrap();
    let mut budget = Budget::object();
    let error = program.evaluate(&Bindings::new().json("self", &object), &mut budget).unwrap_err();
    assert_eq!(
        (error.kind, error.message()),
        (EvalErrorKind::CallLimit, "operation cancelled: actual cost limit exceeded")
    );
    assert!(budget.remaining <= OBJECT_BUDGET - CALL_LIMIT);
    let mut little = Budget::of(10);
    let small = json!({"items": ["a", "a", "a"]});
    let error = program.evaluate(&Bindings::new().json("self", &small), &mut little).unwrap_err();
    assert_eq!(error.kind, EvalErrorKind::Budget);
}
