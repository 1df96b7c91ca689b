//! Service account tokens: JWTs signed with ES256, bound to a service account and, where asked, to a pod.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The issuer of every token, and the audience of tokens for the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub iss: String,
    pub jti: String,
    pub sub: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    pub serviceaccount: NameAndUid,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<NameAndUid>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<NameAndUid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameAndUid {
    pub name: String,
    pub uid: String,
}

/// Signs and verifies.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    id: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the service account signing key is unusable: {0}")]
pub struct KeyError(String);

impl TokenKey {
    /// From a PKCS#8 P-256 key in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (_, parsed) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &parsed.contents,
            &SystemRandom::new(),
        )
        .map_err(|e| KeyError(e.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Self { pair, id })
    }

    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = serde_json::json!({"alg": "ES256", "kid": self.id});
        let claims = serde_json::to_vec(claims).map_err(|e| KeyError(e.to_string()))?;
        let mut token =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let signature =
            self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims of a token that this key signed for this API and that is in its time.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let (_, claims) = signed.split_once('.')?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let second = now.as_second();
        let fine = claims.iss == ISSUER
            && claims.aud.iter().any(|a| a == ISSUER)
            && claims.nbf <= second
            && second < claims.exp;
        fine.then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_verifies_only_unchanged_in_time_and_for_this_audience() {
        let key = TokenKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let claims = Claims {
            aud: vec![ISSUER.into()],
            exp: 2000,
            iat: 1000,
            nbf: 1000,
            iss: ISSUER.into(),
            jti: "j".into(),
            sub: "system:serviceaccount:ns:sa".into(),
            kubernetes: Bound {
                namespace: "ns".into(),
                serviceaccount: NameAndUid { name: "sa".into(), uid: "u".into() },
                pod: None,
                secret: None,
            },
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token, at(1500)), Some(claims.clone()));
        assert_eq!(key.verify(&token, at(2000)), None, "expired");
        assert_eq!(key.verify(&token, at(999)), None, "not yet");
        let other = TokenKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(other.verify(&token, at(1500)), None, "another key");
        let elsewhere = key.sign(&Claims { aud: vec!["vault".into()], ..claims }).unwrap();
        assert_eq!(key.verify(&elsewhere, at(1500)), None, "another audience");
        assert_eq!(key.verify("a.b.c", at(1500)), None);
    }
}
