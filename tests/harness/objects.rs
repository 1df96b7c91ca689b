//! Objects of the API as JSON, by their paths: what most tests of the API do over and over.

use serde_json::{Value, json};

use super::{Https, Response, eventually};

/// Headers of a merge patch.
pub const MERGE: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];

/// The answer's document; it must have this code.
#[track_caller]
pub fn good(response: Response, code: u16) -> Value {
    assert_eq!(response.status, code, "{}", response.text());
    response.json()
}

/// A namespace of the test's own, that takes pods; its path.
pub fn namespace(api: &Https, name: &str) -> String {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    good(api.post("/api/v1/namespaces", body.to_string()), 201);
    let path = format!("/api/v1/namespaces/{name}");
    eventually("the default account", || there(api, &format!("{path}/serviceaccounts/default")));
    path
}

/// For [`eventually`].
pub fn there(api: &Https, path: &str) -> Result<(), String> {
    let answer = api.get(path);
    if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
}

/// Waits until it is.
pub fn gone(api: &Https, path: &str) {
    eventually(&format!("{path} to be gone"), || {
        let answer = api.get(path);
        if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
    });
}

/// A merge patch that is taken.
#[track_caller]
pub fn patch(api: &Https, path: &str, body: Value) -> Value {
    good(api.request("PATCH", path, MERGE, body.to_string().as_bytes()), 200)
}

#[track_caller]
pub fn delete(api: &Https, path: &str) -> Value {
    good(api.request("DELETE", path, &[], b""), 200)
}
