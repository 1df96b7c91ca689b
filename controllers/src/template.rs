//! When two pod templates are the same, and the hash that names a template.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

pub const HASH_LABEL: &str = "pod-template-hash";

/// Upstream's alphabet for generated names: no vowels (no words), no digits that look like letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The template as canonical JSON: without the hash label and without empty values, which mean the same as none.
pub fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("creationTimestamp");
    }
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| !is_empty(field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Stable over processes and versions: FNV-1a of the canonical JSON (whose keys are sorted), then of the count.
pub fn hash(canonical: &Value, collisions: Option<i32>) -> String {
    let mut hash = 0x811c_9dc5_u32;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(canonical.to_string().as_bytes());
    if let Some(count) = collisions {
        feed(&count.to_le_bytes());
    }
    hash.to_string()
        .bytes()
        .filter_map(|digit| ALPHABET.get(usize::from(digit) % ALPHABET.len()).copied())
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    #[test]
    fn hashes_ignore_the_hash_label_and_empty_values_and_nothing_else() {
        let template = |value: Value| canonical(&from::<PodTemplateSpec>(value));
        let plain = template(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        );
        let same =
            template(json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "securityContext": {}}}));
        let other = template(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "j"}]}}),
        );
        assert_eq!(plain, same);
        assert_ne!(plain, other);
        let name = hash(&plain, None);
        assert_eq!(name, hash(&same, None));
        assert_ne!(name, hash(&other, None));
        assert_ne!(name, hash(&plain, Some(1)));
        assert!(name.len() <= 10 && name.bytes().all(|b| ALPHABET.contains(&b)), "{name}");
    }
}
