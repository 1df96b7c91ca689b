//! `pods/log`: what a container wrote, from the server of the pod's node.

use axum::response::Response;
use coracle_client::ApiError;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::node;
use crate::field_error::Errors;
use crate::verbs::Call;
use crate::verbs::options::{self, Query};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// What is passed on to the node.
const PASSED_ON: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

pub async fn open(call: &Call, query: &Query) -> Result<Response, ApiError> {
    validate(query)?;
    call.api.cache.catch_up(&*call.api.store).await?;
    let pod: Pod = call.current().await?.decode()?;
    let container = container(&pod, query.get("container"))?;
    let node_name = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    if node_name.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name())));
    }
    let path = format!(
        "/containerLogs/{}/{}/{container}{}",
        call.namespace.as_deref().unwrap_or_default(),
        call.name(),
        query.encode(|name| PASSED_ON.contains(&name))
    );
    node::through(call, node_name, &path).await
}

fn validate(query: &Query) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(value) = query.number::<i64>(name)?.filter(|v| *v < least) {
            errors.invalid(name, value, format!("must be greater than or equal to {least}"));
        }
    }
    if let Some(text) = query.get("sinceTime") {
        if text.parse::<Timestamp>().is_err() {
            return Err(ApiError::bad_request(format!("parsing time {text:?}: it is no RFC 3339 time")));
        }
        if query.get("sinceSeconds").is_some() {
            errors.forbidden("sinceSeconds", "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(options::invalid("PodLogOptions", errors.into_causes())) }
}

/// The container asked for, or the only one there is.
pub fn container<'a>(pod: &'a Pod, asked: Option<&'a str>) -> Result<&'a str, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let containers: Vec<&str> = spec.iter().flat_map(|s| &s.containers).map(|c| c.name.as_str()).collect();
    let init: Vec<&str> =
        spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    let ephemeral =
        spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).map(|c| c.name.as_str());
    if let Some(asked) = asked {
        if containers.iter().chain(&init).copied().chain(ephemeral).any(|c| c == asked) {
            return Ok(asked);
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let preferred =
        pod.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_CONTAINER)).map(String::as_str);
    if let Some(preferred) = preferred.filter(|p| containers.contains(p)) {
        return Ok(preferred);
    }
    match containers.as_slice() {
        [only] => Ok(only),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    fn pod(containers: &[&str], init: &[&str]) -> Pod {
        let make = |names: &[&str]| -> Vec<Container> {
            names.iter().map(|n| Container { name: (*n).into(), ..Container::default() }).collect()
        };
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        pod.spec = Some(PodSpec {
            containers: make(containers),
            init_containers: Some(make(init)),
            ..PodSpec::default()
        });
        pod
    }

    #[test]
    fn which_container() {
        for (containers, init, asked, want) in [
            (&["a"][..], &[][..], None, Ok("a")),
            (&["a"], &["i"], Some("i"), Ok("i")),
            (&["a"], &[], Some("b"), Err("container b is not valid for pod p")),
            (
                &["a", "b"],
                &[],
                None,
                Err("a container name must be specified for pod p, choose one of: [a b]"),
            ),
            (
                &["a", "b"],
                &["i"],
                None,
                Err(
                    "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
                ),
            ),
        ] {
            let pod = pod(containers, init);
            let got = container(&pod, asked).map_err(|e| e.message().to_owned());
            assert_eq!(got.as_deref().map_err(|e| e.as_str()), want.as_deref().map_err(|e| *e));
        }
    }

    #[test]
    fn options_are_checked_before_a_node_is_asked() {
        for (query, fine) in [
            ("tailLines=5&follow=true", true),
            ("tailLines=-1", false),
            ("limitBytes=0", false),
            ("sinceSeconds=x", false),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", false),
            ("sinceTime=yesterday", false),
        ] {
            assert_eq!(validate(&Query::parse(query)).is_ok(), fine, "{query}");
        }
    }
}
