//! Services as they come, as they were, and what becomes of them on clusters of one and of two families.

use serde_json::{Value, json};

use super::*;

const ONE: &[Family] = &[Family::V4];
const BOTH: &[Family] = &[Family::V4, Family::V6];

fn spec(value: &Value) -> ServiceSpec {
    serde_json::from_value(value.clone()).unwrap()
}

/// Policy, families and addresses; or the field and what is wrong with it.
fn settled(new: &Value, old: Option<&Value>, configured: &[Family]) -> Result<Value, Vec<String>> {
    let mut new = spec(new);
    let old = old.map(spec);
    match settle(&mut new, old.as_ref(), configured) {
        Ok(()) => Ok(json!([new.ip_family_policy, new.ip_families, listed(&new.cluster_ips)])),
        Err(errors) => {
            let causes = errors.into_causes().into_iter();
            Err(causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect())
        }
    }
}

#[test]
fn what_new_services_get() {
    let (single, prefer, require) = ("SingleStack", "PreferDualStack", "RequireDualStack");
    for (configured, new, want) in [
        (ONE, json!({}), json!([single, ["IPv4"], []])),
        (BOTH, json!({}), json!([single, ["IPv4"], []])),
        (BOTH, json!({"ipFamilies": ["IPv6"]}), json!([single, ["IPv6"], []])),
        (ONE, json!({"ipFamilyPolicy": prefer}), json!([prefer, ["IPv4"], []])),
        (BOTH, json!({"ipFamilyPolicy": prefer}), json!([prefer, ["IPv4", "IPv6"], []])),
        (
            BOTH,
            json!({"ipFamilyPolicy": require, "ipFamilies": ["IPv6"]}),
            json!([require, ["IPv6", "IPv4"], []]),
        ),
        (
            BOTH,
            json!({"ipFamilyPolicy": require, "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            json!([require, ["IPv6", "IPv4"], ["fd00::1"]]),
        ),
        (
            BOTH,
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            json!([single, ["IPv6"], ["fd00::1"]]),
        ),
        // Headless ones without a selector: both, on any cluster.
        (
            ONE,
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!([require, ["IPv4", "IPv6"], ["None"]]),
        ),
        (
            ONE,
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": single}),
            json!([single, ["IPv4"], ["None"]]),
        ),
        (
            BOTH,
            json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
            json!([single, ["IPv4"], ["None"]]),
        ),
    ] {
        assert_eq!(settled(&new, None, configured), Ok(want), "{new}");
    }
}

#[test]
fn what_is_refused() {
    let one = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "RequireDualStack"});
    let two = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack"});
    for (configured, new, old, want) in [
        (
            ONE,
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            None,
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ],
        ),
        (
            ONE,
            json!({"ipFamilies": ["IPv6"]}),
            None,
            vec!["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"],
        ),
        (
            ONE,
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            None,
            vec!["spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"],
        ),
        (
            BOTH,
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            None,
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ],
        ),
        (
            BOTH,
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
            None,
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
            ],
        ),
        (
            BOTH,
            one,
            Some(two),
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP",
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family",
            ],
        ),
    ] {
        let want = Err(want.into_iter().map(str::to_owned).collect());
        assert_eq!(settled(&new, old.as_ref(), configured), want, "{new}");
    }
}

#[test]
fn what_updates_do() {
    let of = |ips: &[&str], families: &[&str], policy: Option<&str>| json!({"clusterIP": ips.first(), "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy});
    let (a, b) = ("10.0.0.1", "fd00::1");
    let (v4, v6) = ("IPv4", "IPv6");
    let (single, prefer, require) = (Some("SingleStack"), Some("PreferDualStack"), Some("RequireDualStack"));
    for (old, new, want) in [
        // Up: by the policy alone.
        (of(&[a], &[v4], single), of(&[a], &[v4], prefer), json!([prefer, [v4, v6], [a]])),
        (of(&[a], &[v4], single), of(&[a], &[v4], require), json!([require, [v4, v6], [a]])),
        // Down: by the policy alone, or with the second ones taken out.
        (of(&[a, b], &[v4, v6], require), of(&[a, b], &[v4, v6], single), json!([single, [v4], [a]])),
        (of(&[a, b], &[v4, v6], require), of(&[a], &[v4], single), json!([single, [v4], [a]])),
        // A policy that is not said stays.
        (of(&[a, b], &[v4, v6], require), of(&[a, b], &[v4, v6], None), json!([require, [v4, v6], [a, b]])),
        // The cluster got its second family since: nothing happens by itself.
        (of(&[a], &[v4], prefer), of(&[a], &[v4], prefer), json!([prefer, [v4], [a]])),
        // From a name to an address.
        (json!({"type": "ExternalName"}), json!({"type": "ClusterIP"}), json!([single, [v4], []])),
    ] {
        assert_eq!(settled(&new, Some(&old), BOTH), Ok(want), "{old} -> {new}");
    }
}
