//! What service account tokens claim.

pub use coracle_client::token_key::{KeyError, LEGACY_ISSUER, LegacyClaims, TokenKey};
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

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
        assert_eq!(other.verify::<Claims>(&token), None, "another key");
        let (head, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let forged = Claims { sub: "system:serviceaccount:ns:other".into(), ..claims };
        let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&forged).unwrap());
        assert_eq!(key.verify::<Claims>(&format!("{head}.{forged}.{signature}")), None, "other claims");
        assert_eq!(key.verify::<Claims>("a.b.c"), None);
        let legacy = LegacyClaims::new("ns", "sa", "u", "secret");
        let token = key.sign(&legacy).unwrap();
        assert_eq!(key.verify(&token), Some(legacy));
        assert_eq!(key.verify::<Claims>(&token), None, "no bound token");
        let public = key.public();
        for coordinate in ["x", "y"] {
            assert_eq!(URL_SAFE_NO_PAD.decode(public[coordinate].as_str().unwrap()).unwrap().len(), 32);
        }
    }
}
