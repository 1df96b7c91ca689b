//! Device classes, claims, templates and slices that are refused, each for one reason.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use serde_json::json;

use super::*;
use crate::kinds::testing;

fn class(field: &str, value: Value) -> Value {
    let mut spec = json!({});
    spec[field] = value;
    json!({"metadata": {"name": "c"}, "spec": spec})
}

fn request(field: &str, value: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "c"});
    exactly[field] = value;
    devices("requests", json!([{"name": "r", "exactly": exactly}]))
}

fn devices(field: &str, value: Value) -> Value {
    let mut devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]});
    devices[field] = value;
    json!({"metadata": {"name": "c"}, "spec": {"devices": devices}})
}

fn slice(field: &str, value: Value) -> Value {
    let mut spec = json!({"driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}});
    spec[field] = value;
    json!({"metadata": {"name": "s"}, "spec": spec})
}

fn one_device(field: &str, value: Value) -> Value {
    let mut device = json!({"name": "d"});
    device[field] = value;
    slice("devices", json!([device]))
}

#[test]
fn classes_configure_drivers() {
    testing::valid::<DeviceClass>(&[
        json!({}),
        class("config", json!([{"opaque": {"driver": "d.io", "parameters": {"a": 1}}}])),
        class("extendedResourceName", json!("example.com/gpu")),
    ]);
    testing::invalid::<DeviceClass>(&[
        (class("config", json!([{}])), "spec.config[0].opaque", "Required value"),
        (
            class("config", json!([{"opaque": {"driver": "d.io", "parameters": [1]}}])),
            "spec.config[0].opaque.parameters",
            "Invalid value: \"<value omitted>\": must be a valid JSON object",
        ),
        (
            class("config", json!([{"opaque": {"driver": "", "parameters": {}}}])),
            "spec.config[0].opaque.driver",
            "Required value",
        ),
        (class("selectors", json!([{}])), "spec.selectors[0].cel", "Required value"),
        (
            class("selectors", json!([{"cel": {"expression": "dev.driver == 'a'"}}])),
            "spec.selectors[0].cel.expression",
            "Invalid value: \"dev.driver == 'a'\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'dev'",
        ),
        (
            class("selectors", json!([{"cel": {"expression": "x".repeat(10_241)}}])),
            "spec.selectors[0].cel.expression",
            "Too long: may not be more than 10240 bytes",
        ),
        (
            class("selectors", json!(vec![json!({"cel": {"expression": "true"}}); 33])),
            "spec.selectors",
            "Too many: 33: must have at most 32 items",
        ),
        (
            class("extendedResourceName", json!("cpu")),
            "spec.extendedResourceName",
            "Invalid value: \"cpu\": must be a valid extended resource name",
        ),
    ]);
}

#[test]
fn claims_ask_for_devices() {
    let claim: ResourceClaim = testing::defaulted(request("count", Value::Null));
    let devices_of = claim.spec.unwrap().devices.unwrap();
    let exactly = devices_of.requests.unwrap().remove(0).exactly.unwrap();
    assert_eq!((exactly.allocation_mode.as_deref(), exactly.count), (Some("ExactCount"), Some(1)));

    testing::valid::<ResourceClaim>(&[
        request("allocationMode", json!("All")),
        devices("constraints", json!([{"requests": ["r"], "matchAttribute": "d.io/zone"}])),
        devices(
            "requests",
            json!([{"name": "r", "firstAvailable": [{"name": "a", "deviceClassName": "c"}]}]),
        ),
    ]);
    testing::invalid::<ResourceClaim>(&[
        (
            devices("requests", json!([{"name": "r"}])),
            "spec.devices.requests[0]",
            "Required value: exactly one of `exactly` or `firstAvailable` is required",
        ),
        (
            devices("requests", json!([{"name": "R", "exactly": {"deviceClassName": "c"}}])),
            "spec.devices.requests[0].name",
            "Invalid value: \"R\": a lowercase RFC 1123 label",
        ),
        (
            devices("requests", json!(vec![json!({"name": "r", "exactly": {"deviceClassName": "c"}}); 2])),
            "spec.devices.requests[1]",
            "Duplicate value: \"r\"",
        ),
        (
            request("deviceClassName", json!("")),
            "spec.devices.requests[0].exactly.deviceClassName",
            "Required value",
        ),
        (
            request("count", json!(-1)),
            "spec.devices.requests[0].exactly.count",
            "Invalid value: -1: must be greater than zero",
        ),
        (
            request("allocationMode", json!("X")),
            "spec.devices.requests[0].exactly.allocationMode",
            "Unsupported value: \"X\": supported values: \"All\", \"ExactCount\"",
        ),
        (
            request("tolerations", json!([{"operator": "Exists", "value": "x"}])),
            "spec.devices.requests[0].exactly.tolerations[0].value",
            "Invalid value: \"x\": must be empty for operator `Exists`",
        ),
        (
            devices("constraints", json!([{"requests": ["x"], "matchAttribute": "d.io/zone"}])),
            "spec.devices.constraints[0].requests[0]",
            "Invalid value: \"x\": must be the name of a request in the claim",
        ),
        (
            devices("constraints", json!([{"matchAttribute": "zone"}])),
            "spec.devices.constraints[0].matchAttribute",
            "Invalid value: \"zone\": a fully qualified name must be a domain and a name",
        ),
        (devices("config", json!([{"requests": ["r"]}])), "spec.devices.config[0].opaque", "Required value"),
    ]);
    testing::updates::<ResourceClaim>(&[(
        request("count", json!(1)),
        request("count", json!(2)),
        "spec",
        "Invalid value: {\"devices\":",
    )]);
    let template = json!({"spec": {"spec": {"devices": {"requests": [{"name": "r"}]}}}});
    testing::invalid::<ResourceClaimTemplate>(&[(
        template,
        "spec.spec.devices.requests[0]",
        "Required value",
    )]);
}

#[test]
fn allocations_are_of_what_was_asked() {
    let with = |status: Value| -> ResourceClaim {
        let mut claim = request("count", json!(1));
        claim["status"] = status;
        testing::defaulted(claim)
    };
    let result = |request: &str| json!({"devices": {"results": [{"request": request, "driver": "d.io", "pool": "p", "device": "d"}]}});
    let user = json!({"resource": "pods", "name": "p", "uid": "u"});
    let found = |old: &ResourceClaim, status: Value| -> Vec<(String, String)> {
        let mut errors = Errors::default();
        with(status).validate_status_update(old, &mut errors);
        errors.into_causes().into_iter().map(|c| (c.field, c.message)).collect()
    };
    let none = with(json!({}));
    let allocated = with(json!({"allocation": result("r")}));
    assert!(found(&none, json!({"allocation": result("r"), "reservedFor": [user]})).is_empty());
    for (old, status, field, message) in [
        (&none, json!({"reservedFor": [user]}), "status.reservedFor", "Forbidden: may not be specified when"),
        (
            &none,
            json!({"allocation": result("x")}),
            "status.allocation.devices.results[0].request",
            "Invalid value: \"x\": must be the name of a request",
        ),
        (
            &allocated,
            json!({"allocation": {"devices": {}}}),
            "status.allocation",
            "Invalid value: {\"devices\":{}}: field",
        ),
        (
            &allocated,
            json!({"allocation": result("r"), "reservedFor": [user, user]}),
            "status.reservedFor[1]",
            "Duplicate value: \"u\"",
        ),
        (
            &allocated,
            json!({"allocation": result("r"), "devices": [{"driver": "d.io", "pool": "p", "device": "other"}]}),
            "status.devices[0]",
            "Invalid value: \"d.io/p/other\": must be an allocated device in the claim",
        ),
    ] {
        let found = found(old, status);
        assert!(
            matches!(&found[..], [(f, m)] if f == field && m.starts_with(message)),
            "wanted {field}: {message}, got {found:?}"
        );
    }
    let cells = |status: Value| testing::cells::<ResourceClaim>(serde_json::to_value(with(status)).unwrap());
    assert_eq!(cells(json!({})), ["c", "pending", "<unknown>"]);
    assert_eq!(
        cells(json!({"allocation": result("r"), "reservedFor": [user]})),
        ["c", "allocated,reserved", "<unknown>"]
    );
}

#[test]
fn slices_say_where_devices_are() {
    let attribute = |value: Value| one_device("attributes", json!({"a": value}));
    testing::valid::<ResourceSlice>(&[
        slice("devices", json!([])),
        attribute(json!({"version": "1.2.3-rc.1+b"})),
        one_device("capacity", json!({"d.io/memory": {"value": "1Gi"}})),
        one_device("taints", json!([{"key": "a", "effect": "NoSchedule"}])),
    ]);
    testing::invalid::<ResourceSlice>(&[
        (slice("driver", json!("")), "spec.driver", "Required value"),
        (
            slice("pool", json!({"name": "P", "generation": 0, "resourceSliceCount": 1})),
            "spec.pool.name",
            "Invalid value: \"P\": a lowercase RFC 1123 subdomain",
        ),
        (
            slice("pool", json!({"name": "p", "generation": 0, "resourceSliceCount": 0})),
            "spec.pool.resourceSliceCount",
            "Invalid value: 0: must be greater than zero",
        ),
        (
            slice("nodeName", Value::Null),
            "spec",
            "Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ),
        (
            slice("allNodes", json!(true)),
            "spec",
            "Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`,",
        ),
        (
            slice("allNodes", json!(false)),
            "spec.allNodes",
            "Invalid value: false: must be either unset or set to true",
        ),
        (
            slice("devices", json!([{"name": "a"}, {"name": "a"}])),
            "spec.devices[1]",
            "Duplicate value: \"a\"",
        ),
        (
            attribute(json!({})),
            "spec.devices[0].attributes[a]",
            "Invalid value: \"\": exactly one value must be",
        ),
        (
            attribute(json!({"version": "1"})),
            "spec.devices[0].attributes[a].version",
            "Invalid value: \"1\": must be a string compatible with semver.org spec 2.0.0",
        ),
        (
            one_device("attributes", json!({"1a": {"int": 1}})),
            "spec.devices[0].attributes",
            "Invalid value: \"1a\": a valid C identifier",
        ),
        (
            one_device("taints", json!([{"key": "a", "effect": "X"}])),
            "spec.devices[0].taints[0].effect",
            "Unsupported value: \"X\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
        ),
        (
            one_device("nodeName", json!("n")),
            "spec.devices[0]",
            "Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if",
        ),
        (
            slice("sharedCounters", json!([{"name": "c", "counters": {}}])),
            "spec.sharedCounters[0].counters",
            "Required value",
        ),
    ]);
    testing::updates::<ResourceSlice>(&[
        (
            slice("nodeName", json!("a")),
            slice("nodeName", json!("b")),
            "spec.nodeName",
            "Invalid value: \"b\": field",
        ),
        (
            slice("driver", json!("a")),
            slice("driver", json!("b")),
            "spec.driver",
            "Invalid value: \"b\": field",
        ),
    ]);
    let cells = testing::cells::<ResourceSlice>(slice("nodeName", json!("n")));
    assert_eq!(cells, ["s", "n", "d.io", "p", "<unknown>"]);
}
