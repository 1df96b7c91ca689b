//! PriorityLevelConfiguration: how many requests of a level run at once, and what becomes of the others.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    LimitResponse, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
    PriorityLevelConfigurationStatus, QueuingConfiguration,
};
use serde_json::{Value, json};

use super::flow_control_objects as built_in;
use super::flow_schema::condition_types;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::table;

const SHARES: i32 = 30;
const QUEUES: i32 = 64;
const QUEUES_MAX: i32 = 10_000_000;
const HAND_SIZE: i32 = 8;
const QUEUE_LENGTH: i32 = 50;
/// The bits of a hash that a hand of queues is dealt from.
const HASH_BITS_MAX: u32 = 60;
const EXEMPT: &str = "exempt";

impl BuiltIn for PriorityLevelConfiguration {
    const SINGULAR: &'static str = "prioritylevelconfiguration";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        if let Some(exempt) = &mut self.spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        if let Some(limited) = &mut self.spec.limited {
            limited.nominal_concurrency_shares.get_or_insert(SHARES);
            limited.lendable_percent.get_or_insert(0);
            if let Some(queuing) = &mut limited.limit_response.queuing {
                for (field, value) in [
                    (&mut queuing.hand_size, HAND_SIZE),
                    (&mut queuing.queues, QUEUES),
                    (&mut queuing.queue_length_limit, QUEUE_LENGTH),
                ] {
                    if field.unwrap_or_default() == 0 {
                        *field = Some(value);
                    }
                }
            }
        }
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(PriorityLevelConfigurationStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let (name, path) = (self.metadata.name.as_deref().unwrap_or_default(), Path::new("spec"));
        validate_spec(self, name, &path, errors);
        if let Some(fixed) = built_in::mandatory_priority_level(name) {
            // How much of it is set aside may be chosen even for the exempt level.
            let mut comparable = self.spec.clone();
            let mut but = "";
            if name == EXEMPT {
                comparable.exempt.clone_from(&fixed.spec.exempt);
                but = " except the 'spec.exempt' field";
            }
            if comparable != fixed.spec {
                errors.invalid(path, &self.spec, format!("spec of '{name}'{but} must equal the fixed value"));
            }
        }
        validate_status(self.status.as_ref(), errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        validate_status(self.status.as_ref(), errors);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Type", "string", "Exempt, or Limited."),
            table::narrow("NominalConcurrencyShares", "string", "Its share of what the server does at once."),
            table::narrow("Queues", "string", "How many queues there are."),
            table::narrow("HandSize", "string", "How many queues a flow can be in."),
            table::narrow("QueueLengthLimit", "string", "How many requests wait in a queue."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let none = || json!("<none>");
        let limited = self.spec.limited.as_ref();
        let queuing = limited.and_then(|l| l.limit_response.queuing.as_ref());
        let number = |n: Option<i32>| json!(n.unwrap_or_default());
        let narrow = vec![
            json!(self.spec.type_),
            limited.map_or_else(none, |l| number(l.nominal_concurrency_shares)),
            queuing.map_or_else(none, |q| number(q.queues)),
            queuing.map_or_else(none, |q| number(q.hand_size)),
            queuing.map_or_else(none, |q| number(q.queue_length_limit)),
        ];
        table::cells(&self.metadata, now, narrow)
    }
}

fn validate_spec(level: &PriorityLevelConfiguration, name: &str, path: &Path<'_>, errors: &mut Errors) {
    let spec = &level.spec;
    if (name == EXEMPT) != (spec.type_ == "Exempt") && !spec.type_.is_empty() {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.invalid(path.child("type"), &spec.type_, detail);
    }
    match spec.type_.as_str() {
        "Exempt" => {
            if spec.limited.is_some() {
                errors.forbidden(path.child("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = &spec.exempt {
                let at = path.child("exempt");
                shares(exempt.nominal_concurrency_shares, &at, errors);
                lendable(exempt.lendable_percent, &at, errors);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errors.forbidden(path.child("exempt"), "must be nil if the type is Limited");
            }
            match &spec.limited {
                None => errors.required(path.child("limited"), "must not be empty when type is Limited"),
                Some(limited) => validate_limited(limited, &path.child("limited"), errors),
            }
        }
        other => errors.one_of(path.child("type"), Some(other), &["Exempt", "Limited"]),
    }
}

fn shares(shares: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares) = shares.filter(|s| *s < 0) {
        errors.invalid(path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn lendable(percent: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(percent) = percent.filter(|p| !(0..=100).contains(p)) {
        errors.invalid(path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn validate_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path<'_>, errors: &mut Errors) {
    shares(limited.nominal_concurrency_shares, path, errors);
    validate_response(&limited.limit_response, &path.child("limitResponse"), errors);
    lendable(limited.lendable_percent, path, errors);
    if let Some(percent) = limited.borrowing_limit_percent.filter(|p| *p < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(path.child("borrowingLimitPercent"), percent, detail);
    }
}

fn validate_response(response: &LimitResponse, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            errors.forbidden(at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => {
            errors.required(at, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => validate_queuing(queuing, &at, errors),
        (other, _) => errors.one_of(path.child("type"), Some(other), &["Queue", "Reject"]),
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path<'_>, errors: &mut Errors) {
    const POSITIVE: &str = "must be positive";
    let number = |n: Option<i32>| n.unwrap_or_default();
    let (length, queues, hand) =
        (number(queuing.queue_length_limit), number(queuing.queues), number(queuing.hand_size));
    if length <= 0 {
        errors.invalid(path.child("queueLengthLimit"), length, POSITIVE);
    }
    if queues <= 0 {
        errors.invalid(path.child("queues"), queues, POSITIVE);
    } else if queues > QUEUES_MAX {
        errors.invalid(path.child("queues"), queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(at, hand, POSITIVE);
    } else if queues > 0 && hand > queues {
        errors.invalid(at, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS_MAX {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        );
        errors.invalid(at, hand, detail);
    }
}

/// How many bits it takes to tell apart all hands of so many cards, in order.
fn entropy_bits(deck: i32, hand: i32) -> u32 {
    let bits: f64 = (0..hand).map(|dealt| f64::from((deck - dealt).max(1)).log2()).sum();
    bits.ceil() as u32
}

fn validate_status(status: Option<&PriorityLevelConfigurationStatus>, errors: &mut Errors) {
    let types: Vec<&str> =
        status.iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| c.type_.as_str()).collect();
    condition_types(&types, errors);
}
