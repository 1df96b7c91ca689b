//! ControllerRevision: a state that a controller wants to be able to go back to. What it holds never changes.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::{table, validation};

impl BuiltIn for ControllerRevision {
    const SINGULAR: &'static str = "controllerrevision";

    fn set_defaults(&mut self) {
        self.revision.get_or_insert(0);
    }

    fn validate(&self, errors: &mut Errors) {
        validation::non_negative("revision", self.revision.unwrap_or_default(), errors);
    }

    fn validate_create(&self, errors: &mut Errors) {
        match &self.data.0 {
            Value::Object(_) => {}
            Value::Null => errors.required("data", "data is mandatory"),
            _ => errors.required("data", "data must be a valid JSON object"),
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("data", &self.data, &old.data);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Controller", "string", "What it is a state of."),
            table::narrow("Revision", "string", "Its number: the higher, the newer."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let owners = self.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| {
            let kind = owner.kind.to_lowercase();
            match owner.api_version.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                None => format!("{kind}/{}", owner.name),
            }
        });
        let controller = table::or_none(controller.as_deref()).to_owned();
        table::cells(&self.metadata, now, vec![json!(controller), json!(self.revision.unwrap_or_default())])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted, parse};

    use super::*;

    fn revision() -> Value {
        json!({"metadata": {"name": "r"}, "data": {"spec": {}}, "revision": 2})
    }

    #[test]
    fn what_it_holds_stays() {
        testing::valid::<ControllerRevision>(&[revision()]);
        let mut other = revision();
        other["data"] = json!({"spec": {"a": 1}});
        testing::updates::<ControllerRevision>(&[
            (revision(), revision(), "", ""),
            (revision(), other, "data", "Invalid value: {\"spec\":{\"a\":1}}: field is immutable"),
        ]);
        let mut negative = revision();
        negative["revision"] = json!(-1);
        testing::invalid::<ControllerRevision>(&[(
            negative,
            "revision",
            "Invalid value: -1: must be greater than or equal to 0",
        )]);
    }

    #[test]
    fn it_holds_an_object() {
        for (data, want) in [
            (json!({}), None),
            (json!(null), Some("Required value: data is mandatory")),
            (json!("x"), Some("Required value: data must be a valid JSON object")),
        ] {
            let mut errors = Errors::default();
            let revision: ControllerRevision = defaulted(json!({"metadata": {"name": "r"}, "data": data}));
            revision.validate_create(&mut errors);
            assert_eq!(errors.into_causes().first().map(|c| c.message.as_str()), want);
        }
    }

    #[test]
    fn columns() {
        let mut owned = revision();
        owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true}]);
        assert_eq!(
            testing::cells::<ControllerRevision>(owned),
            ["r", "statefulset.apps/web", "2", "<unknown>"]
        );
        let bare: ControllerRevision = parse(revision());
        assert_eq!(bare.cells(testing::now())[1], "<none>");
    }
}
