//! Walks the list of kinds: names, columns, and a manifest of each under `tests/fixtures/kinds`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// Those too that are served only where they are asked for.
fn every() -> Vec<KindDef> {
    all().into_iter().chain(off_by_default()).collect()
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/kinds")
}

/// By the resource's name; forms of a resource of the same group go by their version too.
fn file(kind: &KindDef) -> String {
    let resource = &kind.resource;
    match &kind.alias {
        Some(alias) if alias.stored.group() == resource.group() => {
            format!("{}.{}.{}.yaml", resource.plural(), resource.version(), resource.group())
        }
        _ => format!("{}.yaml", resource.qualified()),
    }
}

fn manifest(kind: &KindDef) -> Value {
    let path = fixtures().join(file(kind));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_norway::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn defaulted(kind: &KindDef, value: Value) -> Box<dyn ApiObject> {
    let mut object = kind.ops.decode_value(value).unwrap_or_else(|e| panic!("{:?}: {e}", kind.resource));
    kind.ops.set_defaults(object.as_mut());
    object
}

/// What `part` says, `whole` says too.
fn assert_within(part: &Value, whole: &Value, at: &str) {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            for (key, value) in part {
                let found = whole.get(key).unwrap_or_else(|| panic!("{at}.{key} is lost"));
                assert_within(value, found, &format!("{at}.{key}"));
            }
        }
        (Value::Array(part), Value::Array(whole)) => {
            assert_eq!(part.len(), whole.len(), "{at}");
            for (i, (part, whole)) in part.iter().zip(whole).enumerate() {
                assert_within(part, whole, &format!("{at}[{i}]"));
            }
        }
        _ => assert_eq!(part, whole, "{at}"),
    }
}

#[test]
fn no_two_kinds_share_a_name() {
    let mut seen = BTreeSet::new();
    for kind in every() {
        let group = format!("{}/{}", kind.resource.group(), kind.resource.version());
        let names = [kind.resource.plural(), &kind.singular]
            .into_iter()
            .chain(kind.short_names.iter().map(String::as_str));
        // The kinds of metrics have no singular; endpoints are called the same in both numbers.
        for name in names.filter(|name| !name.is_empty()).collect::<BTreeSet<_>>() {
            assert!(seen.insert(format!("{group}/{name}")), "{group}/{name} is there twice");
        }
        assert!(seen.insert(format!("{group}/{}", kind.resource.kind())), "{:?}", kind.resource);
    }
}

#[test]
fn every_manifest_is_accepted_and_keeps_what_it_says() {
    for kind in every() {
        let manifest = manifest(&kind);
        let mut object = defaulted(&kind, manifest.clone());
        assert_within(&manifest, &object.to_value().unwrap(), kind.resource.plural());

        let again = defaulted(&kind, object.to_value().unwrap());
        assert_eq!(
            object.to_value().unwrap(),
            again.to_value().unwrap(),
            "{:?}: defaults settle",
            kind.resource
        );
        assert_eq!(
            kind.decode_stored(&object.encode().unwrap()).unwrap().to_value().unwrap(),
            object.to_value().unwrap()
        );

        kind.ops.prepare_create(object.as_mut());
        let mut errors = Errors::default();
        kind.ops.validate(object.as_ref(), &mut errors);
        kind.ops.validate_create(object.as_ref(), &mut errors);
        kind.ops.validate_update(object.as_ref(), object.as_ref(), &mut errors);
        kind.ops.validate_status_update(object.as_ref(), object.as_ref(), &mut errors);
        assert!(errors.is_empty(), "{:?}: {errors:#?}", kind.resource);
        assert_eq!(kind.ops.validate_name(object.meta().name.as_deref().unwrap()), Ok(()));
    }
}

#[test]
fn an_update_that_changes_nothing_changes_nothing() {
    for kind in every() {
        let mut old = defaulted(&kind, manifest(&kind));
        kind.ops.prepare_create(old.as_mut());
        let mut new = old.clone_box();
        kind.ops.set_defaults(new.as_mut());
        kind.ops.prepare_update(new.as_mut(), old.as_ref());
        assert_eq!(new.to_value().unwrap(), old.to_value().unwrap(), "{:?}", kind.resource);
    }
}

#[test]
fn there_are_as_many_cells_as_columns() {
    for kind in every() {
        let empty = json!({"apiVersion": kind.resource.api_version(), "kind": kind.resource.kind()});
        let columns = kind.ops.columns();
        for value in [empty, manifest(&kind)] {
            let object = kind.ops.decode_value(value).unwrap();
            assert_eq!(
                kind.ops.cells(object.as_ref(), testing::now()).len(),
                columns.len(),
                "{:?}",
                kind.resource
            );
        }
        assert_eq!(columns.iter().filter(|c| c.name == "Name").count(), 1, "{:?}", kind.resource);
        for column in columns {
            assert!(
                !column.description.is_empty() && column.priority < 2,
                "{:?} {}",
                kind.resource,
                column.name
            );
        }
    }
}

#[test]
fn an_empty_object_is_refused_or_valid_but_never_a_panic() {
    for kind in every() {
        let empty = json!({"apiVersion": kind.resource.api_version(), "kind": kind.resource.kind()});
        let object = defaulted(&kind, empty);
        let mut errors = Errors::default();
        kind.ops.validate(object.as_ref(), &mut errors);
        kind.ops.validate_create(object.as_ref(), &mut errors);
        kind.ops.validate_update(object.as_ref(), object.as_ref(), &mut errors);
        kind.ops.validate_status_update(object.as_ref(), object.as_ref(), &mut errors);
    }
}

#[test]
fn every_fixture_has_its_kind() {
    let known: BTreeSet<String> = every().iter().map(file).collect();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name} belongs to no kind");
    }
}

#[test]
fn aliases_convert_and_name_real_kinds() {
    let kinds = every();
    for kind in &kinds {
        let Some(alias) = &kind.alias else { continue };
        let stored = kinds.iter().find(|k| k.resource == alias.stored).unwrap();
        assert!(stored.alias.is_none());
        let object = defaulted(kind, manifest(kind));
        let there = (alias.to_stored)(object.as_ref()).unwrap();
        let mut errors = Errors::default();
        stored.ops.validate(there.as_ref(), &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        let back = (alias.from_stored)(there.as_ref()).unwrap();
        assert_eq!(back.to_value().unwrap(), object.to_value().unwrap());
        for (_, path) in alias.fields {
            assert!(stored.selectable_fields.contains(path), "{path}");
        }
    }
}
