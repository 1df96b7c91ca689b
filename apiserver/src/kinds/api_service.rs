//! APIService: who serves a version of an API group: this server, or one behind a service.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceStatus, ServiceReference,
};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};

pub const AVAILABLE: &str = "Available";
const PORT: i32 = 443;
const GROUP_PRIORITY_MAX: i32 = 20_000;
const VERSION_PRIORITY_MAX: i32 = 1000;
const STATUSES: &[&str] = &["True", "False", "Unknown"];

/// What is said of the versions that this server serves itself.
pub fn locally_available(now: Timestamp) -> APIServiceCondition {
    APIServiceCondition {
        type_: AVAILABLE.into(),
        status: "True".into(),
        reason: Some("Local".into()),
        message: Some("Local APIServices are always available".into()),
        last_transition_time: Some(Time(now)),
    }
}

fn service(object: &APIService) -> Option<&ServiceReference> {
    object.spec.as_ref().and_then(|s| s.service.as_ref())
}

impl BuiltIn for APIService {
    const SINGULAR: &'static str = "apiservice";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        if let Some(service) = self.spec.get_or_insert_default().service.as_mut() {
            service.port.get_or_insert(PORT);
        }
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        let condition = service(self).is_none().then(|| vec![locally_available(Timestamp::now())]);
        self.status = Some(APIServiceStatus { conditions: condition });
    }

    fn validate_name(name: &str) -> Result<(), String> {
        validation::path_segment(name)
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        let (group, version) =
            (spec.group.as_deref().unwrap_or_default(), spec.version.as_deref().unwrap_or_default());
        let (name, wanted) =
            (self.metadata.name.as_deref().unwrap_or_default(), format!("{version}.{group}"));
        if name != wanted && !name.is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid("metadata.name", name, detail);
        }
        if group.is_empty() && version != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            errors.required(path.child("group"), detail);
        }
        if !group.is_empty() {
            errors.check(path.child("group"), group, validation::dns_subdomain);
        }
        errors.check(path.child("version"), version, validation::dns_1035_label);
        for (field, value, most) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, GROUP_PRIORITY_MAX),
            ("versionPriority", spec.version_priority, VERSION_PRIORITY_MAX),
        ] {
            if !(1..=most).contains(&value) {
                errors.invalid(path.child(field), value, format!("must be positive and less than {most}"));
            }
        }
        let bundle = spec.ca_bundle.as_ref().map_or(0, |b| b.0.len());
        let insecure = spec.insecure_skip_tls_verify == Some(true);
        let at = path.child("insecureSkipTLSVerify");
        let Some(service) = &spec.service else {
            if bundle > 0 {
                let detail = "local APIServices may not have a caBundle";
                errors.invalid(path.child("caBundle"), format!("{bundle} bytes"), detail);
            }
            if insecure {
                errors.invalid(at, true, "local APIServices may not have insecureSkipTLSVerify");
            }
            return;
        };
        validate_service(service, &path.child("service"), errors);
        if insecure && bundle > 0 {
            errors.invalid(at, true, "may not be true if caBundle is present");
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let path = path.child("conditions");
        let conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        for (i, condition) in conditions.enumerate() {
            if !STATUSES.contains(&condition.status.as_str()) {
                errors.not_supported(path.index(i).child("status"), &condition.status, STATUSES);
            }
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Service", "string", "The reference to the service that hosts this API endpoint."),
            table::narrow("Available", "string", "Whether this service is available."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let service = service(self).map_or_else(
            || "Local".to_owned(),
            |s| {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                format!("{}/{}", text(&s.namespace), text(&s.name))
            },
        );
        let mut conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let available = match conditions.find(|c| c.type_ == AVAILABLE) {
            None => "Unknown".to_owned(),
            Some(condition) if condition.status == "True" => "True".into(),
            Some(condition) => {
                format!("{} ({})", condition.status, condition.reason.as_deref().unwrap_or_default())
            }
        };
        table::cells(&self.metadata, now, vec![json!(service), json!(available)])
    }
}

fn validate_service(service: &ServiceReference, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [("namespace", &service.namespace), ("name", &service.name)] {
        if given(value).is_none() {
            errors.required(path.child(field), "");
        }
    }
    let port = service.port.unwrap_or_default();
    if let Err(detail) = validation::port_number(port) {
        errors.invalid(path.child("port"), port, format!("port is not valid: {detail}"));
    }
}

/// A group, its least priority, and its versions with theirs.
type Group = (&'static str, i32, &'static [(&'static str, i32)]);

/// How the groups are ranked.
const PRIORITIES: &[Group] = &[
    ("", 18_000, &[("v1", 1)]),
    ("apps", 17_800, &[("v1", 15)]),
    ("events.k8s.io", 17_750, &[("v1", 15)]),
    ("authentication.k8s.io", 17_700, &[("v1", 15)]),
    ("authorization.k8s.io", 17_600, &[("v1", 15)]),
    ("autoscaling", 17_500, &[("v1", 15), ("v2", 30)]),
    ("batch", 17_400, &[("v1", 15)]),
    ("certificates.k8s.io", 17_300, &[("v1", 15)]),
    ("networking.k8s.io", 17_200, &[("v1", 15)]),
    ("policy", 17_100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17_000, &[("v1", 15)]),
    ("storage.k8s.io", 16_800, &[("v1", 15)]),
    ("apiextensions.k8s.io", 16_700, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16_700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16_600, &[("v1", 15)]),
    ("coordination.k8s.io", 16_500, &[("v1", 15)]),
    ("node.k8s.io", 16_300, &[("v1", 15)]),
    ("discovery.k8s.io", 16_200, &[("v1", 15)]),
    ("resource.k8s.io", 16_200, &[("v1", 21)]),
    ("flowcontrol.apiserver.k8s.io", 16_100, &[("v1", 21)]),
    ("internal.apiserver.k8s.io", 16_000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15_900, &[("v1", 15)]),
    ("metrics.k8s.io", 100, &[("v1beta1", 100)]),
];

/// The priorities of groups that come with definitions of users.
const CUSTOM: (i32, i32) = (1000, 100);

/// The least priority of a group and the priority of one of its versions.
pub fn priorities(group: &str, version: &str) -> (i32, i32) {
    PRIORITIES
        .iter()
        .find(|(name, ..)| *name == group)
        .and_then(|(_, least, versions)| {
            versions.iter().find(|(name, _)| *name == version).map(|(_, priority)| (*least, *priority))
        })
        .unwrap_or(CUSTOM)
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "n", "name": "s"}});
        spec[field] = value;
        json!({"metadata": {"name": "v1.a.b"}, "spec": spec})
    }

    #[test]
    fn services_are_named_by_what_they_serve() {
        testing::valid::<APIService>(&[
            with("insecureSkipTLSVerify", json!(true)),
            with("service", Value::Null),
        ]);
        testing::invalid::<APIService>(&[
            (
                with("group", json!("a.c")),
                "metadata.name",
                "Invalid value: \"v1.a.b\": must be `spec.version+",
            ),
            (
                with("groupPriorityMinimum", json!(20_001)),
                "spec.groupPriorityMinimum",
                "Invalid value: 20001: must be positive and less than 20000",
            ),
            (
                with("versionPriority", json!(0)),
                "spec.versionPriority",
                "Invalid value: 0: must be positive and less than 1000",
            ),
            (with("service", json!({"name": "s"})), "spec.service.namespace", "Required value"),
            (
                with("service", json!({"name": "s", "namespace": "n", "port": 0})),
                "spec.service.port",
                "Invalid value: 0: port is not valid: must be between 1 and 65535",
            ),
        ]);
        let mut local = with("service", Value::Null);
        local["spec"]["insecureSkipTLSVerify"] = json!(true);
        testing::invalid::<APIService>(&[(
            local,
            "spec.insecureSkipTLSVerify",
            "Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
        )]);
        let mut both = with("insecureSkipTLSVerify", json!(true));
        both["spec"]["caBundle"] = json!("eA==");
        testing::invalid::<APIService>(&[(
            both,
            "spec.insecureSkipTLSVerify",
            "Invalid value: true: may not be true if caBundle is present",
        )]);
    }

    #[test]
    fn local_ones_are_available_at_once() {
        let mut local: APIService = testing::defaulted(with("service", Value::Null));
        local.prepare_create();
        let cells = testing::cells::<APIService>(serde_json::to_value(local).unwrap());
        assert_eq!(cells, ["v1.a.b", "Local", "True", "<unknown>"]);
        let mut remote: APIService = testing::defaulted(with("versionPriority", json!(1)));
        remote.prepare_create();
        let cells = testing::cells::<APIService>(serde_json::to_value(remote).unwrap());
        assert_eq!(cells, ["v1.a.b", "n/s", "Unknown", "<unknown>"]);
    }
}
