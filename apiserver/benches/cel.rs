//! What a typical rule of a custom resource costs: compiled when its definition is written, evaluated at each write of an object.

use std::hint::black_box;

use coracle_apiserver::cel::{Bindings, Budget, DeclaredType, Environment, Expected};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;

const RULES: [(&str, &str); 3] = [
    ("comparison", "self.minReplicas <= self.replicas && self.replicas <= self.maxReplicas"),
    ("macro", "self.ports.all(p, p.port > 0 && p.port < 65536 && (!has(p.name) || p.name.size() <= 15))"),
    ("pattern", "self.image.matches('^[a-z0-9./-]+(:[a-zA-Z0-9._-]+)?$') && !self.image.endsWith(':latest')"),
];

fn rules(criterion: &mut Criterion) {
    let port = json!({"type": "object", "properties": {"port": {"type": "integer"}, "name": {"type": "string", "maxLength": 63}}});
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "minReplicas": {"type": "integer"}, "maxReplicas": {"type": "integer"},
        "image": {"type": "string", "maxLength": 200},
        "ports": {"type": "array", "maxItems": 20, "items": port},
    }});
    let ports: Vec<_> =
        (0..10).map(|number| json!({"port": 8000 + number, "name": format!("port-{number}")})).collect();
    let object = json!({"replicas": 3, "minReplicas": 1, "maxReplicas": 10, "image": "registry.example/app:1.2.3", "ports": ports});
    let Some(declared) = DeclaredType::from_schema(&schema, false) else { return };
    let environment = Environment::for_rule(declared, false);
    for (name, rule) in RULES {
        criterion.bench_function(&format!("cel_compile_{name}"), |bencher| {
            bencher.iter(|| environment.compile(black_box(rule), Expected::Bool));
        });
        let Ok(program) = environment.compile(rule, Expected::Bool) else { continue };
        criterion.bench_function(&format!("cel_evaluate_{name}"), |bencher| {
            bencher.iter(|| {
                let bindings = Bindings::new().json("self", black_box(&object));
                program.evaluate(&bindings, &mut Budget::object()).map(|value| value.as_bool())
            });
        });
    }
}

criterion_group!(benches, rules);
criterion_main!(benches);
