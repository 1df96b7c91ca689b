//! Strategic merge patches, case by case.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceAccount};
use schemars::generate::SchemaSettings;
use serde_json::json;

use super::*;
use crate::schema::Types;

/// The types under test, whether their kinds are served or not.
fn tree() -> Types {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut roots = schema::documents(&mut generator);
    roots.push(("v1".into(), "Pod".into(), generator.subschema_for::<Pod>()));
    roots.push(("apps/v1".into(), "Deployment".into(), generator.subschema_for::<Deployment>()));
    roots.push(("v1".into(), "Service".into(), generator.subschema_for::<Service>()));
    roots.push(("v1".into(), "Node".into(), generator.subschema_for::<Node>()));
    roots.push(("v1".into(), "ServiceAccount".into(), generator.subschema_for::<ServiceAccount>()));
    Types::build(&generator, roots)
}

fn patch_of(types: &Types, kind: &str, current: &Value, patch: &Value) -> Result<Value, ApiError> {
    let api_version = if kind == "Deployment" { "apps/v1" } else { "v1" };
    strategic::apply(types, types.kind(api_version, kind), current, patch.to_string().as_bytes())
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn whole_documents() {
    let cases: Vec<(&str, &str, Value, Value, Value)> = vec![
        (
            "maps merge, null deletes",
            "Pod",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}, "name": "p"}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}, "name": "p"}}),
        ),
        (
            "null of an absent field is nothing, and is not kept in new maps",
            "Pod",
            json!({"metadata": {}}),
            json!({"metadata": {"labels": null, "annotations": {"a": null, "b": "1"}}}),
            json!({"metadata": {"annotations": {"b": "1"}}}),
        ),
        (
            "containers merge by name, and keep their place",
            "Pod",
            pod(
                json!({"containers": [{"name": "a", "image": "x:1", "args": ["1"]}, {"name": "b", "image": "y:1"}]}),
            ),
            pod(json!({"containers": [{"name": "b", "image": "y:2"}]})),
            pod(
                json!({"containers": [{"name": "a", "image": "x:1", "args": ["1"]}, {"name": "b", "image": "y:2"}]}),
            ),
        ),
        (
            "a new element comes first",
            "Pod",
            pod(json!({"containers": [{"name": "a"}]})),
            pod(json!({"containers": [{"name": "b", "image": "y"}]})),
            pod(json!({"containers": [{"name": "b", "image": "y"}, {"name": "a"}]})),
        ),
        (
            "atomic lists are replaced",
            "Pod",
            pod(json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]})),
            pod(json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]})),
            pod(json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]})),
        ),
        (
            "taints are replaced",
            "Node",
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
            json!({"spec": {"taints": [{"key": "b", "effect": "NoExecute"}]}}),
            json!({"spec": {"taints": [{"key": "b", "effect": "NoExecute"}]}}),
        ),
        (
            "conditions and addresses by type",
            "Node",
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r"}, {"type": "DiskPressure"}],
                "addresses": [{"type": "Hostname", "address": "h"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "Hostname", "address": "g"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "r"}, {"type": "DiskPressure"}],
                "addresses": [{"type": "Hostname", "address": "g"}]}}),
        ),
        (
            "delete an element",
            "Pod",
            pod(
                json!({"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]}),
            ),
            pod(
                json!({"containers": [{"name": "a", "$patch": "delete"}], "volumes": [{"$patch": "delete", "name": "v"}]}),
            ),
            pod(json!({"containers": [{"name": "b"}], "volumes": []})),
        ),
        (
            "replace a list",
            "Pod",
            pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
            pod(json!({"containers": [{"name": "c"}, {"$patch": "replace"}]})),
            pod(json!({"containers": [{"name": "c"}]})),
        ),
        (
            "replace a map",
            "Deployment",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            "delete a map",
            "Pod",
            pod(json!({"securityContext": {"runAsUser": 1}, "nodeName": "n"})),
            pod(json!({"securityContext": {"$patch": "delete"}})),
            pod(json!({"securityContext": {}, "nodeName": "n"})),
        ),
        (
            "retain keys of a map",
            "Deployment",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            "retain keys of a volume, whose source changes",
            "Pod",
            pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
            pod(
                json!({"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}),
            ),
            pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})),
        ),
        (
            "retain keys beside a null for what goes, as kubectl apply sends it",
            "Pod",
            pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
            pod(json!({"$setElementOrder/volumes": [{"name": "v"}],
                "volumes": [{"$retainKeys": ["configMap", "name"], "name": "v", "configMap": {"name": "c"}, "emptyDir": null}]})),
            pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})),
        ),
        (
            "finalizers merge, without doubles",
            "Pod",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        ),
        (
            "delete from a list of scalars",
            "Pod",
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"]}}),
            json!({"metadata": {"finalizers": ["a", "c"]}}),
        ),
        (
            "delete from a list of scalars, add and order",
            "Pod",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        ),
        (
            "owner references by uid",
            "Pod",
            json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}]}}),
            json!({"metadata": {"ownerReferences": [{"uid": "1", "$patch": "delete"}, {"uid": "2", "controller": true}]}}),
            json!({"metadata": {"ownerReferences": [{"uid": "2", "name": "b", "controller": true}]}}),
        ),
        (
            "order of elements, with a change and a server's element",
            "Pod",
            pod(json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b", "image": "1"}]})),
            pod(
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "2"}]}),
            ),
            pod(json!({"containers": [{"name": "server"}, {"name": "b", "image": "2"}, {"name": "a"}]})),
        ),
        (
            "order alone",
            "Pod",
            pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
            pod(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})),
            pod(json!({"containers": [{"name": "b"}, {"name": "a"}]})),
        ),
        (
            "order of an absent list is nothing",
            "Pod",
            pod(json!({})),
            pod(json!({"$setElementOrder/volumes": [{"name": "b"}]})),
            pod(json!({})),
        ),
        (
            "env by name, nested, as kubectl set env sends it",
            "Deployment",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}}}}),
            json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a",
                "$setElementOrder/env": [{"name": "X"}, {"name": "Z"}],
                "env": [{"name": "Z", "value": "3"}, {"name": "Y", "$patch": "delete"}]}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Z", "value": "3"}]}]}}}}),
        ),
        (
            "value to valueFrom",
            "Pod",
            pod(json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]})),
            pod(
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": null, "valueFrom": {"fieldRef": {"fieldPath": "f"}}}]}]}),
            ),
            pod(
                json!({"containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "f"}}}]}]}),
            ),
        ),
        (
            "container ports by number, service ports by port",
            "Service",
            json!({"spec": {"ports": [{"port": 80, "targetPort": 1, "name": "a"}, {"port": 443, "name": "b"}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 2}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 2, "name": "a"}, {"port": 443, "name": "b"}]}}),
        ),
        (
            "volume mounts by path, host aliases by ip, spread by topology key",
            "Pod",
            pod(
                json!({"containers": [{"name": "a", "volumeMounts": [{"mountPath": "/a", "name": "v"}], "ports": [{"containerPort": 1, "name": "p"}]}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
                "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}]}),
            ),
            pod(
                json!({"containers": [{"name": "a", "volumeMounts": [{"mountPath": "/a", "readOnly": true}], "ports": [{"containerPort": 1, "protocol": "UDP"}]}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}],
                "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}]}),
            ),
            pod(
                json!({"containers": [{"name": "a", "volumeMounts": [{"mountPath": "/a", "name": "v", "readOnly": true}],
                    "ports": [{"containerPort": 1, "name": "p", "protocol": "UDP"}]}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}],
                "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}]}),
            ),
        ),
        (
            "secrets of a service account merge, pull secrets there are atomic",
            "ServiceAccount",
            json!({"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "a"}]}),
            json!({"secrets": [{"name": "b"}], "imagePullSecrets": [{"name": "b"}]}),
            json!({"secrets": [{"name": "b"}, {"name": "a"}], "imagePullSecrets": [{"name": "b"}]}),
        ),
        (
            "in what is new only deletions are carried out: the rest becomes fields, which clients are warned of",
            "Pod",
            json!({}),
            pod(
                json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$setElementOrder/env": [{"name": "X"}],
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "$patch": "delete"}]}], "securityContext": {"$retainKeys": ["runAsUser"], "runAsUser": 1}}),
            ),
            pod(
                json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$setElementOrder/env": [{"name": "X"}],
                "env": [{"name": "X", "value": "1"}]}], "securityContext": {"$retainKeys": ["runAsUser"], "runAsUser": 1}}),
            ),
        ),
        (
            "a directive in the place of a map that is not there is nothing",
            "Pod",
            json!({"metadata": {}}),
            json!({"metadata": {"labels": {"$patch": "replace", "a": "1"}, "annotations": {"$patch": "frob"}}}),
            json!({"metadata": {}}),
        ),
        (
            "a replaced map is taken as it is",
            "Pod",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "b": null, "$retainKeys": ["b"]}}}),
            json!({"metadata": {"labels": {"b": null, "$retainKeys": ["b"]}}}),
        ),
        (
            "a list that does not merge is taken as it is",
            "Pod",
            pod(json!({"tolerations": [{"key": "a"}]})),
            pod(json!({"tolerations": [{"$patch": "replace"}, {"key": "b"}]})),
            pod(json!({"tolerations": [{"$patch": "replace"}, {"key": "b"}]})),
        ),
        (
            "a scalar over a map, a map over a scalar",
            "Pod",
            json!({"metadata": {"annotations": {"a": "1"}}, "spec": {"nodeName": "n"}}),
            json!({"spec": {"nodeName": "m"}}),
            json!({"metadata": {"annotations": {"a": "1"}}, "spec": {"nodeName": "m"}}),
        ),
        (
            "nothing changes nothing",
            "Pod",
            pod(json!({"nodeName": "n"})),
            json!({}),
            pod(json!({"nodeName": "n"})),
        ),
    ];
    let types = tree();
    for (what, kind, current, patch, want) in cases {
        assert_eq!(patch_of(&types, kind, &current, &patch).unwrap(), want, "{what}");
    }
}

#[test]
fn refusals() {
    let types = tree();
    let current = pod(json!({"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v"}]}));
    for (what, patch, code, message) in [
        (
            "an element without its key",
            pod(json!({"containers": [{"image": "x", "args": ["1", "2"]}]})),
            500,
            "map: map[args:[1 2] image:x] does not contain declared merge key: name",
        ),
        (
            "a deletion without its key",
            pod(json!({"containers": [{"$patch": "delete"}]})),
            500,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            "an unknown directive",
            pod(json!({"containers": [{"name": "a", "$patch": "frob"}]})),
            500,
            "unknown patch type: frob in map: map[$patch:frob name:a]",
        ),
        (
            "a map is not merged by directive",
            json!({"spec": {"$patch": "merge"}}),
            500,
            "unknown patch type: merge in map: map[$patch:merge]",
        ),
        (
            "a directive that is no text",
            json!({"spec": {"$patch": 1}}),
            500,
            "unknown patch type: %!s(int64=1) in map: map[$patch:1]",
        ),
        (
            "the patch's order against the order",
            pod(
                json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b"}, {"name": "a"}]}),
            ),
            500,
            "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] \
             map[name:b]]\n",
        ),
        (
            "keys the patch does not retain",
            pod(json!({"volumes": [{"name": "v", "emptyDir": {}, "$retainKeys": ["name"]}]})),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            "an order that is no list",
            pod(json!({"$setElementOrder/containers": 5})),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (
            "no object",
            json!([1]),
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
    ] {
        let error = patch_of(&types, "Pod", &current, &patch).unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message), "{what}");
    }
}

#[test]
fn deletions_and_orders_that_say_nothing_do_nothing() {
    let types = tree();
    let current = json!({"metadata": {"finalizers": ["a.b/x"]}});
    for (patch, want) in [
        (json!({"$deleteFromPrimitiveList/finalizers": "a.b/x"}), json!(["a.b/x"])),
        (json!({"$deleteFromPrimitiveList/": ["a.b/x"]}), json!(["a.b/x"])),
        (json!({"$setElementOrder/finalizers": [], "finalizers": ["a.b/y"]}), json!(["a.b/x", "a.b/y"])),
    ] {
        let patched = patch_of(&types, "Pod", &current, &json!({"metadata": patch})).unwrap();
        assert_eq!(patched["metadata"]["finalizers"], want, "{patch}");
    }
}

#[test]
fn server_side_apply_is_not_here_yet() {
    let kind = KindDef::of::<k8s_openapi::api::core::v1::ConfigMap>();
    let error = apply(&kind, PatchType::Apply, &json!({}), b"{}").unwrap_err();
    assert_eq!(error.code(), 415);
    assert!(
        apply(&kind, PatchType::Strategic, &json!({"data": {"a": "1"}}), br#"{"data":{"b":"2"}}"#).is_ok()
    );
}
