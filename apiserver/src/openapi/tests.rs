//! The documents as clients read them.

use super::*;
use crate::kinds;

fn built_in() -> Vec<Arc<KindDef>> {
    kinds::all().into_iter().map(Arc::new).collect()
}

fn documents() -> (OpenApi, Value) {
    let openapi = OpenApi::new(&built_in());
    let core = parsed(openapi.document("api/v1").unwrap());
    (openapi, core)
}

fn parsed(document: &Document) -> Value {
    serde_json::from_slice(&document.content().unwrap()).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(k, v)| (header::HeaderName::from_static(k), HeaderValue::from_str(v).unwrap()))
        .collect()
}

#[test]
fn the_index_leads_to_documents() {
    let (openapi, _) = documents();
    let index = openapi.index();
    for path in ["api/v1", "apis/apps/v1", "apis/discovery.k8s.io/v1", "apis/authorization.k8s.io/v1"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
        let (path, query) = url.split_once('?').unwrap();
        let response = openapi.answer(path, query, &HeaderMap::new()).unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let (openapi, _) = documents();
    for (_, document) in openapi.documents() {
        let document = parsed(document);
        let mut text = &*document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut count = 0;
        while let Some(at) = text.find(components::PREFIX) {
            text = &text[at + components::PREFIX.len()..];
            let name = &text[..text.find('"').unwrap()];
            assert!(schemas.contains_key(name), "{name}");
            count += 1;
        }
        assert!(count > 3);
    }
}

#[test]
fn schemas_are_in_upstreams_form() {
    let (openapi, core) = documents();
    let schemas = &core["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{ "group": "", "version": "v1", "kind": "Pod" }])
    );
    assert_eq!(pod.get("required"), None);
    assert_eq!(
        pod["properties"]["spec"]["allOf"],
        json!([{ "$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec" }])
    );
    assert_eq!(pod["properties"]["spec"]["default"], json!({}));
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(spec["properties"]["tolerations"]["x-kubernetes-list-type"], "atomic");
    assert_eq!(spec["required"], json!(["containers"]));
    assert_eq!(
        schemas["io.k8s.api.core.v1.PodList"]["x-kubernetes-group-version-kind"],
        json!([{ "group": "", "version": "v1", "kind": "PodList" }])
    );
    assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], "int-or-string");
    let groups = |document: &Value| -> Vec<String> {
        let options = &document["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
        let kinds = options["x-kubernetes-group-version-kind"].as_array().unwrap();
        kinds.iter().map(|kind| kind["group"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(groups(schemas), [""]);
    let apps = parsed(openapi.document("apis/apps/v1").unwrap());
    assert_eq!(groups(&apps["components"]["schemas"]), ["", "apps"]);
    let swagger = parsed(openapi.swagger().unwrap());
    assert!(groups(&swagger["definitions"]).len() > 20);
}

#[test]
fn what_upstreams_documents_say_of_elements_watches_and_connections() {
    let (_, core) = documents();
    let schemas = &core["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["items"];
    assert_eq!(*containers, json!({ "$ref": "#/components/schemas/io.k8s.api.core.v1.Container" }));
    let container = &schemas["io.k8s.api.core.v1.Container"]["properties"];
    assert_eq!(container["command"]["items"], json!({ "type": "string" }));
    assert_eq!(container["imagePullPolicy"]["enum"], json!(["Always", "IfNotPresent", "Never"]));
    let limits = &schemas["io.k8s.api.core.v1.ResourceRequirements"]["properties"]["limits"];
    assert!(limits["additionalProperties"]["$ref"].as_str().unwrap().ends_with("Quantity"));
    let paths = &core["paths"];
    let watch = &paths["/api/v1/watch/namespaces/{namespace}/pods/{name}"]["get"];
    assert_eq!(watch["operationId"], "watchCoreV1NamespacedPod");
    assert_eq!(watch["x-kubernetes-action"], "watch");
    assert_eq!(paths["/api/v1/watch/nodes"]["get"]["operationId"], "watchCoreV1NodeList");
    let proxy = &paths["/api/v1/nodes/{name}/proxy/{path}"]["put"];
    assert_eq!(proxy["operationId"], "connectCoreV1PutNodeProxyWithPath");
    assert_eq!(proxy["x-kubernetes-group-version-kind"]["kind"], "NodeProxyOptions");
    let answer = &paths["/api/v1/namespaces/{namespace}/pods"]["get"]["responses"]["200"]["content"];
    assert!(answer["application/vnd.kubernetes.protobuf;stream=watch"].is_object());
    assert_eq!(core["info"]["version"], "1.37");
}

#[test]
fn writes_declare_what_kubectl_looks_for() {
    let (openapi, core) = documents();
    let apps = parsed(openapi.document("apis/apps/v1").unwrap());
    let named = |operation: &Value, name: &str| {
        operation["parameters"].as_array().unwrap().iter().any(|p| p["name"] == name)
    };
    for (document, path) in [
        (&core, "/api/v1/namespaces/{namespace}/pods"),
        (&core, "/api/v1/nodes"),
        (&apps, "/apis/apps/v1/namespaces/{namespace}/deployments"),
    ] {
        let collection = &document["paths"][path];
        let object = &document["paths"][format!("{path}/{{name}}")];
        for operation in [&collection["post"], &object["put"], &object["patch"]] {
            assert!(named(operation, "fieldValidation") && named(operation, "dryRun"), "{path}");
        }
        assert!(named(&collection["get"], "watch"));
        assert_eq!(object["patch"]["x-kubernetes-action"], "patch");
    }
    assert_eq!(
        core["paths"]["/api/v1/namespaces/{namespace}/pods"]["get"]["operationId"],
        "listCoreV1NamespacedPod"
    );
    assert_eq!(
        core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"]["x-kubernetes-group-version-kind"],
        json!({ "group": "policy", "version": "v1", "kind": "Eviction" })
    );
    let scale = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn answers() {
    let (openapi, _) = documents();
    let answer = |path: &str, query: &str, pairs: &[(&'static str, &str)]| {
        openapi.answer(path, query, &headers(pairs)).map(|answer| match answer {
            Ok(response) => (response.status().as_u16(), response.headers().clone()),
            Err(error) => (error.code(), HeaderMap::new()),
        })
    };
    let etag = openapi.document("api/v1").unwrap().etag();
    assert_eq!(answer("/openapi/v3/api/v1", "", &[("if-none-match", &etag)]).unwrap().0, 304);
    let (code, out) = answer("/openapi/v3/api/v1", "hash=OLD", &[]).unwrap();
    assert_eq!(code, 301);
    assert!(out["location"].to_str().unwrap().starts_with("/openapi/v3/api/v1?hash="));
    let (code, out) = answer("/openapi/v3/api/v1", "", &[("accept-encoding", "gzip, br")]).unwrap();
    assert_eq!((code, out["content-encoding"].to_str().unwrap()), (200, "gzip"));
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, out) = answer("/openapi/v2", "", &[("accept", protobuf)]).unwrap();
    let sent = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!((code, out["content-type"].to_str().unwrap()), (200, sent));
    assert_eq!(answer("/openapi/v2", "", &[("accept", "text/html")]).unwrap().0, 406);
    assert_eq!(answer("/openapi/v3", "", &[("accept", protobuf)]).unwrap().0, 406);
    assert_eq!(answer("/openapi/v2", "", &[("accept", "application/json")]).unwrap().0, 200);
    assert_eq!(answer("/openapi/v3", "", &[]).unwrap().0, 200);
    for path in ["/openapi/v3/apis/nothing/v1", "/openapi/v4", "/api", "/openapi/v3x"] {
        assert!(answer(path, "", &[]).is_none(), "{path}");
    }
}

#[test]
fn swagger_says_the_same() {
    let (openapi, _) = documents();
    let swagger = parsed(openapi.swagger().unwrap());
    assert_eq!(swagger["swagger"], "2.0");
    let spec = &swagger["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].is_string());
    let patch = &swagger["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"body") && names.contains(&"fieldValidation"));
    assert_eq!(patch["responses"]["200"]["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    assert!(!swagger.to_string().contains("#/components/"));
}

#[test]
fn kept_documents_are_small() {
    let (openapi, _) = documents();
    let bytes: usize = openapi.documents().map(|(_, document)| document.gzip.len()).sum();
    assert!(bytes < 1024 * 1024, "{bytes} bytes");
}

#[test]
fn only_what_changed_is_described_anew() {
    let mut kinds = built_in();
    let before = OpenApi::new(&kinds);
    let hash = |openapi: &OpenApi, path: &str| openapi.document(path).map(|document| document.hash.clone());
    let (core, apps) = (hash(&before, "api/v1"), hash(&before, "apis/apps/v1"));
    kinds.retain(|kind| kind.resource.kind() != "Deployment");
    let after = OpenApi::after(Some(&before), &kinds);
    let described = |path: &str| after.parts[path].document.get().is_some();
    assert!(described("api/v1") && !described("apis/apps/v1") && !described("apis/batch/v1"));
    assert_eq!(hash(&after, "api/v1"), core);
    assert_ne!(hash(&after, "apis/apps/v1"), apps);
}
