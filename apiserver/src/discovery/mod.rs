//! What the server offers: groups, versions and resources, as aggregated documents and in the older one-per-group form.

use axum::response::Response;
use coracle_client::ApiError;
use http::HeaderMap;

use crate::api::Api;
use crate::kinds::KindDef;
use crate::response;

pub struct Discovery {}

impl Discovery {
    pub fn new(_kinds: &[KindDef]) -> Self {
        Self {}
    }

    pub fn answer(&self, _api: &Api, _path: &str, _headers: &HeaderMap) -> Result<Response, ApiError> {
        Ok(response::page_not_found())
    }
}
