//! What a pod's host is called. Pure.

use k8s_openapi::api::core::v1::Pod;

/// Linux's limit on a host's name.
const HOSTNAME_MAX: usize = 64;
/// A label's.
const LABEL_MAX: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname {
    pub name: String,
    /// `subdomain.namespace.svc.cluster.local`, where the pod has a subdomain.
    pub domain: Option<String>,
    /// What the pod is told: the name, or all of it (`setHostnameAsFQDN`).
    pub told: String,
}

impl Hostname {
    pub fn fully_qualified(&self) -> Option<String> {
        self.domain.as_ref().map(|domain| format!("{}.{domain}", self.name))
    }
}

/// A pod on the node's network is called as the node is.
pub fn of(pod: &Pod, cluster_domain: &str, node: &str) -> Result<Hostname, String> {
    let spec = pod.spec.as_ref();
    let given = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let name = match given {
        Some(hostname) => hostname.to_owned(),
        None if host_network => node.to_owned(),
        None => shortened(pod.metadata.name.as_deref().unwrap_or_default()),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = spec
        .and_then(|s| s.subdomain.as_deref())
        .filter(|s| !s.is_empty())
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}"));
    let mut hostname = Hostname { told: name.clone(), name, domain };
    if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true)
        && let Some(full) = hostname.fully_qualified()
    {
        if full.len() > HOSTNAME_MAX {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({HOSTNAME_MAX} characters is the max, {} characters requested)",
                full.len()
            ));
        }
        hostname.told = full;
    }
    Ok(hostname)
}

/// A pod's name may be longer than a label; what is cut must not end in a dash or dot.
fn shortened(name: &str) -> String {
    name.get(..LABEL_MAX).map_or(name, |cut| cut.trim_end_matches(['-', '.'])).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(name: &str, spec: Value) -> Result<String, String> {
        let mut all = json!({"containers": []});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": all}))
                .unwrap();
        of(&pod, "cluster.local", "node-1").map(|hostname| hostname.told)
    }

    #[test]
    fn names() {
        let long = format!("{}-x", "a".repeat(62));
        for (name, spec, want) in [
            ("web-0", json!({}), "web-0".to_owned()),
            ("web-0", json!({"hostname": "db"}), "db".into()),
            ("web-0", json!({"hostNetwork": true}), "node-1".into()),
            (&long, json!({}), "a".repeat(62)),
            ("web-0", json!({"subdomain": "web"}), "web-0".into()),
            (
                "web-0",
                json!({"subdomain": "web", "setHostnameAsFQDN": true}),
                "web-0.web.ns.svc.cluster.local".into(),
            ),
            ("web-0", json!({"setHostnameAsFQDN": true}), "web-0".into()),
        ] {
            assert_eq!(told(name, spec.clone()), Ok(want), "{spec}");
        }
        let error =
            told(&"a".repeat(60), json!({"subdomain": "web", "setHostnameAsFQDN": true})).unwrap_err();
        assert!(error.contains("is too long (64 characters is the max, 85 characters requested)"), "{error}");
    }
}
