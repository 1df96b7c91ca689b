//! Strategic merge patches: lists of objects merge by key, and directives say what else happens.

use coracle_client::ApiError;
use serde_json::{Map, Value};

use super::order::{in_order, ordered};
use crate::schema::facts::{self, Patch};
use crate::schema::{Object, Shape, Types};

type Fields = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

/// What stands in the way of a patch, in upstream's words.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("invalid JSON document")]
    BadDocument,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("unknown patch type: {directive} in map: {element}")]
    Directive { directive: String, element: String },
    #[error("map: {element} does not contain declared merge key: {key}")]
    NoMergeKey { element: String, key: String },
    #[error("{0}")]
    Other(String),
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::BadDocument | Fault::RetainKeys | Fault::ElementOrder => {
                Self::bad_request(fault.to_string())
            }
            Fault::ListOfLists => super::rejected(),
            Fault::Directive { .. } | Fault::NoMergeKey { .. } | Fault::Other(_) => {
                Self::new(500, "", fault.to_string())
            }
        }
    }
}

/// `object` is the type of the document; without one (unknown), everything merges as maps and lists are replaced.
pub fn apply(
    types: &Types,
    object: Option<&Object>,
    current: &Value,
    patch: &[u8],
) -> Result<Value, ApiError> {
    let patch = super::parse(patch)?;
    let patch = match patch {
        Value::Object(fields) => fields,
        other => {
            let what = super::kind_of(&other);
            return Err(ApiError::bad_request(format!(
                "json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    let Value::Object(current) = current else { return Err(Fault::BadDocument.into()) };
    let merged = Merge { types }.map(current.clone(), patch, object)?;
    Ok(Value::Object(merged))
}

struct Merge<'t> {
    types: &'t Types,
}

impl Merge<'_> {
    fn object_of(&self, shape: &Shape) -> Option<&Object> {
        match shape {
            Shape::Object(index) => self.types.get(*index),
            Shape::List(item) | Shape::Map(item) => self.object_of(item),
            _ => None,
        }
    }

    /// The type below a field (of a list's or map's elements, too) and the field's strategy.
    fn lookup(&self, object: Option<&Object>, field: &str) -> (Option<&Object>, Option<Patch>) {
        let Some(object) = object else { return (None, None) };
        let below = object.field(field).and_then(|f| self.object_of(&f.shape));
        (below, facts::field(&object.name, field).patch)
    }

    fn map(&self, mut original: Fields, mut patch: Fields, object: Option<&Object>) -> Result<Fields, Fault> {
        if let Some(directive) = patch.get(DIRECTIVE) {
            return match directive.as_str() {
                // What else steers in there has become a field like any other.
                Some("replace") => {
                    patch.remove(DIRECTIVE);
                    Ok(patch)
                }
                Some("delete") => Ok(Fields::new()),
                _ => Err(unknown_directive(directive, &patch)),
            };
        }
        if let Some(keys) = patch.remove(RETAIN_KEYS) {
            retain_keys(&mut original, &patch, &keys)?;
        }
        self.ordered_lists(&mut original, &mut patch, object)?;
        // Deletions first: an addition beside them must stay.
        let (deletions, additions): (Vec<_>, Vec<_>) =
            patch.into_iter().partition(|(name, _)| name.starts_with(DELETE_FROM_LIST));
        for (name, value) in deletions {
            let name = name.strip_prefix(DELETE_FROM_LIST).unwrap_or_default();
            // Anything but a list takes nothing away.
            if let (Value::Array(gone), Some(Value::Array(list))) = (value, original.get_mut(name)) {
                list.retain(|item| !gone.contains(item));
            }
        }
        for (name, value) in additions {
            self.field(&mut original, name, value, object)?;
        }
        Ok(original)
    }

    fn field(
        &self,
        original: &mut Fields,
        name: String,
        mut value: Value,
        object: Option<&Object>,
    ) -> Result<(), Fault> {
        if value.is_null() {
            original.remove(&name);
            return Ok(());
        }
        let (below, patch) = self.lookup(object, &name);
        let merged = match (original.remove(&name), value) {
            (Some(Value::Object(_)), Value::Object(fields)) if patch == Some(Patch::Replace) => {
                Value::Object(fields)
            }
            (Some(Value::Object(original)), Value::Object(fields)) => {
                Value::Object(self.map(original, fields, below)?)
            }
            (Some(Value::Array(original)), Value::Array(items)) => match patch.and_then(Patch::merge_key) {
                Some(key) => Value::Array(self.list(original, items, key, below)?),
                None => Value::Array(items),
            },
            (_, fresh) => {
                value = fresh;
                discard_nulls(&mut value);
                match without_directives(value) {
                    Some(value) => value,
                    None => return Ok(()),
                }
            }
        };
        original.insert(name, merged);
        Ok(())
    }

    /// Lists that come with `$setElementOrder/…`: merged and put in that order, and taken out of the patch.
    fn ordered_lists(
        &self,
        original: &mut Fields,
        patch: &mut Fields,
        object: Option<&Object>,
    ) -> Result<(), Fault> {
        let orders: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
        for directive in orders {
            let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(Fault::ElementOrder) };
            let name =
                directive.strip_prefix(ELEMENT_ORDER).filter(|n| !n.is_empty()).ok_or(Fault::ElementOrder)?;
            let (below, strategy) = self.lookup(object, name);
            let key = strategy.and_then(Patch::merge_key).unwrap_or_default();
            let theirs = list_of(patch.remove(name))?;
            let ours = list_of(original.remove(name))?;
            if let Some(theirs) = &theirs {
                fits_order(theirs, &order, key)?;
            }
            let before = ours.clone().unwrap_or_default();
            let merged = match (ours, theirs) {
                (Some(ours), Some(theirs)) => self.list(ours, theirs, key, below)?,
                (None, Some(theirs)) => theirs.into_iter().filter_map(without_directives).collect(),
                (Some(ours), None) => ours,
                (None, None) => continue,
            };
            original.insert(name.to_owned(), Value::Array(ordered(merged, &order, &before, key)));
        }
        Ok(())
    }

    fn list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        key: &str,
        object: Option<&Object>,
    ) -> Result<Vec<Value>, Fault> {
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        if original.iter().chain(&patch).any(Value::is_array) {
            return Err(Fault::ListOfLists);
        }
        let objects = original.iter().chain(&patch).filter(|item| item.is_object()).count();
        if objects == 0 {
            let mut merged = original.clone();
            for item in &patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            return Ok(ordered(merged, &patch, &original, ""));
        }
        if objects != original.len() + patch.len() {
            let lists = [original, patch].map(|list| go_text(&Value::Array(list)));
            let why = format!("list element types are not identical: [{}]", lists.join(" "));
            return Err(Fault::Other(why));
        }
        if key.is_empty() {
            let name = object.map_or("", |o| o.name.rsplit('.').next().unwrap_or_default());
            return Err(Fault::Other(format!("cannot merge lists without merge key for {name}")));
        }
        let (mut merged, patch) = special_elements(original, patch, key)?;
        let before = merged.clone();
        for item in &patch {
            let Value::Object(fields) = item else { continue };
            let wanted = merge_value(fields, key)?;
            match merged.iter_mut().find(|have| have.get(key) == Some(wanted)) {
                Some(place) => {
                    let Value::Object(have) = place.take() else { continue };
                    *place = Value::Object(self.map(have, fields.clone(), object)?);
                }
                None => merged.push(item.clone()),
            }
        }
        Ok(ordered(merged, &patch, &before, key))
    }
}

fn list_of(value: Option<Value>) -> Result<Option<Vec<Value>>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(Fault::ElementOrder),
    }
}

fn merge_value<'v>(element: &'v Fields, key: &str) -> Result<&'v Value, Fault> {
    element.get(key).ok_or_else(|| no_merge_key(element, key))
}

fn no_merge_key(element: &Fields, key: &str) -> Fault {
    Fault::NoMergeKey { element: go_text(&Value::Object(element.clone())), key: key.to_owned() }
}

fn unknown_directive(directive: &Value, element: &Fields) -> Fault {
    // Go's `%s` of what is no text.
    let type_name = match directive {
        Value::Bool(_) => Some("bool"),
        Value::Number(number) if number.is_f64() => Some("float64"),
        Value::Number(_) => Some("int64"),
        _ => None,
    };
    let text = go_text(directive);
    Fault::Directive {
        directive: type_name.map_or_else(|| text.clone(), |name| format!("%!s({name}={text})")),
        element: go_text(&Value::Object(element.clone())),
    }
}

/// Carries out the elements that are directives; what is left merges.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Fault> {
    let mut replace = false;
    let mut rest = Vec::new();
    for item in patch {
        match item.get(DIRECTIVE) {
            None => rest.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => match item.get(key) {
                    Some(wanted) => original.retain(|have| have.get(key) != Some(wanted)),
                    None => return Err(no_merge_key(item.as_object().unwrap_or(&Fields::new()), key)),
                },
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(Fault::Other(
                        "merging lists cannot yet be specified in the patch".to_owned(),
                    ));
                }
                _ => return Err(unknown_directive(directive, item.as_object().unwrap_or(&Fields::new()))),
            },
        }
    }
    // What replaces the list is taken as it is.
    if replace { Ok((rest, Vec::new())) } else { Ok((original, rest)) }
}

/// Drops what the patch does not want kept; the patch itself may only hold what it keeps.
fn retain_keys(original: &mut Fields, patch: &Fields, keys: &Value) -> Result<(), Fault> {
    let Value::Array(keys) = keys else { return Err(Fault::RetainKeys) };
    let keeps = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    if patch.iter().any(|(name, value)| !value.is_null() && !name.starts_with('$') && !keeps(name)) {
        return Err(Fault::RetainKeys);
    }
    original.retain(|name, _| keeps(name));
    Ok(())
}

/// The patch's elements must stand in the order that comes with them.
fn fits_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), Fault> {
    let wanted: Vec<&Value> = patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).collect();
    if order.is_empty() || in_order(&wanted, order, key) {
        return Ok(());
    }
    Err(Fault::Other(format!(
        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
        go_text(&Value::Array(patch.to_vec())),
        go_text(&Value::Array(order.to_vec()))
    )))
}

/// A value that is new to the document, without the maps in it that are directives; None where it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let kept =
                fields.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => discard_nulls_of(fields),
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

fn discard_nulls_of(fields: &mut Fields) {
    fields.retain(|_, value| !value.is_null());
    fields.values_mut().for_each(discard_nulls);
}

/// A value as Go's `%v` prints it.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
    }
}
