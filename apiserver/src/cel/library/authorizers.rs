//! What an authorizer can be asked. Rules of custom resources have none, so nothing here is ever carried out; but an
//! expression that uses one is refused for the variable that is missing, as upstream refuses it, not for the functions.

use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

pub fn declare(functions: &mut Functions) {
    for (name, overloads) in [
        ("path", &[("authorizer_path", "authorizer, string -> pathcheck")] as &[(&'static str, &str)]),
        ("group", &[("authorizer_group", "authorizer, string -> groupcheck")]),
        ("serviceAccount", &[("authorizer_serviceaccount", "authorizer, string, string -> authorizer")]),
        ("resource", &[("groupcheck_resource", "groupcheck, string -> resourcecheck")]),
        ("subresource", &[("resourcecheck_subresource", "resourcecheck, string -> resourcecheck")]),
        ("namespace", &[("resourcecheck_namespace", "resourcecheck, string -> resourcecheck")]),
        ("name", &[("resourcecheck_name", "resourcecheck, string -> resourcecheck")]),
        ("fieldSelector", &[("authorizer_fieldselector", "resourcecheck, string -> resourcecheck")]),
        ("labelSelector", &[("authorizer_labelselector", "resourcecheck, string -> resourcecheck")]),
        (
            "check",
            &[
                ("pathcheck_check", "pathcheck, string -> decision"),
                ("resourcecheck_check", "resourcecheck, string -> decision"),
            ],
        ),
        ("errored", &[("decision_errored", "decision -> bool")]),
        ("error", &[("decision_error", "decision -> string")]),
        ("allowed", &[("decision_allowed", "decision -> bool")]),
        ("reason", &[("decision_reason", "decision -> string")]),
    ] {
        functions.member(name, nothing, overloads);
    }
}

/// No value is of such a type.
fn nothing<'a>(_site: &Site, _arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    Err(EvalError::new("no such overload"))
}
