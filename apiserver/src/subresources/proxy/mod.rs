//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP to what runs in the cluster, through the API.

mod backend;
mod forward;
mod rewrite;

use std::net::IpAddr;

use axum::body::Body;
use axum::response::Response;
use coracle_client::selector::{FieldSelector, Selector};
use coracle_client::{ApiError, Object, Resource};
use http::{Method, StatusCode, header};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::seq::IndexedRandom;

use super::connect::{Connect, is_upgrade, upgraded};
use super::node;
use crate::watch_cache::Filter;
use backend::Backend;
use forward::Site;

pub async fn answer(mut connect: Connect<'_>, body: Body) -> Result<Response, ApiError> {
    let id = connect.info.name.clone();
    let backend = match connect.call.kind.resource().kind() {
        "Pod" => pod(&connect, &id).await?,
        "Service" => service(&connect, &id).await?,
        _ => node_backend(&connect, &id)?,
    };
    let path = connect.info.proxied_path();
    let upgrade = is_upgrade(&connect.headers);
    let query = connect.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if path.is_empty() && !upgrade && matches!(connect.method, Method::GET | Method::HEAD) {
        // Relative links of a page are relative to its directory.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = format!("{}/{query}", connect.info.path);
        let location = location.parse().map_err(ApiError::internal)?;
        response.headers_mut().insert(header::LOCATION, location);
        return Ok(response);
    }
    let target = format!("{}{query}", if path.is_empty() { "/" } else { path });
    let site = Site {
        prefix: connect.info.own_path().to_owned(),
        backend: backend.host(),
        asked: forward::host(&connect.headers, &connect.uri),
    };
    let mut request = forward::request(&connect, upgrade, &site)?;
    *request.body_mut() = body;
    let answer = backend.send(&connect.call.api, &target, request).await?;
    if upgrade {
        return upgraded(&connect.call.api, connect.on_upgrade.take(), answer);
    }
    // A node's own answers are passed on as they are.
    if let Backend::Wasmlet(_) = backend {
        return Ok(forward::response(answer));
    }
    rewrite::response(forward::response(answer), &site).await
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Id { scheme, name, port })
    }

    fn tls(&self) -> bool {
        self.scheme == "https"
    }
}

async fn pod(connect: &Connect<'_>, text: &str) -> Result<Backend, ApiError> {
    let id = Id::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid pod request {text:?}")))?;
    let call = connect.call.on(connect.call.namespace.as_deref(), id.name);
    call.api.cache.catch_up(&*call.api.store).await?;
    let pod: Pod = call.current().await?.decode()?;
    let first = || {
        let containers = pod.spec.iter().flat_map(|s| &s.containers);
        containers.flat_map(|c| c.ports.iter().flatten()).map(|port| port.container_port).next()
    };
    let port = match id.port {
        "" => first().and_then(|port| u16::try_from(port).ok()).unwrap_or(if id.tls() { 443 } else { 80 }),
        text => port_number(text)?,
    };
    of_pod(&pod, port, id.tls())
}

fn port_number(text: &str) -> Result<u16, ApiError> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        ApiError::service_unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{text}: unknown port"
        ))
    })
}

fn of_pod(pod: &Pod, port: u16, tls: bool) -> Result<Backend, ApiError> {
    let not_allowed = || ApiError::bad_request("address not allowed");
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).ok_or_else(not_allowed)?;
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    Ok(Backend::Pod {
        node,
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        ip: ip.ok_or_else(not_allowed)?,
        port,
        tls,
    })
}

/// A ready endpoint of the service, by chance.
async fn service(connect: &Connect<'_>, text: &str) -> Result<Backend, ApiError> {
    let id =
        Id::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid service request {text:?}")))?;
    let call = connect.call.on(connect.call.namespace.as_deref(), id.name);
    call.api.cache.catch_up(&*call.api.store).await?;
    let service: Service = call.current().await?.decode()?;
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    // A number is the service's port; endpoints know it by its name.
    let name = match id.port.parse::<i64>() {
        Ok(number) => {
            let port = ports.into_iter().find(|port| i64::from(port.port) == number);
            port.map(|port| port.name.clone().unwrap_or_default()).ok_or_else(|| {
                ApiError::service_unavailable(format!(
                    "no service port {number} found for service {:?}",
                    id.name
                ))
            })?
        }
        Err(_) => id.port.to_owned(),
    };
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let filter = Filter {
        namespace: Some(namespace.to_owned()),
        labels: Selector::parse(&format!("kubernetes.io/service-name={}", id.name))
            .map_err(|error| ApiError::bad_request(error.to_string()))?,
        fields: FieldSelector::default(),
    };
    let slices = call.api.kind(&Resource::of::<EndpointSlice>())?;
    let page = slices.cache.list(&filter, None, None, None, call.api.cache.revision());
    let slices = page.map_err(|_| ApiError::internal("listing the service's endpoints"))?.objects;
    let found = endpoints(&slices, &name);
    let unavailable =
        || ApiError::service_unavailable(format!("no endpoints available for service {text:?}"));
    let (pod, port) = found.choose(&mut rand::rng()).ok_or_else(unavailable)?;
    let pods = call.api.kind(&Resource::of::<Pod>())?;
    let key = crate::watch_cache::key_of(Some(namespace), pod);
    // Only pods are proxied to: anything else could be an address of the control plane's own network.
    let pod: Pod = pods.cache.get(&key).ok_or_else(unavailable)?.decode()?;
    of_pod(&pod, *port, id.tls())
}

/// The names of the pods that are ready behind a port of the service, and their port.
fn endpoints(slices: &[std::sync::Arc<Object>], port: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for slice in slices.iter().filter_map(|object| object.decode::<EndpointSlice>().ok()) {
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref().unwrap_or_default() == port)
            .and_then(|p| u16::try_from(p.port?).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
            if let Some(name) = target.and_then(|t| t.name.clone()).filter(|_| ready) {
                found.push((name, number));
            }
        }
    }
    found
}

fn node_backend(connect: &Connect<'_>, text: &str) -> Result<Backend, ApiError> {
    let id =
        Id::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid node request {text:?}")))?;
    let endpoint = node::endpoint(&connect.call.api, id.name)?;
    if id.port.is_empty() || id.port == endpoint.port.to_string() {
        return Ok(Backend::Wasmlet(endpoint));
    }
    let port = port_number(id.port)?;
    let address: IpAddr = endpoint
        .address
        .parse()
        .ok()
        .filter(is_global_unicast)
        .ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    Ok(Backend::Address { address: (address, port).into(), tls: id.tls() })
}

/// Go's `IsGlobalUnicast`: loopback and link-local addresses belong to the apiserver's machine, not to a node.
fn is_global_unicast(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        for (text, want) in [
            ("p", Some(("", "p", ""))),
            ("p:80", Some(("", "p", "80"))),
            ("https:p:web", Some(("https", "p", "web"))),
            (":p:80", Some(("", "p", "80"))),
            ("http:p:", Some(("http", "p", ""))),
            ("ftp:p:80", None),
            ("a:b:c:d", None),
            ("", None),
            (":80", None),
        ] {
            let id = Id::parse(text).map(|id| (id.scheme, id.name, id.port));
            assert_eq!(id, want, "{text}");
        }
    }

    #[test]
    fn only_ready_pods_are_endpoints() {
        let slice = serde_json::json!({"metadata": {"name": "s", "namespace": "ns"}, "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}, {"name": "other", "port": 9}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}, "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b"}, "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]}]});
        let object = Object::parse(slice.to_string().into(), &[]).unwrap();
        let slices = [object];
        assert_eq!(endpoints(&slices, "web"), [("a".to_owned(), 8080)]);
        assert!(endpoints(&slices, "").is_empty());
    }

    #[test]
    fn addresses() {
        for (text, want) in [
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("fe80::1", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(is_global_unicast(&text.parse().unwrap()), want, "{text}");
        }
    }
}
