//! Decides what a range needs next: its finalizer, its condition, or to be let go.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::Cidr;

pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Terminating,
}

impl State {
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ready => ("True", "", "Kubernetes Service CIDR is ready"),
            Self::Terminating => (
                "False",
                "Terminating",
                "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
            ),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Protect,
    Release,
    Say(State),
}

fn cidrs(range: &ServiceCIDR) -> impl Iterator<Item = Cidr> {
    let texts = range.spec.iter().flat_map(|s| s.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok())
}

fn says(range: &ServiceCIDR, state: State) -> bool {
    let (status, reason, _) = state.words();
    let mut conditions = range.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == READY && c.status == status && c.reason == reason)
}

pub fn plan(
    range: &ServiceCIDR,
    others: &[ServiceCIDR],
    mut addresses: impl Iterator<Item = IpAddr>,
) -> Action {
    let protected = range.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let say = |state| if says(range, state) { Action::Nothing } else { Action::Say(state) };
    if range.metadata.deletion_timestamp.is_none() {
        return if protected { say(State::Ready) } else { Action::Protect };
    }
    let within = |range: &ServiceCIDR, ip: IpAddr| {
        let one = Cidr { address: ip, prefix: if ip.is_ipv4() { 32 } else { 128 } };
        cidrs(range).any(|cidr| cidr.contains(one))
    };
    let orphan = |ip: IpAddr| within(range, ip) && !others.iter().any(|other| within(other, ip));
    match (protected, addresses.any(orphan)) {
        (false, _) => Action::Nothing,
        (true, true) => say(State::Terminating),
        (true, false) => Action::Release,
    }
}

/// Puts the condition in.
pub fn apply(range: &mut ServiceCIDR, state: State, now: Timestamp) {
    let (status, reason, message) = state.words();
    let conditions = range.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != READY);
    conditions.push(Condition {
        type_: READY.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(cidr: &str, finalizers: &[&str], deleting: bool) -> ServiceCIDR {
        let mut range =
            json!({"metadata": {"name": "r", "finalizers": finalizers}, "spec": {"cidrs": [cidr]}});
        if deleting {
            range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(range).unwrap()
    }

    #[test]
    fn a_range_goes_when_nobody_needs_it() {
        let address = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
        let cidr = "10.0.0.0/24";
        let mut ready = range(cidr, &[FINALIZER], false);
        apply(&mut ready, State::Ready, Timestamp::UNIX_EPOCH);
        for (range, others, addresses, want) in [
            (range(cidr, &[], false), vec![], vec![], Action::Protect),
            (range(cidr, &[FINALIZER], false), vec![], vec![], Action::Say(State::Ready)),
            (ready, vec![], vec![], Action::Nothing),
            (range(cidr, &[FINALIZER], true), vec![], vec![], Action::Release),
            (range(cidr, &[FINALIZER], true), vec![], address("10.0.1.1"), Action::Release),
            (range(cidr, &[FINALIZER], true), vec![], address("10.0.0.1"), Action::Say(State::Terminating)),
            (
                range(cidr, &[FINALIZER], true),
                vec![range("10.0.0.0/16", &[], false)],
                address("10.0.0.1"),
                Action::Release,
            ),
            (range(cidr, &["other"], true), vec![], address("10.0.0.1"), Action::Nothing),
        ] {
            assert_eq!(plan(&range, &others, addresses.into_iter()), want);
        }
    }
}
