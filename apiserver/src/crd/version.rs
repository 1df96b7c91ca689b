//! A served version beside the one that is stored: what goes in is converted to that, what comes out from it.

use std::sync::Arc;

use bytes::Bytes;
use coracle_client::{ApiError, Object};
use serde_json::Value;

use super::conversion::Conversion;
use super::document::{self, CustomObject};
use super::kind::CustomKind;
use crate::object::ApiObject;
use crate::watch_cache::with_revision;

pub struct Version {
    pub kind: Arc<CustomKind>,
    pub storage: Arc<CustomKind>,
    pub conversion: Conversion,
    /// Objects of other versions may be stored, which only a webhook can convert.
    pub mixed: bool,
    /// The definition is being deleted: nothing new comes.
    pub terminating: bool,
    pub fields: &'static [&'static str],
}

/// How an encoded object begins that is of a version.
fn head(api_version: &str) -> String {
    format!("{{\"apiVersion\":\"{api_version}\",")
}

impl Version {
    /// Every object is shown as it is stored.
    pub fn shows_stored(&self) -> bool {
        self.kind.api_version == self.storage.api_version && !self.mixed
    }

    /// Objects as they are in the cache, as this version shows them.
    pub async fn present(&self, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, ApiError> {
        if self.shows_stored() {
            return Ok(objects);
        }
        let head = head(&self.kind.api_version);
        let (mut shown, mut foreign) = (objects, Vec::new());
        for (at, object) in shown.iter().enumerate() {
            if !object.json.starts_with(head.as_bytes()) {
                foreign.push((at, read(&object.json)?));
            }
        }
        if foreign.is_empty() {
            return Ok(shown);
        }
        let (places, documents): (Vec<usize>, Vec<CustomObject>) = foreign.into_iter().unzip();
        let converted = self.conversion.convert(documents, &self.kind).await?;
        for (at, mut object) in places.into_iter().zip(converted) {
            let Some(slot) = shown.get_mut(at) else { continue };
            object.meta.resource_version = None;
            let json = with_revision(&object.encode()?, slot.head.resource_version);
            *slot = Object::parse(json, self.fields)?;
        }
        Ok(shown)
    }

    pub async fn present_one(&self, object: Arc<Object>) -> Result<Arc<Object>, ApiError> {
        if self.shows_stored() {
            return Ok(object);
        }
        let shown = self.present(vec![object]).await?;
        shown.into_iter().next().ok_or_else(|| ApiError::internal("a conversion lost an object"))
    }

    /// An encoded object of this version as it is stored.
    pub async fn stored(&self, json: Bytes) -> Result<Bytes, ApiError> {
        if self.kind.api_version == self.storage.api_version {
            return Ok(json);
        }
        let converted = self.conversion.convert(vec![read(&json)?], &self.storage).await?;
        match converted.into_iter().next() {
            Some(object) => object.encode(),
            None => Err(ApiError::internal("a conversion lost an object")),
        }
    }
}

fn read(json: &[u8]) -> Result<CustomObject, ApiError> {
    document::stored(json).map_err(|error| ApiError::internal(format!("decoding a custom resource: {error}")))
}

/// What the cache keeps in the place of stored bytes: the storage version, pruned and with its defaults as its schema
/// is now. None: the bytes are as they should be.
pub fn normal(storage: &CustomKind, conversion: &Conversion, stored: &Bytes) -> Option<Bytes> {
    let mut object = document::stored(stored).ok()?;
    let own = object.api_version() == storage.api_version;
    if !own {
        if !conversion.is_none() {
            return None;
        }
        object.body.insert("apiVersion".into(), Value::from(storage.api_version.as_str()));
    }
    let before = own.then(|| object.body.clone());
    storage.settle(&mut object.body);
    if before.as_ref() == Some(&object.body) && stored.starts_with(head(&storage.api_version).as_bytes()) {
        return None;
    }
    object.encode().ok()
}
