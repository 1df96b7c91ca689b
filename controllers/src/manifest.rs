//! Takes a manifest's text apart into objects: YAML with several documents or JSON, Lists item by item.

use serde::Deserialize;
use serde_json::{Map, Value};

/// One object, and which document of the text it stands in, from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub number: usize,
    pub object: Map<String, Value>,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("document {number}: {what}")]
pub struct Problem {
    pub number: usize,
    pub what: String,
}

/// The objects in order. Empty documents are counted and left out.
pub fn documents(text: &str) -> Result<Vec<Document>, Problem> {
    let mut found = Vec::new();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let number = index + 1;
        let problem = |what: String| Problem { number, what };
        let value = Value::deserialize(document).map_err(|error| problem(error.to_string()))?;
        match value {
            Value::Null => {}
            Value::Object(mut map) if is_list(&map) => {
                let Some(Value::Array(items)) = map.remove("items") else { continue };
                for item in items {
                    let Value::Object(item) = item else {
                        return Err(problem("an item of a list is an object".into()));
                    };
                    found.push(checked(number, item)?);
                }
            }
            Value::Object(map) => found.push(checked(number, map)?),
            _ => return Err(problem("a manifest is an object, not a list or a scalar".into())),
        }
    }
    Ok(found)
}

/// `v1` `List`, or one of a kind, such as `ConfigMapList`, as `kubectl get` prints them.
fn is_list(map: &Map<String, Value>) -> bool {
    map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
        && map.get("items").is_some_and(Value::is_array)
}

fn checked(number: usize, object: Map<String, Value>) -> Result<Document, Problem> {
    for field in ["apiVersion", "kind"] {
        if object.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(Problem { number, what: format!("{field} not set") });
        }
    }
    Ok(Document { number, object })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<(usize, String)>, Problem> {
        let all = documents(text)?.into_iter();
        Ok(all.map(|d| (d.number, d.object["kind"].as_str().unwrap_or_default().to_owned())).collect())
    }

    #[test]
    fn documents_lists_and_empty_ones_are_taken_apart() {
        for (text, want) in [
            ("", vec![]),
            ("# nothing\n", vec![]),
            ("apiVersion: v1\nkind: Pod\n", vec![(1, "Pod")]),
            ("---\n# nothing\n---\napiVersion: v1\nkind: Pod\n", vec![(2, "Pod")]),
            ("{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}", vec![(1, "Pod")]),
            (
                "kind: List\napiVersion: v1\nitems:\n- {kind: Pod, apiVersion: v1}\n- {kind: Service, apiVersion: v1}\n---\napiVersion: v1\nkind: Secret\n",
                vec![(1, "Pod"), (1, "Service"), (2, "Secret")],
            ),
            ("kind: List\napiVersion: v1\nitems: []\n", vec![]),
        ] {
            let want: Vec<_> = want.into_iter().map(|(n, k)| (n, k.to_owned())).collect();
            assert_eq!(kinds(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn a_problem_names_its_document() {
        let good = "apiVersion: v1\nkind: Pod\n---\n";
        for (bad, what) in [
            ("- a\n", "a manifest is an object, not a list or a scalar"),
            ("kind: Pod\n", "apiVersion not set"),
            ("apiVersion: v1\n", "kind not set"),
            ("apiVersion: v1\nkind: ''\n", "kind not set"),
            ("kind: List\napiVersion: v1\nitems: [1]\n", "an item of a list is an object"),
        ] {
            let problem = documents(&format!("{good}{bad}")).unwrap_err();
            assert_eq!((problem.number, problem.what.as_str()), (2, what), "{bad}");
        }
        assert_eq!(documents(&format!("{good}a: [\n")).unwrap_err().number, 2);
    }
}
