//! Objects and lists as clients asked to see them: whole, their metadata only, or as rows of a Table.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_client::{ApiError, Object};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::Served;
use crate::negotiation::{Accepted, Form, Shape};
use crate::verbs::list::{self, Listed};
use crate::verbs::options::Query;

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// How answers of one request look.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub accepted: Accepted,
    pub form: Form,
    pub include: Include,
    pub now: Timestamp,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    cells: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a RawValue>,
}

fn not_acceptable(why: &str, kind: &str) -> ApiError {
    ApiError::new(406, "NotAcceptable", format!("{why} (*{kind})"))
}

impl View {
    pub fn new(accepted: Accepted, form: Form, query: &Query, now: Timestamp) -> Result<Self, ApiError> {
        let include = match query.get("includeObject").filter(|_| accepted.shape == Shape::Table) {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        let form = Form { encoding: accepted.encoding, pretty: accepted.pretty || form.pretty, ..form };
        Ok(Self { accepted, form, include, now })
    }

    fn version(&self) -> &'static str {
        if self.accepted.beta { "v1beta1" } else { "v1" }
    }

    /// One object of the kind.
    pub fn object(&self, kind: &Served, json: Bytes) -> Result<Bytes, ApiError> {
        match self.accepted.shape {
            Shape::Object => Ok(json),
            Shape::Metadata => self.metadata(&json),
            Shape::MetadataList => Err(not_acceptable(
                "you requested PartialObjectMetadataList, but the requested object is not a list",
                kind.resource().kind(),
            )),
            Shape::Table => {
                let object = Object::parse(json, &[])?;
                let listed = Listed {
                    revision: object.head.resource_version,
                    objects: vec![object],
                    ..Listed::default()
                };
                self.table(kind, &listed, true)
            }
        }
    }

    /// One object of a watch; `headed`: the first Table of a watch carries the columns.
    pub fn event(&self, kind: &Served, object: &Arc<Object>, headed: bool) -> Result<Bytes, ApiError> {
        match self.accepted.shape {
            Shape::Object => Ok(object.json.clone()),
            Shape::Metadata | Shape::MetadataList => self.metadata(&object.json),
            Shape::Table => {
                let revision = object.head.resource_version;
                let listed = Listed { revision, objects: vec![object.clone()], ..Listed::default() };
                self.table(kind, &listed, headed)
            }
        }
    }

    pub fn list(&self, kind: &Served, listed: &Listed) -> Result<Bytes, ApiError> {
        match self.accepted.shape {
            Shape::Object => Ok(list::encode(kind, listed)),
            Shape::Table => self.table(kind, listed, true),
            Shape::Metadata => Err(not_acceptable(
                "you requested PartialObjectMetadata, but the requested object is a list",
                &kind.def.list_kind,
            )),
            Shape::MetadataList => {
                let version = format!("meta.k8s.io/{}", self.version());
                let mut out = BytesMut::new();
                out.put_slice(list::head("PartialObjectMetadataList", &version, listed).as_bytes());
                if listed.objects.is_empty() {
                    // As Go writes a list that nothing was put into.
                    out.put_slice(b"\"items\":null}");
                    return Ok(out.freeze());
                }
                out.put_slice(b"\"items\":[");
                for (i, object) in listed.objects.iter().enumerate() {
                    if i > 0 {
                        out.put_u8(b',');
                    }
                    out.put_slice(&self.metadata(&object.json)?);
                }
                out.put_slice(b"]}");
                Ok(out.freeze())
            }
        }
    }

    fn metadata(&self, json: &[u8]) -> Result<Bytes, ApiError> {
        let parts: Parts<'_> = serde_json::from_slice(json)?;
        Ok(format!(
            "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{}\",\"metadata\":{}}}",
            self.version(),
            parts.metadata.get()
        )
        .into())
    }

    fn table(&self, kind: &Served, listed: &Listed, headed: bool) -> Result<Bytes, ApiError> {
        let def = &kind.def;
        let columns = if headed { def.ops.columns() } else { Vec::new() };
        let version = format!("meta.k8s.io/{}", self.version());
        let mut out = BytesMut::new().writer();
        out.get_mut().put_slice(list::head("Table", &version, listed).as_bytes());
        out.get_mut().put_slice(b"\"columnDefinitions\":");
        serde_json::to_writer(&mut out, &columns)?;
        if listed.objects.is_empty() && def.ops.columns().iter().any(|column| column.name == "Created At") {
            // Upstream's table for kinds without a printer starts from no rows at all.
            out.get_mut().put_slice(b",\"rows\":null}");
            return Ok(out.into_inner().freeze());
        }
        out.get_mut().put_slice(b",\"rows\":[");
        for (i, object) in listed.objects.iter().enumerate() {
            if i > 0 {
                out.get_mut().put_u8(b',');
            }
            let typed = def.decode_stored(&object.json)?;
            let json = match self.include {
                Include::None => None,
                Include::Metadata => Some(self.metadata(&object.json)?),
                Include::Object => Some(object.json.clone()),
            };
            let raw = json.as_deref().map(serde_json::from_slice::<&RawValue>).transpose()?;
            serde_json::to_writer(&mut out, &Row { cells: def.ops.cells(&*typed, self.now), object: raw })?;
        }
        out.get_mut().put_slice(b"]}");
        Ok(out.into_inner().freeze())
    }
}
