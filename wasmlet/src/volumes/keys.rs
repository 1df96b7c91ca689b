//! Which keys of a ConfigMap or Secret become which files: `items`, modes and `optional`. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::KeyToPath;

use super::MountError;
use super::atomic_writer::{Payload, Projected};

/// What a volume (or a projection) selects.
pub struct Selection<'a> {
    /// `configmap` or `secret`, and its name: for messages.
    pub kind: &'static str,
    pub name: &'a str,
    pub items: Option<&'a [KeyToPath]>,
    pub optional: bool,
    pub default_mode: u32,
}

/// `data`: None where the object does not exist.
pub fn select(
    selection: &Selection<'_>,
    data: Option<BTreeMap<String, Vec<u8>>>,
) -> Result<Payload, MountError> {
    let Some(mut data) = data else {
        if selection.optional {
            return Ok(Payload::new());
        }
        return Err(MountError::NotFound { kind: selection.kind, name: selection.name.into() });
    };
    let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
        let whole = |(key, bytes)| (key, Projected { bytes, mode: selection.default_mode });
        return Ok(data.into_iter().map(whole).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        let mode = item.mode.map_or(selection.default_mode, mode_bits);
        // A key may be named twice, for two paths.
        let bytes = if items.iter().filter(|other| other.key == item.key).count() == 1 {
            data.remove(&item.key)
        } else {
            data.get(&item.key).cloned()
        };
        match bytes {
            Some(bytes) => {
                payload.insert(item.path.clone(), Projected { bytes, mode });
            }
            None if selection.optional => {}
            None => {
                return Err(MountError::NoKey { kind: selection.kind, key: item.key.clone() });
            }
        }
    }
    Ok(payload)
}

/// The permission bits of an API mode.
pub fn mode_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode, ..KeyToPath::default() }
    }

    #[test]
    fn selections() {
        let data: BTreeMap<_, _> = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into();
        for (what, items, optional, exists, want) in [
            ("all keys", vec![], false, true, Ok(vec![("a", 0o644), ("b", 0o644)])),
            ("chosen", vec![item("b", "x/y", Some(0o400))], false, true, Ok(vec![("x/y", 0o400)])),
            (
                "twice",
                vec![item("a", "p", None), item("a", "q", None)],
                false,
                true,
                Ok(vec![("p", 0o644), ("q", 0o644)]),
            ),
            (
                "no such key",
                vec![item("z", "z", None)],
                false,
                true,
                Err("configmap references non-existent config key: z"),
            ),
            ("no such key, optional", vec![item("z", "z", None)], true, true, Ok(vec![])),
            ("no object", vec![], false, false, Err("configmap \"cfg\" not found")),
            ("no object, optional", vec![], true, false, Ok(vec![])),
        ] {
            let selection = Selection {
                kind: "configmap",
                name: "cfg",
                items: Some(&items),
                optional,
                default_mode: 0o644,
            };
            let got = select(&selection, exists.then(|| data.clone()));
            match (got, want) {
                (Ok(got), Ok(want)) => {
                    let got: Vec<_> = got.iter().map(|(path, file)| (path.as_str(), file.mode)).collect();
                    assert_eq!(got, want, "{what}");
                }
                (Err(got), Err(want)) => assert_eq!(got.to_string(), want, "{what}"),
                (got, want) => panic!("{what}: {got:?}, want {want:?}"),
            }
        }
    }
}
