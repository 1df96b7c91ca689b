//! What a StorageVersion says of the servers that wrote themselves into it: whether they all encode alike. Servers enter
//! themselves, the controllers take out those that are gone.

use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::{
    ServerStorageVersion, StorageVersion, StorageVersionCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The label of the Leases in `kube-system` by which servers say that they live, and its value.
pub const IDENTITY_LABEL: &str = "apiserver.kubernetes.io/identity";
pub const IDENTITY: &str = "kube-apiserver";
pub const IDENTITY_NAMESPACE: &str = "kube-system";

const ALL_EQUAL: &str = "AllEncodingVersionsEqual";

/// Puts the server's entry in; false where it is there already.
pub fn enter(version: &mut StorageVersion, entry: &ServerStorageVersion, now: Timestamp) -> bool {
    let entries = version.status.get_or_insert_default().storage_versions.get_or_insert_default();
    match entries.iter_mut().find(|e| e.api_server_id == entry.api_server_id) {
        Some(present) if present == entry => return false,
        Some(present) => *present = entry.clone(),
        None => entries.push(entry.clone()),
    }
    agree(version, now);
    true
}

/// Takes out the entries of servers that are not `live`; false where there is none.
pub fn retain(version: &mut StorageVersion, live: impl Fn(&str) -> bool, now: Timestamp) -> bool {
    let entries = version.status.get_or_insert_default().storage_versions.get_or_insert_default();
    let before = entries.len();
    entries.retain(|entry| live(&entry.api_server_id));
    if entries.len() == before {
        return false;
    }
    agree(version, now);
    true
}

/// Says what the servers agree on.
fn agree(version: &mut StorageVersion, now: Timestamp) {
    let status = version.status.get_or_insert_default();
    let mut encodings = status.storage_versions.iter().flatten().map(|entry| &entry.encoding_version);
    let first = encodings.next().cloned();
    let common = first.filter(|first| encodings.all(|other| other == first));
    // From one version to another: a time of its own, though the condition stays true.
    let changed = common.is_some()
        && status.common_encoding_version.is_some()
        && status.common_encoding_version != common;
    let (state, reason, message) = match &common {
        Some(_) => ("True", "CommonEncodingVersionSet", "Common encoding version set"),
        None => ("False", "CommonEncodingVersionUnset", "Common encoding version unset"),
    };
    status.common_encoding_version = common;
    let conditions = status.conditions.get_or_insert_default();
    let since = conditions.iter().find(|c| c.type_ == ALL_EQUAL && c.status == state && !changed);
    let since = since.and_then(|c| c.last_transition_time.clone());
    conditions.retain(|c| c.type_ != ALL_EQUAL);
    conditions.push(StorageVersionCondition {
        type_: ALL_EQUAL.into(),
        status: state.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: version.metadata.generation,
        last_transition_time: Some(since.unwrap_or(Time(now))),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(server: &str, encoding: &str) -> ServerStorageVersion {
        ServerStorageVersion {
            api_server_id: server.into(),
            encoding_version: encoding.into(),
            decodable_versions: vec![encoding.into()],
            served_versions: Some(vec![encoding.into()]),
        }
    }

    #[test]
    fn servers_agree_or_do_not() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut version = StorageVersion::default();
        let mut second = 0;
        // Who enters with what, or leaves; what is common then, and since when it is so.
        for (server, encoding, common, since) in [
            ("a", Some("v1"), Some("v1"), 1),
            ("b", Some("v1"), Some("v1"), 1),
            ("b", Some("v2"), None, 3),
            ("a", Some("v2"), Some("v2"), 4),
            ("a", None, Some("v2"), 4),
            ("b", Some("v3"), Some("v3"), 6),
            ("b", None, None, 7),
        ] {
            second += 1;
            let now = at(second);
            match encoding {
                Some(encoding) => {
                    assert!(enter(&mut version, &entry(server, encoding), now));
                    assert!(!enter(&mut version, &entry(server, encoding), now), "once");
                }
                None => {
                    assert!(retain(&mut version, |live| live != server, now));
                    assert!(!retain(&mut version, |live| live != server, now), "once");
                }
            }
            let status = version.status.as_ref().unwrap();
            assert_eq!(status.common_encoding_version.as_deref(), common, "{second}");
            let [condition] = status.conditions.as_deref().unwrap() else { panic!("one condition") };
            assert_eq!(condition.status == "True", common.is_some());
            assert_eq!(condition.last_transition_time, Some(Time(at(since))), "{second}");
        }
    }
}
