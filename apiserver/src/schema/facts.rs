//! What the types' Rust definitions do not say: how lists and maps merge (list types, patch strategies), and defaults
//! that OpenAPI shows.

use super::lines::Lines;

/// A line for each type: `field;map=key,key;set;free;patch=strategy:key;atomic;granular;default=JSON;enum=A|B;elements=A|B`, and `!atomic`
/// for types that are atomic themselves, `!required=field,field`, `!unions=JSON`. Lists without `map`, `set` or `free` are atomic. From the markers of the types
/// in Kubernetes v1.37.
static FACTS: Lines = Lines::new(include_str!("facts.txt"));

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum List {
    #[default]
    Atomic,
    Set,
    /// The keys, with commas between them.
    Map(&'static str),
    /// Not said; replaced as atomic ones are.
    Free,
}

/// `x-kubernetes-patch-strategy` and its merge key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// Lists of objects by key; lists of scalars with an empty one.
    Merge(&'static str),
    /// The same, and the fields of an element that `$retainKeys` does not name go.
    MergeRetainKeys(&'static str),
    RetainKeys,
    Replace,
}

impl Patch {
    fn parse(text: &'static str) -> Option<Self> {
        let (strategy, key) = text.split_once(':').unwrap_or((text, ""));
        Some(match strategy {
            "merge" => Self::Merge(key),
            "merge,retainKeys" => Self::MergeRetainKeys(key),
            "retainKeys" => Self::RetainKeys,
            "replace" => Self::Replace,
            _ => return None,
        })
    }

    pub fn merge_key(self) -> Option<&'static str> {
        match self {
            Self::Merge(key) | Self::MergeRetainKeys(key) => Some(key),
            Self::RetainKeys | Self::Replace => None,
        }
    }

    /// As the OpenAPI extension writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Merge(_) => "merge",
            Self::MergeRetainKeys(_) => "merge,retainKeys",
            Self::RetainKeys => "retainKeys",
            Self::Replace => "replace",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldFacts {
    pub list: List,
    pub patch: Option<Patch>,
    /// `x-kubernetes-map-type`
    pub map: Option<&'static str>,
    /// As JSON.
    pub default: Option<&'static str>,
    /// What a text may be (`enum`), with bars between.
    pub words: Option<&'static str>,
    /// The same for a list's elements.
    pub elements: Option<&'static str>,
}

/// What is known of a field, by the type's OpenAPI name (`io.k8s.api.core.v1.PodSpec`).
pub fn field(type_name: &str, field: &str) -> FieldFacts {
    let mut facts = FieldFacts::default();
    let Some(line) = type_name.strip_prefix("io.k8s.").and_then(|name| FACTS.find(name)) else {
        return facts;
    };
    let words = line.split(' ').find_map(|token| token.strip_prefix(field)?.strip_prefix(';'));
    for word in words.unwrap_or_default().split(';') {
        match word.split_once('=') {
            Some(("map", keys)) => facts.list = List::Map(keys),
            Some(("patch", patch)) => facts.patch = Patch::parse(patch),
            Some(("default", json)) => facts.default = Some(json),
            Some(("enum", words)) => facts.words = Some(words),
            Some(("elements", words)) => facts.elements = Some(words),
            _ => match word {
                "set" => facts.list = List::Set,
                "free" => facts.list = List::Free,
                "atomic" | "granular" => facts.map = Some(word),
                _ => {}
            },
        }
    }
    facts
}

/// What is known of a type as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeFacts {
    /// It is replaced as a whole (`x-kubernetes-map-type`).
    pub atomic: bool,
    /// With commas between them.
    pub required: Option<&'static str>,
    /// `x-kubernetes-unions`, as JSON.
    pub unions: Option<&'static str>,
}

/// None: nothing is known of such a type.
pub fn of_type(type_name: &str) -> Option<TypeFacts> {
    let mut facts = TypeFacts::default();
    for token in FACTS.find(type_name.strip_prefix("io.k8s.")?)?.split(' ') {
        match token.split_once('=') {
            Some(("!required", fields)) => facts.required = Some(fields),
            Some(("!unions", json)) => facts.unions = Some(json),
            _ if token == "!atomic" => facts.atomic = true,
            _ => {}
        }
    }
    Some(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Shape, types};

    #[test]
    fn known_fields() {
        let facts = |type_: &str, name: &str| field(&format!("io.k8s.{type_}"), name);
        for (type_, name, want) in [
            ("api.core.v1.PodSpec", "containers", Some(Patch::Merge("name"))),
            ("api.core.v1.PodSpec", "volumes", Some(Patch::MergeRetainKeys("name"))),
            ("api.core.v1.PodSpec", "tolerations", None),
            ("api.core.v1.NodeSpec", "taints", None),
            ("api.core.v1.Container", "ports", Some(Patch::Merge("containerPort"))),
            ("api.core.v1.ServiceSpec", "ports", Some(Patch::Merge("port"))),
            ("api.apps.v1.DeploymentSpec", "strategy", Some(Patch::RetainKeys)),
            ("api.policy.v1.PodDisruptionBudgetSpec", "selector", Some(Patch::Replace)),
            ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", Some(Patch::Merge(""))),
        ] {
            assert_eq!(facts(type_, name).patch, want, "{type_} {name}");
        }
        assert_eq!(facts("api.core.v1.Container", "ports").list, List::Map("containerPort,protocol"));
        assert_eq!(facts("api.core.v1.NodeSpec", "podCIDRs").list, List::Set);
        assert_eq!(facts("api.core.v1.ServicePort", "protocol").default, Some("\"TCP\""));
        assert_eq!(facts("api.core.v1.ServiceSpec", "selector").map, Some("atomic"));
        assert_eq!(facts("api.core.v1.Nothing", "x"), FieldFacts::default());
        let whole = |type_: &str| of_type(&format!("io.k8s.{type_}")).unwrap();
        assert!(whole("api.core.v1.LocalObjectReference").atomic);
        assert_eq!(whole("api.core.v1.PodSpec").required, Some("containers"));
        assert!(!whole("api.core.v1.PodSpec").atomic);
    }

    #[test]
    fn facts_name_fields_and_keys_that_exist() {
        let types = types();
        for (name, object) in types.objects() {
            let Some(line) = FACTS.find(name.strip_prefix("io.k8s.").unwrap()) else { continue };
            for token in line.split(' ').filter(|token| !token.starts_with('!')) {
                let field_name = token.split(';').next().unwrap();
                let known = object.field(field_name).unwrap_or_else(|| panic!("{name} has no {field_name}"));
                let facts = field(name, field_name);
                if let Some(default) = facts.default {
                    serde_json::from_str::<serde_json::Value>(default).unwrap();
                }
                let List::Map(keys) = facts.list else { continue };
                let Shape::List(item) = &known.shape else { panic!("{name}.{field_name} is no list") };
                let Shape::Object(item) = &**item else { panic!("{name}.{field_name} holds no objects") };
                for key in keys.split(',') {
                    assert!(
                        types.get(*item).unwrap().field(key).is_some(),
                        "{name}.{field_name} has no {key}"
                    );
                }
            }
        }
    }
}
