//! Random sequences of writes against a small model, and sets against sets of paths.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::*;

/// A flat map of text, and who owns which key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    data: BTreeMap<String, String>,
    owners: BTreeMap<(String, bool), BTreeSet<String>>,
}

type Data = BTreeMap<String, String>;

impl Model {
    fn take(&mut self, keys: &BTreeSet<String>, spare: &(String, bool)) {
        for (who, owned) in &mut self.owners {
            if who != spare {
                owned.retain(|key| !keys.contains(key));
            }
        }
    }

    fn tidy(&mut self) {
        self.owners.retain(|_, owned| !owned.is_empty());
    }

    /// None: a conflict.
    fn apply(&self, who: &str, config: &Data, force: bool) -> Option<Self> {
        let mut next = self.clone();
        let me = (who.to_owned(), true);
        let last = next.owners.insert(me.clone(), config.keys().cloned().collect()).unwrap_or_default();
        for key in last.iter().filter(|key| !config.contains_key(*key)) {
            if !next.owners.values().any(|owned| owned.contains(key)) {
                next.data.remove(key);
            }
        }
        let changed: BTreeSet<String> =
            config.iter().filter(|(k, v)| self.data.get(*k) != Some(v)).map(|(k, _)| k.clone()).collect();
        let theirs = |keys: &BTreeSet<String>| {
            next.owners.iter().any(|(who, owned)| *who != me && owned.intersection(keys).next().is_some())
        };
        if theirs(&changed) && !force {
            return None;
        }
        next.take(&changed, &me);
        next.data.extend(config.clone());
        next.tidy();
        Some(next)
    }

    fn update(&self, who: &str, data: &Data) -> Self {
        let mut next = self.clone();
        let me = (who.to_owned(), false);
        let changed: BTreeSet<String> =
            data.iter().filter(|(k, v)| self.data.get(*k) != Some(v)).map(|(k, _)| k.clone()).collect();
        let gone: BTreeSet<String> = self.data.keys().filter(|k| !data.contains_key(*k)).cloned().collect();
        next.take(&changed.union(&gone).cloned().collect(), &("nobody".to_owned(), false));
        if !changed.is_empty() {
            next.owners.entry(me).or_default().extend(changed);
        }
        next.data.clone_from(data);
        next.tidy();
        next
    }
}

fn config_map(data: &Data) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    if !data.is_empty() {
        object["data"] = json!(data);
    }
    object
}

/// The keys that each manager owns; that the map itself is there is nobody's concern here.
fn owners(managers: &Managers) -> BTreeMap<(String, bool), BTreeSet<String>> {
    let keys = |fields: &Set| -> BTreeSet<String> {
        let below = fields.field("data").map(|place| place.below.clone()).unwrap_or_default();
        below.places().map(|(element, _)| element.to_string()[1..].to_owned()).collect()
    };
    let all = managers
        .0
        .iter()
        .map(|m| ((m.who.name.clone(), m.who.operation == Operation::Apply), keys(&m.fields)));
    all.filter(|(_, keys)| !keys.is_empty()).collect()
}

fn who(name: &str, operation: Operation) -> Who {
    Who { name: name.to_owned(), operation, api_version: "v1".to_owned(), subresource: String::new() }
}

fn some_data(random: &mut StdRng) -> Data {
    let keys = ["a", "b", "c", "d"].iter().filter(|_| random.random_bool(0.5));
    let keys: Vec<String> = keys.map(|key| (*key).to_owned()).collect();
    keys.into_iter().map(|key| (key, random.random_range(0..3).to_string())).collect()
}

#[test]
fn sequences_end_as_the_model_says() {
    let schema = Schema::built_in("v1", "ConfigMap").unwrap();
    let rules = Rules::new(schema.clone(), "v1", "ConfigMap", None);
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let first = some_data(&mut random);
        let write = |name: &str, operation| Write {
            who: who(name, operation),
            schema: &schema,
            reset: &rules.main,
            versions: &OneVersion,
            now: Timestamp::UNIX_EPOCH,
        };
        let mut model = Model::default().update("creator", &first);
        let mut live = config_map(&first);
        let mut managers = write("creator", Operation::Update)
            .update(&rules.empty, &live, Managers::default(), false)
            .unwrap();
        for step in 0..12 {
            let name = ["m1", "m2", "m3"][random.random_range(0..3)];
            let data = some_data(&mut random);
            // Without any manager nothing is tracked, which the model does not know of.
            if managers.is_empty() {
                break;
            }
            if random.random_bool(0.6) {
                let force = random.random_bool(0.5);
                let applied = write(name, Operation::Apply).apply(
                    &live,
                    &rules.empty,
                    &config_map(&data),
                    managers.clone(),
                    force,
                );
                match (applied, model.apply(name, &data, force)) {
                    (Ok(applied), Some(next)) => {
                        live = applied.object.unwrap_or(live);
                        managers = applied.managers;
                        model = next;
                    }
                    (Err(ApplyError::Conflicts(_)), None) => {}
                    (applied, next) => panic!("seed {seed} step {step}: {applied:?}, the model {next:?}"),
                }
            } else {
                let new = config_map(&data);
                managers = write(name, Operation::Update).update(&live, &new, managers, true).unwrap();
                live = new;
                model = model.update(name, &data);
            }
            let have: Data = match live.get("data") {
                Some(Value::Object(data)) => {
                    data.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect()
                }
                _ => Data::new(),
            };
            assert_eq!((&have, &owners(&managers)), (&model.data, &model.owners), "seed {seed} step {step}");
        }
    }
}

#[test]
fn sets_are_sets_of_paths() {
    let mut random = StdRng::seed_from_u64(7);
    let some = |random: &mut StdRng| -> BTreeSet<Vec<Element>> {
        let paths = (0..random.random_range(0..12)).map(|_| {
            let length = random.random_range(1..4);
            let steps = (0..length).map(|_| match random.random_range(0..4) {
                0 => Element::key(vec![("name".into(), json!(random.random_range(0..2)))]),
                1 => Element::Value(json!(random.random_range(0..2))),
                n => Element::field(["x", "y"][n - 2]),
            });
            steps.collect()
        });
        paths.collect()
    };
    let set = |paths: &BTreeSet<Vec<Element>>| {
        let mut set = Set::default();
        paths.iter().for_each(|path| set.insert(path));
        set
    };
    let paths = |set: &Set| set.paths().into_iter().collect::<BTreeSet<_>>();
    for _ in 0..2000 {
        let (a, b) = (some(&mut random), some(&mut random));
        let (left, right) = (set(&a), set(&b));
        assert_eq!(paths(&left), a);
        assert_eq!(paths(&left.union(&right)), a.union(&b).cloned().collect());
        assert_eq!(paths(&left.intersection(&right)), a.intersection(&b).cloned().collect());
        assert_eq!(paths(&left.difference(&right)), a.difference(&b).cloned().collect());
        let below = |path: &Vec<Element>| b.iter().any(|gone| path.starts_with(gone));
        let rest: BTreeSet<_> = a.iter().filter(|path| !below(path)).cloned().collect();
        assert_eq!(paths(&left.recursive_difference(&right)), rest);
        assert_eq!(Set::from_fields(&left.to_fields()).unwrap(), left);
        assert!(a.iter().all(|path| left.has(path)));
    }
}

/// Whatever is applied, the owned fields of the configuration are those of the object that are in it.
#[test]
fn merging_keeps_everything_and_says_what_the_configuration_says() {
    let schema = Schema::built_in("v1", "Pod").unwrap();
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..500 {
        let mut some = || {
            let names = ["a", "b", "c", "d"].iter().filter(|_| random.random_bool(0.5));
            let mut names: Vec<&str> = names.copied().collect();
            if random.random_bool(0.5) {
                names.reverse();
            }
            let containers: Vec<Value> = names
                .iter()
                .map(|n| json!({"name": n, "image": random.random_range(0..2).to_string()}))
                .collect();
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}})
        };
        let (live, config) = (some(), some());
        let merged = merge(schema.root(), &live, &config).unwrap();
        let (all, said) = (owned(schema.root(), &merged), owned(schema.root(), &config));
        assert_eq!(all, owned(schema.root(), &live).union(&said));
        assert_eq!(compare(schema.root(), &config, &merged).unwrap().modified, Set::default());
        let names = |object: &Value| -> Vec<String> {
            let list = object["spec"]["containers"].as_array().cloned().unwrap_or_default();
            list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
        };
        let order: Vec<String> =
            names(&merged).into_iter().filter(|name| names(&config).contains(name)).collect();
        assert_eq!(order, names(&config), "{live} {config}");
    }
}

#[test]
fn types_of_custom_resources() {
    let schema = Schema::custom(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string", "default": "d"}, "v": {"type": "integer"}}}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true}}}}}),
    );
    let object = json!({"apiVersion": "e/v1", "kind": "E", "metadata": {"name": "x", "labels": {"l": "1"}},
        "spec": {"keyed": [{"v": 1}, {"k": "x"}], "set": ["a"], "list": [{"a": "1"}], "whole": {"a": "b"},
        "free": {"a": {"b": [1]}}, "port": 5}});
    assert_eq!(
        owned(schema.root(), &object).field("spec").unwrap().below.to_fields(),
        json!({"f:free": {"f:a": {".": {}, "f:b": {}}}, "f:keyed": {"k:{\"k\":\"d\"}": {".": {}, "f:v": {}},
            "k:{\"k\":\"x\"}": {".": {}, "f:k": {}}}, "f:list": {}, "f:port": {}, "f:set": {"v:\"a\"": {}}, "f:whole": {}})
    );
    let unknown = json!({"spec": {"nothing": 1}});
    assert_eq!(
        check(schema.root(), &unknown).unwrap_err().to_string(),
        ".spec.nothing: field not declared in schema"
    );
    let anything = Schema::deduced();
    let fields = owned(anything.root(), &json!({"a": {"b": [1], "c": {}}, "d": 1})).to_fields();
    assert_eq!(fields, json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
}
