//! Upstream's `rest_client_requests_total`: what the components of this process asked of the API.

use std::sync::LazyLock;

use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::register;
use crate::request::Verb;
use crate::status::ApiError;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    code: u16,
    method: &'static str,
    /// The component, where upstream has the server's name: there is one server.
    host: String,
}

static REQUESTS: LazyLock<Family<Labels, Counter>> = LazyLock::new(|| {
    let family = Family::default();
    // The encoder appends `_total` to counters.
    register(|registry| {
        registry.register(
            "rest_client_requests",
            "Number of HTTP requests, partitioned by status code, method, and host",
            Family::clone(&family),
        );
    });
    family
});

pub fn asked(component: &str, verb: Verb, result: &Result<Bytes, ApiError>) {
    let method = match verb {
        Verb::Get => "GET",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch(_) => "PATCH",
        Verb::Delete | Verb::DeleteCollection => "DELETE",
    };
    let code = match result {
        Ok(_) if verb == Verb::Create => 201,
        Ok(_) => 200,
        Err(error) => error.code(),
    };
    REQUESTS.get_or_create(&Labels { code, method, host: component.to_owned() }).inc();
}
