//! What one rule allows, whether rules cover others, and how they read in messages. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::authz::Attributes;

fn list(values: &Option<Vec<String>>) -> &[String] {
    values.as_deref().unwrap_or_default()
}

fn has(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == wanted)
}

fn has_or_all(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == "*" || value == wanted)
}

pub fn allows(rule: &PolicyRule, attributes: &Attributes) -> bool {
    if !has_or_all(&rule.verbs, &attributes.verb) {
        return false;
    }
    if !attributes.is_resource() {
        return list(&rule.non_resource_urls).iter().any(|url| url_covers(url, &attributes.path));
    }
    let names = list(&rule.resource_names);
    has_or_all(list(&rule.api_groups), &attributes.group)
        && list(&rule.resources)
            .iter()
            .any(|resource| resource_covers(resource, &attributes.resource, &attributes.subresource))
        && (names.is_empty() || has(names, &attributes.name))
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

/// `*`, `pods`, `pods/log` or `*/log`.
fn resource_covers(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        None => rule == "*" || (rule == resource && subresource.is_empty()),
        Some((of, part)) => !subresource.is_empty() && part == subresource && (of == "*" || of == resource),
    }
}

/// Rules with one group, resource, name and verb each (or one path and verb) that allow the same together.
fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |value: &String| Some(vec![value.clone()]);
    let mut atoms = Vec::new();
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for (group, resource) in list(&rule.api_groups)
            .iter()
            .flat_map(|group| list(&rule.resources).iter().map(move |resource| (group, resource)))
        {
            let atom = PolicyRule {
                api_groups: one(group),
                resources: one(resource),
                verbs: verbs.clone(),
                ..PolicyRule::default()
            };
            let names = list(&rule.resource_names);
            if names.is_empty() {
                atoms.push(atom);
            } else {
                atoms.extend(
                    names.iter().map(|name| PolicyRule { resource_names: one(name), ..atom.clone() }),
                );
            }
        }
        atoms.extend(list(&rule.non_resource_urls).iter().map(|url| PolicyRule {
            non_resource_urls: one(url),
            verbs: verbs.clone(),
            ..PolicyRule::default()
        }));
    }
    atoms
}

/// Whether `owner` allows all that an atom allows.
fn covers_atom(owner: &PolicyRule, atom: &PolicyRule) -> bool {
    let all = |owned: &[String], wanted: &[String], covers: fn(&str, &str) -> bool| {
        wanted.iter().all(|w| owned.iter().any(|o| covers(o, w)))
    };
    let equal = |o: &str, w: &str| o == "*" || o == w;
    let resource = |o: &str, w: &str| {
        o == "*" || o == w || w.split_once('/').is_some_and(|(_, part)| o.strip_prefix("*/") == Some(part))
    };
    let (names, wanted) = (list(&owner.resource_names), list(&atom.resource_names));
    all(&owner.verbs, &atom.verbs, equal)
        && all(list(&owner.api_groups), list(&atom.api_groups), equal)
        && all(list(&owner.resources), list(&atom.resources), resource)
        && all(list(&owner.non_resource_urls), list(&atom.non_resource_urls), url_covers)
        && (names.is_empty() || (!wanted.is_empty() && wanted.iter().all(|w| has(names, w))))
}

/// The atoms of `wanted` that no rule of `owned` covers.
pub fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(atoms).filter(|atom| !owned.iter().any(|owner| covers_atom(owner, atom))).collect()
}

/// One line for each resource (and name) or path among atoms, in order, as upstream's escalation messages.
pub fn describe(atoms: &[PolicyRule]) -> String {
    let mut by_subject: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for atom in atoms {
        let mut subject = String::new();
        for (name, values) in [
            ("APIGroups", &atom.api_groups),
            ("Resources", &atom.resources),
            ("NonResourceURLs", &atom.non_resource_urls),
            ("ResourceNames", &atom.resource_names),
        ] {
            if !list(values).is_empty() {
                let _ = write!(subject, "{name}:{}, ", quoted(list(values)));
            }
        }
        let verbs = atom.verbs.iter().map(String::as_str);
        if list(&atom.non_resource_urls).is_empty() {
            by_subject.entry(subject).or_default().extend(verbs);
        } else {
            lines.insert(format!("{{{subject}Verbs:{}}}", quoted(&verbs.collect::<Vec<_>>())));
        }
    }
    lines.extend(
        by_subject.into_iter().map(|(subject, verbs)| format!("{{{subject}Verbs:{}}}", quoted(&verbs))),
    );
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

/// As Go's `%q` of a list of strings.
pub fn quoted<T: AsRef<str>>(values: &[T]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| format!("{:?}", v.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(value: Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let on = |verb: &str, resource: &str, name: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            Attributes {
                verb: verb.into(),
                group: "apps".into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                ..Attributes::default()
            }
        };
        let path = |verb: &str, path: &str| Attributes {
            verb: verb.into(),
            path: path.into(),
            ..Attributes::default()
        };
        let plain = rule(json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"]}));
        let all = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        let scales = rule(json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["*/scale"]}));
        let named = rule(
            json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["a"]}),
        );
        let urls = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/metrics/*"]}));
        let everywhere = rule(json!({"verbs": ["get"], "nonResourceURLs": ["*"]}));
        for (rule, attributes, want) in [
            (&plain, on("get", "deployments", "x"), true),
            (&plain, on("list", "deployments", ""), false),
            (&plain, on("get", "deployments/scale", "x"), false),
            (&plain, on("get", "replicasets", "x"), false),
            (&all, on("delete", "deployments/scale", "x"), true),
            (&all, path("get", "/healthz"), false),
            (&scales, on("get", "deployments/scale", "x"), true),
            (&scales, on("get", "deployments/status", "x"), false),
            (&scales, on("get", "deployments", "x"), false),
            (&named, on("get", "deployments", "a"), true),
            (&named, on("get", "deployments", "b"), false),
            (&named, on("get", "deployments", ""), false),
            (&urls, path("get", "/healthz"), true),
            (&urls, path("get", "/healthz/x"), false),
            (&urls, path("get", "/metrics/x/y"), true),
            (&urls, path("get", "/metrics"), false),
            (&urls, path("post", "/healthz"), false),
            (&everywhere, path("get", "/any"), true),
        ] {
            assert_eq!(allows(rule, &attributes), want, "{rule:?} {attributes:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_piece_by_piece() {
        let wanted = [rule(
            json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods"], "resourceNames": ["x"]}),
        )];
        assert_eq!(
            describe(&missing(&[], &wanted)),
            "{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"x\"], Verbs:[\"get\" \"list\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"pods\"], ResourceNames:[\"x\"], Verbs:[\"get\" \"list\"]}"
        );
        let urls = [rule(json!({"verbs": ["get", "post"], "nonResourceURLs": ["/a"]}))];
        assert_eq!(
            describe(&missing(&[], &urls)),
            "{NonResourceURLs:[\"/a\"], Verbs:[\"get\"]}\n{NonResourceURLs:[\"/a\"], Verbs:[\"post\"]}"
        );
    }

    #[test]
    fn rules_cover_what_is_within_them() {
        let on = |resource: &str, names: Value| {
            rule(
                json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource], "resourceNames": names}),
            )
        };
        let everything = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        for (owned, wanted, covered) in [
            (on("pods", json!([])), on("pods", json!([])), true),
            (on("pods", json!([])), on("pods", json!(["a"])), true),
            (on("pods", json!(["a"])), on("pods", json!([])), false),
            (on("pods", json!(["a", "b"])), on("pods", json!(["a"])), true),
            (on("*/log", json!([])), on("pods/log", json!([])), true),
            (on("pods", json!([])), on("pods/log", json!([])), false),
            (on("pods", json!([])), on("*", json!([])), false),
            (everything.clone(), on("pods/log", json!(["a"])), true),
            (everything.clone(), everything.clone(), true),
            (everything, rule(json!({"verbs": ["get"], "nonResourceURLs": ["/"]})), false),
            (
                rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a*"]})),
                rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a/b", "/ab*"]})),
                true,
            ),
        ] {
            let left = missing(std::slice::from_ref(&owned), std::slice::from_ref(&wanted));
            assert_eq!(left.is_empty(), covered, "{owned:?} {wanted:?}");
        }
    }
}
