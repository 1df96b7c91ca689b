//! CEL: whatever is said is compiled or refused, and evaluated within its budget. Deep and costly expressions end in an
//! error, not in a stack or a minute that is used up.
#![no_main]

use std::sync::LazyLock;

use coracle_apiserver::cel::{Bindings, Budget, DeclaredType, Environment, Expected, Type};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static OBJECTS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    [
        json!({"i": 1, "n": 1.5, "s": "abc", "b": true, "ios": "5%", "when": "2026-01-02T03:04:05Z", "every": "1h2m", "data": "YWJj",
            "o": {"x": 1, "y": "z"}, "l": [1, 2, 3], "sl": ["a", "b"], "ol": [{"k": "a", "v": 1}], "ml": [{"k": "a"}, {"k": "b", "v": 2}],
            "m": {"a": "b"}, "nul": null, "emb": {"kind": "A", "metadata": {"name": "a"}, "free": [1]}}),
        json!({"i": -1, "s": "", "l": [], "ml": [{"k": "b", "v": 3}], "m": {}}),
    ]
});

static ENVIRONMENTS: LazyLock<[Environment; 3]> = LazyLock::new(|| {
    let keyed = json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 10}, "v": {"type": "integer"}}});
    let schema = json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "n": {"type": "number"}, "s": {"type": "string", "maxLength": 20}, "b": {"type": "boolean"},
        "ios": {"x-kubernetes-int-or-string": true}, "when": {"type": "string", "format": "date-time"},
        "every": {"type": "string", "format": "duration"}, "data": {"type": "string", "format": "byte"},
        "o": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}},
        "l": {"type": "array", "maxItems": 10, "items": {"type": "integer"}},
        "sl": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "ol": {"type": "array", "items": keyed},
        "ml": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": keyed},
        "m": {"type": "object", "additionalProperties": {"type": "string"}}, "nul": {"type": "string", "nullable": true},
        "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
    let declared = DeclaredType::from_schema(&schema, false).expect("the schema has a type");
    let free = || Environment::new().variable("self", Type::Dyn).variable("oldSelf", Type::Dyn);
    [Environment::for_rule(declared.clone(), false), Environment::for_rule(declared, true), free().mutation()]
});

fuzz_target!(|input: &[u8]| {
    let [choice, source @ ..] = input else { return };
    let Ok(source) = std::str::from_utf8(source) else { return };
    let at = *choice as usize % ENVIRONMENTS.len();
    let program = match ENVIRONMENTS[at].compile(source, Expected::Any) {
        Ok(program) => program,
        Err(error) => {
            let _ = (error.of_rule(), error.of_message_expression());
            return;
        }
    };
    let _ = (program.estimated_cost(), program.uses("self"), program.result_type());
    let [new, old] = &*OBJECTS;
    for (new, old) in [(new, old), (old, new)] {
        let bound = Bindings::new().json("self", new);
        let bound = if at == 1 { bound.optional("oldSelf", Some(old)) } else { bound.json("oldSelf", old) };
        let mut budget = Budget::of(1_000_000);
        let first =
            program.evaluate(&bound, &mut budget).map(|value| format!("{value:?}{:?}", value.to_json()));
        let mut again = Budget::of(1_000_000);
        let second =
            program.evaluate(&bound, &mut again).map(|value| format!("{value:?}{:?}", value.to_json()));
        assert_eq!(budget, again, "the same costs the same");
        assert_eq!(first.map_err(|error| error.to_string()), second.map_err(|error| error.to_string()));
    }
});
