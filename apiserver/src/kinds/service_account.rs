//! ServiceAccount: the identity of pods; `token` hands out bound tokens.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::BuiltIn;
use crate::field_error::Errors;

impl BuiltIn for ServiceAccount {
    const SINGULAR: &'static str = "serviceaccount";
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["sa"];
    const SUBRESOURCES: &'static [&'static str] = &["token"];

    fn set_defaults(&mut self) {
        // Upstream keeps only what it needs of these references.
        for secret in self.secrets.iter_mut().flatten() {
            let name = secret.name.take();
            *secret = Default::default();
            secret.name = name;
        }
    }

    fn validate(&self, _errors: &mut Errors) {}
}
