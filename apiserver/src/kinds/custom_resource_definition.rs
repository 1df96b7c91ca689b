//! CustomResourceDefinition: what makes a kind of one's own. The rules are in `crd/`.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::crd::{FINALIZER, conditions, definition};
use crate::field_error::Errors;
use crate::table;

const WEBHOOK_PORT: i32 = 443;

/// The storage version is among those that objects may be stored in.
fn remember_storage(definition: &mut CustomResourceDefinition) {
    let storage = definition.spec.versions.iter().find(|version| version.storage).map(|v| v.name.clone());
    let stored = definition.status.get_or_insert_default().stored_versions.get_or_insert_default();
    if let Some(name) = storage.filter(|name| !stored.contains(name)) {
        stored.push(name);
    }
}

impl BuiltIn for CustomResourceDefinition {
    const SINGULAR: &'static str = "customresourcedefinition";
    const SHORT_NAMES: &'static [&'static str] = &["crd", "crds"];
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        if spec.names.singular.as_deref().unwrap_or_default().is_empty() {
            spec.names.singular = Some(spec.names.kind.to_lowercase());
        }
        if spec.names.list_kind.as_deref().unwrap_or_default().is_empty() && !spec.names.kind.is_empty() {
            spec.names.list_kind = Some(format!("{}List", spec.names.kind));
        }
        if spec.preserve_unknown_fields == Some(false) {
            spec.preserve_unknown_fields = None;
        }
        let conversion = spec
            .conversion
            .get_or_insert_with(|| CustomResourceConversion { strategy: "None".into(), webhook: None });
        let client = conversion.webhook.as_mut().and_then(|webhook| webhook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            service.port.get_or_insert(WEBHOOK_PORT);
        }
    }

    fn prepare_create(&mut self) {
        let accepted_names = Some(CustomResourceDefinitionNames::default());
        self.status = Some(CustomResourceDefinitionStatus { accepted_names, ..Default::default() });
        remember_storage(self);
    }

    fn prepare_update(&mut self, _old: &Self) {
        remember_storage(self);
    }

    /// The first delete only marks it: instances go before their definition.
    fn held_back(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
    }

    fn prepare_deletion(&mut self) {
        let finalizers = self.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        let Some(Time(now)) = self.metadata.deletion_timestamp.clone() else { return };
        let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        let condition = conditions::condition("Terminating", true, "InstanceDeletionPending", message);
        conditions::set(self.status.get_or_insert_default(), condition, now);
    }

    fn validate(&self, _errors: &mut Errors) {}

    fn validate_create(&self, errors: &mut Errors) {
        definition::check(self, None, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        definition::check(self, Some(old), errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        definition::check_status(self, errors);
    }

    fn columns() -> Vec<Column> {
        let created =
            Column { name: Cow::Borrowed("Created At"), type_: Cow::Borrowed("date"), ..table::AGE };
        vec![
            table::NAME,
            table::narrow("Scope", "string", "Cluster/Namespaced"),
            table::narrow("Versions", "string", "Served versions"),
            created,
            table::wide("Group", "string", "API group"),
            table::wide("Kind", "string", "CustomResource kind"),
            table::wide("ShortNames", "string", "Short names"),
            table::wide("Established", "boolean", "Established status"),
        ]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let mut versions: Vec<String> = spec
            .versions
            .iter()
            .filter(|version| version.served)
            .map(|version| format!("{}{}", version.name, if version.storage { "(storage)" } else { "" }))
            .collect();
        versions.sort();
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        let established =
            conditions.into_iter().flatten().any(|c| c.type_ == "Established" && c.status == "True");
        vec![
            json!(self.metadata.name),
            json!(spec.scope),
            json!(versions.join(",")),
            json!(self.metadata.creation_timestamp),
            json!(spec.group),
            json!(spec.names.kind),
            json!(spec.names.short_names.as_deref().unwrap_or_default().join(",")),
            json!(established),
        ]
    }
}
