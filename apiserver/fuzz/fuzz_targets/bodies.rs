//! Bodies of every built-in kind: what is accepted encodes to something that decodes to the same.
#![no_main]

use std::sync::LazyLock;

use coracle_apiserver::decode::{self, FieldValidation};
use coracle_apiserver::kinds::{self, KindDef};
use libfuzzer_sys::fuzz_target;

static KINDS: LazyLock<Vec<KindDef>> = LazyLock::new(kinds::all);
const TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const VALIDATIONS: [FieldValidation; 3] =
    [FieldValidation::Strict, FieldValidation::Warn, FieldValidation::Ignore];

fuzz_target!(|input: &[u8]| {
    let [kind, form, body @ ..] = input else { return };
    let kind = &KINDS[*kind as usize % KINDS.len()];
    let content_type = TYPES[*form as usize % TYPES.len()];
    let validation = VALIDATIONS[*form as usize / TYPES.len() % VALIDATIONS.len()];
    let Ok(decoded) = decode::body(kind, Some(content_type), body, validation) else { return };
    let encoded = decoded.object.encode().expect("what was decoded can be encoded");
    let again = decode::body(kind, Some(TYPES[0]), &encoded, FieldValidation::Strict)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&encoded)));
    assert_eq!(again.object.encode().unwrap(), encoded);
});
