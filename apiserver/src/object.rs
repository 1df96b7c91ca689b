//! A decoded object of any kind, as the generic verbs handle it.

use std::any::Any;

use bytes::Bytes;
use coracle_client::ApiError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::encode;

/// What the verbs need of an object, whatever its type. Built-ins are `k8s-openapi` structs; custom resources will be
/// JSON values with their metadata beside them.
pub trait ApiObject: Any + Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// The JSON document, with `apiVersion` and `kind`.
    fn encode(&self) -> Result<Bytes, ApiError>;
    fn to_value(&self) -> Result<Value, ApiError>;
    fn clone_box(&self) -> Box<dyn ApiObject>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<K: coracle_client::client::Kind + Clone> ApiObject for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn encode(&self) -> Result<Bytes, ApiError> {
        encode::object(self, K::API_VERSION)
    }

    fn to_value(&self) -> Result<Value, ApiError> {
        encode::value(self, K::API_VERSION)
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
