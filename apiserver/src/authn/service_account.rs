//! Service account tokens: JWTs that this cluster signed; the account, and what they are bound to, must still exist.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::resource::Scope;
use coracle_client::{Client, Object, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::token::{Claims, ISSUER, LEGACY_ISSUER, LegacyClaims, NameAndUid, TokenKey};
use super::{Authenticated, Authenticator, CREDENTIAL_ID, Identity};
use crate::lookup::Lookup;

/// Clocks differ by so much, as upstream.
const LEEWAY_SECONDS: i64 = 60;
/// Tokens whose signature was checked; forgotten all at once when they are more.
const VERIFIED_MAX: usize = 4096;

const INVALIDATED: &str = "service account token has been invalidated";

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// A token of either form; what it claims tells them apart.
#[derive(Deserialize)]
#[serde(untagged)]
enum Claimed {
    Bound(Box<Claims>),
    Legacy(LegacyClaims),
}

pub struct ServiceAccountTokens {
    lookup: Arc<Lookup>,
    key: Arc<TokenKey>,
    /// Notes on Secrets when their tokens are used.
    client: Client,
    verified: Mutex<HashMap<[u8; 32], Arc<Claimed>>>,
}

impl ServiceAccountTokens {
    pub fn new(lookup: Arc<Lookup>, key: Arc<TokenKey>, client: Client) -> Self {
        Self { lookup, key, client, verified: Mutex::default() }
    }

    /// The claims of a token that this cluster signed. Checking a signature costs as much as a hundred reads.
    fn verify(&self, token: &str) -> Option<Arc<Claimed>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims.clone());
        }
        let claims: Arc<Claimed> = Arc::new(self.key.verify(token)?);
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Some(claims)
    }

    /// The object, if it is the one that the token means and is not about to go.
    async fn bound<K>(&self, namespace: &str, to: &NameAndUid, kind: &str, now: i64) -> Result<(), String>
    where
        K: k8s_openapi::Resource,
        K::Scope: Scope,
    {
        let found = self.lookup.get::<K>(namespace, &to.name).await.map_err(|e| e.to_string())?;
        let object = found.ok_or(INVALIDATED)?;
        if *object.head.uid != *to.uid {
            return Err(format!(
                "{kind} UID ({}) does not match service account {} ref claim ({})",
                object.head.uid,
                kind.to_lowercase(),
                to.uid
            ));
        }
        if deleted_before(&object, now - LEEWAY_SECONDS) { Err(INVALIDATED.into()) } else { Ok(()) }
    }

    /// The identity of an account that is there, and was not to be gone before that second.
    async fn account(&self, namespace: &str, name: &str, uid: &str, second: i64) -> Result<Identity, String> {
        let found = self.lookup.get::<ServiceAccount>(namespace, name).await;
        let object =
            found.map_err(|e| e.to_string())?.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if *object.head.uid != *uid {
            return Err(format!("service account UID ({}) does not match claim ({uid})", object.head.uid));
        }
        if deleted_before(&object, second) {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        let mut identity = Identity::new(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        );
        identity.uid = Some(uid.to_owned());
        Ok(identity)
    }

    /// A token out of a Secret counts as long as the Secret has it.
    async fn validate_legacy(
        &self,
        claims: &LegacyClaims,
        token: &str,
        now: Timestamp,
    ) -> Result<Identity, String> {
        let LegacyClaims { namespace, account, secret, account_uid, .. } = claims;
        if claims.sub != format!("system:serviceaccount:{namespace}:{account}") {
            return Err("sub claim is invalid".into());
        }
        let found = self.lookup.get::<Secret>(namespace, secret).await.map_err(|e| e.to_string())?;
        let object = found.filter(|object| !object.head.deleting).ok_or("Token has been invalidated")?;
        let stored: Secret = object.decode().map_err(|e| e.to_string())?;
        if stored.data.as_ref().and_then(|d| d.get("token")).is_none_or(|t| t.0 != token.as_bytes()) {
            return Err("Token does not match server's copy".into());
        }
        // Here a deletion counts at once, whatever its time.
        let identity = self.account(namespace, account, account_uid, i64::MAX).await?;
        self.note_use(&object, now).await;
        if object.head.label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
            return Err(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        Ok(identity)
    }

    /// Once a day; another server's clock may already show tomorrow.
    async fn note_use(&self, secret: &Object, now: Timestamp) {
        let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
        let today = day(now);
        let tomorrow = now.checked_add(jiff::SignedDuration::from_hours(24)).map(day).unwrap_or_default();
        if secret.head.label(LAST_USED).is_some_and(|used| used == today || used == tomorrow) {
            return;
        }
        let (namespace, name) = (&secret.head.namespace, &secret.head.name);
        let patch = json!({"metadata": {"uid": secret.head.uid, "labels": {LAST_USED: today}}});
        if let Err(error) = self.client.patch::<Secret>(namespace, name, None, PatchType::Merge, &patch).await
        {
            warn!(%namespace, %name, %error, "noting that a legacy token was used");
        }
    }

    async fn validate(&self, claims: &Claims, now: i64) -> Result<Identity, String> {
        if claims.exp + LEEWAY_SECONDS < now {
            return Err("service account token has expired".into());
        }
        if claims.nbf - LEEWAY_SECONDS > now {
            return Err("service account token is not valid yet".into());
        }
        let bound = &claims.kubernetes;
        let (namespace, account) = (bound.namespace.as_str(), &bound.serviceaccount);
        let mut identity = self.account(namespace, &account.name, &account.uid, now - LEEWAY_SECONDS).await?;
        let mut extra = |key: &str, value: &str| {
            identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if let Some(secret) = &bound.secret {
            self.bound::<Secret>(namespace, secret, "secret", now).await?;
        }
        if let Some(pod) = &bound.pod {
            self.bound::<Pod>(namespace, pod, "pod", now).await?;
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            // A pod's token says where the pod is; only a token of its own ends with the node.
            if bound.pod.is_none() {
                self.bound::<Node>("", node, "node", now).await?;
            }
            extra("node-name", &node.name);
            if !node.uid.is_empty() {
                extra("node-uid", &node.uid);
            }
        }
        if let Some(after) = bound.warnafter.filter(|after| *after < now) {
            info!(subject = claims.sub, seconds = now - after, "a stale service account token is in use");
        }
        if !claims.jti.is_empty() {
            identity.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={}", claims.jti)]);
        }
        Ok(identity)
    }
}

/// Whether an object was to be gone before that second.
fn deleted_before(object: &Object, second: i64) -> bool {
    #[derive(Deserialize)]
    struct Whole {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<Timestamp>,
    }
    // The time itself is only looked for in objects that have one.
    object.head.deleting
        && object
            .decode::<Whole>()
            .is_ok_and(|o| o.metadata.deletion_timestamp.is_none_or(|at| at.as_second() < second))
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, String> {
        if token.matches('.').count() != 2 {
            return Ok(None);
        }
        let Some(claimed) = self.verify(token) else { return Ok(None) };
        // Tokens without an audience are for the API.
        let api = [ISSUER.to_owned()];
        let (issued_by_us, named) = match &*claimed {
            Claimed::Bound(claims) => (claims.iss == ISSUER, claims.aud.as_slice()),
            Claimed::Legacy(claims) => (claims.iss == LEGACY_ISSUER, api.as_slice()),
        };
        if !issued_by_us {
            return Ok(None);
        }
        let good: Vec<String> = named.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if good.is_empty() {
            use crate::authz::rbac::quoted;
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(named),
                quoted(audiences)
            ));
        }
        let now = Timestamp::now();
        let identity = match &*claimed {
            Claimed::Bound(claims) => self.validate(claims, now.as_second()).await?,
            Claimed::Legacy(claims) => self.validate_legacy(claims, token, now).await?,
        };
        Ok(Some(Authenticated { identity, audiences: good }))
    }
}
