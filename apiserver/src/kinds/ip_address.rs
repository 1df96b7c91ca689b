//! IPAddress: an address of the service ranges that is taken, and by whom.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::{Value, json};

use super::{BuiltIn, Column, address_formats as formats};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};

impl BuiltIn for IPAddress {
    const SINGULAR: &'static str = "ipaddress";
    const SHORT_NAMES: &'static [&'static str] = &["ip"];

    fn validate_name(name: &str) -> Result<(), String> {
        formats::canonical_ip(name)
    }

    fn validate(&self, errors: &mut Errors) {
        let parent = &self.spec.parent_ref;
        let path = Path::new("spec");
        let path = path.child("parentRef");
        let parts =
            [given(&parent.group), given(&parent.namespace), Some(&*parent.name), Some(&*parent.resource)];
        if parts.iter().all(|part| part.is_none_or(str::is_empty)) {
            return errors.required(path, "");
        }
        if let Some(group) = given(&parent.group) {
            errors.check(path.child("group"), group, validation::dns_subdomain);
        }
        for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
            if value.is_empty() {
                errors.required(path.child(field), "");
            } else {
                errors.check(path.child(field), value, validation::path_segment);
            }
        }
        if let Some(namespace) = given(&parent.namespace) {
            errors.check(path.child("namespace"), namespace, validation::path_segment);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec.parentRef", &self.spec.parent_ref, &old.spec.parent_ref);
    }

    fn columns() -> Vec<Column> {
        vec![table::NAME, table::narrow("ParentRef", "string", "What the address belongs to.")]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let parent = &self.spec.parent_ref;
        let group = given(&parent.group).map(|g| format!(".{g}")).unwrap_or_default();
        let resource = format!("{}{group}", parent.resource).to_lowercase();
        let namespace = given(&parent.namespace).map(|n| format!("/{n}")).unwrap_or_default();
        let text = format!("{resource}{namespace}/{}", parent.name);
        vec![json!(self.metadata.name), json!(if text == "/" { "<none>".into() } else { text })]
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn addresses_have_parents() {
        let parent = json!({"resource": "services", "name": "s", "namespace": "n"});
        let with = |field: &str, value: &str| {
            let mut parent = parent.clone();
            parent[field] = json!(value);
            json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}})
        };
        testing::invalid::<IPAddress>(&[
            (json!({}), "spec.parentRef", "Required value"),
            (with("name", ""), "spec.parentRef.name", "Required value"),
            (with("resource", ""), "spec.parentRef.resource", "Required value"),
            (
                with("resource", "a/b"),
                "spec.parentRef.resource",
                "Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                with("group", "A"),
                "spec.parentRef.group",
                "Invalid value: \"A\": a lowercase RFC 1123 subdomain",
            ),
            (with("namespace", "%"), "spec.parentRef.namespace", "Invalid value: \"%\": may not contain '%'"),
        ]);
        testing::valid::<IPAddress>(&[with("group", "")]);
        testing::updates::<IPAddress>(&[(
            with("name", "a"),
            with("name", "b"),
            "spec.parentRef",
            "Invalid value: {\"name\":\"b\"",
        )]);
        assert!(IPAddress::validate_name("10.0.0.1").is_ok());
        for bad in ["a", "010.0.0.1", "2001:DB8::1", "::ffff:1.2.3.4"] {
            assert!(IPAddress::validate_name(bad).is_err(), "{bad}");
        }
        let cells = testing::cells::<IPAddress>(with("group", ""));
        assert_eq!(cells, ["10.0.0.1", "services/n/s"]);
    }
}
