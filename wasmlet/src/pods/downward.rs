//! The downward API: fields of the pod and resources of its containers as text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coracle_client::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

/// What the fields of a pod on this node are read from.
pub struct Fields<'a> {
    pub pod: &'a Pod,
    /// `status.podIPs`; empty where the pod has none yet.
    pub pod_ips: Vec<IpAddr>,
    /// `status.hostIPs`.
    pub host_ips: &'a [IpAddr],
    /// Stands in for limits that a container does not set.
    pub allocatable: &'a BTreeMap<String, Wire>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found in pod")]
    Container(String),
    #[error("divisor {0:?}: {1}")]
    Divisor(String, coracle_client::quantity::QuantityError),
}

impl Fields<'_> {
    pub fn field(&self, path: &str) -> Result<String, FieldError> {
        let meta = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
        let listed = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return Err(FieldError::Path(path.into())),
            };
            return Ok(text(map.as_ref().and_then(|m| m.get(key))));
        }
        Ok(match path {
            "metadata.name" => text(meta.name.as_ref()),
            "metadata.namespace" => text(meta.namespace.as_ref()),
            "metadata.uid" => text(meta.uid.as_ref()),
            "metadata.labels" => map_lines(meta.labels.as_ref()),
            "metadata.annotations" => map_lines(meta.annotations.as_ref()),
            "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
            "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
            "status.podIP" => first(&self.pod_ips),
            "status.podIPs" => listed(&self.pod_ips),
            "status.hostIP" => first(self.host_ips),
            "status.hostIPs" => listed(self.host_ips),
            _ => return Err(FieldError::Path(path.into())),
        })
    }

    /// `own`: the container a reference without a name is about.
    pub fn resource(
        &self,
        selector: &ResourceFieldSelector,
        own: Option<&Container>,
    ) -> Result<String, FieldError> {
        let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let container = match named {
            Some(name) => self
                .pod
                .spec
                .iter()
                .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
                .find(|c| c.name == name)
                .ok_or_else(|| FieldError::Container(name.into()))?,
            None => own.ok_or_else(|| FieldError::Container(String::new()))?,
        };
        let (kind, resource) = selector
            .resource
            .split_once('.')
            .filter(|(kind, _)| matches!(*kind, "limits" | "requests"))
            .ok_or_else(|| FieldError::Resource(selector.resource.clone()))?;
        if !matches!(resource, "cpu" | "memory" | "ephemeral-storage") && !resource.starts_with("hugepages-")
        {
            return Err(FieldError::Resource(selector.resource.clone()));
        }
        let resources = container.resources.as_ref();
        let amount = match kind {
            "limits" => resources
                .and_then(|r| r.limits.as_ref()?.get(resource))
                .or_else(|| self.allocatable.get(resource)),
            _ => resources.and_then(|r| r.requests.as_ref()?.get(resource)),
        };
        let amount = amount.and_then(|wire| Quantity::of(wire).ok()).unwrap_or(Quantity::ZERO);
        let divisor = match &selector.divisor {
            Some(wire) if !wire.0.is_empty() => {
                Quantity::of(wire).map_err(|e| FieldError::Divisor(wire.0.clone(), e))?
            }
            _ => Quantity::ZERO,
        };
        let divisor = if divisor.is_zero() { Quantity::from_units(1) } else { divisor };
        let (amount, divisor) = match resource {
            "cpu" => (amount.milli_value(), divisor.milli_value()),
            _ => (amount.value(), divisor.value()),
        };
        let divisor = divisor.max(1);
        Ok((amount.saturating_add(divisor - 1) / divisor).to_string())
    }
}

/// `metadata.labels['key']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` per line, sorted by key.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quote(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Go's `%q`.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
                "labels": {"b": "2", "a": "say \"hi\""}, "annotations": {"note": "x\ny"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "default", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "bare"}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields() {
        let pod = pod();
        let allocatable = BTreeMap::new();
        let fields = Fields {
            pod: &pod,
            pod_ips: vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
            host_ips: &["192.168.0.1".parse().unwrap(), "fd01::1".parse().unwrap()],
            allocatable: &allocatable,
        };
        for (path, want) in [
            ("metadata.name", "web"),
            ("metadata.namespace", "shop"),
            ("metadata.uid", "u1"),
            ("metadata.labels", "a=\"say \\\"hi\\\"\"\nb=\"2\""),
            ("metadata.annotations", "note=\"x\\ny\""),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['note']", "x\ny"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "default"),
            ("status.podIP", "10.1.2.3"),
            ("status.podIPs", "10.1.2.3,fd00::3"),
            ("status.hostIP", "192.168.0.1"),
            ("status.hostIPs", "192.168.0.1,fd01::1"),
        ] {
            assert_eq!(fields.field(path).as_deref(), Ok(want), "{path}");
        }
        for bad in ["metadata.foo", "spec.labels['x']", "status"] {
            assert_eq!(fields.field(bad), Err(FieldError::Path(bad.into())), "{bad}");
        }
    }

    #[test]
    fn resources() {
        let pod = pod();
        let allocatable: BTreeMap<_, _> =
            [("cpu".to_owned(), Wire("4".into())), ("memory".to_owned(), Wire("1Gi".into()))].into();
        let fields = Fields { pod: &pod, pod_ips: Vec::new(), host_ips: &[], allocatable: &allocatable };
        for (container, resource, divisor, want) in [
            ("c", "limits.cpu", "", "2"),
            ("c", "limits.cpu", "1m", "1500"),
            ("c", "limits.memory", "", "67108864"),
            ("c", "limits.memory", "1Mi", "64"),
            ("c", "requests.cpu", "1m", "250"),
            ("c", "requests.cpu", "", "1"),
            ("c", "requests.memory", "", "0"),
            ("bare", "limits.cpu", "", "4"),
            ("bare", "limits.memory", "1Mi", "1024"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: Some(container.into()),
                resource: resource.into(),
                divisor: Some(Wire(divisor.into())),
            };
            assert_eq!(
                fields.resource(&selector, None).as_deref(),
                Ok(want),
                "{container} {resource} {divisor}"
            );
        }
        let selector = ResourceFieldSelector { resource: "limits.disk".into(), ..Default::default() };
        let own = pod.spec.as_ref().map(|s| &s.containers[0]);
        assert_eq!(fields.resource(&selector, own), Err(FieldError::Resource("limits.disk".into())));
    }
}
