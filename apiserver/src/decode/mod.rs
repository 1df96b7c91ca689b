//! Request bodies to typed objects: JSON, YAML and protobuf, with upstream's strictness and words for what is wrong.

mod ask;
mod checked;
mod embedded;
mod faults;
mod quirks;
mod report;
mod scan;
mod yaml;

use std::borrow::Cow;

use coracle_client::ApiError;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kinds::KindDef;
use crate::object::ApiObject;
use crate::protobuf;

pub use checked::read;
pub use report::Report;
pub use scan::fault as json_fault;
pub use yaml::{strict as yaml_strict, to_json as yaml_to_json};

/// The query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    #[default]
    Warn,
    Ignore,
}

impl FieldValidation {
    /// The parameter's value; absent or empty is upstream's default.
    pub fn parse(parameter: Option<&str>) -> Result<Self, ApiError> {
        match parameter {
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// An object as the client sent it, before defaults.
pub struct Decoded {
    pub object: Box<dyn ApiObject>,
    /// Go out as `Warning: 299 - "…"` headers.
    pub warnings: Vec<String>,
}

/// The body of a create or update of `kind`. What the body leaves out of apiVersion and kind the URL says.
pub fn body(
    kind: &KindDef,
    content_type: Option<&str>,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let expected = faults::Expected::of(kind);
    if !kind.built_in && is_protobuf(content_type) {
        return Err(faults::no_protobuf());
    }
    let text = to_json(content_type, body, &expected)?;
    if !kind.built_in {
        expected.custom(&text.json, body)?;
    }
    let report = Report::new(validation != FieldValidation::Ignore, text.yaml);
    let result = kind.ops.decode_checked(&text.json, &report);
    let missing = report.missing();
    let (mut issues, failure) = report.into_parts();
    let object = match (result, missing) {
        (Ok(object), _) => object,
        (Err(_), Some(field)) => return Err(faults::required(kind, &text.json, &field)),
        (Err(error), None) => return Err(expected.explain(&text.json, body, failure, &error)),
    };
    issues.splice(0..0, text.issues(validation));
    let warnings = settle(issues, validation, |strict| expected.unhandled(None, &strict))?;
    Ok(Decoded { object, warnings })
}

fn is_protobuf(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|text| text.trim_start().starts_with("application/vnd.kubernetes.protobuf"))
}

/// The body of a subresource or of a delete: any type, under the name the API gives it.
pub fn document<T: DeserializeOwned>(
    api_version: &str,
    kind: &str,
    content_type: Option<&str>,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(T, Vec<String>), ApiError> {
    let expected = faults::Expected::new(api_version, kind);
    let text = to_json(content_type, body, &expected)?;
    let report = Report::new(validation != FieldValidation::Ignore, text.yaml);
    let result = read::<T>(&text.json, &report);
    let (mut issues, failure) = report.into_parts();
    let value = match result {
        Ok(value) => value,
        Err(error) => return Err(expected.explain(&text.json, body, failure, &error)),
    };
    issues.splice(0..0, text.issues(validation));
    let warnings = settle(issues, validation, |strict| expected.unhandled(None, &strict))?;
    Ok((value, warnings))
}

/// The options of a delete; they are of any version, and unknown fields in them are nobody's business, as upstream.
pub fn options<T: DeserializeOwned>(
    kind: &str,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<T, ApiError> {
    let expected = faults::Expected::new("v1", kind);
    let text = to_json(content_type, body, &expected)?;
    let report = Report::new(false, text.yaml);
    let result = read::<T>(&text.json, &report);
    let (_, failure) = report.into_parts();
    if let Some(fault) = expected.misplaced(&text.json) {
        return Err(ApiError::bad_request(fault));
    }
    result.map_err(|error| ApiError::bad_request(failure.unwrap_or_else(|| error.to_string())))
}

/// The result of a patch, typed, before defaults; what is wrong with it is 422, as upstream.
pub fn patched(kind: &KindDef, value: &Value, validation: FieldValidation) -> Result<Decoded, ApiError> {
    result_of_patch(kind, value, validation, None)
}

/// The same of a strategic patch, which upstream merges and decodes as trees.
pub fn patched_as_tree(
    kind: &KindDef,
    value: &Value,
    validation: FieldValidation,
    patch: &[u8],
) -> Result<Decoded, ApiError> {
    result_of_patch(kind, value, validation, Some(patch))
}

fn result_of_patch(
    kind: &KindDef,
    value: &Value,
    validation: FieldValidation,
    tree: Option<&[u8]>,
) -> Result<Decoded, ApiError> {
    let json = serde_json::to_vec(value).map_err(ApiError::internal)?;
    let mut report = Report::new(validation != FieldValidation::Ignore, false);
    report.tree = tree.is_some();
    let result = kind.ops.decode_checked(&json, &report);
    let (issues, failure) = report.into_parts();
    let invalid = |error: &str| match tree {
        Some(patch) => {
            let patch: Value = serde_json::from_slice(patch).unwrap_or_default();
            faults::invalid_patch(&crate::patch::go_text(&patch), error)
        }
        None => faults::invalid_patch(&String::from_utf8_lossy(&json), error),
    };
    let object = result.map_err(|error| {
        let failed = match failure {
            Some(failure) if tree.is_some() => failure,
            failure => faults::Expected::of(kind).what_failed(&json, failure, &error),
        };
        invalid(&failed)
    })?;
    let warnings = settle(issues, validation, |strict| invalid(&strict))?;
    Ok(Decoded { object, warnings })
}

/// The result of an apply, typed, before defaults; upstream's words for what cannot be read.
pub fn applied(kind: &KindDef, value: &Value, named: &str) -> Result<Box<dyn ApiObject>, ApiError> {
    let json = serde_json::to_vec(value).map_err(ApiError::internal)?;
    let report = Report::new(false, false);
    let result = kind.ops.decode_checked(&json, &report);
    let (_, failure) = report.into_parts();
    result.map_err(|error| {
        let expected = faults::Expected::of(kind);
        let (api_version, name) = expected.names();
        let what = expected.what_failed(&json, failure, &error);
        ApiError::new(
            500,
            "",
            format!("failed to convert new object {named} to proper version: unable to convert unstructured object to {api_version}, Kind={name}: {what}"),
        )
    })
}

/// Unknown fields of a patch's result: an error when strict, warnings otherwise.
pub fn check_fields(
    kind: &KindDef,
    value: &Value,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    patched(kind, value, validation).map(|decoded| decoded.warnings)
}

/// Issues become warnings, or the error that `refuse` makes of them when the client asked for strictness.
fn settle(
    issues: Vec<String>,
    validation: FieldValidation,
    refuse: impl FnOnce(String) -> ApiError,
) -> Result<Vec<String>, ApiError> {
    match validation {
        FieldValidation::Strict if !issues.is_empty() => {
            Err(refuse(format!("strict decoding error: {}", issues.join(", "))))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        // A header is one line.
        _ => Ok(issues.into_iter().map(|issue| issue.replace('\n', " ")).collect()),
    }
}

/// A body as JSON text.
struct Text<'a> {
    json: Cow<'a, [u8]>,
    yaml: bool,
    /// Duplicate keys that only the original text shows.
    issues: Vec<String>,
}

impl Text<'_> {
    /// One error for strictness, a warning for each otherwise.
    fn issues(self, validation: FieldValidation) -> Vec<String> {
        match validation {
            FieldValidation::Strict if !self.issues.is_empty() => vec![yaml::strict(&self.issues)],
            _ => self.issues,
        }
    }
}

fn to_json<'a>(
    content_type: Option<&str>,
    body: &'a [u8],
    expected: &faults::Expected<'_>,
) -> Result<Text<'a>, ApiError> {
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_type.to_ascii_lowercase().as_str() {
        "" | "application/json" => Ok(Text { json: Cow::Borrowed(body), yaml: false, issues: Vec::new() }),
        "application/yaml" => {
            let (value, issues) = yaml::to_json(body).map_err(|error| expected.unrecognized(&error, body))?;
            let json = serde_json::to_vec(&value).map_err(ApiError::internal)?;
            Ok(Text { json: Cow::Owned(json), yaml: true, issues })
        }
        "application/vnd.kubernetes.protobuf" => {
            let (api_version, kind) = expected.names();
            let json =
                protobuf::to_json(protobuf::table(), body, api_version, kind).map_err(
                    |fault| match fault {
                        protobuf::Fault::NoPrefix | protobuf::Fault::Envelope(_) => {
                            expected.unrecognized(&fault.to_string(), body)
                        }
                        _ => expected.unhandled(None, &fault.to_string()),
                    },
                )?;
            Ok(Text { json: Cow::Owned(json), yaml: false, issues: Vec::new() })
        }
        other => Err(faults::unsupported_media_type(other)),
    }
}

#[cfg(test)]
mod tests;
