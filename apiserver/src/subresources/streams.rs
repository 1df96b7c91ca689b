//! `pods/exec`, `pods/attach` and `pods/portforward`: the pod's node does it; the connection passes through here.

use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use coracle_client::request::escape_query;
use http::{HeaderValue, Request, header};
use k8s_openapi::api::core::v1::Pod;

use super::connect::{Connect, is_upgrade, upgraded};
use super::{log, node};
use crate::verbs::options::Query;

/// What goes on to the node beside the upgrade: nothing of who the client is.
const PASSED_ON: &[&str] = &[
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "x-stream-protocol-version",
    "user-agent",
];
/// A WebSocket client's token may stand among the protocols it offers.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

pub async fn answer(mut connect: Connect<'_>) -> Result<Response, ApiError> {
    connect.may_create().await?;
    let query = Query::parse(connect.uri.query().unwrap_or_default());
    let pod = connect.pod().await?;
    let (node_name, path) = location(&connect.info.subresource, &pod, &query)?;
    let endpoint = node::endpoint(&connect.call.api, &node_name)?;
    if !is_upgrade(&connect.headers) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let Some(proxy) = &connect.call.api.options.node_proxy else {
        return Err(ApiError::service_unavailable("this apiserver does not connect to nodes"));
    };
    let mut request = Request::new(Body::empty());
    *request.method_mut() = connect.method.clone();
    for (name, value) in &connect.headers {
        if PASSED_ON.contains(&name.as_str()) {
            let value =
                if *name == header::SEC_WEBSOCKET_PROTOCOL { without_token(value) } else { value.clone() };
            request.headers_mut().append(name, value);
        }
    }
    let answer = proxy.send(&endpoint.address, endpoint.port, &path, request).await?;
    upgraded(&connect.call.api, connect.on_upgrade.take(), answer)
}

fn without_token(protocols: &HeaderValue) -> HeaderValue {
    let Ok(text) = protocols.to_str() else { return protocols.clone() };
    let kept: Vec<&str> =
        text.split(',').map(str::trim).filter(|name| !name.starts_with(TOKEN_PROTOCOL)).collect();
    HeaderValue::from_str(&kept.join(", ")).unwrap_or_else(|_| protocols.clone())
}

/// The node, and the path there.
fn location(subresource: &str, pod: &Pod, query: &Query) -> Result<(String, String), ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut path = match subresource {
        "portforward" => format!("/portForward/{namespace}/{name}"),
        _ => format!("/{subresource}/{namespace}/{name}/{}", log::container(pod, query.get("container"))?),
    };
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let mut mark = '?';
    let mut add = |key: &str, value: &str| {
        path.push(mark);
        mark = '&';
        path.push_str(key);
        path.push('=');
        escape_query(value, &mut path);
    };
    if subresource == "portforward" {
        let ports: Vec<&str> = query.all("ports").collect();
        for port in ports.iter().flat_map(|value| value.split(',')) {
            port.parse::<i32>().map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {port:?}: invalid syntax"))
            })?;
        }
        if !ports.is_empty() {
            add("port", &ports.join(","));
        }
        return Ok((node, path));
    }
    // Upstream's defaults: output is wanted unless it is said not to be.
    for (ours, theirs, default) in [
        ("stdin", "input", false),
        ("stdout", "output", true),
        ("stderr", "error", true),
        ("tty", "tty", false),
    ] {
        if if query.contains(ours) { query.flag(ours) } else { default } {
            add(theirs, "1");
        }
    }
    if subresource == "exec" {
        for word in query.all("command") {
            add("command", word);
        }
    }
    Ok((node, path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_on_the_node() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]}}))
        .unwrap();
        for (subresource, query, want) in [
            (
                "exec",
                "command=sh&command=-c&command=echo+%26&stdin=true&stdout=false&stderr=0&tty=true",
                Ok("/exec/ns/p/c?input=1&tty=1&command=sh&command=-c&command=echo%20%26"),
            ),
            ("exec", "container=c&command=ls", Ok("/exec/ns/p/c?output=1&error=1&command=ls")),
            ("attach", "stdin=1", Ok("/attach/ns/p/c?input=1&output=1&error=1")),
            ("exec", "container=x", Err("container x is not valid for pod p")),
            ("portforward", "", Ok("/portForward/ns/p")),
            ("portforward", "ports=80&ports=81", Ok("/portForward/ns/p?port=80%2C81")),
            ("portforward", "ports=x", Err("strconv.ParseInt: parsing \"x\": invalid syntax")),
        ] {
            let got = location(subresource, &pod, &Query::parse(query));
            let got = got.map(|(_, path)| path).map_err(|error| error.message().to_owned());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{subresource}?{query}");
        }
        let mut pod = pod;
        pod.spec.as_mut().unwrap().node_name = None;
        let error = location("exec", &pod, &Query::default()).unwrap_err();
        assert_eq!((error.code(), error.message()), (400, "pod p does not have a host assigned"));
    }

    #[test]
    fn a_token_stays_here() {
        let value = HeaderValue::from_static("base64url.bearer.authorization.k8s.io.abc, v4.channel.k8s.io");
        assert_eq!(without_token(&value), "v4.channel.k8s.io");
    }
}
