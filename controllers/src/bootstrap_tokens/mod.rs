//! Bootstrap tokens: what they sign, and when they are over.

pub mod cleaner;
pub mod signer;

use coracle_client::Informer;
use coracle_client::Resource;
use coracle_client::informer::InformerScope;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::context::Context;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The Secrets that are bootstrap tokens.
fn tokens(context: &Context) -> Informer {
    let scope = InformerScope {
        namespace: Some(NAMESPACE.into()),
        field_selector: Some(format!("type={TYPE}")),
        ..InformerScope::default()
    };
    context.scoped(Resource::of::<Secret>(), scope)
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let value = secret.data.as_ref().and_then(|d| d.get(key));
    value.and_then(|v| std::str::from_utf8(&v.0).ok()).unwrap_or_default()
}

/// When the token is over; None: never. One whose time cannot be read is over already, as upstream.
fn expires(secret: &Secret) -> Option<Timestamp> {
    match text(secret, "expiration") {
        "" => None,
        at => Some(at.parse().unwrap_or(Timestamp::MIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::from;
    use serde_json::json;

    #[test]
    fn ends_are_read() {
        for (end, want) in [
            (None, None),
            (Some(""), None),
            (Some("2026-01-01T00:00:00Z"), Some("2026-01-01T00:00:00Z".parse().unwrap())),
            (Some("2026-01-01T02:00:00+02:00"), Some("2026-01-01T00:00:00Z".parse().unwrap())),
            (Some("soon"), Some(Timestamp::MIN)),
        ] {
            let mut secret: Secret = from(json!({"metadata": {}}));
            if let Some(end) = end {
                let value = k8s_openapi::ByteString(end.as_bytes().to_vec());
                secret.data = Some([("expiration".to_owned(), value)].into());
            }
            assert_eq!(expires(&secret), want, "{end:?}");
        }
    }
}
