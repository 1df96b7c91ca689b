//! Discovery of the built-in kinds.

use super::*;
use crate::negotiation::Form;

fn legacy(discovery: &Discovery, path: &str) -> Value {
    serde_json::from_slice(&discovery.legacy[path]).unwrap()
}

#[test]
fn every_kind_is_found_in_both_forms() {
    let kinds = crate::kinds::all();
    let discovery = Discovery::new(&kinds);
    let aggregated = [&discovery.aggregated.core, &discovery.aggregated.others]
        .map(|d| String::from_utf8_lossy(&d.body).into_owned());
    for def in &kinds {
        let resource = &def.resource;
        let path = if resource.group().is_empty() { "/api/" } else { "/apis/" };
        let list = legacy(&discovery, &format!("{path}{}", resource.api_version()));
        let found = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == resource.plural());
        let found = found.unwrap_or_else(|| panic!("{resource:?} is missing"));
        assert_eq!(found["kind"], resource.kind());
        assert_eq!(found["namespaced"], resource.namespaced());
        assert!(aggregated.iter().any(|d| d.contains(&format!("\"resource\":\"{}\"", resource.plural()))));
    }
}

#[test]
fn subresources_name_their_own_kind() {
    let discovery = Discovery::new(&crate::kinds::all());
    let apps = legacy(&discovery, "/apis/apps/v1");
    let entry = |name: &str| {
        apps["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone()
    };
    let scale = entry("deployments/scale");
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );
    assert_eq!(scale["verbs"], json!(["get", "patch", "update"]));
    assert_eq!(entry("deployments/status")["kind"], "Deployment");
    assert_eq!(entry("deployments")["shortNames"], json!(["deploy"]));
    let groups = legacy(&discovery, "/apis");
    let apps = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "apps").unwrap();
    assert_eq!(apps["preferredVersion"]["groupVersion"], "apps/v1");
    assert!(legacy(&discovery, "/")["paths"].as_array().unwrap().contains(&json!("/apis/apps/v1")));
}

#[tokio::test]
async fn the_form_is_negotiated_and_cached_by_etag() {
    let discovery = Discovery::new(&crate::kinds::all());
    let ask = |accept: &str, etag: Option<HeaderValue>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        if let Some(etag) = etag {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        futures::executor::block_on(discovery.answer("/apis", "", &headers, Form::default())).unwrap()
    };
    const KUBECTL: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let answer = ask(KUBECTL, None);
    assert_eq!(
        answer.headers()[header::CONTENT_TYPE],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let etag = answer.headers()[header::ETAG].clone();
    assert_eq!(ask(KUBECTL, Some(etag)).status(), 304);
    for (accept, aggregated) in [
        ("application/json", false),
        ("*/*", false),
        (
            // The beta is gone, as upstream.
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json;q=0.9",
            false,
        ),
        ("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json", false),
    ] {
        let content_type = ask(accept, None).headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        assert_eq!(content_type.contains("APIGroupDiscoveryList"), aggregated, "{accept}");
    }
}
