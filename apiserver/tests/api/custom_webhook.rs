//! Versions of a custom resource that a webhook converts, over TLS with the definition's own CA.

use std::sync::Arc;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::custom::{DEFINITIONS, defined};
use crate::harness::Server;

/// `spec.both` ("a-b") in v1 is `spec.first` and `spec.second` in v2.
fn converted(mut object: Value, to: &str) -> Value {
    object["apiVersion"] = json!(to);
    if to.ends_with("/v2") {
        let both = object["spec"]["both"].as_str().unwrap_or("-").to_owned();
        let (first, second) = both.split_once('-').unwrap();
        object["spec"] = json!({"first": first, "second": second});
    } else {
        let text = |name: &str| object["spec"][name].as_str().unwrap_or_default().to_owned();
        object["spec"] = json!({"both": format!("{}-{}", text("first"), text("second"))});
    }
    object
}

async fn review(request: Request<hyper::body::Incoming>) -> Result<Response<Body>, std::convert::Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let to = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let objects = review["request"]["objects"].as_array().unwrap().iter();
    let objects: Vec<Value> = objects.map(|object| converted(object.clone(), to)).collect();
    let answer = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects}});
    Ok(Response::new(Body::from(answer.to_string())))
}

/// The port, and the certificate to trust.
async fn webhook() -> (u16, String) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = pair.cert.pem();
    let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(review));
                drop(served.await);
            });
        }
    });
    (port, pem)
}

#[tokio::test]
async fn a_webhook_converts_what_goes_in_and_comes_out() {
    let (port, pem) = webhook().await;
    let server = Server::start().await;
    let version = |name: &str, storage: bool, fields: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": fields}}}}})
    };
    let text = json!({"type": "string"});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pairs.probe.example.com"},
        "spec": {"group": "probe.example.com", "scope": "Namespaced", "names": {"plural": "pairs", "kind": "Pair"},
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://localhost:{port}/convert"), "caBundle": STANDARD.encode(&pem)}}},
            "versions": [version("v1", true, json!({"both": text})), version("v2", false, json!({"first": text, "second": text}))]}});
    defined(&server, definition).await;
    let path = |version: &str| format!("/apis/probe.example.com/{version}/namespaces/default/pairs");
    let one = json!({"apiVersion": "probe.example.com/v1", "kind": "Pair", "metadata": {"name": "a"}, "spec": {"both": "x-y"}});
    server.post(&path("v1"), one).await.expect(201);
    let shown = server.get(&format!("{}/a", path("v2"))).await.expect(200).json;
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]),
        (&json!("probe.example.com/v2"), &json!({"first": "x", "second": "y"}))
    );
    let listed = server.get(&path("v2")).await.expect(200);
    let mut events =
        server.watch(&format!("{}?watch=1&resourceVersion={}", path("v2"), listed.version())).await;
    server.merge(&format!("{}/a", path("v2")), json!({"spec": {"second": "z"}})).await.expect(200);
    let event = events.next().await.unwrap();
    assert_eq!(event["object"]["spec"], json!({"first": "x", "second": "z"}));
    let stored = server.get(&format!("{}/a", path("v1"))).await.expect(200).json;
    assert_eq!(stored["spec"], json!({"both": "x-z"}));

    // What is stored in one version and what is stored in the other are listed in either.
    let definition = format!("{DEFINITIONS}/pairs.probe.example.com");
    let mut turned = server.get(&definition).await.expect(200).json;
    for (version, storage) in [(0, false), (1, true)] {
        turned["spec"]["versions"][version]["storage"] = json!(storage);
    }
    let turned = server.put(&definition, turned).await.expect(200).json;
    assert_eq!(turned["status"]["storedVersions"], json!(["v1", "v2"]));
    let two = json!({"apiVersion": "probe.example.com/v2", "kind": "Pair", "metadata": {"name": "b"}, "spec": {"first": "p", "second": "q"}});
    server.post(&path("v2"), two).await.expect(201);
    for (version, want) in [
        ("v2", json!([{"first": "x", "second": "z"}, {"first": "p", "second": "q"}])),
        ("v1", json!([{"both": "x-z"}, {"both": "p-q"}])),
    ] {
        let listed = server.get(&path(version)).await.expect(200);
        let specs: Vec<&Value> =
            listed.json["items"].as_array().unwrap().iter().map(|item| &item["spec"]).collect();
        assert_eq!(json!(specs), want, "{version}");
    }

    let away = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://localhost:1/convert"}}}}});
    server.merge(&format!("{DEFINITIONS}/pairs.probe.example.com"), away).await.expect(200);
    let mut refused = server.get(&format!("{}/a", path("v2"))).await;
    while refused.code == 200 {
        tokio::task::yield_now().await;
        refused = server.get(&format!("{}/a", path("v2"))).await;
    }
    assert_eq!(refused.code, 500);
    assert!(refused.message().contains("conversion webhook for probe.example.com/v1, Kind=Pair failed: Post \"https://localhost:1/convert\""), "{}", refused.message());
}
