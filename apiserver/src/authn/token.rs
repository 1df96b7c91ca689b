//! The key of service account tokens, and what they claim: JWTs signed with ES256.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<NameAndUid>,
    /// From this second on the token should have been replaced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameAndUid {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
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

    /// The claims of a token that this key signed, whenever and for whomever.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let (_, claims) = signed.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The public half as a JSON Web Key.
    pub fn public(&self) -> serde_json::Value {
        // An uncompressed point: 4, and the two coordinates.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
        serde_json::json!({
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_verifies_only_unchanged() {
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
                node: None,
                warnafter: None,
            },
        };
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token), Some(claims.clone()));
        let other = TokenKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(other.verify(&token), None, "another key");
        let (head, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let forged = Claims { sub: "system:serviceaccount:ns:other".into(), ..claims };
        let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&forged).unwrap());
        assert_eq!(key.verify(&format!("{head}.{forged}.{signature}")), None, "other claims");
        assert_eq!(key.verify("a.b.c"), None);
        let public = key.public();
        for coordinate in ["x", "y"] {
            assert_eq!(URL_SAFE_NO_PAD.decode(public[coordinate].as_str().unwrap()).unwrap().len(), 32);
        }
    }
}
