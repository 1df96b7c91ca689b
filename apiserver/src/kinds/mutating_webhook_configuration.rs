//! MutatingWebhookConfiguration: who outside the server has a say in writes and may change them.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::{Value, json};

use super::webhook::{self, Webhook, webhook_defaults};
use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::table;

impl BuiltIn for MutatingWebhookConfiguration {
    const SINGULAR: &'static str = "mutatingwebhookconfiguration";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        for hook in self.webhooks.iter_mut().flatten() {
            webhook_defaults!(&mut *hook);
            hook.reinvocation_policy.get_or_insert_with(|| "Never".into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let hooks: Vec<Webhook<'_>> = self.webhooks.iter().flatten().map(Webhook::from).collect();
        webhook::validate_all(&hooks, errors);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("Webhooks", "integer", "How many webhooks are called.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let count = self.webhooks.as_ref().map_or(0, Vec::len);
        table::cells(&self.metadata, now, vec![json!(count)])
    }
}
