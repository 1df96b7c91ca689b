//! Which address families a service has: what its policy, its families and its addresses say, made to agree.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;

use super::{is_headless, listed, type_of};
use crate::field_error::Errors;

const POLICY: &str = "spec.ipFamilyPolicy";
const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn named(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// Puts in the policy and the families that a service does without saying; `old`: the service as it is, on updates;
/// `configured`: what the server has ranges of, the default first. The form of the fields was checked before. As upstream.
pub fn settle(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    configured: &[Family],
) -> Result<(), Errors> {
    if old.is_some_and(|old| prefers_as_before(spec, old)) {
        return Ok(());
    }
    let selectorless = is_headless(spec) && spec.selector.as_ref().is_none_or(|s| s.is_empty());
    let policy = match (&spec.ip_family_policy, old.and_then(|old| old.ip_family_policy.as_ref())) {
        (Some(policy), _) | (None, Some(policy)) => policy.clone(),
        (None, None) if selectorless => REQUIRE.into(),
        (None, None) => SINGLE.into(),
    };
    spec.ip_family_policy = Some(policy.clone());
    let mut errors = Errors::default();
    if let Some(old) = old {
        if policy == SINGLE {
            release_second(spec, old);
        } else {
            refuse_reduction(spec, old, &policy, &mut errors);
        }
    }
    let ips = spec.cluster_ips.clone().unwrap_or_default();
    let families = spec.ip_families.get_or_insert_default();
    if policy == SINGLE {
        let detail = |what| {
            format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified")
        };
        if ips.len() == 2 {
            errors.invalid(POLICY, &policy, detail("cluster IPs"));
        }
        if families.len() == 2 {
            errors.invalid(POLICY, &policy, detail("IP families"));
        }
    }
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        let Some(family) = ip.parse().ok().map(Family::of) else { break };
        if configured.contains(&family) {
            families.push(family.name().into());
        } else {
            let detail = format!("{} is not configured on this cluster", family.name());
            errors.invalid(format!("spec.clusterIPs[{i}]"), &ips, detail);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if !selectorless {
        if policy == REQUIRE && configured.len() < 2 {
            errors.invalid(POLICY, &policy, "this cluster is not configured for dual-stack services");
        }
        for (i, family) in families.iter().enumerate() {
            if Family::named(family).is_none_or(|family| !configured.contains(&family)) {
                errors.invalid(format!("spec.ipFamilies[{i}]"), family, "not configured on this cluster");
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    if let (true, Some(first)) = (families.is_empty(), configured.first()) {
        families.push(first.name().into());
    }
    // Headless ones without a selector may have endpoints of both families on any cluster.
    if let [only] = families.as_slice()
        && let Some(other) = Family::named(only).map(Family::other)
        && policy != SINGLE
        && (selectorless || configured.contains(&other))
    {
        families.push(other.name().into());
    }
    Ok(())
}

/// A cluster that got its second family later changes no service by itself.
fn prefers_as_before(new: &ServiceSpec, old: &ServiceSpec) -> bool {
    let prefers = |spec: &ServiceSpec| spec.ip_family_policy.as_deref() == Some(PREFER);
    type_of(new) == type_of(old)
        && prefers(new)
        && (prefers(old) || old.ip_family_policy.is_none())
        && listed(&new.cluster_ips) == listed(&old.cluster_ips)
        && listed(&new.ip_families) == listed(&old.ip_families)
}

/// The policy alone says it clearly enough.
fn release_second(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if listed(&spec.cluster_ips) == listed(&old.cluster_ips)
        && let Some(ips) = &mut spec.cluster_ips
    {
        ips.truncate(1);
    }
    if listed(&spec.ip_families) == listed(&old.ip_families)
        && let Some(families) = &mut spec.ip_families
    {
        families.truncate(1);
    }
}

/// Whoever takes the second family away has to say so in the policy.
fn refuse_reduction(spec: &ServiceSpec, old: &ServiceSpec, policy: &str, errors: &mut Errors) {
    let reduced = |new: &Option<Vec<String>>, old: &Option<Vec<String>>| {
        !listed(new).is_empty() && listed(new).len() < listed(old).len()
    };
    if reduced(&spec.cluster_ips, &old.cluster_ips) {
        errors.invalid(POLICY, policy, "must be 'SingleStack' to release the secondary cluster IP");
    }
    if reduced(&spec.ip_families, &old.ip_families) {
        errors.invalid(POLICY, policy, "must be 'SingleStack' to release the secondary IP family");
    }
}

#[cfg(test)]
#[path = "families_tests.rs"]
mod tests;
