//! Service account tokens: JWTs that this cluster signed; the account, and what they are bound to, must still exist.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::Object;
use coracle_client::resource::Scope;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tracing::info;

use super::token::{Claims, ISSUER, NameAndUid, TokenKey};
use super::{Authenticated, Authenticator, CREDENTIAL_ID, Identity};
use crate::lookup::Lookup;

/// Clocks differ by so much, as upstream.
const LEEWAY_SECONDS: i64 = 60;
/// Tokens whose signature was checked; forgotten all at once when they are more.
const VERIFIED_MAX: usize = 4096;

const INVALIDATED: &str = "service account token has been invalidated";

pub struct ServiceAccountTokens {
    lookup: Arc<Lookup>,
    key: Arc<TokenKey>,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl ServiceAccountTokens {
    pub fn new(lookup: Arc<Lookup>, key: Arc<TokenKey>) -> Self {
        Self { lookup, key, verified: Mutex::default() }
    }

    /// The claims of a token that this cluster signed. Checking a signature costs as much as a hundred reads.
    fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims.clone());
        }
        let claims = Arc::new(self.key.verify(token)?);
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

    async fn validate(&self, claims: &Claims, now: i64) -> Result<Identity, String> {
        if claims.exp + LEEWAY_SECONDS < now {
            return Err("service account token has expired".into());
        }
        if claims.nbf - LEEWAY_SECONDS > now {
            return Err("service account token is not valid yet".into());
        }
        let bound = &claims.kubernetes;
        let (namespace, account) = (bound.namespace.as_str(), &bound.serviceaccount);
        let found = self.lookup.get::<ServiceAccount>(namespace, &account.name).await;
        let object = found
            .map_err(|e| e.to_string())?
            .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
        if *object.head.uid != *account.uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({})",
                object.head.uid, account.uid
            ));
        }
        if deleted_before(&object, now - LEEWAY_SECONDS) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        let mut identity = Identity::new(
            &format!("system:serviceaccount:{namespace}:{}", account.name),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        );
        identity.uid = Some(account.uid.clone());
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
        let Some(claims) = self.verify(token) else { return Ok(None) };
        if claims.iss != ISSUER {
            return Ok(None);
        }
        let good: Vec<String> = claims.aud.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if good.is_empty() {
            use crate::authz::rbac::quoted;
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&claims.aud),
                quoted(audiences)
            ));
        }
        let identity = self.validate(&claims, Timestamp::now().as_second()).await?;
        Ok(Some(Authenticated { identity, audiences: good }))
    }
}
