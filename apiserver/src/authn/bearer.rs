//! Bearer tokens: bootstrap tokens that let a node ask for certificates, and service account tokens.

use async_trait::async_trait;
use coracle_client::{ApiError, Client};
use http::request::Parts;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};

use super::token::TokenKey;
use super::{Authenticator, Identity};

fn bearer(request: &Parts) -> Option<&str> {
    let value = request.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// `<id>.<secret>` tokens kept as `bootstrap-token-<id>` Secrets in `kube-system`, as kubeadm's.
pub struct BootstrapTokens {
    pub client: Client,
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<Identity>, ApiError> {
        let Some((id, secret)) = bearer(request).and_then(parse) else { return Ok(None) };
        let Some(stored) =
            self.client.find::<Secret>("kube-system", &format!("bootstrap-token-{id}")).await?
        else {
            return Ok(None);
        };
        if stored.metadata.deletion_timestamp.is_some() || !accepts(&stored, id, secret, Timestamp::now()) {
            return Ok(None);
        }
        let groups = text(&stored, "auth-extra-groups");
        let mut all = vec!["system:bootstrappers"];
        all.extend(groups.split(',').filter(|g| g.starts_with("system:bootstrappers:")));
        Ok(Some(Identity::new(&format!("system:bootstrap:{id}"), &all)))
    }
}

/// Six and sixteen lower-case letters and digits.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fine = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (fine(id, 6) && fine(secret, 16)).then_some((id, secret))
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret
        .data
        .as_ref()
        .and_then(|d| d.get(key))
        .and_then(|v| std::str::from_utf8(&v.0).ok())
        .unwrap_or_default()
}

fn accepts(stored: &Secret, id: &str, secret: &str, now: Timestamp) -> bool {
    let expired = match text(stored, "expiration") {
        "" => false,
        at => at.parse::<Timestamp>().map_or(true, |at| at <= now),
    };
    stored.type_.as_deref() == Some("bootstrap.kubernetes.io/token")
        && text(stored, "token-id") == id
        && same(text(stored, "token-secret").as_bytes(), secret.as_bytes())
        && text(stored, "usage-bootstrap-authentication") == "true"
        && !expired
}

/// Takes the same time wherever the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// JWTs that this cluster signed; what they are bound to must still exist.
pub struct ServiceAccountTokens {
    pub client: Client,
    pub key: TokenKey,
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<Identity>, ApiError> {
        let Some(token) = bearer(request).filter(|t| t.matches('.').count() == 2) else { return Ok(None) };
        let Some(claims) = self.key.verify(token, Timestamp::now()) else { return Ok(None) };
        let bound = claims.kubernetes;
        let account =
            self.client.find::<ServiceAccount>(&bound.namespace, &bound.serviceaccount.name).await?;
        if account.is_none_or(|a| a.metadata.uid.as_deref() != Some(&bound.serviceaccount.uid)) {
            return Ok(None);
        }
        let mut identity = Identity::new(
            &claims.sub,
            &["system:serviceaccounts", &format!("system:serviceaccounts:{}", bound.namespace)],
        );
        identity.uid = Some(bound.serviceaccount.uid);
        if let Some(pod) = bound.pod {
            let current = self.client.find::<Pod>(&bound.namespace, &pod.name).await?;
            if current.is_none_or(|p| p.metadata.uid.as_deref() != Some(&pod.uid)) {
                return Ok(None);
            }
            identity.extra.insert("authentication.kubernetes.io/pod-name".into(), vec![pod.name]);
            identity.extra.insert("authentication.kubernetes.io/pod-uid".into(), vec![pod.uid]);
        }
        identity
            .extra
            .insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={}", claims.jti)]);
        Ok(Some(identity))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_bootstrap_token_must_match_be_for_authentication_and_be_in_time() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let secret = |pairs: &[(&str, &str)]| Secret {
            type_: Some("bootstrap.kubernetes.io/token".into()),
            data: Some(
                pairs
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec())))
                    .collect::<BTreeMap<_, _>>(),
            ),
            ..Secret::default()
        };
        let base = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef")];
        let with = |extra: &[(&str, &str)]| secret(&[&base[..], extra].concat());
        let usage = ("usage-bootstrap-authentication", "true");
        for (stored, want) in [
            (with(&[usage]), true),
            (with(&[]), false),
            (with(&[usage, ("expiration", "2025-12-31T00:00:00Z")]), false),
            (with(&[usage, ("expiration", "2026-12-31T00:00:00Z")]), true),
            (with(&[usage, ("expiration", "whenever")]), false),
            (Secret { type_: Some("Opaque".into()), ..with(&[usage]) }, false),
        ] {
            assert_eq!(accepts(&stored, "abcdef", "0123456789abcdef", now), want);
            assert!(!accepts(&stored, "abcdef", "0123456789abcdeX", now));
        }
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abcdef.short", "a.b.c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
