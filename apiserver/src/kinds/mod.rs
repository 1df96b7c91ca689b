//! The list of built-in kinds. A kind is one file here that implements [`BuiltIn`] and one line in [`all`].

mod certificate_signing_request;
mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
mod lease;
mod namespace;
mod node;
mod pod;
mod priority_class;
mod replica_set;
mod runtime_class;
mod secret;
mod service;
mod service_account;
#[cfg(test)]
mod testing;
mod workload;

pub use certificate_signing_request::{prepare_approval, set_requester};
pub use service::{RangeError, Reservation, ServiceAllocator};

use std::time::Duration;

use coracle_client::client::Kind;
use coracle_client::{ApiError, Resource};
use jiff::Timestamp;
use serde_json::Value;

use crate::field_error::Errors;
use crate::object::ApiObject;

/// Every built-in kind, in the order discovery lists them.
pub fn all() -> Vec<KindDef> {
    use k8s_openapi::api::{apps, certificates, coordination, core, discovery, events, node, scheduling};
    vec![
        KindDef::of::<core::v1::ConfigMap>(),
        KindDef::of::<core::v1::Endpoints>(),
        KindDef::of::<core::v1::Event>(),
        KindDef::of::<core::v1::Namespace>(),
        KindDef::of::<core::v1::Node>(),
        KindDef::of::<core::v1::Pod>(),
        KindDef::of::<core::v1::Secret>(),
        KindDef::of::<core::v1::Service>(),
        KindDef::of::<core::v1::ServiceAccount>(),
        KindDef::of::<apps::v1::Deployment>(),
        KindDef::of::<apps::v1::ReplicaSet>(),
        KindDef::of::<certificates::v1::CertificateSigningRequest>(),
        KindDef::of::<coordination::v1::Lease>(),
        KindDef::of::<discovery::v1::EndpointSlice>(),
        KindDef::of::<events::v1::Event>(),
        KindDef::of::<node::v1::RuntimeClass>(),
        KindDef::of::<scheduling::v1::PriorityClass>(),
    ]
}

/// What ports may speak.
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// One printer column of a Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`, …
    pub type_: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// What makes a `k8s-openapi` type a resource of this server. All functions are pure.
pub trait BuiltIn: Kind + Clone {
    const SINGULAR: &'static str;
    const SHORT_NAMES: &'static [&'static str] = &[];
    const CATEGORIES: &'static [&'static str] = &[];
    /// Has a `status` subresource: writes to the main resource leave status alone and the other way round.
    const HAS_STATUS: bool = false;
    /// The names of the further subresources (`scale`, `binding`, `log`, …); code is found in `subresources/` by name.
    const SUBRESOURCES: &'static [&'static str] = &[];
    /// The spec counts: `metadata.generation` grows when anything outside metadata and status changes.
    const HAS_GENERATION: bool = false;
    /// PUT on a name that does not exist creates.
    const CREATE_ON_UPDATE: bool = false;
    /// PUT without resourceVersion overwrites.
    const UNCONDITIONAL_UPDATE: bool = true;
    /// Stored objects vanish after this long (events).
    const TTL: Option<Duration> = None;
    /// Grace period in seconds that a delete without one gets (pods: from the spec). None: deleted at once.
    fn deletion_grace_seconds(&self) -> Option<i64> {
        None
    }
    /// A delete that removed the object answers with it, not with a Status.
    const RETURNS_DELETED: bool = false;
    /// Several can be deleted at once.
    const DELETES_COLLECTION: bool = true;
    /// Sets what the client left out, as upstream's defaulting. Runs on every decode of a body and of a patch result.
    fn set_defaults(&mut self) {}
    /// Upstream's PrepareForCreate: drops what clients may not set (status), normalises.
    fn prepare_create(&mut self) {}
    /// Upstream's PrepareForUpdate of the main resource; `HAS_STATUS` kinds keep the old status without being told.
    fn prepare_update(&mut self, _old: &Self) {}
    /// Upstream's PrepareForUpdate of `status`: spec and metadata come from `old`; done for `HAS_STATUS` kinds by the
    /// verb (everything but status and the metadata upstream lets through is taken from `old`); more can be done here.
    fn prepare_status_update(&mut self, _old: &Self) {}
    /// Called when a delete first marks the object (namespaces become Terminating).
    fn prepare_deletion(&mut self) {}
    /// Something beyond `metadata.finalizers` holds a deleted object back (a namespace's `spec.finalizers`).
    fn held_back(&self) -> bool {
        false
    }
    /// This kind is another form of a stored one; see [`Alias`].
    fn alias() -> Option<Alias> {
        None
    }
    /// Name validation; the default is a DNS subdomain.
    fn validate_name(name: &str) -> Result<(), String> {
        crate::validation::dns_subdomain(name)
    }
    /// Everything but metadata, which the verb validates.
    fn validate(&self, errors: &mut Errors);
    /// What only a new object must not say; `validate` runs beside it.
    fn validate_create(&self, _errors: &mut Errors) {}
    /// Immutability and transitions; `validate` runs beside it.
    fn validate_update(&self, _old: &Self, _errors: &mut Errors) {}
    fn validate_status_update(&self, _old: &Self, _errors: &mut Errors) {}
    /// Table columns; the default is Name and Age.
    fn columns() -> Vec<Column> {
        crate::table::name_and_age_columns()
    }
    /// Table cells, as many as there are columns.
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        crate::table::name_and_age_cells(self.metadata(), now)
    }
}

/// A kind that is not stored, but shows the objects of another resource in its own form (`events.k8s.io/v1` over the
/// core group's events). Requests in its form are converted to the stored kind after decoding and defaulting, and from
/// then on the stored kind's definition rules (validation, TTL, storage key, watch cache); a patch is applied to the
/// converted form; answers, list items and watch events are converted on their way out.
pub struct Alias {
    /// The resource whose objects are stored.
    pub stored: Resource,
    /// This kind's object as the stored kind's.
    pub to_stored: fn(&dyn ApiObject) -> Option<Box<dyn ApiObject>>,
    /// The stored kind's object as this kind's.
    pub from_stored: fn(&dyn ApiObject) -> Option<Box<dyn ApiObject>>,
    /// Field selector paths of this kind and the stored kind's paths that answer them.
    pub fields: &'static [(&'static str, &'static str)],
}

/// An object out of JSON, or serde's error with line and column.
type Decoded = Result<Box<dyn ApiObject>, serde_json::Error>;

/// A kind as the generic machinery sees it: a [`BuiltIn`] behind functions on [`ApiObject`].
pub struct KindDef {
    pub resource: Resource,
    pub list_kind: String,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub has_status: bool,
    pub has_generation: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    pub ttl: Option<Duration>,
    pub subresources: &'static [&'static str],
    /// Decodes JSON into the type, without defaults; the error is serde's, with line and column.
    pub decode: fn(&[u8]) -> Decoded,
    pub decode_value: fn(Value) -> Decoded,
    /// Decodes a request's JSON; unknown and duplicate fields and wrong types go into the report.
    pub decode_checked: fn(&[u8], &crate::decode::Report) -> Decoded,
    pub deletion_grace_seconds: fn(&dyn ApiObject) -> Option<i64>,
    pub prepare_deletion: fn(&mut dyn ApiObject),
    pub held_back: fn(&dyn ApiObject) -> bool,
    pub alias: Option<Alias>,
    pub returns_deleted: bool,
    pub deletes_collection: bool,
    pub set_defaults: fn(&mut dyn ApiObject),
    pub prepare_create: fn(&mut dyn ApiObject),
    pub prepare_update: fn(&mut dyn ApiObject, &dyn ApiObject),
    pub prepare_status_update: fn(&mut dyn ApiObject, &dyn ApiObject),
    pub validate_name: fn(&str) -> Result<(), String>,
    pub validate: fn(&dyn ApiObject, &mut Errors),
    pub validate_create: fn(&dyn ApiObject, &mut Errors),
    pub validate_update: fn(&dyn ApiObject, &dyn ApiObject, &mut Errors),
    pub validate_status_update: fn(&dyn ApiObject, &dyn ApiObject, &mut Errors),
    pub columns: fn() -> Vec<Column>,
    pub cells: fn(&dyn ApiObject, Timestamp) -> Vec<Value>,
    /// The type's JSON schema, components put into the generator.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

/// The typed object behind a [`KindDef`]'s functions. The machinery never mixes kinds.
fn typed<K: BuiltIn>(object: &dyn ApiObject) -> Option<&K> {
    object.as_any().downcast_ref()
}

fn typed_mut<K: BuiltIn>(object: &mut dyn ApiObject) -> Option<&mut K> {
    object.as_any_mut().downcast_mut()
}

impl KindDef {
    pub fn of<K: BuiltIn + schemars::JsonSchema>() -> Self {
        Self {
            resource: Resource::of::<K>(),
            list_kind: format!("{}List", K::KIND),
            singular: K::SINGULAR,
            short_names: K::SHORT_NAMES,
            categories: K::CATEGORIES,
            has_status: K::HAS_STATUS,
            has_generation: K::HAS_GENERATION,
            create_on_update: K::CREATE_ON_UPDATE,
            unconditional_update: K::UNCONDITIONAL_UPDATE,
            ttl: K::TTL,
            subresources: K::SUBRESOURCES,
            decode: |json| Ok(Box::new(serde_json::from_slice::<K>(json)?)),
            decode_value: |value| Ok(Box::new(serde_json::from_value::<K>(value)?)),
            decode_checked: |json, report| Ok(Box::new(crate::decode::read::<K>(json, report)?)),
            deletion_grace_seconds: |o| typed::<K>(o).and_then(K::deletion_grace_seconds),
            prepare_deletion: |o| {
                if let Some(o) = typed_mut::<K>(o) {
                    o.prepare_deletion();
                }
            },
            held_back: |o| typed::<K>(o).is_some_and(K::held_back),
            alias: K::alias(),
            returns_deleted: K::RETURNS_DELETED,
            deletes_collection: K::DELETES_COLLECTION,
            set_defaults: |o| {
                if let Some(o) = typed_mut::<K>(o) {
                    o.set_defaults();
                }
            },
            prepare_create: |o| {
                if let Some(o) = typed_mut::<K>(o) {
                    o.prepare_create();
                }
            },
            prepare_update: |o, old| {
                if let (Some(o), Some(old)) = (typed_mut::<K>(o), typed(old)) {
                    o.prepare_update(old);
                }
            },
            prepare_status_update: |o, old| {
                if let (Some(o), Some(old)) = (typed_mut::<K>(o), typed(old)) {
                    o.prepare_status_update(old);
                }
            },
            validate_name: K::validate_name,
            validate: |o, errors| {
                if let Some(o) = typed::<K>(o) {
                    o.validate(errors);
                }
            },
            validate_create: |o, errors| {
                if let Some(o) = typed::<K>(o) {
                    o.validate_create(errors);
                }
            },
            validate_update: |o, old, errors| {
                if let (Some(o), Some(old)) = (typed::<K>(o), typed(old)) {
                    o.validate_update(old, errors);
                }
            },
            validate_status_update: |o, old, errors| {
                if let (Some(o), Some(old)) = (typed::<K>(o), typed(old)) {
                    o.validate_status_update(old, errors);
                }
            },
            columns: K::columns,
            cells: |o, now| typed::<K>(o).map(|o| o.cells(now)).unwrap_or_default(),
            schema: |generator| generator.subschema_for::<K>(),
        }
    }

    /// A fresh typed copy of an encoded, stored object.
    pub fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn ApiObject>, ApiError> {
        (self.decode)(json)
            .map_err(|e| ApiError::internal(format!("decoding a stored {}: {e}", self.resource.kind())))
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
