//! Lease: who holds a lock, and a node's heartbeat.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for Lease {
    const SINGULAR: &'static str = "lease";
    const CREATE_ON_UPDATE: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(transitions) = spec.lease_transitions {
            validation::non_negative(path.child("leaseTransitions"), transitions, errors);
        }
        if let Some(strategy) = &spec.strategy {
            if !strategy.contains('/') && strategy != "OldestEmulationVersion" {
                errors.not_supported(path.child("strategy"), strategy, &["OldestEmulationVersion"]);
            } else {
                errors.check(path.child("strategy"), strategy, validation::qualified_name);
            }
        }
        if let Some(preferred) = &spec.preferred_holder
            && !preferred.is_empty()
            && validation::given(&spec.strategy).is_none()
        {
            errors.forbidden(path.child("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("Holder", "string", "Who holds the lease.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let holder = self.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
        table::cells(&self.metadata, now, vec![json!(holder)])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn durations_are_positive() {
        testing::invalid::<Lease>(&[
            (
                json!({"spec": {"leaseDurationSeconds": 0}}),
                "spec.leaseDurationSeconds",
                "Invalid value: 0: must be greater than 0",
            ),
            (
                json!({"spec": {"leaseTransitions": -1}}),
                "spec.leaseTransitions",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"spec": {"preferredHolder": "a"}}),
                "spec.preferredHolder",
                "Forbidden: may only be specified if `strategy` is defined",
            ),
        ]);
        // A leader that resigns leaves an empty name behind.
        testing::valid::<Lease>(&[
            json!({"spec": {"leaseDurationSeconds": 1, "holderIdentity": ""}}),
            json!({"spec": {"leaseDurationSeconds": 40, "holderIdentity": "n"}}),
            json!({}),
        ]);
    }
}
