//! The shapes a type can ask a deserializer for, and the zero value each has for a `null` element, as in Go.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, Visitor};

/// One `deserialize_…` method as a value.
pub trait Ask: Copy {
    fn ask<'de, D: Deserializer<'de>, V: Visitor<'de>>(
        self,
        from: D,
        visitor: V,
    ) -> Result<V::Value, D::Error>;
    fn zero<'de, V: Visitor<'de>, E: de::Error>(self, visitor: V) -> Result<V::Value, E>;
}

macro_rules! shapes {
    ($($name:ident $method:ident $zero:expr;)*) => {$(
        #[derive(Clone, Copy)]
        pub struct $name;

        impl Ask for $name {
            fn ask<'de, D: Deserializer<'de>, V: Visitor<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
                from.$method(visitor)
            }

            fn zero<'de, V: Visitor<'de>, E: de::Error>(self, visitor: V) -> Result<V::Value, E> {
                $zero(visitor)
            }
        }
    )*};
}

shapes! {
    Bool deserialize_bool (|v: V| v.visit_bool(false));
    I8 deserialize_i8 (|v: V| v.visit_i64(0));
    I16 deserialize_i16 (|v: V| v.visit_i64(0));
    I32 deserialize_i32 (|v: V| v.visit_i64(0));
    I64 deserialize_i64 (|v: V| v.visit_i64(0));
    U8 deserialize_u8 (|v: V| v.visit_u64(0));
    U16 deserialize_u16 (|v: V| v.visit_u64(0));
    U32 deserialize_u32 (|v: V| v.visit_u64(0));
    U64 deserialize_u64 (|v: V| v.visit_u64(0));
    F32 deserialize_f32 (|v: V| v.visit_f64(0.0));
    F64 deserialize_f64 (|v: V| v.visit_f64(0.0));
    Str deserialize_str (|v: V| v.visit_str(""));
    Text deserialize_string (|v: V| v.visit_str(""));
    Seq deserialize_seq (|v: V| v.visit_seq(SeqDeserializer::<_, E>::new(std::iter::empty::<u8>())));
    Map deserialize_map (|v: V| v.visit_map(no_entries::<E>()));
}

#[derive(Clone, Copy)]
pub struct Struct(pub &'static str, pub &'static [&'static str]);

impl Ask for Struct {
    fn ask<'de, D: Deserializer<'de>, V: Visitor<'de>>(
        self,
        from: D,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        from.deserialize_struct(self.0, self.1, visitor)
    }

    fn zero<'de, V: Visitor<'de>, E: de::Error>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_map(no_entries::<E>())
    }
}

type NoEntries<'de, E> = MapDeserializer<'de, std::iter::Empty<(&'static str, &'static str)>, E>;

fn no_entries<'de, E: de::Error>() -> NoEntries<'de, E> {
    MapDeserializer::new(std::iter::empty())
}

/// An element that may be `null`.
pub struct OrZero<A, V> {
    pub ask: A,
    pub visitor: V,
}

impl<'de, A: Ask, V: Visitor<'de>> Visitor<'de> for OrZero<A, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.ask.zero(self.visitor)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.ask.zero(self.visitor)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.ask.ask(inner, self.visitor)
    }
}
