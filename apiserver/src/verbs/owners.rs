//! Who comes to own which fields by a write: from the request to `metadata.managedFields`.

use std::sync::Arc;

use coracle_client::ApiError;
use serde_json::Value;
use tracing::error;

use super::modify::Part;
use super::{Call, metadata};
use crate::api::Served;
use crate::object::ApiObject;
use crate::ownership::{Managers, Operation, Rules, Schema, Set, Versions, Who, Write, drop_empty, is_reset};

/// Longest name of a manager, as upstream.
const NAME_BYTES_MAX: usize = 128;
/// Who says no name.
const UNKNOWN: &str = "unknown";

/// Whether a write changes who owns what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owners {
    /// The client owns what it changes.
    Track,
    /// The new object says it already.
    Given,
}

impl Call {
    /// The name that the client goes by as a manager of fields.
    pub(crate) fn manager(&self) -> String {
        let named = self.options.field_manager.as_deref().filter(|name| !name.is_empty());
        let name = match named {
            Some(name) => name.to_owned(),
            None => program(self.user_agent.as_deref().unwrap_or_default()),
        };
        if name.is_empty() { UNKNOWN.to_owned() } else { name }
    }

    pub(super) fn ownership(&self) -> &Rules {
        self.form.def.ops.ownership()
    }

    pub(super) fn who(&self, operation: Operation) -> Who {
        Who {
            name: self.manager(),
            operation,
            api_version: self.form.resource().api_version(),
            subresource: self.subresource.clone().unwrap_or_default(),
        }
    }

    pub(super) fn ownership_write<'a>(
        &self,
        operation: Operation,
        reset: &'a Set,
        versions: &'a Forms<'a>,
    ) -> Write<'a>
    where
        Self: 'a,
    {
        Write { who: self.who(operation), schema: versions.schema, reset, versions, now: metadata::now().0 }
    }

    /// Gives the client what it changes. `old`: None at a creation.
    pub(super) fn track(
        &self,
        part: Part,
        old: Option<&dyn ApiObject>,
        new: &mut Box<dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let rules = self.ownership();
        let reset = if part == Part::Status { &rules.status } else { &rules.main };
        self.track_except(reset, old, new)
    }

    /// As [`Self::track`], for a subresource of its own: `reset` is what it does not change.
    pub(crate) fn track_except(
        &self,
        reset: &Set,
        old: Option<&dyn ApiObject>,
        new: &mut Box<dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let rules = self.ownership();
        let known = old.and_then(|old| old.meta().managed_fields.as_deref()).unwrap_or_default();
        let given = new.meta_mut().managed_fields.take();
        let given = given.as_deref().filter(|_| self.subresource.is_none());
        let managers = match given {
            Some(_) if is_reset(given) => Managers::default(),
            // Clients that know nothing of managers do not drop them.
            _ => match Managers::read(given.unwrap_or_default()) {
                Ok(managers) if !managers.is_empty() => managers,
                _ => Managers::read(known).unwrap_or_default(),
            },
        };
        let forms = Forms { call: self, schema: &rules.schema };
        let mut after = forms.shown(&**new)?;
        if drop_empty(rules.schema.root(), &mut after) && self.form.def.alias.is_none() {
            *new = self.kind.def.ops.decode_value(after.clone()).map_err(ApiError::internal)?;
        }
        if managers.is_empty() && old.is_some() {
            return Ok(());
        }
        let before = old.map(|old| forms.shown(old)).transpose()?;
        let write = self.ownership_write(Operation::Update, reset, &forms);
        let tracked =
            write.update(before.as_ref().unwrap_or(&rules.empty), &after, managers, before.is_some());
        // As upstream: a write does not fail for this; the object is without managers then.
        match tracked {
            Ok(managers) => new.meta_mut().managed_fields = managers.write(),
            Err(fault) => {
                error!(kind = self.form.resource().kind(), name = self.name(), %fault, "tracking managed fields")
            }
        }
        Ok(())
    }
}

/// What stands before the first slash of a user agent, without what cannot be shown.
fn program(user_agent: &str) -> String {
    let mut name = String::new();
    for letter in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if name.len() + letter.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        name.push(letter);
    }
    name
}

/// The forms that a kind has in its versions.
pub(super) struct Forms<'a> {
    pub call: &'a Call,
    /// Of the form that the client speaks.
    pub schema: &'a Schema,
}

impl Forms<'_> {
    /// A stored object in the client's form.
    pub fn shown(&self, object: &dyn ApiObject) -> Result<Value, ApiError> {
        match &self.call.form.def.alias {
            None => object.to_value(),
            Some(alias) => match (alias.from_stored)(object) {
                Some(object) => object.to_value(),
                None => Err(ApiError::internal("an object of another kind")),
            },
        }
    }
}

impl Versions for Forms<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, Schema)> {
        let other = self.version(api_version)?;
        let object = converted(&self.call.form, &other, object)?;
        Some((object, other.def.ops.ownership().schema.clone()))
    }

    fn convert_back(&self, object: &Value, api_version: &str) -> Option<Value> {
        converted(&*self.version(api_version)?, &self.call.form, object)
    }
}

impl Forms<'_> {
    /// The same resource in another version, if it is served.
    fn version(&self, api_version: &str) -> Option<Arc<Served>> {
        let other = self.call.api.kind_at(api_version, self.call.form.resource().plural())?;
        Arc::ptr_eq(&other.cache, &self.call.kind.cache).then_some(other)
    }
}

/// Between forms by way of the stored one; versions of a custom resource differ in what they are called.
fn converted(from: &Served, to: &Served, object: &Value) -> Option<Value> {
    if from.def.alias.is_none() && to.def.alias.is_none() {
        let mut object = object.clone();
        object.as_object_mut()?.insert("apiVersion".to_owned(), to.resource().api_version().into());
        return Some(object);
    }
    let typed = from.def.ops.decode_value(object.clone()).ok()?;
    let stored = match &from.def.alias {
        None => typed,
        Some(alias) => (alias.to_stored)(&*typed)?,
    };
    match &to.def.alias {
        None => stored.to_value().ok(),
        Some(alias) => (alias.from_stored)(&*stored)?.to_value().ok(),
    }
}
