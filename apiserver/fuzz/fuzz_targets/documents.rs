//! What requests carry beside objects: continue tokens, options and reviews in JSON, YAML and protobuf; and protobuf the
//! other way round: what JSON says of a built-in kind is written in it and read back as itself.
#![no_main]

use std::sync::LazyLock;

use coracle_apiserver::decode::{self, FieldValidation};
use coracle_apiserver::kinds::{self, KindDef};
use coracle_apiserver::protobuf;
use coracle_apiserver::verbs::list::Token;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;

static KINDS: LazyLock<Vec<KindDef>> = LazyLock::new(kinds::all);
const TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

fn read<T: DeserializeOwned>(api_version: &str, kind: &str, form: u8, body: &[u8]) {
    let content_type = Some(TYPES[form as usize % TYPES.len()]);
    for validation in [FieldValidation::Strict, FieldValidation::Ignore] {
        let _ = decode::document::<T>(api_version, kind, content_type, body, validation);
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, form, body @ ..] = input else { return };
    match choice % 7 {
        0 => read::<DeleteOptions>("v1", "DeleteOptions", *form, body),
        1 => read::<Scale>("autoscaling/v1", "Scale", *form, body),
        2 => read::<Eviction>("policy/v1", "Eviction", *form, body),
        3 => read::<Binding>("v1", "Binding", *form, body),
        4 => read::<TokenRequest>("authentication.k8s.io/v1", "TokenRequest", *form, body),
        5 => {
            let Ok(text) = std::str::from_utf8(body) else { return };
            if let Ok(token) = Token::parse(text) {
                assert_eq!(Token::parse(&token.encode()).expect("what was written can be read"), token);
            }
        }
        _ => {
            let kind = &KINDS[*form as usize % KINDS.len()];
            let Ok(decoded) = decode::body(kind, Some(TYPES[0]), body, FieldValidation::Ignore) else {
                return;
            };
            let json = decoded.object.encode().expect("what was decoded can be encoded");
            let (api_version, name) = (kind.resource.api_version(), kind.resource.kind().to_owned());
            let Some(message) = protobuf::table().kind(&api_version, &name) else { return };
            let Ok(written) = protobuf::document(protobuf::table(), message, &api_version, &name, &json)
            else {
                return;
            };
            let again = decode::body(kind, Some(TYPES[2]), &written, FieldValidation::Ignore)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&json)));
            let again = again.object.encode().expect("what was decoded can be encoded");
            let twice = protobuf::document(protobuf::table(), message, &api_version, &name, &again)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&again)));
            assert_eq!(twice, written, "{}", String::from_utf8_lossy(&json));
        }
    }
});
