//! What roles and bindings share: rules, role references, subjects, and their columns. Pure.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::Column;
use crate::field_error::{Errors, Path};
use crate::{table, validation};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

fn empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

/// Rules of a role; only those of cluster roles may be about paths that are no resources.
pub(super) fn validate_rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut Errors) {
    let all = Path::new("rules");
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        let at = all.index(i);
        if rule.verbs.is_empty() {
            errors.required(at.child("verbs"), "verbs must contain at least one value");
        }
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            let field = at.child("nonResourceURLs");
            if namespaced {
                errors.invalid(field, urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !empty(&rule.api_groups) || !empty(&rule.resources) || !empty(&rule.resource_names) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(field, urls, detail);
            }
            continue;
        }
        if empty(&rule.api_groups) {
            errors.required(at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if empty(&rule.resources) {
            errors.required(at.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// As upstream's defaulting: references without a group are to this one, but for service accounts.
pub(super) fn default_binding(reference: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if validation::given(&reference.api_group).is_none() {
        reference.api_group = Some(GROUP.into());
    }
    for subject in subjects.into_iter().flatten() {
        if validation::given(&subject.api_group).is_some() {
            continue;
        }
        subject.api_group = match subject.kind.as_str() {
            "User" | "Group" => Some(GROUP.into()),
            _ => None,
        };
    }
}

pub(super) fn validate_binding(
    reference: &RoleRef,
    subjects: Option<&[Subject]>,
    namespaced: bool,
    errors: &mut Errors,
) {
    let group = |given: &Option<String>| given.clone().unwrap_or_default();
    if group(&reference.api_group) != GROUP {
        errors.not_supported("roleRef.apiGroup", &group(&reference.api_group), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&reference.kind.as_str()) {
        errors.not_supported("roleRef.kind", &reference.kind, kinds);
    }
    match reference.name.as_str() {
        "" => errors.required("roleRef.name", ""),
        name => errors.check("roleRef.name", name, validation::path_segment),
    }
    let all = Path::new("subjects");
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        let at = all.index(i);
        if subject.name.is_empty() {
            errors.required(at.child("name"), "");
        }
        let given = group(&subject.api_group);
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    errors.check(at.child("name"), &subject.name, validation::dns_subdomain);
                }
                if !given.is_empty() {
                    errors.not_supported(at.child("apiGroup"), &given, &[""]);
                }
                if !namespaced && validation::given(&subject.namespace).is_none() {
                    errors.required(at.child("namespace"), "");
                }
            }
            "User" | "Group" if given != GROUP => {
                errors.not_supported(at.child("apiGroup"), &given, &[GROUP]);
            }
            "User" | "Group" => {}
            kind => errors.not_supported(at.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
        }
    }
}

pub(super) fn validate_reference_update(new: &RoleRef, old: &RoleRef, errors: &mut Errors) {
    if new != old {
        let shown = json!({"APIGroup": new.api_group, "Kind": new.kind, "Name": new.name});
        errors.invalid("roleRef", shown, "cannot change roleRef");
    }
}

/// Roles have no printer of their own upstream: the default one shows when they were made.
pub(super) fn role_columns() -> Vec<Column> {
    let created = Column { name: "Created At".into(), type_: "date".into(), ..table::AGE };
    vec![table::NAME, created]
}

pub(super) fn role_cells(metadata: &ObjectMeta) -> Vec<Value> {
    vec![json!(metadata.name), json!(metadata.creation_timestamp)]
}

pub(super) fn binding_columns() -> Vec<Column> {
    table::columns(&[
        table::narrow("Role", "string", "The role whose permissions the subjects get."),
        table::wide("Users", "string", "Users that are bound."),
        table::wide("Groups", "string", "Groups that are bound."),
        table::wide("ServiceAccounts", "string", "Service accounts that are bound."),
    ])
}

pub(super) fn binding_cells(
    metadata: &ObjectMeta,
    now: Timestamp,
    reference: &RoleRef,
    subjects: Option<&[Subject]>,
) -> Vec<Value> {
    let of = |kind: &str, show: fn(&Subject) -> String| {
        let shown: Vec<String> =
            subjects.unwrap_or_default().iter().filter(|s| s.kind == kind).map(show).collect();
        json!(shown.join(", "))
    };
    let account = |s: &Subject| format!("{}/{}", s.namespace.as_deref().unwrap_or_default(), s.name);
    let wide =
        vec![of("User", |s| s.name.clone()), of("Group", |s| s.name.clone()), of("ServiceAccount", account)];
    let role = json!(format!("{}/{}", reference.kind, reference.name));
    table::wide_cells(metadata, now, vec![role], wide)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};

    use crate::kinds::testing;

    use super::*;

    #[test]
    fn rules_are_about_resources_or_about_paths() {
        let role = |rule: Value| json!({"metadata": {"name": "a"}, "rules": [rule]});
        testing::invalid::<ClusterRole>(&[
            (
                role(json!({"verbs": [], "apiGroups": [""], "resources": ["pods"]})),
                "rules[0].verbs",
                "Required value: verbs must contain at least one value",
            ),
            (
                role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["a"]})),
                "rules[0].nonResourceURLs",
                "Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ),
            (
                role(json!({"verbs": ["get"], "resources": ["a"]})),
                "rules[0].apiGroups",
                "Required value: resource rules must supply at least one api group",
            ),
            (
                role(json!({"verbs": ["get"], "apiGroups": [""]})),
                "rules[0].resources",
                "Required value: resource rules must supply at least one resource",
            ),
            (
                json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": []}}),
                "aggregationRule.clusterRoleSelectors",
                "Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ),
        ]);
        testing::invalid::<Role>(&[(
            role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
            "rules[0].nonResourceURLs",
            "Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        )]);
        testing::valid::<ClusterRole>(&[
            json!({"metadata": {"name": "system:a"}}),
            role(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
        ]);
    }

    #[test]
    fn bindings_name_a_role_and_subjects_of_known_kinds() {
        let binding = |reference: Value, subject: Value| json!({"metadata": {"name": "a"}, "roleRef": reference, "subjects": [subject]});
        let reference = json!({"kind": "ClusterRole", "name": "view"});
        let jane = json!({"kind": "User", "name": "jane"});
        testing::invalid::<ClusterRoleBinding>(&[
            (
                binding(json!({"kind": "Role", "name": "x"}), jane.clone()),
                "roleRef.kind",
                "Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            ),
            (
                binding(json!({"kind": "ClusterRole", "name": "x", "apiGroup": "z"}), jane.clone()),
                "roleRef.apiGroup",
                "Unsupported value: \"z\": supported values: \"rbac.authorization.k8s.io\"",
            ),
            (
                binding(json!({"kind": "ClusterRole", "name": ""}), jane.clone()),
                "roleRef.name",
                "Required value",
            ),
            (
                binding(json!({"kind": "ClusterRole", "name": "a/b"}), jane.clone()),
                "roleRef.name",
                "Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                binding(reference.clone(), json!({"kind": "ServiceAccount", "name": "a"})),
                "subjects[0].namespace",
                "Required value",
            ),
            (
                binding(reference.clone(), json!({"kind": "ServiceAccount", "name": "A", "namespace": "b"})),
                "subjects[0].name",
                "Invalid value: \"A\": a lowercase RFC 1123 subdomain",
            ),
            (
                binding(reference.clone(), json!({"kind": "Foo", "name": "a"})),
                "subjects[0].kind",
                "Unsupported value: \"Foo\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ),
            (
                binding(reference.clone(), json!({"kind": "Group", "name": "a", "apiGroup": "q"})),
                "subjects[0].apiGroup",
                "Unsupported value: \"q\"",
            ),
            (
                binding(reference.clone(), json!({"kind": "User", "name": ""})),
                "subjects[0].name",
                "Required value",
            ),
        ]);
        testing::valid::<RoleBinding>(&[
            binding(json!({"kind": "Role", "name": "x"}), jane.clone()),
            binding(reference.clone(), json!({"kind": "ServiceAccount", "name": "a"})),
        ]);
        testing::updates::<RoleBinding>(&[
            (
                binding(reference.clone(), jane.clone()),
                binding(json!({"kind": "ClusterRole", "name": "edit"}), jane.clone()),
                "roleRef",
                "Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"edit\"}: cannot change roleRef",
            ),
            (
                binding(reference.clone(), jane),
                binding(reference, json!({"kind": "Group", "name": "x"})),
                "",
                "",
            ),
        ]);
    }

    #[test]
    fn bindings_show_whom_they_bind() {
        let binding = json!({
            "metadata": {"name": "b", "creationTimestamp": "2026-01-01T11:59:00Z"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [
                {"kind": "User", "name": "a"}, {"kind": "User", "name": "b"}, {"kind": "Group", "name": "g"},
                {"kind": "ServiceAccount", "name": "s", "namespace": "n"}
            ]
        });
        assert_eq!(testing::cells::<RoleBinding>(binding), ["b", "Role/r", "60s", "a, b", "g", "n/s"]);
        let role = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T11:59:00Z"}});
        assert_eq!(testing::cells::<Role>(role), ["r", "2026-01-01T11:59:00Z"]);
    }
}
