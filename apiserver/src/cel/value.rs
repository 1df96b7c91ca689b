//! Values of expressions. What comes out of an object stays where it is, and is looked at through its declared type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value as Json;

use super::declared::{DeclaredType, ListKind, ObjectType};
use super::error::EvalError;
use super::library::Opaque;
use super::library::time::Timestamp;
use super::types::Type;

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Object(Object<'a>),
    Optional(Option<Arc<Value<'a>>>),
    Type(Type),
    Opaque(Opaque),
}

/// Text of the object, or text that the expression made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

#[derive(Clone, Debug)]
pub struct List<'a> {
    pub(super) items: Items<'a>,
    /// How the list is compared and added, if not as any list.
    pub(super) kind: Option<&'a ListKind>,
}

#[derive(Clone, Debug)]
pub(super) enum Items<'a> {
    Json(&'a [Json], Option<&'a DeclaredType>),
    Owned(Arc<Vec<Value<'a>>>),
}

#[derive(Clone, Debug)]
pub enum Map<'a> {
    #[doc(hidden)]
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclaredType>),
    #[doc(hidden)]
    Owned(Arc<Entries<'a>>),
}

/// Entries by key. The key as it was written is kept, since `1` and `1u` are one key.
pub type Entries<'a> = BTreeMap<Key, (Value<'a>, Value<'a>)>;

/// A map's key. Numbers that are equal are one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i128),
    /// The bits of a number that is not whole.
    Double(u64),
    String(Box<str>),
}

#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    pub(super) json: &'a serde_json::Map<String, Json>,
    pub(super) of: &'a ObjectType,
}

impl<'a> Value<'a> {
    pub(super) fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    pub(super) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List { items: Items::Owned(Arc::new(items)), kind: None })
    }

    pub(super) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub(super) const NONE: Value<'static> = Value::Optional(None);

    /// A part of an object seen through its declared type; as what it is in JSON if none is declared.
    pub fn from_json(json: &'a Json, declared: Option<&'a DeclaredType>) -> Result<Value<'a>, EvalError> {
        super::convert::from_json(json, declared)
    }

    /// The boolean a rule evaluates to.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text a message expression evaluates to.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON, for what has a form there.
    pub fn to_json(&self) -> Option<Json> {
        super::convert::to_json(self)
    }

    /// The name of the value's type, as error messages and `type()` have it.
    pub(super) fn type_name(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Object(_) => "object",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Opaque(opaque) => opaque.type_name(),
        })
    }

    /// The type's name in upstream's implementation, which some messages have.
    pub(super) fn go_type(&self) -> &'static str {
        match self {
            Value::Null => "types.Null",
            Value::Bool(_) => "types.Bool",
            Value::Int(_) => "types.Int",
            Value::Uint(_) => "types.Uint",
            Value::Double(_) => "types.Double",
            Value::String(_) => "types.String",
            Value::Bytes(_) => "types.Bytes",
            Value::Timestamp(_) => "types.Timestamp",
            Value::Duration(_) => "types.Duration",
            Value::Optional(_) => "*types.Optional",
            Value::Type(_) => "*types.Type",
            Value::List(_) | Value::Map(_) | Value::Object(_) => "types.Lister",
            Value::Opaque(opaque) => opaque.type_name(),
        }
    }

    pub(super) fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Object(_) => Type::map(Type::String, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type(None),
            Value::Opaque(opaque) => Type::Opaque(opaque.type_name()),
        }
    }

    /// Whether the value can be an argument where a function declares this type.
    pub(super) fn fits(&self, of: &Type) -> bool {
        match (of, self) {
            (Type::Dyn | Type::Param(_), _) => true,
            (Type::Null, Value::Null)
            | (Type::Bool, Value::Bool(_))
            | (Type::Int, Value::Int(_))
            | (Type::Uint, Value::Uint(_))
            | (Type::Double, Value::Double(_))
            | (Type::String, Value::String(_))
            | (Type::Bytes, Value::Bytes(_))
            | (Type::Timestamp, Value::Timestamp(_))
            | (Type::Duration, Value::Duration(_))
            | (Type::Map(_), Value::Map(_))
            | (Type::Optional(_), Value::Optional(_))
            | (Type::Type(_), Value::Type(_)) => true,
            (Type::List(element), Value::List(list)) => match (&**element, list.get(0)) {
                // The first item tells a list of strings from one of numbers, as upstream does.
                (Type::Dyn | Type::Param(_), _) | (_, None | Some(Err(_))) => true,
                (element, Some(Ok(first))) => first.fits(element),
            },
            (Type::Opaque(name), Value::Opaque(opaque)) => *name == opaque.type_name(),
            _ => false,
        }
    }

    /// What `size()` says; none for what has no size.
    pub(super) fn size(&self) -> Option<u64> {
        Some(match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Object(object) => object.len() as u64,
            _ => return None,
        })
    }

    /// The value as a map's key.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Value::Bool(value) => Some(Key::Bool(*value)),
            Value::Int(value) => Some(Key::Int((*value).into())),
            Value::Uint(value) => Some(Key::Int((*value).into())),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 2f64.powi(64) => {
                Some(Key::Int(*value as i128))
            }
            Value::Double(value) if !value.is_nan() => Some(Key::Double(value.to_bits())),
            Value::String(text) => Some(Key::String((&**text).into())),
            _ => None,
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match &self.items {
            Items::Json(items, _) => items.len(),
            Items::Owned(items) => items.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.items {
            Items::Json(items, declared) => items.get(index).map(|item| Value::from_json(item, *declared)),
            Items::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The items as values, for what needs them all.
    pub(super) fn to_values(&self) -> Result<Vec<Value<'a>>, EvalError> {
        self.iter().collect()
    }
}

impl<'a> Map<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Owned(map) => map.len(),
        }
    }

    pub(super) fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Map::Json(map, declared) => match key {
                Value::String(key) => map.get(&**key).map(|value| Value::from_json(value, *declared)),
                _ => None,
            },
            Map::Owned(map) => map.get(&key.key()?).map(|(_, value)| Ok(value.clone())),
        }
    }

    pub(super) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map, _) => map.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            Map::Owned(map) => map.values().map(|(key, _)| key.clone()).collect(),
        }
    }

    pub(super) fn to_entries(&self) -> Result<Entries<'a>, EvalError> {
        match self {
            Map::Owned(map) => Ok((**map).clone()),
            Map::Json(map, declared) => map
                .iter()
                .map(|(key, value)| {
                    let value = Value::from_json(value, *declared)?;
                    Ok((Key::String(key.as_str().into()), (Value::String(Text::Borrowed(key)), value)))
                })
                .collect(),
        }
    }
}

impl<'a> Object<'a> {
    /// A field by its identifier; none if the object does not have it.
    pub(super) fn get(&self, identifier: &str) -> Option<Result<Value<'a>, EvalError>> {
        let field = self.of.field(identifier)?;
        let value = self.json.get(&field.name)?;
        Some(Value::from_json(value, Some(&field.declared)))
    }

    pub(super) fn len(&self) -> usize {
        self.of.fields.values().filter(|field| self.json.contains_key(&field.name)).count()
    }
}
