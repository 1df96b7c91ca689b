//! The API's error: a `metav1.Status` with upstream's codes, reasons and messages.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resource::Resource;

/// An error as the API reports it. Encodes as a `v1` `Status` object.
#[derive(Clone, PartialEq)]
pub struct ApiError(Box<Status>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    #[serde(default)]
    pub metadata: ListMeta,
}

/// Only an expired `continue` token says something here: how to go on inconsistently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListMeta {
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl ApiError {
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Status { code, reason: reason.into(), message: message.into(), ..Status::default() }))
    }

    pub fn from_status(status: Status) -> Self {
        Self(Box::new(status))
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.0.details = Some(Details {
            name: name.into(),
            group: resource.group().into(),
            kind: resource.plural().into(),
            ..Details::default()
        });
        self
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
            .about(resource, name)
    }

    /// No such resource or subresource. kubectl looks into the details without asking whether there are any.
    pub fn unknown_resource() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details_mut();
        error
    }

    /// The resource is known, the method is not for it.
    pub fn wrong_method() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut error = Self::new(405, "MethodNotAllowed", message);
        error.details_mut();
        error
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
            .about(resource, name)
    }

    /// `why`: usually [`MODIFIED`].
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified()),
        )
        .about(resource, name)
    }

    pub fn forbidden(resource: &Resource, name: &str, why: impl fmt::Display) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", resource.qualified())
        } else {
            format!("{} \"{name}\" is forbidden: {why}", resource.qualified())
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 422 with one cause per field error; upstream names the kind (`Pod "x" is invalid: …`).
    pub fn invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        let mut parts: Vec<String> =
            causes
                .iter()
                .map(|c| {
                    if c.field.is_empty() { c.message.clone() } else { format!("{}: {}", c.field, c.message) }
                })
                .collect();
        let list = if parts.len() == 1 { parts.remove(0) } else { format!("[{}]", parts.join(", ")) };
        let kind = if resource.group().is_empty() {
            resource.kind().to_owned()
        } else {
            format!("{}.{}", resource.kind(), resource.group())
        };
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {list}"));
        error.0.details = Some(Details {
            name: name.into(),
            group: resource.group().into(),
            kind: resource.kind().into(),
            causes,
            ..Details::default()
        });
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn method_not_allowed(resource: &Resource, verb: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind \"{}\"", resource.qualified()),
        )
        .about(resource, "")
    }

    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {error}"))
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error.0.details =
            Some(Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() });
        error
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit_bytes}"))
    }

    /// The transport failed before the API answered.
    pub fn transport(error: impl fmt::Display) -> Self {
        Self::new(0, "Transport", error.to_string())
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    pub fn details_mut(&mut self) -> &mut Details {
        self.0.details.get_or_insert_default()
    }

    pub fn status(&self) -> &Status {
        &self.0
    }

    pub fn is_not_found(&self) -> bool {
        self.0.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.0.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.0.reason == "AlreadyExists"
    }

    /// The resourceVersion (or continue token) is too old: list again.
    pub fn is_expired(&self) -> bool {
        self.0.code == 410
    }

    /// The namespace is going away: creating in it is pointless.
    pub fn is_namespace_terminating(&self) -> bool {
        self.0.code == 403
            && self
                .0
                .details
                .as_ref()
                .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
    }

    /// The encoded `Status` object.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            kind: &'static str,
            api_version: &'static str,
            metadata: &'a ListMeta,
            status: &'static str,
            message: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            reason: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: &'a Option<Details>,
            code: u16,
        }
        serde_json::to_vec(&Wire {
            kind: "Status",
            api_version: "v1",
            metadata: &self.0.metadata,
            status: "Failure",
            message: &self.0.message,
            reason: &self.0.reason,
            details: &self.0.details,
            code: self.0.code,
        })
        .unwrap_or_default()
    }
}

/// Why an update with a stale resourceVersion conflicts, in upstream's words.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.code, self.0.reason, self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(format!("decoding an object: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let r = Resource::of::<Deployment>();
        let cause =
            |field: &str| Cause { field: field.into(), message: "Required value".into(), ..Cause::default() };
        for (error, want) in [
            (ApiError::not_found(&r, "web"), "deployments.apps \"web\" not found"),
            (ApiError::already_exists(&r, "web"), "deployments.apps \"web\" already exists"),
            (
                ApiError::invalid(&r, "web", vec![cause("spec.a")]),
                "Deployment.apps \"web\" is invalid: spec.a: Required value",
            ),
            (
                ApiError::invalid(&r, "web", vec![cause("spec.a"), cause("spec.b")]),
                "Deployment.apps \"web\" is invalid: [spec.a: Required value, spec.b: Required value]",
            ),
        ] {
            assert_eq!(error.message(), want);
            let json: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
            assert_eq!(json["kind"], "Status");
            assert_eq!(json["message"], want);
        }
    }
}
