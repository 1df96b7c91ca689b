//! Upstream's answers to bodies that cannot be used.

use coracle_client::ApiError;
use coracle_client::status::Cause;
use serde_json::Value;

use super::scan;
use crate::field_error::Errors;
use crate::kinds::{self, KindDef};

/// Bytes of a body that an error shows.
const SUMMARY_BYTES: usize = 30;

/// What a body should hold, by its URL.
pub struct Expected<'a> {
    api_version: std::borrow::Cow<'a, str>,
    kind: &'a str,
}

impl<'a> Expected<'a> {
    pub fn new(api_version: &'a str, kind: &'a str) -> Self {
        Self { api_version: api_version.into(), kind }
    }

    pub fn of(kind: &'a KindDef) -> Self {
        Self { api_version: kind.resource.api_version().into(), kind: kind.resource.kind() }
    }

    /// The apiVersion and the kind.
    pub fn names(&self) -> (&str, &str) {
        (&self.api_version, self.kind)
    }

    /// The decoder could not even tell what the body is.
    pub fn unrecognized(&self, error: &str, body: &[u8]) -> ApiError {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({})",
            self.kind,
            summary(body)
        ))
    }

    /// The body says (or the URL, for `said` None) what it is, but cannot be decoded as that.
    pub fn unhandled(&self, said: Option<(&str, &str)>, error: &str) -> ApiError {
        let (api_version, kind) = said.unwrap_or((&self.api_version, self.kind));
        let version = api_version.rsplit('/').next().unwrap_or_default();
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {error}",
            self.kind
        ))
    }

    /// Custom resources must say themselves what they are.
    pub fn custom(&self, json: &[u8], body: &[u8]) -> Result<(), ApiError> {
        let Ok(document) = serde_json::from_slice::<Value>(json) else { return Ok(()) };
        let Ok((api_version, kind)) = what_it_is(&document) else { return Ok(()) };
        if kind.is_empty() {
            let error = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(json));
            return Err(self.unrecognized(&error, body));
        }
        if api_version != self.api_version {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({})",
                self.api_version
            )));
        }
        Ok(())
    }

    /// Finds out why `json` did not decode; `failure` is what the checked decode noted.
    pub fn explain(
        &self,
        json: &[u8],
        body: &[u8],
        failure: Option<String>,
        error: &serde_json::Error,
    ) -> ApiError {
        if let Some(fault) = scan::fault(json) {
            return self.unrecognized(&format!("couldn't get version/kind; json parse error: {fault}"), body);
        }
        let document: Value = match serde_json::from_slice(json) {
            Ok(document) => document,
            Err(error) => {
                let error = format!("couldn't get version/kind; json parse error: {error}");
                return self.unrecognized(&error, body);
            }
        };
        let (api_version, kind) = match what_it_is(&document) {
            Ok(said) => said,
            Err(fault) => {
                let error =
                    format!("couldn't get version/kind; json parse error: json: cannot unmarshal {fault}");
                return self.unrecognized(&error, body);
            }
        };
        let api_version = if api_version.is_empty() { &*self.api_version } else { api_version };
        let kind = if kind.is_empty() { self.kind } else { kind };
        if let Some(error) = self.mismatch(api_version, kind) {
            return error;
        }
        self.unhandled(None, &failure.unwrap_or_else(|| error.to_string()))
    }

    fn mismatch(&self, api_version: &str, kind: &str) -> Option<ApiError> {
        if kind == self.kind && api_version == self.api_version {
            return None;
        }
        let exists = is_meta(kind)
            || kinds::all()
                .iter()
                .any(|k| k.resource.kind() == kind && k.resource.api_version() == api_version);
        if kind == self.kind && exists {
            return Some(ApiError::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({})",
                self.api_version
            )));
        }
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let why = if exists {
            let (from, to) = (go_package(api_version), go_package(&self.api_version));
            let package = to.0;
            format!("converting ({}.{kind}) to ({package}.{}): unknown conversion", from.1, self.kind)
        } else {
            format!(
                "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            )
        };
        Some(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            self.kind
        )))
    }

    /// Why the body is no JSON object, or says that it is of another kind.
    pub fn misplaced(&self, json: &[u8]) -> Option<String> {
        let unreadable = |fault: &str| Some(format!("couldn't get version/kind; json parse error: {fault}"));
        if let Some(fault) = scan::fault(json) {
            return unreadable(&fault);
        }
        let document: Value = match serde_json::from_slice(json) {
            Ok(document) => document,
            Err(error) => return unreadable(&error.to_string()),
        };
        match what_it_is(&document) {
            Err(fault) => unreadable(&format!("json: cannot unmarshal {fault}")),
            Ok((_, kind)) if kind.is_empty() || kind == self.kind => None,
            Ok((api_version, kind)) if is_meta(kind) => {
                let (_, from) = go_package(api_version);
                Some(format!("converting ({from}.{kind}) to (v1.{}): unknown conversion", self.kind))
            }
            Ok((api_version, kind)) => Some(format!(
                "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            )),
        }
    }

    /// The failure alone, for answers that frame it otherwise.
    pub fn what_failed(&self, json: &[u8], failure: Option<String>, error: &serde_json::Error) -> String {
        if let Ok(document) = serde_json::from_slice::<Value>(json) {
            match what_it_is(&document) {
                Err(fault) => {
                    return format!(
                        "couldn't get version/kind; json parse error: json: cannot unmarshal {fault}"
                    );
                }
                Ok((api_version, kind)) if kind != self.kind || api_version != self.api_version => {
                    return format!(
                        "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
                    );
                }
                Ok(_) => {}
            }
        }
        failure.unwrap_or_else(|| error.to_string())
    }
}

/// The apiVersion and kind a document gives itself, empty where it gives none.
fn what_it_is(document: &Value) -> Result<(&str, &str), String> {
    const HEAD: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let Value::Object(fields) = document else {
        return Err(format!("{} into Go value of type {HEAD}", go_kind(document)));
    };
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(format!("{} into Go struct field .{name} of type string", go_kind(other))),
    };
    Ok((text("apiVersion")?, text("kind")?))
}

/// Types that are in every group of the scheme.
fn is_meta(kind: &str) -> bool {
    matches!(
        kind,
        "APIGroup"
            | "APIGroupList"
            | "APIResourceList"
            | "APIVersions"
            | "CreateOptions"
            | "DeleteOptions"
            | "GetOptions"
            | "ListOptions"
            | "PatchOptions"
            | "Status"
            | "UpdateOptions"
            | "WatchEvent"
    )
}

/// A JSON value's kind in the words of Go's decoder.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The Go packages of the internal and the versioned types of a group version: `apps` and `v1`.
fn go_package(api_version: &str) -> (&str, &str) {
    match api_version.split_once('/') {
        Some((group, version)) => (group.split('.').next().unwrap_or_default(), version),
        None => ("core", api_version),
    }
}

fn summary(body: &[u8]) -> String {
    let more = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    let shown = body.get(..SUMMARY_BYTES).unwrap_or(body);
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// 422 for a field that must be there.
pub fn required(kind: &KindDef, json: &[u8], field: &str) -> ApiError {
    let document: Value = serde_json::from_slice(json).unwrap_or_default();
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let resource = kind.alias.as_ref().map_or(&kind.resource, |alias| &alias.stored);
    let mut errors = Errors::default();
    errors.required(field, "");
    ApiError::invalid(resource, name, errors.into_causes())
}

/// 422, as upstream answers when a patched object does not decode.
pub fn invalid_patch(shown: &str, error: &str) -> ApiError {
    let value = serde_json::to_string(shown).unwrap_or_default();
    let message = format!("Invalid value: {value}: {error}");
    let mut answer = ApiError::new(422, "Invalid", format!(" \"\" is invalid: patch: {message}"));
    answer.details_mut().causes =
        vec![Cause { reason: "FieldValueInvalid".into(), message, field: "patch".into() }];
    answer
}

pub fn no_protobuf() -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
    )
}

pub fn unsupported_media_type(_got: &str) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml, application/vnd.kubernetes.protobuf",
    )
}
