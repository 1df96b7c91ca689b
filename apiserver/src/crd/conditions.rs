//! What a definition's status says: which names it has, and whether it is served. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition as Condition,
    CustomResourceDefinitionNames as Names, CustomResourceDefinitionStatus as Status,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Holds a definition until its instances are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

const APPROVED: &str = "api-approved.kubernetes.io";

pub fn is_true(status: Option<&Status>, type_: &str) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

pub fn condition(type_: &str, status: bool, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Condition::default()
    }
}

/// Puts a condition in; its time changes only with its status.
pub fn set(status: &mut Status, mut new: Condition, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    match conditions.iter_mut().find(|known| known.type_ == new.type_) {
        Some(known) => {
            new.last_transition_time =
                if known.status == new.status { known.last_transition_time.clone() } else { Some(Time(now)) };
            *known = new;
        }
        None => conditions.push(Condition { last_transition_time: Some(Time(now)), ..new }),
    }
}

/// The names that others of the group have taken.
#[derive(Default)]
pub struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    pub fn by<'a>(group: &str, others: impl Iterator<Item = &'a CustomResourceDefinition>) -> Self {
        let mut taken = Self::default();
        for other in others.filter(|other| other.spec.group == group) {
            let Some(names) = other.status.as_ref().and_then(|status| status.accepted_names.as_ref()) else {
                continue;
            };
            taken.resources.insert(names.plural.clone());
            taken.resources.extend(names.singular.clone());
            taken.resources.extend(names.short_names.iter().flatten().cloned());
            taken.kinds.insert(names.kind.clone());
            taken.kinds.extend(names.list_kind.clone());
        }
        taken
    }
}

/// The status of a definition as it should be; `violations`: why its schemas are not structural.
pub fn settled(
    definition: &CustomResourceDefinition,
    taken: &Taken,
    violations: &[String],
    now: Timestamp,
) -> Status {
    let mut status = definition.status.clone().unwrap_or_default();
    let wanted = &definition.spec.names;
    let mut accepted = status.accepted_names.clone().unwrap_or_default();
    let refusal = accept(wanted, &mut accepted, taken);
    status.accepted_names = Some(accepted);
    let names = match &refusal {
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", false, reason, message),
    };
    let established = is_true(Some(&status), "Established");
    set(&mut status, names, now);
    if !established {
        let condition = match refusal {
            None => {
                condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted")
            }
            Some(_) => condition("Established", false, "NotAccepted", "not all names are accepted"),
        };
        set(&mut status, condition, now);
    }
    if violations.is_empty() {
        status.conditions.get_or_insert_default().retain(|known| known.type_ != "NonStructuralSchema");
    } else {
        set(&mut status, condition("NonStructuralSchema", true, "Violations", &violations.join(", ")), now);
    }
    if let Some(approval) = approval(definition) {
        set(&mut status, approval, now);
    }
    status
}

/// Takes over what is free; the first reason why not all is.
fn accept(wanted: &Names, accepted: &mut Names, taken: &Taken) -> Option<(&'static str, String)> {
    let mut refusal = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let mut refuse = |reason: &'static str, message: String| refusal = Some((reason, message));
    let singular =
        (wanted.singular.clone().unwrap_or_default(), accepted.singular.clone().unwrap_or_default());
    let list_kind =
        (wanted.list_kind.clone().unwrap_or_default(), accepted.list_kind.clone().unwrap_or_default());
    if wanted.plural != accepted.plural && taken.resources.contains(&wanted.plural) {
        refuse("PluralConflict", in_use(&wanted.plural));
    } else {
        accepted.plural.clone_from(&wanted.plural);
    }
    if singular.0 != singular.1 && taken.resources.contains(&singular.0) {
        refuse("SingularConflict", in_use(&singular.0));
    } else {
        accepted.singular.clone_from(&wanted.singular);
    }
    let ours = accepted.short_names.clone().unwrap_or_default();
    let conflicts: Vec<String> = wanted
        .short_names
        .iter()
        .flatten()
        .filter(|name| !ours.contains(name) && taken.resources.contains(*name))
        .map(|name| in_use(name))
        .collect();
    match conflicts.as_slice() {
        [] => accepted.short_names.clone_from(&wanted.short_names),
        [one] => refuse("ShortNamesConflict", one.clone()),
        all => refuse("ShortNamesConflict", format!("[{}]", all.join(", "))),
    }
    if wanted.kind != accepted.kind && taken.kinds.contains(&wanted.kind) {
        refuse("KindConflict", in_use(&wanted.kind));
    } else {
        accepted.kind.clone_from(&wanted.kind);
    }
    if list_kind.0 != list_kind.1 && taken.kinds.contains(&list_kind.0) {
        refuse("ListKindConflict", in_use(&list_kind.0));
    } else {
        accepted.list_kind.clone_from(&wanted.list_kind);
    }
    accepted.categories.clone_from(&wanted.categories);
    refusal
}

/// Whether a group is the community's own.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

/// What the annotation says of the approval: the state, and why.
pub enum Approval {
    Missing,
    Invalid(String),
    Bypassed(String),
    Approved(String),
}

pub fn approval_of(definition: &CustomResourceDefinition) -> Approval {
    let annotation =
        definition.metadata.annotations.as_ref().and_then(|annotations| annotations.get(APPROVED));
    match annotation.map(String::as_str) {
        None | Some("") => Approval::Missing,
        Some(text) if text.starts_with("unapproved") => Approval::Bypassed(format!("not approved: {text:?}")),
        Some(text) => {
            let rest = text.split_once("://").map(|(scheme, rest)| (!scheme.is_empty(), rest));
            match rest {
                Some((true, rest)) if !rest.is_empty() && !rest.starts_with('/') => {
                    Approval::Approved(format!("approved in {text}"))
                }
                _ => Approval::Invalid(format!(
                    "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
                )),
            }
        }
    }
}

fn approval(definition: &CustomResourceDefinition) -> Option<Condition> {
    const TYPE: &str = "KubernetesAPIApprovalPolicyConformant";
    if !is_protected(&definition.spec.group) {
        return None;
    }
    Some(match approval_of(definition) {
        Approval::Missing => condition(TYPE, false, "MissingAnnotation", super::definition::APPROVAL_NEEDED),
        Approval::Invalid(why) => condition(TYPE, false, "InvalidAnnotation", &why),
        Approval::Bypassed(why) => condition(TYPE, false, "UnapprovedAnnotation", &why),
        Approval::Approved(why) => condition(TYPE, true, "ApprovedAnnotation", &why),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn definition(names: Value) -> CustomResourceDefinition {
        serde_json::from_value(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "x"}, "spec": {"group": "g.io", "scope": "Namespaced", "names": names, "versions": []}}))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn names_that_are_free_are_accepted() {
        let foo = definition(
            json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["f"]}),
        );
        let status = settled(&foo, &Taken::default(), &[], at(5));
        assert_eq!(status.accepted_names.as_ref(), Some(&foo.spec.names));
        assert!(is_true(Some(&status), "NamesAccepted") && is_true(Some(&status), "Established"));
        let served = CustomResourceDefinition { status: Some(status.clone()), ..foo.clone() };
        assert_eq!(settled(&served, &Taken::default(), &[], at(9)), status);

        for (names, reason, message) in [
            (
                json!({"plural": "foos", "singular": "a", "kind": "A", "listKind": "AList"}),
                "PluralConflict",
                "\"foos\" is already in use",
            ),
            (
                json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList", "shortNames": ["f"]}),
                "ShortNamesConflict",
                "\"f\" is already in use",
            ),
            (
                json!({"plural": "as", "singular": "a", "kind": "Foo", "listKind": "AList"}),
                "KindConflict",
                "\"Foo\" is already in use",
            ),
            (
                json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "FooList"}),
                "ListKindConflict",
                "\"FooList\" is already in use",
            ),
        ] {
            let other = definition(names);
            let status = settled(&other, &Taken::by("g.io", [&served].into_iter()), &[], at(5));
            let condition = &status.conditions.as_ref().unwrap()[0];
            assert_eq!(
                (condition.reason.as_deref(), condition.message.as_deref()),
                (Some(reason), Some(message))
            );
            assert!(!is_true(Some(&status), "Established"));
            let freed = settled(
                &CustomResourceDefinition { status: Some(status), ..other },
                &Taken::default(),
                &[],
                at(7),
            );
            assert!(is_true(Some(&freed), "Established"));
        }
    }

    #[test]
    fn violations_come_and_go() {
        let foo = definition(json!({"plural": "foos", "kind": "Foo"}));
        let status = settled(&foo, &Taken::default(), &["spec: bad".into()], at(5));
        assert!(is_true(Some(&status), "NonStructuralSchema"));
        let foo = CustomResourceDefinition { status: Some(status), ..foo };
        assert!(!is_true(Some(&settled(&foo, &Taken::default(), &[], at(5))), "NonStructuralSchema"));
    }
}
