//! What a Secret for a service account's token needs: its content, or to go with the account.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

pub const TYPE: &str = "kubernetes.io/service-account-token";
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The account's name and uid as the Secret gives them; the uid may be empty.
pub fn account(secret: &Secret) -> (&str, &str) {
    let text = |name: &str| {
        secret.metadata.annotations.as_ref().and_then(|a| a.get(name)).map_or("", String::as_str)
    };
    (text(ACCOUNT_NAME), text(ACCOUNT_UID))
}

/// Whether an account of this uid is the one that the Secret is for.
pub fn is_for(secret: &Secret, uid: &str) -> bool {
    let (_, wanted) = account(secret);
    wanted.is_empty() || wanted == uid
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub token: bool,
    pub ca: bool,
    pub namespace: bool,
}

impl Needs {
    pub fn any(self) -> bool {
        self.token || self.ca || self.namespace
    }
}

pub fn needs(secret: &Secret, ca: &str) -> Needs {
    let content = |key: &str| {
        secret.data.as_ref().and_then(|d| d.get(key)).map_or(&[][..], |value: &ByteString| &value.0)
    };
    Needs {
        token: content("token").is_empty(),
        ca: !ca.is_empty() && content("ca.crt") != ca.as_bytes(),
        namespace: content("namespace").is_empty(),
    }
}

/// Puts in what is missing; `token` is asked for only where it is needed.
pub fn fill<E>(
    secret: &mut Secret,
    (name, uid): (&str, &str),
    ca: &str,
    token: impl FnOnce() -> Result<String, E>,
) -> Result<(), E> {
    let needs = needs(secret, ca);
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let data = secret.data.get_or_insert_default();
    if needs.token {
        data.insert("token".into(), ByteString(token()?.into_bytes()));
    }
    if needs.ca {
        data.insert("ca.crt".into(), ByteString(ca.as_bytes().to_vec()));
    }
    if needs.namespace {
        data.insert("namespace".into(), ByteString(namespace.into_bytes()));
    }
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.into(), name.into());
    annotations.insert(ACCOUNT_UID.into(), uid.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn secret(annotations: Value, data: Value) -> Secret {
        from(json!({"metadata": {"namespace": "ns", "name": "s", "annotations": annotations}, "data": data}))
    }

    #[test]
    fn whose_it_is() {
        for (annotations, uid, want) in [
            (json!({ACCOUNT_NAME: "robot"}), "u1", true),
            (json!({ACCOUNT_NAME: "robot", ACCOUNT_UID: "u1"}), "u1", true),
            (json!({ACCOUNT_NAME: "robot", ACCOUNT_UID: ""}), "u1", true),
            (json!({ACCOUNT_NAME: "robot", ACCOUNT_UID: "u0"}), "u1", false),
        ] {
            assert_eq!(is_for(&secret(annotations.clone(), json!({})), uid), want, "{annotations}");
        }
    }

    #[test]
    fn what_is_missing_is_put_in_and_nothing_else() {
        let needs = |token, ca, namespace| Needs { token, ca, namespace };
        // "YQ==" is a, "Yg==" is b.
        for (data, ca, want) in [
            (json!({}), "a", needs(true, true, true)),
            (json!({}), "", needs(true, false, true)),
            (json!({"token": "YQ==", "ca.crt": "YQ==", "namespace": "YQ=="}), "a", Needs::default()),
            (json!({"token": "YQ==", "ca.crt": "Yg==", "namespace": "YQ=="}), "a", needs(false, true, false)),
            (json!({"token": "", "ca.crt": "YQ==", "namespace": "YQ=="}), "a", needs(true, false, false)),
            (json!({"token": "YQ==", "ca.crt": "YQ=="}), "a", needs(false, false, true)),
        ] {
            let mut secret = secret(json!({ACCOUNT_NAME: "robot"}), data.clone());
            assert_eq!(super::needs(&secret, ca), want, "{data}");
            let before = secret.data.clone().unwrap_or_default();
            fill(&mut secret, ("robot", "u"), ca, || Ok::<_, ()>("new".into())).unwrap();
            let after = secret.data.clone().unwrap_or_default();
            assert_eq!(after["token"].0 == b"new", want.token, "{data}");
            assert!(!want.namespace || after["namespace"].0 == b"ns");
            assert!(want.ca || before.get("ca.crt") == after.get("ca.crt"));
            assert_eq!(account(&secret), ("robot", "u"));
            assert!(!super::needs(&secret, ca).any());
        }
    }
}
