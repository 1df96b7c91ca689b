//! Bootstrap signer: kube-public/cluster-info carries a signature by every token that may sign, so that whoever knows
//! a token knows that the description is this cluster's.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::{ApiError, Change, Client, Informer, Key, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;

use super::{expires, text};
use crate::context::Context;

const PUBLIC: &str = "kube-public";
const NAME: &str = "cluster-info";
const SIGNED: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

pub async fn run(context: Context) {
    let scope = InformerScope {
        namespace: Some(PUBLIC.into()),
        field_selector: Some(format!("metadata.name={NAME}")),
        ..InformerScope::default()
    };
    let controller = Controller {
        client: context.client.clone(),
        tokens: super::tokens(&context),
        maps: context.scoped(Resource::of::<ConfigMap>(), scope),
    };
    let queue = WorkQueue::new();
    for informer in [&controller.tokens, &controller.maps] {
        let added = queue.clone();
        informer.on_change(move |_: &Change| added.add(Key::new(PUBLIC, NAME)));
    }
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    tokens: Informer,
    maps: Informer,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.maps.get_key(key) else { return Ok(Outcome::Done) };
        let mut map: ConfigMap = object.decode()?;
        let now = Timestamp::now();
        let tokens: Vec<Secret> =
            self.tokens.list().iter().filter(|t| !t.head.deleting).filter_map(|t| t.decode().ok()).collect();
        let data = map.data.clone().unwrap_or_default();
        if let Some(signed) = signed(&data, &tokens, now) {
            map.data = Some(signed);
            self.client.update(&map).await?;
        }
        // The signature of a token goes when the token is over.
        let next = tokens.iter().filter_map(expires).filter(|at| *at > now).min();
        Ok(next.map_or(Outcome::Done, |at| {
            Outcome::After(Duration::try_from(at.duration_since(now)).unwrap_or_default())
        }))
    }
}

/// The id and secret of a token that may sign.
fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = secret.metadata.name.as_deref()?.strip_prefix("bootstrap-token-")?;
    let fine = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let over = expires(secret).is_some_and(|at| at <= now);
    let key = text(secret, "token-secret");
    let signs = text(secret, "usage-bootstrap-signing") == "true" && text(secret, "token-id") == id;
    (fine && signs && !over && !key.is_empty()).then_some((id, key))
}

/// The data with the signatures it should have; None: it has them.
fn signed(
    data: &BTreeMap<String, String>,
    tokens: &[Secret],
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let content = data.get(SIGNED)?;
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(k, _)| !k.starts_with(SIGNATURE)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (id, key) in tokens.iter().filter_map(|token| signing(token, now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), detached(content, id, key));
    }
    (wanted != *data).then_some(wanted)
}

/// A JSON Web Signature without its payload.
fn detached(content: &str, id: &str, key: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), input.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    fn token(id: &str, change: &[(&str, &str)]) -> Secret {
        let mut data = BTreeMap::from([
            ("token-id", id),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-signing", "true"),
        ]);
        data.extend(change.iter().copied());
        let mut secret: Secret = from(json!({"metadata": {"namespace": super::super::NAMESPACE,
            "name": format!("bootstrap-token-{id}")}, "type": super::super::TYPE}));
        let bytes = |(k, v): (&str, &str)| (k.to_owned(), ByteString(v.as_bytes().to_vec()));
        secret.data = Some(data.into_iter().map(bytes).collect());
        secret
    }

    #[test]
    fn a_signature_verifies_and_carries_no_payload() {
        let got = detached("foo", "abcdef", "0123456789abcdef");
        let (header, tag) = got.split_once("..").unwrap();
        let header: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        assert_eq!(header, json!({"alg": "HS256", "kid": "abcdef"}));
        let input = format!("{}.{}", got.split_once("..").unwrap().0, URL_SAFE_NO_PAD.encode("foo"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        hmac::verify(&key, input.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).unwrap()).unwrap();
    }

    #[test]
    fn only_tokens_that_may_sign_do() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (change, want) in [
            ([].as_slice(), true),
            (&[("usage-bootstrap-signing", "false")], false),
            (&[("token-secret", "")], false),
            (&[("token-id", "other1")], false),
            (&[("expiration", "2026-01-01T00:00:00Z")], false),
            (&[("expiration", "2026-01-01T00:00:01Z")], true),
            (&[("expiration", "tomorrow")], false),
        ] {
            assert_eq!(signing(&token("abcdef", change), now).is_some(), want, "{change:?}");
        }
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let tokens = [token("abcdef", &[])];
        assert_eq!(signed(&data(&[]), &tokens, now), None, "nothing to sign");
        let first = signed(
            &data(&[("kubeconfig", "x"), ("jws-kubeconfig-gone00", "y"), ("note", "z")]),
            &tokens,
            now,
        )
        .unwrap();
        assert_eq!(first.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig", "note"]);
        assert_eq!(signed(&first, &tokens, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn signatures_come_and_go_with_their_tokens() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.start(|c| Box::pin(super::super::cleaner::run(c)));
        let map: ConfigMap =
            from(json!({"metadata": {"namespace": PUBLIC, "name": NAME}, "data": {"kubeconfig": "x"}}));
        client.create(&map).await.unwrap();
        client.create(&token("abcdef", &[])).await.unwrap();
        client.create(&token("expire", &[("expiration", "2020-01-01T00:00:00Z")])).await.unwrap();
        let signatures = |f: &coracle_client::fake::Fake| {
            let data = f.get::<ConfigMap>(PUBLIC, NAME).and_then(|m| m.data).unwrap_or_default();
            data.keys().filter(|k| k.starts_with(SIGNATURE)).count()
        };
        cluster.until("signed", |f| signatures(f) == 1).await;
        cluster.until("one is over", |f| f.list::<Secret>(super::super::NAMESPACE).len() == 1).await;
        client
            .delete::<Secret>(super::super::NAMESPACE, "bootstrap-token-abcdef", Default::default())
            .await
            .unwrap();
        cluster.until("and the other revoked", |f| signatures(f) == 0).await;
    }
}
