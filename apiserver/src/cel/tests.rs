//! Whole expressions, compiled and evaluated.

use serde_json::{Value as Json, json};

use super::*;

/// What an expression without variables says: its value as JSON, or what is wrong.
fn said(source: &str) -> String {
    let program = match Environment::new().compile(source, Expected::Any) {
        Ok(program) => program,
        Err(error) => return format!("compile: {}", first_mistake(&error)),
    };
    match program.evaluate(&Bindings::new(), &mut Budget::object()) {
        Ok(value) => value.to_json().map_or_else(|| format!("{value:?}"), |json| json.to_string()),
        Err(error) => format!("error: {error}"),
    }
}

fn first_mistake(error: &CompileError) -> String {
    match &error.kind {
        CompileErrorKind::Mistakes(mistakes) => {
            mistakes.first().map_or(String::new(), |mistake| mistake.message.clone())
        }
        _ => error.of_rule(),
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
fn a_rule_has_no_authorizer() {
    for source in [
        "authorizer.group('').resource('pods').check('get').allowed()",
        "authorizer.requestResource.check('get').errored()",
        "authorizer.path('/x').check('get').reason() == ''",
    ] {
        let error = Environment::new().compile(source, Expected::Bool).unwrap_err();
        let CompileErrorKind::Mistakes(mistakes) = &error.kind else { panic!("{error:?}") };
        let messages: Vec<&str> = mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
        assert_eq!(messages, ["undeclared reference to 'authorizer' (in container '')"], "{source}");
    }
    all_say(&[
        ("1.allowed()", "compile: found no matching overload for 'allowed' applied to 'int.()'"),
        ("dyn(1).allowed()", "error: no such overload: allowed(int)"),
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
        ("int('x')", "compile: program instantiation failed: type conversion error from 'string' to 'int'"),
        ("int(1e30)", "compile: program instantiation failed: integer overflow"),
        ("uint(-1)", "compile: program instantiation failed: unsigned integer overflow"),
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

/// What a real API server of 1.36 answered to each of these rules, in `oracle.json`: for the rule itself, or for an object that it judges.
#[test]
fn a_real_server_says_the_same() {
    let oracle: Json = serde_json::from_str(include_str!("oracle.json")).unwrap();
    let declared = DeclaredType::from_schema(&oracle["schema"], false).unwrap();
    let environment = Environment::for_rule(declared, false);
    let name = regex::Regex::new("selfType[0-9]+").unwrap();
    let mut different = Vec::new();
    let cases = oracle["cases"].as_array().unwrap();
    for case in cases {
        let (rule, expected) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        let said = match environment.compile(rule, Expected::Bool) {
            Err(error) => name.replace_all(&error.of_rule(), "selfType0").into_owned(),
            Ok(program) if program.estimated_cost() > limits::EXPRESSION => {
                let excess = limits::excess(program.estimated_cost(), limits::EXPRESSION);
                format!("Forbidden: estimated rule cost exceeds budget by factor of {excess}")
            }
            Ok(program) => {
                let bindings =
                    Bindings::new().json("self", &oracle["value"]).json("oldSelf", &oracle["value"]);
                // A transition rule does not judge an object that is new.
                if program.uses("oldSelf") {
                    "true".into()
                } else {
                    match program.evaluate(&bindings, &mut Budget::object()) {
                        Ok(value) => {
                            value.as_bool().map_or("no such overload".into(), |value| value.to_string())
                        }
                        Err(error) => error.to_string(),
                    }
                }
            }
        };
        if said != expected {
            different.push(format!("{rule}\n  expected: {expected}\n  said:     {said}"));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} rules differ:\n{}",
        different.len(),
        cases.len(),
        different.join("\n")
    );
}

/// Texts made of pieces of expressions, in no order: every one of them ends, with a value or an error.
#[test]
fn no_text_panics_or_runs_without_end() {
    const PIECES: [&str; 64] = [
        "self",
        ".",
        "i",
        "s",
        "l",
        "sl",
        "m",
        "ol",
        "o",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">=",
        "&&",
        "||",
        "!",
        " in ",
        "1",
        "0",
        "-9223372036854775808",
        "1u",
        "1.5",
        "'a'",
        "\"%s\"",
        "b'\\xff'",
        "r'\\d'",
        "null",
        "true",
        "false",
        "has(",
        ".all(x,",
        ".exists(",
        ".map(x,x",
        ".filter(x,",
        ".size()",
        ".matches(",
        ".optMap(x,",
        ".?",
        "[?",
        ".transformMap(k,v,",
        ".sortBy(x,",
        "quantity('1')",
        "ip('::1')",
        "duration('1h')",
        "timestamp(0)",
        "dyn(",
        "x",
        ".format([",
        ".replace('',",
        "lists.range(",
    ];
    let oracle: Json = serde_json::from_str(include_str!("oracle.json")).unwrap();
    let declared = DeclaredType::from_schema(&oracle["schema"], false).unwrap();
    let environment = Environment::for_rule(declared, false);
    let rules: Vec<&str> =
        oracle["cases"].as_array().unwrap().iter().filter_map(|case| case[0].as_str()).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut compiled, mut evaluated) = (0, 0);
    for round in 0..6000 {
        // Half of them are rules with a piece put in, or a character taken out.
        let source: String = if round % 2 == 0 {
            (0..next(14)).map(|_| PIECES[next(PIECES.len())]).collect()
        } else {
            let mut characters: Vec<char> = rules[next(rules.len())].chars().collect();
            let place = next(characters.len() + 1);
            if next(3) == 0 && place < characters.len() {
                characters.remove(place);
            } else {
                characters.splice(place..place, PIECES[next(PIECES.len())].chars());
            }
            characters.into_iter().collect()
        };
        let Ok(program) = environment.compile(&source, Expected::Any) else { continue };
        compiled += 1;
        let bindings = Bindings::new().json("self", &oracle["value"]).json("oldSelf", &oracle["value"]);
        evaluated += usize::from(program.evaluate(&bindings, &mut Budget::object()).is_ok());
    }
    assert!(compiled > 300 && evaluated > 200, "{compiled} compiled, {evaluated} evaluated");
}

/// What is as deep as may be is compiled and evaluated on the stack of any thread.
#[test]
fn the_deepest_expressions_fit_a_stack() {
    let chain = |start: &str, step: &str, count: usize| format!("{start}{}", step.repeat(count));
    for source in [
        format!("{}1{}", "(".repeat(240), ")".repeat(240)),
        format!("{}1{}", "[".repeat(240), "]".repeat(240)),
        chain("1", " + 1", 240),
        chain("[1]", ".map(x, x)", 240),
        chain("optional.of(1)", ".optMap(x, x)", 12),
        format!("{}true{}", "[1].all(x, ".repeat(240), ")".repeat(240)),
        format!("{}1", "true ? 1 : ".repeat(240)),
        chain("dyn({'a': 1})", ".?a", 240),
        format!("{}true", "!".repeat(10_001)),
    ] {
        let program = Environment::new()
            .compile(&source, Expected::Any)
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        let mut budget = Budget::object();
        if let Err(error) = program.evaluate(&Bindings::new(), &mut budget) {
            assert_eq!(error.kind, EvalErrorKind::CallLimit, "{source}: {error}");
        }
    }
    // Each of these copies what it is called on.
    assert!(
        Environment::new().compile(&chain("optional.of(1)", ".optMap(x, x)", 60), Expected::Any).is_err()
    );
}

#[test]
fn results_do_not_grow_beyond_all_bounds() {
    let big = "a".repeat(1000);
    for source in [
        format!("'{big}'.replace('', '{big}').replace('', '{big}').size() > 0"),
        "lists.range(1000000000).size() > 0".to_owned(),
        "lists.range(900).map(x, lists.range(900)).flatten().distinct().size() > 0".to_owned(),
        "lists.range(999).all(x, lists.range(999).all(y, lists.range(999).all(z, x + y + z >= 0)))"
            .to_owned(),
    ] {
        assert!(said(&source).starts_with("error: "), "{source}");
    }
}
