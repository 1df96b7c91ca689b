//! A kind as the generic machinery sees it: its names and rules, and its operations on objects behind a trait, so that
//! a custom kind can carry what it needs for them.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coracle_client::{ApiError, Resource};
use jiff::Timestamp;
use serde_json::Value;

use super::{Alias, BuiltIn, Column};
use crate::crd::ScalePaths;
use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::ownership::{Rules, Schema};

/// An object out of JSON, or serde's error with line and column.
pub type Decoded = Result<Box<dyn ApiObject>, serde_json::Error>;

pub struct KindDef {
    pub resource: Resource,
    pub list_kind: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub has_status: bool,
    pub has_generation: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    pub ttl: Option<Duration>,
    pub subresources: Vec<String>,
    /// The field selector paths beyond name and namespace.
    pub selectable_fields: &'static [&'static str],
    pub alias: Option<Alias>,
    pub returns_deleted: bool,
    pub deletes_collection: bool,
    /// Nobody stores its objects.
    pub computed: bool,
    /// It is of a type that is compiled in: there is protobuf and strategic merge for it.
    pub built_in: bool,
    /// Where replicas are, where it is not where workloads have them.
    pub scale: Option<Arc<ScalePaths>>,
    /// What clients of a deprecated kind or version are told.
    pub deprecation: Option<String>,
    pub ops: Arc<dyn Operations>,
}

/// What the verbs do to objects of a kind. All of it is pure; [`BuiltIn`] says what each is for.
pub trait Operations: Send + Sync + 'static {
    /// Decodes JSON into the type, without defaults; the error is serde's, with line and column.
    fn decode(&self, json: &[u8]) -> Decoded;
    fn decode_value(&self, value: Value) -> Decoded;
    /// Decodes a request's JSON; unknown and duplicate fields and wrong types go into the report.
    fn decode_checked(&self, json: &[u8], report: &crate::decode::Report) -> Decoded;
    fn deletion_grace_seconds(&self, object: &dyn ApiObject) -> Option<i64>;
    fn prepare_deletion(&self, object: &mut dyn ApiObject);
    fn held_back(&self, object: &dyn ApiObject) -> bool;
    fn set_defaults(&self, object: &mut dyn ApiObject);
    fn prepare_create(&self, object: &mut dyn ApiObject);
    fn prepare_update(&self, object: &mut dyn ApiObject, old: &dyn ApiObject);
    fn prepare_status_update(&self, object: &mut dyn ApiObject, old: &dyn ApiObject);
    fn validate_name(&self, name: &str) -> Result<(), String>;
    fn validate(&self, object: &dyn ApiObject, errors: &mut Errors);
    fn validate_create(&self, object: &dyn ApiObject, errors: &mut Errors);
    fn validate_update(&self, object: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors);
    fn validate_status_update(&self, object: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors);
    /// What the object owns stays when it is deleted, unless the client says otherwise.
    fn orphans_by_default(&self) -> bool {
        false
    }
    /// For clients that delete it without saying what is to become of what it owns.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }
    /// What is odd about a valid object, for the client to be told. `old`: none on create.
    fn warnings(&self, _object: &dyn ApiObject, _old: Option<&dyn ApiObject>) -> Vec<String> {
        Vec::new()
    }
    fn columns(&self) -> Vec<Column>;
    fn cells(&self, object: &dyn ApiObject, now: Timestamp) -> Vec<Value>;
    /// The type's JSON schema, components put into the generator.
    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema;
    /// How fields of the kind are owned and merged. Objects of a kind that does not say are of no known type.
    fn ownership(&self) -> &Rules {
        static RULES: OnceLock<Rules> = OnceLock::new();
        RULES.get_or_init(|| Rules::new(Schema::deduced(), "", "", None))
    }
}

/// The operations of a compiled type. The machinery never mixes kinds.
struct Typed<K> {
    ownership: OnceLock<Rules>,
    kind: PhantomData<fn() -> K>,
}

impl<K: BuiltIn> Typed<K> {
    fn of(object: &dyn ApiObject) -> Option<&K> {
        object.as_any().downcast_ref()
    }

    fn of_mut(object: &mut dyn ApiObject) -> Option<&mut K> {
        object.as_any_mut().downcast_mut()
    }
}

impl<K: BuiltIn + schemars::JsonSchema> Operations for Typed<K> {
    fn decode(&self, json: &[u8]) -> Decoded {
        Ok(Box::new(serde_json::from_slice::<K>(json)?))
    }

    fn decode_value(&self, value: Value) -> Decoded {
        Ok(Box::new(serde_json::from_value::<K>(value)?))
    }

    fn decode_checked(&self, json: &[u8], report: &crate::decode::Report) -> Decoded {
        Ok(Box::new(crate::decode::read::<K>(json, report)?))
    }

    fn deletion_grace_seconds(&self, object: &dyn ApiObject) -> Option<i64> {
        Self::of(object).and_then(K::deletion_grace_seconds)
    }

    fn prepare_deletion(&self, object: &mut dyn ApiObject) {
        if let Some(object) = Self::of_mut(object) {
            object.prepare_deletion();
        }
    }

    fn held_back(&self, object: &dyn ApiObject) -> bool {
        Self::of(object).is_some_and(K::held_back)
    }

    fn set_defaults(&self, object: &mut dyn ApiObject) {
        if let Some(object) = Self::of_mut(object) {
            object.set_defaults();
        }
    }

    fn prepare_create(&self, object: &mut dyn ApiObject) {
        if let Some(object) = Self::of_mut(object) {
            object.prepare_create();
        }
    }

    fn prepare_update(&self, object: &mut dyn ApiObject, old: &dyn ApiObject) {
        if let (Some(object), Some(old)) = (Self::of_mut(object), Self::of(old)) {
            object.prepare_update(old);
        }
    }

    fn prepare_status_update(&self, object: &mut dyn ApiObject, old: &dyn ApiObject) {
        if let (Some(object), Some(old)) = (Self::of_mut(object), Self::of(old)) {
            object.prepare_status_update(old);
        }
    }

    fn validate_name(&self, name: &str) -> Result<(), String> {
        K::validate_name(name)
    }

    fn validate(&self, object: &dyn ApiObject, errors: &mut Errors) {
        if let Some(object) = Self::of(object) {
            object.validate(errors);
        }
    }

    fn validate_create(&self, object: &dyn ApiObject, errors: &mut Errors) {
        if let Some(object) = Self::of(object) {
            object.validate_create(errors);
        }
    }

    fn validate_update(&self, object: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors) {
        if let (Some(object), Some(old)) = (Self::of(object), Self::of(old)) {
            object.validate_update(old, errors);
        }
    }

    fn validate_status_update(&self, object: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors) {
        if let (Some(object), Some(old)) = (Self::of(object), Self::of(old)) {
            object.validate_status_update(old, errors);
        }
    }

    fn orphans_by_default(&self) -> bool {
        K::ORPHANS_BY_DEFAULT
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        K::DELETION_WARNING
    }

    fn warnings(&self, object: &dyn ApiObject, old: Option<&dyn ApiObject>) -> Vec<String> {
        Self::of(object).map(|object| object.warnings(old.and_then(Self::of))).unwrap_or_default()
    }

    fn columns(&self) -> Vec<Column> {
        K::columns()
    }

    fn cells(&self, object: &dyn ApiObject, now: Timestamp) -> Vec<Value> {
        Self::of(object).map(|object| object.cells(now)).unwrap_or_default()
    }

    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<K>()
    }

    fn ownership(&self) -> &Rules {
        self.ownership.get_or_init(|| {
            let schema = Schema::built_in(K::API_VERSION, K::KIND).unwrap_or_else(Schema::deduced);
            Rules::new(schema, K::API_VERSION, K::KIND, K::HAS_STATUS.then_some(K::STATUS_RESETS))
                .and_main(K::MAIN_RESETS)
        })
    }
}

impl KindDef {
    pub fn of<K: BuiltIn + schemars::JsonSchema>() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let resource = Resource::of::<K>();
        Self {
            selectable_fields: resource.selectable_fields(),
            resource,
            list_kind: format!("{}List", K::KIND),
            singular: K::SINGULAR.to_owned(),
            short_names: owned(K::SHORT_NAMES),
            categories: owned(K::CATEGORIES),
            has_status: K::HAS_STATUS,
            has_generation: K::HAS_GENERATION,
            create_on_update: K::CREATE_ON_UPDATE,
            unconditional_update: K::UNCONDITIONAL_UPDATE,
            ttl: K::TTL,
            subresources: owned(K::SUBRESOURCES),
            alias: K::alias(),
            returns_deleted: K::RETURNS_DELETED,
            deletes_collection: K::DELETES_COLLECTION,
            computed: K::COMPUTED,
            built_in: true,
            scale: None,
            deprecation: K::DEPRECATION.map(str::to_owned),
            ops: Arc::new(Typed::<K> { ownership: OnceLock::new(), kind: PhantomData }),
        }
    }

    /// A fresh typed copy of an encoded, stored object.
    pub fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn ApiObject>, ApiError> {
        let decoded = self.ops.decode(json);
        decoded.map_err(|e| ApiError::internal(format!("decoding a stored {}: {e}", self.resource.kind())))
    }

    /// `status` where there is one, and the others.
    pub fn all_subresources(&self) -> impl Iterator<Item = &str> {
        self.has_status.then_some("status").into_iter().chain(self.subresources.iter().map(String::as_str))
    }

    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|known| known == name)
    }
}
