//! CSIDriver: what a storage driver can do and wants to be told.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIDriver, TokenRequest};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLES: &[&str] = &["Persistent", "Ephemeral"];
const UPDATE_PERIOD_SECONDS_MIN: i64 = 10;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const TOKENS_IN_ATTRIBUTES: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";

/// The name of a CSI driver; capitals are forgiven.
pub(super) fn driver_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    if let Err(detail) = validation::dns_subdomain(&name.to_lowercase()) {
        errors.invalid(path, name, detail);
    }
}

impl BuiltIn for CSIDriver {
    const SINGULAR: &'static str = "csidriver";
    const RETURNS_DELETED: bool = true;
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.attach_required.get_or_insert(true);
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".into());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".into()]);
        }
        for off in [
            &mut spec.pod_info_on_mount,
            &mut spec.storage_capacity,
            &mut spec.requires_republish,
            &mut spec.se_linux_mount,
            &mut spec.prevent_pod_scheduling_if_missing,
        ] {
            off.get_or_insert(false);
        }
    }

    /// Upstream counts from the first change.
    fn prepare_create(&mut self) {
        self.metadata.generation = None;
    }

    fn validate(&self, errors: &mut Errors) {
        let (spec, path) = (&self.spec, Path::new("spec"));
        if let Some(policy) = spec.fs_group_policy.as_deref().filter(|p| !GROUP_POLICIES.contains(p)) {
            errors.not_supported(path.child("fsGroupPolicy"), policy, GROUP_POLICIES);
        }
        let requests = spec.token_requests.as_deref().unwrap_or_default();
        validate_token_requests(requests, &path.child("tokenRequests"), errors);
        for mode in spec.volume_lifecycle_modes.iter().flatten().filter(|m| !LIFECYCLES.contains(&m.as_str()))
        {
            errors.not_supported(path.child("volumeLifecycleModes"), mode, LIFECYCLES);
        }
        if let Some(period) =
            spec.node_allocatable_update_period_seconds.filter(|p| *p < UPDATE_PERIOD_SECONDS_MIN)
        {
            let detail = "must be greater than or equal to 10 seconds";
            errors.invalid(path.child("nodeAllocatableUpdatePeriodSeconds"), period, detail);
        }
        if let Some(in_secrets) = spec.service_account_token_in_secrets
            && requests.is_empty()
        {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.invalid(path.child("serviceAccountTokenInSecrets"), in_secrets, detail);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec.attachedRequired", &self.spec.attach_required, &old.spec.attach_required);
        errors.immutable(
            "spec.volumeLifecycleModes",
            &self.spec.volume_lifecycle_modes,
            &old.spec.volume_lifecycle_modes,
        );
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let asks = self.spec.token_requests.as_ref().is_some_and(|t| !t.is_empty());
        let new = old.is_none_or(|old| old.spec.token_requests != self.spec.token_requests);
        if asks && new && self.spec.service_account_token_in_secrets.is_none() {
            vec![TOKENS_IN_ATTRIBUTES.into()]
        } else {
            Vec::new()
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("AttachRequired", "boolean", "Volumes must be attached before they are mounted."),
            table::narrow("PodInfoOnMount", "boolean", "The driver is told of the pod that it mounts for."),
            table::narrow(
                "StorageCapacity",
                "boolean",
                "The scheduler looks at the capacity the driver reports.",
            ),
            table::narrow("TokenRequests", "string", "The audiences of the tokens the driver gets."),
            table::narrow(
                "RequiresRepublish",
                "boolean",
                "The driver is called again and again while mounted.",
            ),
            table::narrow("Modes", "string", "How long its volumes live: Persistent or Ephemeral."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let audiences = spec
            .token_requests
            .as_ref()
            .map(|requests| requests.iter().map(|r| r.audience.as_str()).collect::<Vec<_>>().join(","));
        let modes = spec.volume_lifecycle_modes.as_ref().map(|modes| modes.join(","));
        let narrow = vec![
            json!(spec.attach_required.unwrap_or(true)),
            json!(spec.pod_info_on_mount.unwrap_or_default()),
            json!(spec.storage_capacity.unwrap_or_default()),
            json!(audiences.as_deref().unwrap_or("<unset>")),
            json!(spec.requires_republish.unwrap_or_default()),
            json!(table::or_none(modes.as_deref())),
        ];
        table::cells(&self.metadata, now, narrow)
    }
}

fn validate_token_requests(requests: &[TokenRequest], path: &Path<'_>, errors: &mut Errors) {
    for (i, request) in requests.iter().enumerate() {
        let at = path.index(i);
        if requests.iter().take(i).any(|r| r.audience == request.audience) {
            errors.duplicate(at.child("audience"), &request.audience);
            continue;
        }
        let at = at.child("expirationSeconds");
        match request.expiration_seconds {
            Some(seconds) if seconds < TOKEN_SECONDS_MIN => {
                errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > TOKEN_SECONDS_MAX => {
                errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn drivers_say_what_they_can() {
        testing::invalid::<CSIDriver>(&[
            (
                json!({"spec": {"fsGroupPolicy": "X"}}),
                "spec.fsGroupPolicy",
                "Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
            ),
            (
                json!({"spec": {"volumeLifecycleModes": ["X"]}}),
                "spec.volumeLifecycleModes",
                "Unsupported value: \"X\": supported values: \"Persistent\", \"Ephemeral\"",
            ),
            (
                json!({"spec": {"tokenRequests": [{"audience": "a"}, {"audience": "a"}]}}),
                "spec.tokenRequests[1].audience",
                "Duplicate value: \"a\"",
            ),
            (
                json!({"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 5}]}}),
                "spec.tokenRequests[0].expirationSeconds",
                "Invalid value: 5: may not specify a duration less than 10 minutes",
            ),
            (
                json!({"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 5_000_000_000_i64}]}}),
                "spec.tokenRequests[0].expirationSeconds",
                "Invalid value: 5000000000: may not specify a duration larger than 2^32 seconds",
            ),
            (
                json!({"spec": {"nodeAllocatableUpdatePeriodSeconds": 9}}),
                "spec.nodeAllocatableUpdatePeriodSeconds",
                "Invalid value: 9: must be greater than or equal to 10 seconds",
            ),
            (
                json!({"spec": {"serviceAccountTokenInSecrets": true}}),
                "spec.serviceAccountTokenInSecrets",
                "Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests",
            ),
        ]);
        testing::valid::<CSIDriver>(&[json!({}), json!({"spec": {}})]);
        testing::updates::<CSIDriver>(&[
            (
                json!({}),
                json!({"spec": {"attachRequired": false}}),
                "spec.attachedRequired",
                "Invalid value: false: field is immutable",
            ),
            (
                json!({}),
                json!({"spec": {"volumeLifecycleModes": ["Ephemeral"]}}),
                "spec.volumeLifecycleModes",
                "Invalid value: [\"Ephemeral\"]: field is immutable",
            ),
            (json!({}), json!({"spec": {"podInfoOnMount": true}}), "", ""),
        ]);
    }

    #[test]
    fn columns_and_warnings() {
        let driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "a"}, {"audience": "b"}]}});
        assert_eq!(
            testing::cells::<CSIDriver>(driver.clone()),
            ["d", "true", "false", "false", "a,b", "false", "<none>", "<unknown>"]
        );
        let driver: CSIDriver = testing::defaulted(driver);
        assert_eq!(driver.warnings(None).len(), 1);
        assert!(driver.warnings(Some(&driver)).is_empty());
    }
}
