//! Label and field selectors: parsed from queries and from `LabelSelector`, matched against heads.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::informer::label_value;
use crate::label_query;
use crate::object::Head;

/// A conjunction of label requirements. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// A selector that does not parse, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl SelectorError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Looks up labels whatever holds them.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Head {
    fn label(&self, key: &str) -> Option<&str> {
        Head::label(self, key)
    }
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Requirement {
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => {
                value.and_then(|v| v.parse().ok()).is_some_and(|v: i64| v > *bound)
            }
            Operator::LessThan(bound) => value.and_then(|v| v.parse().ok()).is_some_and(|v: i64| v < *bound),
        }
    }
}

impl Selector {
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    pub fn new(requirements: Vec<Requirement>) -> Self {
        Self { requirements, nothing: false }
    }

    /// Every pair must be there, as Services and ReplicationControllers select.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        Self::new(
            labels
                .into_iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::In(vec![value.clone()]),
                })
                .collect(),
        )
    }

    /// None selects nothing, an empty selector everything, as upstream's `LabelSelectorAsSelector`.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements: Vec<Requirement> = selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) })
            .collect();
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("\"{other}\" is not a valid label selector operator")));
                }
            };
            requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        Ok(Self::new(requirements))
    }

    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The index values of the labels that must have one certain value; None where there are none.
    pub(crate) fn equalities(&self, namespace: &str) -> Option<Vec<Box<str>>> {
        let one = |requirement: &Requirement| match &requirement.operator {
            Operator::In(values) => match values.as_slice() {
                [value] => Some(label_value(namespace, &requirement.key, value)),
                _ => None,
            },
            _ => None,
        };
        let values: Vec<_> = self.requirements.iter().filter_map(one).collect();
        (!self.nothing && !values.is_empty()).then_some(values)
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Parses the query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        label_query::parse(text).map(Self::new)
    }
}

/// A qualified name's part: at most 63 of `[-A-Za-z0-9_.]`, alphanumeric at both ends.
pub fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

impl fmt::Display for Selector {
    /// The query form, as scale subresources report it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let key = &r.key;
            match &r.operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Operator::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// A conjunction of `path=value` and `path!=value` terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub value: String,
    pub negated: bool,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let term = [("!=", true), ("==", false), ("=", false)].into_iter().find_map(|(sign, negated)| {
                part.split_once(sign).map(|(path, value)| FieldTerm {
                    path: path.trim().to_owned(),
                    value: unescape(value),
                    negated,
                })
            });
            match term {
                Some(term) => terms.push(term),
                None => {
                    return Err(SelectorError(format!(
                        "invalid selector: '{text}'; can't understand '{part}'"
                    )));
                }
            }
        }
        Ok(Self { terms })
    }

    pub fn matches(&self, head: &Head) -> bool {
        self.terms.iter().all(|t| (head.field(&t.path).unwrap_or_default() == t.value) != t.negated)
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `path` must have, where the selector pins one.
    pub fn pinned(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.path == path && !t.negated).map(|t| t.value.as_str())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn label_selectors_match_as_upstream() {
        let l = labels(&[("app", "web"), ("tier", "1"), ("a.b/c", "")]);
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app in(web)", true),
            ("app notin (db)", true),
            ("missing notin (db)", true),
            ("app,tier", true),
            ("!app", false),
            ("!missing", true),
            ("tier>0", true),
            ("tier<1", false),
            ("a.b/c", true),
            ("a.b/c=", true),
            ("app=web,tier in (2,3)", false),
        ] {
            let parsed = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.matches(&l), want, "{text}");
        }
        for bad in ["app=web,,b", "app in web", "=x", "app=we b", "a b", "-a", "tier>x"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Selector::parse("!c,a in (y,x),b,d!=e").unwrap().to_string(), "a in (x,y),b,!c,d!=e");
    }

    #[test]
    fn field_selectors_match_heads() {
        let head = Head {
            name: "p".into(),
            fields: vec![("spec.nodeName", "n1".into()), ("status.phase", "".into())].into(),
            ..Head::default()
        };
        for (text, want) in [
            ("spec.nodeName=n1", true),
            ("spec.nodeName!=n1", false),
            ("status.phase!=Running,metadata.name=p", true),
            ("status.phase=", true),
            ("", true),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(&head), want, "{text}");
        }
        assert!(FieldSelector::parse("nonsense").is_err());
        assert_eq!(FieldSelector::parse(r"a=b\,c").unwrap().terms[0].value, "b,c");
    }
}
