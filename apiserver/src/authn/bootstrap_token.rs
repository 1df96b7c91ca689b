//! Bootstrap tokens, by which nodes ask for their first certificates: Secrets in `kube-system`.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::{Authenticated, Authenticator, Identity, for_the_api};
use crate::lookup::Lookup;

const GROUP: &str = "system:bootstrappers";

/// `<id>.<secret>` tokens kept as `bootstrap-token-<id>` Secrets in `kube-system`, as kubeadm's.
pub struct BootstrapTokens {
    pub lookup: Arc<Lookup>,
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, String> {
        let Some((id, secret)) = parse(token) else { return Ok(None) };
        let found = self.lookup.get::<Secret>("kube-system", &format!("bootstrap-token-{id}")).await;
        let Some(object) = found.map_err(|e| e.to_string())?.filter(|object| !object.head.deleting) else {
            return Ok(None);
        };
        let Ok(stored) = object.decode::<Secret>() else { return Ok(None) };
        let Some(groups) = groups(&stored) else { return Ok(None) };
        if !accepts(&stored, id, secret, Timestamp::now()) {
            return Ok(None);
        }
        Ok(for_the_api(Identity::new(&format!("system:bootstrap:{id}"), &groups), audiences))
    }
}

/// None: one of the groups that it names is none of this kind, and the token is worth nothing.
fn groups(secret: &Secret) -> Option<Vec<&str>> {
    let mut all = vec![GROUP];
    for group in text(secret, "auth-extra-groups").split(',').map(str::trim).filter(|g| !g.is_empty()) {
        let name = group.strip_prefix("system:bootstrappers:")?;
        let inside =
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-');
        let ends = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !inside || !ends {
            return None;
        }
        all.push(group);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
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
        let named = |groups| with(&[usage, ("auth-extra-groups", groups)]);
        assert_eq!(groups(&named("")), Some(vec![GROUP]));
        assert_eq!(groups(&named("system:bootstrappers:a")), Some(vec![GROUP, "system:bootstrappers:a"]));
        assert_eq!(groups(&named("system:masters")), None);
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abcdef.short", "a.b.c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
