//! Secret: like a ConfigMap, for what must not be seen; its type says which keys it needs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::{BuiltIn, Column, tls_pair};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// As upstream's `MaxSecretSize`.
const SIZE_MAX_BYTES: usize = 1024 * 1024;
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

impl BuiltIn for Secret {
    const SINGULAR: &'static str = "secret";

    fn set_defaults(&mut self) {
        // Write-only: what is given as text is stored as data.
        if let Some(text) = self.string_data.take() {
            let data = self.data.get_or_insert_with(BTreeMap::new);
            data.extend(text.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))));
        }
        if validation::given(&self.type_).is_none() {
            self.type_ = Some("Opaque".into());
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        // Clients that read the type as optional send none: it stays.
        if validation::given(&self.type_).is_none() {
            self.type_ = old.type_.clone();
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let empty = BTreeMap::new();
        let data = self.data.as_ref().unwrap_or(&empty);
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in data {
            errors.check(path.key(key), key, validation::config_map_key);
            size += value.0.len();
        }
        if size > SIZE_MAX_BYTES {
            errors.too_long(path, SIZE_MAX_BYTES);
        }
        let require = |errors: &mut Errors, keys: &[&str]| {
            for key in keys.iter().filter(|k| !data.contains_key(**k)) {
                errors.required(path.key(key), "");
            }
        };
        match self.type_.as_deref().unwrap_or_default() {
            "kubernetes.io/service-account-token" => {
                let name = self.metadata.annotations.as_ref().and_then(|a| a.get(SERVICE_ACCOUNT_NAME));
                if name.is_none_or(String::is_empty) {
                    errors.required(format!("metadata.annotations[{SERVICE_ACCOUNT_NAME}]"), "");
                }
            }
            "kubernetes.io/dockercfg" => is_json(data, ".dockercfg", errors),
            "kubernetes.io/dockerconfigjson" => is_json(data, ".dockerconfigjson", errors),
            "kubernetes.io/basic-auth"
                if !data.contains_key("username") && !data.contains_key("password") =>
            {
                require(errors, &["username", "password"]);
            }
            "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|k| k.0.is_empty()) => {
                errors.required(path.key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => require(errors, &["tls.crt", "tls.key"]),
            _ => {}
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("type", &self.type_, &old.type_);
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.forbidden("immutable", "field is immutable when `immutable` is set");
            }
            if self.data.as_ref().is_none_or(BTreeMap::is_empty)
                != old.data.as_ref().is_none_or(BTreeMap::is_empty)
                || self.data.iter().flatten().ne(old.data.iter().flatten())
            {
                errors.forbidden("data", "field is immutable when `immutable` is set");
            }
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        if self.type_.as_deref() != Some("kubernetes.io/tls") {
            return Vec::new();
        }
        let part =
            |key: &str| self.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
        let (certificate, key) = (part("tls.crt"), part("tls.key"));
        tls_pair::fault(certificate.unwrap_or_default(), key.unwrap_or_default()).into_iter().collect()
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Type", "string", "What the secret is for, which decides the keys it needs."),
            table::narrow("Data", "string", "How many keys the secret holds."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let count = self.data.as_ref().map_or(0, BTreeMap::len);
        table::cells(&self.metadata, now, vec![json!(self.type_), json!(count)])
    }
}

fn is_json(data: &BTreeMap<String, ByteString>, key: &str, errors: &mut Errors) {
    let path = Path::new("data");
    match data.get(key) {
        None => errors.required(path.key(key), ""),
        Some(value) => {
            let object: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&value.0);
            if let Err(error) = object {
                let fault = crate::decode::json_fault(&value.0).unwrap_or_else(|| error.to_string());
                errors.invalid(path.key(key), "<secret contents redacted>", fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, parse};

    use super::*;

    #[test]
    fn text_becomes_data() {
        let mut secret: Secret = parse(json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}}));
        secret.set_defaults();
        assert_eq!(
            serde_json::to_value(&secret).unwrap(),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "type": "Opaque",
                "data": {"a": "eA==", "b": "eQ=="}})
        );
    }

    #[test]
    fn types_need_their_keys() {
        testing::invalid::<Secret>(&[
            (json!({"data": {"a/b": ""}}), "data[a/b]", "Invalid value: \"a/b\": a valid config key"),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
                "data[tls.key]",
                "Required value",
            ),
            (json!({"type": "kubernetes.io/ssh-auth"}), "data[ssh-privatekey]", "Required value"),
            (json!({"type": "kubernetes.io/dockerconfigjson"}), "data[.dockerconfigjson]", "Required value"),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "x"}}),
                "data[.dockerconfigjson]",
                "Invalid value: \"<secret contents redacted>\": ",
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                "metadata.annotations[kubernetes.io/service-account.name]",
                "Required value",
            ),
        ]);
        testing::valid::<Secret>(&[
            json!({"type": "kubernetes.io/basic-auth", "stringData": {"username": "x"}}),
            json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "{}"}}),
            json!({"type": "example.com/mine"}),
        ]);
    }

    #[test]
    fn immutable_stays() {
        let old = json!({"immutable": true, "stringData": {"a": "1"}});
        testing::updates::<Secret>(&[
            (
                old.clone(),
                json!({"immutable": true, "stringData": {"a": "2"}}),
                "data",
                "Forbidden: field is immutable when",
            ),
            (
                old.clone(),
                json!({"stringData": {"a": "1"}}),
                "immutable",
                "Forbidden: field is immutable when",
            ),
            (old.clone(), old, "", ""),
            (json!({"type": "a"}), json!({"type": "b"}), "type", "Invalid value: \"b\": field is immutable"),
        ]);
    }
}
