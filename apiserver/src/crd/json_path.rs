//! The paths of printer columns and scale: members, escaped or quoted names, indices, wildcards and filters.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Everything,
    Descend,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Filter(Filter),
}

/// `?(@.type=="Ready")`; without a comparison, the path must be there.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    path: JsonPath,
    compared: Option<(Operator, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const OPERATORS: &[(&str, Operator)] = &[
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl JsonPath {
    /// What is wrong with the text, where something is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                if let Some(after) = after.strip_prefix('.') {
                    steps.push(Step::Descend);
                    let (name, after) = member(after);
                    if !name.is_empty() {
                        steps.push(named(name));
                    }
                    rest = after;
                    continue;
                }
                let (name, after) = member(after);
                if !name.is_empty() {
                    steps.push(named(name));
                }
                rest = after;
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or_else(|| "unterminated array".to_owned())?;
                let (inside, after) =
                    (after.get(..end).unwrap_or_default(), after.get(end + 1..).unwrap_or_default());
                steps.push(bracket(inside.trim())?);
                rest = after;
            } else {
                let (name, after) = member(rest);
                steps.push(named(name));
                rest = after;
            }
        }
        Ok(Self(steps))
    }

    /// All values the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.from(value)).collect();
        }
        found
    }
}

fn named(name: String) -> Step {
    if name == "*" { Step::Everything } else { Step::Member(name) }
}

/// A name up to the next dot or bracket that no backslash is before.
fn member(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            letter => name.push(letter),
        }
    }
    (name, "")
}

/// Where the bracket that is open ends.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

fn bracket(inside: &str) -> Result<Step, String> {
    if inside == "*" {
        return Ok(Step::Everything);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Member(name.to_owned()));
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filter_of(filter).map(Step::Filter);
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| format!("invalid array index {inside}")),
    };
    match inside.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => number(inside)?.map(Step::Index).ok_or_else(|| format!("invalid array index {inside}")),
    }
}

fn filter_of(text: &str) -> Result<Filter, String> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, _) => {
                let rest = text.get(at..).unwrap_or_default();
                let Some((sign, operator)) = OPERATORS.iter().find(|(sign, _)| rest.starts_with(sign)) else {
                    continue;
                };
                let path = text.get(..at).unwrap_or_default().trim();
                let literal = rest.get(sign.len()..).unwrap_or_default().trim();
                return Ok(Filter {
                    path: JsonPath::parse(path.strip_prefix('@').unwrap_or(path))?,
                    compared: Some((*operator, literal_of(literal)?)),
                });
            }
        }
    }
    let path = text.trim();
    Ok(Filter { path: JsonPath::parse(path.strip_prefix('@').unwrap_or(path))?, compared: None })
}

fn literal_of(text: &str) -> Result<Value, String> {
    match unquoted(text) {
        Some(text) => Ok(text.into()),
        None => serde_json::from_str(text).map_err(|_| format!("unrecognized identifier {text}")),
    }
}

impl Step {
    fn from<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Member(name), value) => value.get(name).into_iter().collect(),
            (Self::Everything, Value::Array(items)) => items.iter().collect(),
            (Self::Everything, Value::Object(members)) => members.values().collect(),
            (Self::Descend, value) => {
                let mut found = vec![value];
                let mut at = 0;
                while let Some(value) = found.get(at).copied() {
                    match value {
                        Value::Array(items) => found.extend(items),
                        Value::Object(members) => found.extend(members.values()),
                        _ => {}
                    }
                    at += 1;
                }
                found
            }
            (Self::Index(index), Value::Array(items)) => {
                place(*index, items.len()).and_then(|at| items.get(at)).into_iter().collect()
            }
            (Self::Slice(from, to), Value::Array(items)) => {
                let start = from.map_or(Some(0), |from| place(from, items.len())).unwrap_or(items.len());
                let end = to.map_or(Some(items.len()), |to| place(to, items.len())).unwrap_or(items.len());
                items.get(start..end.max(start)).unwrap_or_default().iter().collect()
            }
            (Self::Filter(filter), Value::Array(items)) => {
                items.iter().filter(|item| filter.lets(item)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Counted from the end where it is negative.
fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { length + index } else { index }).ok()
}

impl Filter {
    fn lets(&self, item: &Value) -> bool {
        let found = self.path.find(item);
        let Some((operator, literal)) = &self.compared else { return !found.is_empty() };
        found.first().is_some_and(|value| {
            let order = match (value, literal) {
                (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
                (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
                (a, b) => (*a == b).then_some(std::cmp::Ordering::Equal),
            };
            match operator {
                Operator::Equal => order.is_some_and(|o| o.is_eq()),
                Operator::Unequal => !order.is_some_and(|o| o.is_eq()),
                Operator::Less => order.is_some_and(|o| o.is_lt()),
                Operator::LessOrEqual => order.is_some_and(|o| o.is_le()),
                Operator::Greater => order.is_some_and(|o| o.is_gt()),
                Operator::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_they_say() {
        let value = json!({
            "spec": {"replicas": 3, "list": [1, 2, 3], "a.b": "dotted"},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "n": 5}, {"type": "Done", "status": "False", "n": 7}]},
        });
        for (path, want) in [
            (".spec.replicas", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[0:2]", json!([1, 2])),
            (".spec.list[*]", json!([1, 2, 3])),
            (r".spec.a\.b", json!(["dotted"])),
            (".spec['a.b']", json!(["dotted"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type == 'Done')].status", json!(["False"])),
            (".status.conditions[?(@.n>5)].type", json!(["Done"])),
            (".status.conditions[?(@.status)].type", json!(["Ready", "Done"])),
            ("..type", json!(["Ready", "Done"])),
            (".spec.nothing", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&value)), want, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a[?(@.b==c)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
