//! The pods behind a Service: their addresses, readiness, and the ports they serve it on.

use std::net::IpAddr;
use std::sync::Arc;

use coracle_client::Object;
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

/// One pod as an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub addresses: Vec<IpAddr>,
    pub node: Option<String>,
    pub hostname: Option<String>,
    pub pod: ObjectReference,
    pub serving: bool,
    pub terminating: bool,
    /// The service's ports as this pod serves them.
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub number: i32,
    pub app_protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodView {
    #[serde(default)]
    spec: SpecView,
    #[serde(default)]
    status: StatusView,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SpecView {
    node_name: Option<String>,
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Vec<ContainerView>,
    init_containers: Vec<ContainerView>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ContainerView {
    restart_policy: Option<String>,
    ports: Vec<ContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: i32,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct StatusView {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// The pod as an endpoint of the service; None while it has no address, and once it is over.
pub fn backend(service: &Service, pod: &Arc<Object>) -> Result<Option<Backend>, serde_json::Error> {
    if matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let view: PodView = pod.decode()?;
    let listed = view.status.pod_ips.unwrap_or_default();
    let mut addresses: Vec<IpAddr> = listed.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(view.status.pod_ip.and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    if addresses.is_empty() {
        return Ok(None);
    }
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let service_name = service.metadata.name.as_deref().unwrap_or_default();
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    Ok(Some(Backend {
        ports: ports.filter_map(|port| resolve(port, &view.spec)).collect(),
        addresses,
        hostname: given(view.spec.hostname).filter(|_| view.spec.subdomain.as_deref() == Some(service_name)),
        node: given(view.spec.node_name),
        pod: ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.head.namespace.to_string()),
            name: Some(pod.head.name.to_string()),
            uid: Some(pod.head.uid.to_string()),
            ..ObjectReference::default()
        },
        serving: view.status.conditions.iter().flatten().any(|c| c.r#type == "Ready" && c.status == "True"),
        terminating: pod.head.deleting,
    }))
}

/// A named target port is looked up in the pod; a pod without it does not serve this port.
fn resolve(port: &ServicePort, pod: &SpecView) -> Option<Port> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let sidecars =
                pod.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            pod.containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| &c.ports)
                .find(|p| {
                    p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
                })?
                .container_port
        }
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol.to_owned(),
        number,
        app_protocol: port.app_protocol.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn pod(spec: Value, status: Value) -> Arc<Object> {
        let value =
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec, "status": status});
        Object::parse(value.to_string().into(), &["status.phase"]).unwrap()
    }

    #[test]
    fn ports_and_addresses_of_a_pod() {
        let service: Service = from(json!({"metadata": {"name": "web"}, "spec": {"ports": [
            {"name": "a", "port": 80, "targetPort": "http"},
            {"name": "b", "port": 81, "targetPort": 9000, "protocol": "UDP"},
            {"name": "c", "port": 82},
            {"name": "d", "port": 83, "targetPort": "none"},
            {"name": "e", "port": 84, "targetPort": "side", "appProtocol": "h2c"},
        ]}}));
        let spec = json!({"nodeName": "n", "hostname": "h", "subdomain": "web",
            "containers": [{"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}],
            "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 7}]}]});
        let status = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True"}]});
        let got = backend(&service, &pod(spec.clone(), status)).unwrap().unwrap();
        let ports: Vec<_> = got.ports.iter().map(|p| (p.name.as_str(), p.number)).collect();
        assert_eq!(ports, [("a", 8080), ("b", 9000), ("c", 82), ("e", 7)]);
        assert_eq!(got.addresses.len(), 2);
        assert_eq!(got.hostname.as_deref(), Some("h"));
        assert!(got.serving);
        for status in [
            json!({"phase": "Succeeded", "podIP": "10.0.0.1"}),
            json!({"phase": "Failed", "podIP": "10.0.0.1"}),
            json!({"phase": "Pending"}),
            json!({"phase": "Running", "podIP": ""}),
        ] {
            assert_eq!(backend(&service, &pod(spec.clone(), status)).unwrap(), None);
        }
    }
}
