//! What others need to check service account tokens: the issuer's document and its public keys.

use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::token::{ISSUER, TokenKey};

const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// Both documents.
pub struct Documents {
    configuration: String,
    keys: String,
}

impl Documents {
    /// `address`: where others reach this API, with the port.
    pub fn new(key: &TokenKey, address: &str) -> Self {
        let configuration: Value = json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{address}{KEYS}"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        Self { configuration: configuration.to_string(), keys: json!({"keys": [key.public()]}).to_string() }
    }

    pub fn answer(&self, path: &str) -> Option<Response> {
        let (media_type, body) = match path {
            CONFIGURATION => ("application/json", &self.configuration),
            KEYS => ("application/jwk-set+json", &self.keys),
            _ => return None,
        };
        let mut response = Response::new(body.clone().into());
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Some(response)
    }
}
