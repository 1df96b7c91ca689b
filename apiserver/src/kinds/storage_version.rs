//! StorageVersion: the versions in which each server stores a resource, and which it can read. Alpha, so served only
//! where it is asked for.

use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::{
    ServerStorageVersion, StorageVersion, StorageVersionStatus,
};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// So many servers are named in a table.
const SHOWN: usize = 3;

fn api_version(text: &str) -> Result<(), String> {
    let (group, version) = match text.split('/').collect::<Vec<_>>()[..] {
        [version] => (None, version),
        [group, version] => (Some(group), version),
        _ => {
            return Err(
                "an apiVersion is a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')"
                    .into(),
            );
        }
    };
    let mut faults = Vec::new();
    match group {
        Some("") => faults.push("group part: must be non-empty".to_owned()),
        Some(group) => {
            faults.extend(validation::dns_subdomain(group).err().map(|why| format!("group part: {why}")));
        }
        None => {}
    }
    match version {
        "" => faults.push("version part: must be non-empty".to_owned()),
        version => {
            faults
                .extend(validation::dns_1035_label(version).err().map(|why| format!("version part: {why}")));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join(",")) }
}

fn validate_entry(entry: &ServerStorageVersion, path: &Path<'_>, errors: &mut Errors) {
    errors.check(path.child("apiServerID"), &entry.api_server_id, validation::dns_subdomain);
    errors.check(path.child("encodingVersion"), &entry.encoding_version, api_version);
    let decodable = path.child("decodableVersions");
    for (i, version) in entry.decodable_versions.iter().enumerate() {
        errors.check(decodable.index(i), version, api_version);
    }
    if !entry.decodable_versions.contains(&entry.encoding_version) {
        let detail = format!("decodableVersions must include encodingVersion {}", entry.encoding_version);
        errors.invalid(decodable, &entry.decodable_versions, detail);
    }
    let served = path.child("servedVersions");
    for (i, version) in entry.served_versions.iter().flatten().enumerate() {
        errors.check(served.index(i), version, api_version);
        if !entry.decodable_versions.contains(version) {
            let detail = format!(
                "individual served version must be included in decodableVersions {:?}",
                entry.decodable_versions
            );
            errors.invalid(served.index(i), version, detail);
        }
    }
}

fn validate_status(status: &StorageVersionStatus, errors: &mut Errors) {
    let path = Path::new("status");
    let entries = status.storage_versions.as_deref().unwrap_or_default();
    for (i, entry) in entries.iter().enumerate() {
        validate_entry(entry, &path.child("storageVersions").index(i), errors);
    }
    let first = entries.first().map(|entry| &entry.encoding_version);
    let common = first.filter(|first| entries.iter().all(|entry| entry.encoding_version == **first));
    let at = path.child("commonEncodingVersion");
    match (common, &status.common_encoding_version) {
        (None, Some(said)) => errors.invalid(
            at,
            said,
            "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet",
        ),
        (Some(common), None) => {
            errors.invalid(at, Value::Null, format!("the common encoding version is {common}"));
        }
        (Some(common), Some(said)) if common != said => {
            errors.invalid(at, said, format!("the actual common encoding version is {common}"));
        }
        _ => {}
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let at = path.child("conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let path = at.index(i);
        if let Some(first) = conditions.iter().take(i).position(|c| c.type_ == condition.type_) {
            let detail =
                format!("the type of the condition is not unique, it also appears in conditions[{first}]");
            errors.invalid(path.child("type"), &condition.type_, detail);
        }
        errors.check(path.child("type"), &condition.type_, validation::qualified_name);
        errors.check(path.child("status"), &condition.status, validation::qualified_name);
        if condition.reason.is_empty() {
            errors.required(path.child("reason"), "reason cannot be empty");
        }
        if condition.message.is_empty() {
            errors.required(path.child("message"), "message cannot be empty");
        }
    }
}

impl BuiltIn for StorageVersion {
    const SINGULAR: &'static str = "storageversion";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(StorageVersionStatus::default());
    }

    /// `<group>.<resource>`; the core group is called `core`.
    fn validate_name(name: &str) -> Result<(), String> {
        let Some((group, resource)) = name.rsplit_once('.') else {
            return Err("name must be in the form of <group>.<resource>".into());
        };
        validation::dns_subdomain(group).map_err(|why| format!("the group segment {why}"))?;
        validation::dns_1035_label(resource).map_err(|why| format!("the resource segment {why}"))
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(status) = &self.status {
            validate_status(status, errors);
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow(
                "CommonEncodingVersion",
                "string",
                "The version in which all servers store the resource.",
            ),
            table::narrow("StorageVersions", "string", "The version in which each server stores it."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.as_ref();
        let common = status.and_then(|s| s.common_encoding_version.as_deref()).unwrap_or("<unset>");
        let entries = status.and_then(|s| s.storage_versions.as_deref()).unwrap_or_default();
        let shown = entries.iter().take(SHOWN).map(|e| format!("{}={}", e.api_server_id, e.encoding_version));
        let mut shown = shown.collect::<Vec<_>>().join(",");
        if let Some(more) = entries.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            shown.push_str(&format!(" + {more} more..."));
        }
        if shown.is_empty() {
            shown.push_str("<unset>");
        }
        table::cells(&self.metadata, now, vec![json!(common), json!(shown)])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn entry(server: &str, encoding: &str) -> Value {
        json!({"apiServerID": server, "encodingVersion": encoding, "decodableVersions": [encoding]})
    }

    fn of(entries: Value, common: Value) -> Value {
        json!({"spec": {}, "status": {"storageVersions": entries, "commonEncodingVersion": common}})
    }

    #[test]
    fn entries_and_what_is_common_fit() {
        let a = entry("a", "apps/v1");
        testing::valid::<StorageVersion>(&[
            of(json!([]), json!(null)),
            of(json!([a]), json!("apps/v1")),
            of(json!([a, entry("b", "v1")]), json!(null)),
        ]);
        let mut undecodable = a.clone();
        undecodable["decodableVersions"] = json!(["apps/v2"]);
        let mut unread = a.clone();
        unread["servedVersions"] = json!(["apps/v3"]);
        testing::invalid::<StorageVersion>(&[
            (
                of(json!([a]), json!(null)),
                "status.commonEncodingVersion",
                "Invalid value: null: the common encoding version is apps/v1",
            ),
            (
                of(json!([a]), json!("v1")),
                "status.commonEncodingVersion",
                "Invalid value: \"v1\": the actual common encoding version is apps/v1",
            ),
            (
                of(json!([]), json!("v1")),
                "status.commonEncodingVersion",
                "Invalid value: \"v1\": should be nil if servers do not agree",
            ),
            (
                of(json!([entry("A", "v1")]), json!("v1")),
                "status.storageVersions[0].apiServerID",
                "Invalid value: \"A\"",
            ),
            (
                of(json!([undecodable]), json!("apps/v1")),
                "status.storageVersions[0].decodableVersions",
                "Invalid value: [\"apps/v2\"]: decodableVersions must include encodingVersion apps/v1",
            ),
            (
                of(json!([unread]), json!("apps/v1")),
                "status.storageVersions[0].servedVersions[0]",
                "Invalid value: \"apps/v3\": individual served version must be included",
            ),
        ]);
        for (text, fine) in [
            ("v1", true),
            ("apps/v1", true),
            ("a/b/c", false),
            ("/v1", false),
            ("apps/", false),
            ("", false),
            ("A/v1", false),
        ] {
            assert_eq!(api_version(text).is_ok(), fine, "{text}");
        }
        for (name, fine) in [
            ("core.pods", true),
            ("a.example.com.things", true),
            ("pods", false),
            (".pods", false),
            ("core.1", false),
        ] {
            assert_eq!(StorageVersion::validate_name(name).is_ok(), fine, "{name}");
        }
    }

    #[test]
    fn tables_name_three_servers() {
        let entries: Vec<Value> = ["a", "b", "c", "d"].map(|server| entry(server, "v1")).into();
        let mut version = of(json!(entries), json!("v1"));
        version["metadata"] = json!({"name": "core.pods"});
        let cells = testing::cells::<StorageVersion>(version);
        assert_eq!(cells[..3], ["core.pods", "v1", "a=v1,b=v1,c=v1 + 1 more..."]);
    }
}
