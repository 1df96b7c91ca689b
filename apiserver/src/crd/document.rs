//! A custom resource in memory: its metadata typed, the rest as JSON; and how it is read.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use coracle_client::ApiError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::decode::Report;
use crate::object::ApiObject;

/// Duplicate fields that one answer tells of, as upstream.
const DUPLICATES_MAX: usize = 100;
/// Whole numbers up to this lose nothing as floating point, and Go writes them without a fraction.
const WHOLE_MAX: f64 = 1e15;

#[derive(Clone, Debug, Default)]
pub struct CustomObject {
    pub meta: ObjectMeta,
    /// Everything but the metadata, `apiVersion` and `kind` included.
    pub body: Map<String, Value>,
}

impl CustomObject {
    /// Takes the metadata out of a document; the second part names fields that are no metadata.
    pub fn of(mut document: Map<String, Value>) -> Result<(Self, Vec<String>), String> {
        let (meta, unknown) = match document.remove("metadata") {
            None | Some(Value::Null) => Default::default(),
            Some(metadata) => metadata_of(&metadata)?,
        };
        Ok((Self { meta, body: document }, unknown))
    }

    /// The whole document.
    pub fn document(&self) -> Value {
        let mut document = self.body.clone();
        document.insert("metadata".into(), metadata_value(&self.meta));
        Value::Object(document)
    }

    pub fn kind(&self) -> &str {
        self.body.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn api_version(&self) -> &str {
        self.body.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Metadata, and the paths of what is in them that is none.
pub fn metadata_of(value: &Value) -> Result<(ObjectMeta, Vec<String>), String> {
    let report = Report::new(true, false);
    let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let read = crate::decode::read::<ObjectMeta>(&json, &report);
    let (issues, failure) = report.into_parts();
    let meta = read.map_err(|error| failure.unwrap_or_else(|| error.to_string()))?;
    let unknown = issues.iter().filter_map(|issue| issue.strip_prefix("unknown field \"")?.strip_suffix('"'));
    Ok((meta, unknown.map(str::to_owned).collect()))
}

pub fn metadata_value(meta: &ObjectMeta) -> Value {
    // Strings, numbers, lists and maps of them always encode.
    serde_json::to_value(meta).unwrap_or_default()
}

#[derive(Serialize)]
struct Encoded<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
    metadata: &'a ObjectMeta,
    #[serde(flatten)]
    body: Body<'a>,
}

/// The other members.
struct Body<'a>(&'a Map<String, Value>);

impl Serialize for Body<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(name, _)| !super::structure::is_meta(name)))
    }
}

impl ApiObject for CustomObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }

    fn encode(&self) -> Result<Bytes, ApiError> {
        let whole = Encoded {
            api_version: self.api_version(),
            kind: self.kind(),
            metadata: &self.meta,
            body: Body(&self.body),
        };
        crate::encode::json(&whole)
    }

    fn to_value(&self) -> Result<Value, ApiError> {
        Ok(self.document())
    }

    fn clone_box(&self) -> Box<dyn ApiObject> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A JSON object as it is written; fields that are there twice are named by path.
pub fn read(json: &[u8]) -> Result<(Map<String, Value>, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let seed = Seed { path: String::new(), duplicates: &mut duplicates };
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(members) => Ok((members, duplicates)),
        _ => Err(de::Error::custom("expected an object")),
    }
}

/// Decodes what is stored, where nothing is to be found fault with.
pub fn stored(json: &[u8]) -> Result<CustomObject, serde_json::Error> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        metadata: ObjectMeta,
        #[serde(flatten)]
        body: Map<String, Value>,
    }
    let whole: Whole = serde_json::from_slice(json)?;
    Ok(CustomObject { meta: whole.metadata, body: whole.body })
}

struct Seed<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // As Go: what no signed number holds is a floating one.
        Ok(i64::try_from(value).map_or_else(|_| (value as f64).into(), Into::into))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
            return Ok((value as i64).into());
        }
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            match items.next_element_seed(Seed { path, duplicates: self.duplicates })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let path = match self.path.as_str() {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            if map.contains_key(&name)
                && self.duplicates.len() < DUPLICATES_MAX
                && !self.duplicates.contains(&path)
            {
                self.duplicates.push(path.clone());
            }
            let value = members.next_value_seed(Seed { path, duplicates: self.duplicates })?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_come_out_as_they_went_in() {
        let json = br#"{"kind":"Foo","apiVersion":"g.io/v1","metadata":{"name":"a","resourceVersion":"7"},"spec":{"b":1,"a":[1.5,null]}}"#;
        let object = stored(json).unwrap();
        assert_eq!(
            (object.kind(), object.api_version(), object.meta.name.as_deref()),
            ("Foo", "g.io/v1", Some("a"))
        );
        let encoded = object.encode().unwrap();
        assert_eq!(
            encoded,
            r#"{"apiVersion":"g.io/v1","kind":"Foo","metadata":{"name":"a","resourceVersion":"7"},"spec":{"a":[1.5,null],"b":1}}"#
        );
        assert_eq!(stored(&encoded).unwrap().encode().unwrap(), encoded);
    }

    #[test]
    fn duplicates_are_named_and_numbers_are_gos() {
        let (value, duplicates) =
            read(br#"{"a":1,"b":{"c":1.0,"c":2.50},"d":[{"e":1,"e":2}],"a":18446744073709551615}"#).unwrap();
        assert_eq!(duplicates, ["b.c", "d[0].e", "a"]);
        assert_eq!(
            Value::Object(value),
            json!({"a": 18446744073709551615.0, "b": {"c": 2.5}, "d": [{"e": 2}]})
        );
        assert!(read(b"[]").is_err());
        assert_eq!(read(br#"{"a":3.0}"#).unwrap().0["a"], json!(3));
    }

    #[test]
    fn what_is_no_metadata_is_named() {
        let document = json!({"metadata": {"name": "a", "odd": 1, "labels": {"x": "y"}}});
        let (object, unknown) = CustomObject::of(document.as_object().unwrap().clone()).unwrap();
        assert_eq!(unknown, ["odd"]);
        assert_eq!(object.meta.name.as_deref(), Some("a"));
        let wrong = json!({"metadata": {"labels": {"x": 5}}});
        let error = CustomObject::of(wrong.as_object().unwrap().clone()).unwrap_err();
        assert!(
            error.contains("cannot unmarshal number into Go struct field ObjectMeta.labels of type string"),
            "{error}"
        );
    }
}
