//! A deserializer around another that watches a typed decode: it knows every struct's fields, so it tells of unknown
//! and duplicate ones, and of wrong types by path, in the one pass that the decode takes anyway.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::ask::{self, Ask, OrZero};
use super::quirks;
use super::report::{Path, Report, Step};
use super::scan;

/// Decodes `json` into a `T`; what is found beside it goes into the report.
pub fn read<T: DeserializeOwned>(json: &[u8], report: &Report) -> Result<T, serde_json::Error> {
    // What no field takes is skipped without recursion, however deep; Go's scanner looks at it all.
    if scan::too_deep(json) {
        return Err(de::Error::custom("exceeded max depth"));
    }
    let mut inner = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(Checked { inner: &mut inner, at: &Path::ROOT, report, element: true })?;
    inner.end()?;
    Ok(value)
}

struct Checked<'r, D> {
    inner: D,
    at: &'r Path<'r>,
    report: &'r Report,
    /// An element of a list or map: `null` is the type's zero value there, as in Go.
    element: bool,
}

impl<'de, D: Deserializer<'de>> Checked<'_, D> {
    /// Asks for a value of one shape, and notes the error when what stands there is of another.
    fn ask<A: Ask, V: Visitor<'de>>(self, ask: A, visitor: V) -> Result<V::Value, D::Error> {
        let result = if self.element {
            self.inner.deserialize_option(OrZero { ask, visitor })
        } else {
            ask.ask(self.inner, visitor)
        };
        noted::<V::Value, _>(self.report, self.at, result)
    }
}

fn noted<T, E: fmt::Display>(report: &Report, at: &Path<'_>, result: Result<T, E>) -> Result<T, E> {
    if let Err(error) = &result {
        report.wrong(at, error, std::any::type_name::<T>());
    }
    result
}

macro_rules! asks {
    ($($method:ident $ask:ident,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.ask(ask::$ask, visitor)
        }
    )*};
}

macro_rules! straight {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            noted::<V::Value, _>(self.report, self.at, self.inner.$method(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Checked<'_, D> {
    type Error = D::Error;

    asks! {
        deserialize_i8 I8, deserialize_i16 I16, deserialize_u8 U8, deserialize_u16 U16, deserialize_u32 U32, deserialize_u64 U64,
        deserialize_f32 F32, deserialize_f64 F64, deserialize_string Text,
    }
    straight! {
        deserialize_any deserialize_char deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier
        deserialize_ignored_any
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if std::any::type_name::<V::Value>().ends_with("::ByteString") {
            return noted::<V::Value, _>(
                self.report,
                self.at,
                self.inner.deserialize_any(quirks::BytesText(visitor)),
            );
        }
        self.ask(ask::Str, visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if self.report.yaml {
            return noted::<V::Value, _>(
                self.report,
                self.at,
                self.inner.deserialize_any(quirks::YamlBool(visitor)),
            );
        }
        self.ask(ask::Bool, visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if self.report.yaml {
            return noted::<V::Value, _>(
                self.report,
                self.at,
                self.inner.deserialize_any(quirks::YamlInt(visitor)),
            );
        }
        self.ask(ask::I32, visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if self.report.yaml {
            return noted::<V::Value, _>(
                self.report,
                self.at,
                self.inner.deserialize_any(quirks::YamlInt(visitor)),
            );
        }
        self.ask(ask::I64, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, at, report, .. } = self;
        noted::<V::Value, _>(report, at, inner.deserialize_option(Maybe { visitor, at, report }))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Self { inner, at, report, .. } = self;
        let result = match name {
            "Quantity" => inner.deserialize_any(quirks::QuantityText { visitor, report }),
            "Time" | "MicroTime" => {
                inner.deserialize_str(quirks::TimeText { visitor, report, micro: name == "MicroTime" })
            }
            // RawExtension, FieldsV1, JSON: documents of their own, nothing is known of their fields.
            _ => inner.deserialize_newtype_struct(name, visitor),
        };
        noted::<V::Value, _>(report, at, result)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        noted::<V::Value, _>(self.report, self.at, self.inner.deserialize_unit_struct(name, visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (at, report) = (self.at, self.report);
        self.ask(ask::Seq, Elements { visitor, at, report })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        noted::<V::Value, _>(self.report, self.at, self.inner.deserialize_tuple(len, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        noted::<V::Value, _>(self.report, self.at, self.inner.deserialize_tuple_struct(name, len, visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (at, report) = (self.at, self.report);
        self.ask(ask::Map, Entries { visitor, at, report })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let (at, report) = (self.at, self.report);
        self.ask(ask::Struct(name, fields), Fields { visitor, name, fields, at, report })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        noted::<V::Value, _>(self.report, self.at, self.inner.deserialize_enum(name, variants, visitor))
    }
}

/// An optional value.
struct Maybe<'r, V> {
    visitor: V,
    at: &'r Path<'r>,
    report: &'r Report,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Maybe<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Checked { inner, at: self.at, report: self.report, element: false })
    }
}

/// A value below the current path.
struct Below<'r, S> {
    seed: S,
    at: Path<'r>,
    report: &'r Report,
    element: bool,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Below<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Checked { inner, at: &self.at, report: self.report, element: self.element })
    }
}

struct Elements<'r, V> {
    visitor: V,
    at: &'r Path<'r>,
    report: &'r Report,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Elements<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(ElementAccess { inner, index: 0, at: self.at, report: self.report })
    }
}

struct ElementAccess<'r, A> {
    inner: A,
    index: usize,
    at: &'r Path<'r>,
    report: &'r Report,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ElementAccess<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let at = Path { parent: Some(self.at), step: Step::Index(self.index) };
        self.index += 1;
        self.inner.next_element_seed(Below { seed, at, report: self.report, element: true })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The fields of a struct.
struct Fields<'r, V> {
    visitor: V,
    name: &'static str,
    fields: &'static [&'static str],
    at: &'r Path<'r>,
    report: &'r Report,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, name, fields, at, report } = self;
        visitor.visit_map(FieldAccess { inner, name, fields, at, report, seen: 0, field: None })
    }
}

struct FieldAccess<'r, A> {
    inner: A,
    name: &'static str,
    fields: &'static [&'static str],
    at: &'r Path<'r>,
    report: &'r Report,
    /// One bit per field; no type of the API has more than 128.
    seen: u128,
    /// The field whose value comes next; None when the type does not have it.
    field: Option<&'static str>,
}

impl<A> FieldAccess<'_, A> {
    fn known(&mut self, index: usize) {
        self.field = self.fields.get(index).copied();
        let bit = 1u128.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
        if self.report.strict && self.seen & bit != 0 {
            self.report.duplicate(self.at, self.field.unwrap_or_default());
        }
        self.seen |= bit;
    }

    fn unknown(&mut self, key: &str) {
        self.field = None;
        // Every document may say what it is, whether its type keeps that or not.
        let says_what = matches!(self.at.step, Step::Root) && matches!(key, "apiVersion" | "kind");
        if self.report.strict && !says_what {
            self.report.unknown(self.at, key);
        }
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for FieldAccess<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        // The key is seen on its way to the seed; what it means is looked up after, when `self` is free again.
        let mut index = None;
        let fields = self.fields;
        let mut unknown = String::new();
        let result = self.inner.next_key_seed(KeySeed {
            seed,
            see: |key: &str| {
                index = fields.iter().position(|field| *field == key);
                if index.is_none() {
                    key.clone_into(&mut unknown);
                }
            },
        });
        if matches!(result, Ok(Some(_))) {
            match index {
                Some(index) => self.known(index),
                None => self.unknown(&unknown),
            }
        }
        result
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.field {
            Some(name) => {
                let at = Path { parent: Some(self.at), step: Step::Field { owner: self.name, name } };
                self.inner.next_value_seed(Below { seed, at, report: self.report, element: false })
            }
            None => self.inner.next_value_seed(seed),
        }
    }
}

/// The entries of a map.
struct Entries<'r, V> {
    visitor: V,
    at: &'r Path<'r>,
    report: &'r Report,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Entries<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, at, report } = self;
        visitor.visit_map(EntryAccess { inner, at, report, key: String::new(), few: Vec::new(), many: None })
    }
}

/// Keys a map may have before finding duplicates among them takes a set.
const FEW: usize = 32;

struct EntryAccess<'r, A> {
    inner: A,
    at: &'r Path<'r>,
    report: &'r Report,
    key: String,
    /// Hashes of the keys so far.
    few: Vec<u64>,
    many: Option<HashSet<u64>>,
}

impl<A> EntryAccess<'_, A> {
    fn seen_before(&mut self) -> bool {
        let hash = xxh3_64(self.key.as_bytes());
        if let Some(many) = &mut self.many {
            return !many.insert(hash);
        }
        if self.few.contains(&hash) {
            return true;
        }
        self.few.push(hash);
        if self.few.len() > FEW {
            self.many = Some(self.few.drain(..).collect());
        }
        false
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for EntryAccess<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let text = &mut self.key;
        let result = self.inner.next_key_seed(KeySeed { seed, see: |key: &str| key.clone_into(text) });
        if matches!(result, Ok(Some(_))) && self.report.strict && self.seen_before() {
            self.report.duplicate(self.at, &self.key);
        }
        result
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let at = Path { parent: Some(self.at), step: Step::Key(&self.key) };
        self.inner.next_value_seed(Below { seed, at, report: self.report, element: true })
    }
}

/// Lets `see` look at a key on its way to whoever wants it.
struct KeySeed<S, F> {
    seed: S,
    see: F,
}

impl<'de, S: DeserializeSeed<'de>, F: FnMut(&str)> DeserializeSeed<'de> for KeySeed<S, F> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(SeenKey { inner, see: self.see })
    }
}

struct SeenKey<D, F> {
    inner: D,
    see: F,
}

impl<'de, D: Deserializer<'de>, F: FnMut(&str)> Deserializer<'de> for SeenKey<D, F> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(SeenKeyVisitor { visitor, see: self.see })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct SeenKeyVisitor<V, F> {
    visitor: V,
    see: F,
}

impl<'de, V: Visitor<'de>, F: FnMut(&str)> Visitor<'de> for SeenKeyVisitor<V, F> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_str<E: de::Error>(mut self, key: &str) -> Result<V::Value, E> {
        (self.see)(key);
        self.visitor.visit_str(key)
    }

    fn visit_borrowed_str<E: de::Error>(mut self, key: &'de str) -> Result<V::Value, E> {
        (self.see)(key);
        self.visitor.visit_borrowed_str(key)
    }
}
