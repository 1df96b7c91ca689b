//! A serializer around another that writes what Go writes although it is not there: times that upstream's types hold as
//! they are and not behind a pointer, lists and texts without `omitempty`. `k8s-openapi` leaves them out.

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::schema::nulls::always_there;

/// Bit `n` stands for the `n`th of a struct's fields that are always there.
type Seen = u32;

#[derive(Clone, Copy)]
pub struct Whole<'v, S> {
    pub inner: S,
    /// Of the document that is written.
    pub api_version: &'v str,
}

/// A value that is written with its nulls.
struct Nested<'v, 'a, T: ?Sized> {
    value: &'a T,
    api_version: &'v str,
}

impl<T: Serialize + ?Sized> Serialize for Nested<'_, '_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Whole { inner: serializer, api_version: self.api_version })
    }
}

impl<'v, S> Whole<'v, S> {
    fn nested<'a, T: ?Sized>(&self, value: &'a T) -> Nested<'v, 'a, T> {
        Nested { value, api_version: self.api_version }
    }
}

macro_rules! scalars {
    ($($method:ident $type:ty,)*) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<'v, S: Serializer> Serializer for Whole<'v, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Whole<'v, S::SerializeSeq>;
    type SerializeTuple = Whole<'v, S::SerializeTuple>;
    type SerializeTupleStruct = Whole<'v, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Whole<'v, S::SerializeTupleVariant>;
    type SerializeMap = Whole<'v, S::SerializeMap>;
    type SerializeStruct = Fields<'v, S::SerializeStruct>;
    type SerializeStructVariant = Whole<'v, S::SerializeStructVariant>;

    scalars! {
        serialize_bool bool, serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_i128 i128,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_u128 u128, serialize_f32 f32,
        serialize_f64 f64, serialize_char char, serialize_str &str, serialize_bytes &[u8], serialize_unit_struct &'static str,
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let value = self.nested(value);
        self.inner.serialize_some(&value)
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    // Newtypes are scalars; `RawValue` and numbers know each other by their names, so the value goes as it is.
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = self.nested(value);
        self.inner.serialize_newtype_variant(name, index, variant, &value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let api_version = self.api_version;
        Ok(Whole { inner: self.inner.serialize_seq(length)?, api_version })
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        let api_version = self.api_version;
        Ok(Whole { inner: self.inner.serialize_tuple(length)?, api_version })
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        let api_version = self.api_version;
        Ok(Whole { inner: self.inner.serialize_tuple_struct(name, length)?, api_version })
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let api_version = self.api_version;
        Ok(Whole { inner: self.inner.serialize_tuple_variant(name, index, variant, length)?, api_version })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let api_version = self.api_version;
        Ok(Whole { inner: self.inner.serialize_map(length)?, api_version })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        let api_version = self.api_version;
        let fields = always_there(api_version, name);
        // JSON does not write a length; a tree only makes room by it.
        let inner = self.inner.serialize_struct(name, length + fields.len())?;
        Ok(Fields { inner, api_version, always_there: fields, seen: 0 })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let api_version = self.api_version;
        Ok(Whole { inner: self.inner.serialize_struct_variant(name, index, variant, length)?, api_version })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A struct on its way out.
pub struct Fields<'v, S> {
    inner: S,
    api_version: &'v str,
    always_there: &'static [&'static str],
    seen: Seen,
}

impl<S: SerializeStruct> SerializeStruct for Fields<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        if let Some(index) = self.always_there.iter().position(|name| *name == key) {
            self.seen |= 1 << index;
        }
        self.inner.serialize_field(key, &Nested { value, api_version: self.api_version })
    }

    fn end(mut self) -> Result<S::Ok, S::Error> {
        for (index, name) in self.always_there.iter().enumerate() {
            if self.seen & (1 << index) == 0 {
                self.inner.serialize_field(name, &())?;
            }
        }
        self.inner.end()
    }
}

macro_rules! elements {
    ($($trait:ident $method:ident,)*) => {$(
        impl<S: $trait> $trait for Whole<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                let value = self.nested(value);
                self.inner.$method(&value)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        }
    )*};
}

elements! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

impl<S: SerializeMap> SerializeMap for Whole<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.inner.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let value = self.nested(value);
        self.inner.serialize_value(&value)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

impl<S: SerializeStructVariant> SerializeStructVariant for Whole<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        let value = self.nested(value);
        self.inner.serialize_field(key, &value)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use k8s_openapi::api::{autoscaling, events};
    use serde_json::{Value, json};

    use crate::object::ApiObject;

    fn written(object: &dyn ApiObject) -> Value {
        let value: Value = serde_json::from_slice(&object.encode().unwrap()).unwrap();
        assert_eq!(object.to_value().unwrap(), value, "as a tree and as text");
        value
    }

    #[test]
    fn what_is_not_set_is_null_where_go_says_so() {
        let status = json!({"conditions": [{"type": "X", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}]});
        let pod: core::Pod = serde_json::from_value(json!({ "status": status })).unwrap();
        let conditions = json!([{"type": "X", "status": "True", "lastProbeTime": null, "lastTransitionTime": "1970-01-01T00:00:00Z"}]);
        assert_eq!(written(&pod)["status"], json!({ "conditions": conditions }));
        let event = written(&core::Event::default());
        for field in ["eventTime", "firstTimestamp", "lastTimestamp"] {
            assert_eq!(event.get(field), Some(&Value::Null), "{field}");
        }
        let event = written(&events::v1::Event::default());
        for (field, there) in
            [("eventTime", true), ("deprecatedLastTimestamp", true), ("firstTimestamp", false)]
        {
            assert_eq!(event.get(field).is_some(), there, "{field}");
        }
        let status = json!({"status": {}});
        let one: autoscaling::v1::HorizontalPodAutoscaler = serde_json::from_value(status.clone()).unwrap();
        assert_eq!(written(&one)["status"].get("currentMetrics"), None);
        let two: autoscaling::v2::HorizontalPodAutoscaler = serde_json::from_value(status).unwrap();
        assert_eq!(written(&two)["status"].get("currentMetrics"), Some(&Value::Null));
    }
}
