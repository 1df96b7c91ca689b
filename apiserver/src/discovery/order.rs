//! Which group comes first, and which version of a group.

use std::cmp::Ordering;

/// As upstream's priorities have them; the groups of custom resources come after, by name.
const GROUPS: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// What metrics-server brings ranks below everything, or `pods` might mean its kind.
const LAST: &str = "metrics.k8s.io";

pub fn groups(a: &str, b: &str) -> Ordering {
    let rank = |name: &str| match GROUPS.iter().position(|known| *known == name) {
        Some(rank) => rank,
        None if name == LAST => GROUPS.len() + 1,
        None => GROUPS.len(),
    };
    rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
}

/// The preferred one first: stable ones before betas before alphas, the newest of each; then other names.
pub fn versions(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Maturity, then the major and the minor number of `v1`, `v1beta2`, `v3alpha1`.
fn rank(version: &str) -> Option<(u8, u64, u64)> {
    let number = |text: &str| {
        let plain = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let rest = version.strip_prefix('v')?;
    for (word, maturity) in [("alpha", 1), ("beta", 2)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((maturity, number(major)?, number(minor)?));
        }
    }
    Some((3, number(rest)?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_sorts() {
        let want =
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        let mut have = want;
        have.reverse();
        have.sort_by(|a, b| versions(a, b));
        assert_eq!(have, want);
        let mut have = ["z.example.com", "metrics.k8s.io", "batch", "a.example.com", "apps", "policy"];
        have.sort_by(|a, b| groups(a, b));
        assert_eq!(have, ["apps", "batch", "policy", "a.example.com", "z.example.com", "metrics.k8s.io"]);
    }
}
