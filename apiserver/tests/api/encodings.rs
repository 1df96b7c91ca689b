//! Protobuf, YAML, indented and compressed answers, and what is said to who wants something else.

use std::io::Read;

use http_body_util::BodyExt;
use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::{Value, json};

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CLIENT_GO: &str = "application/vnd.kubernetes.protobuf,application/json";

async fn bytes(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, http::HeaderMap, Vec<u8>) {
    let response = server.raw(method, path, headers, body).await;
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn opened(document: &[u8]) -> (String, Vec<u8>) {
    let unknown = Unknown::decode(document.strip_prefix(b"k8s\0").expect("no envelope")).unwrap();
    (unknown.type_meta.as_ref().unwrap().kind().to_owned(), unknown.raw().to_vec())
}

async fn get(server: &Server, path: &str) -> (String, Vec<u8>) {
    let (code, headers, body) = bytes(server, "GET", path, &[("accept", CLIENT_GO)], Vec::new()).await;
    assert_eq!((code, headers["content-type"].to_str().unwrap()), (200, PROTOBUF), "{path}");
    opened(&body)
}

fn enveloped(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(k8s_pb::apimachinery::pkg::runtime::TypeMeta {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
        }),
        raw: Some(message.encode_to_vec()),
        ..Default::default()
    };
    [&b"k8s\0"[..], &unknown.encode_to_vec()].concat()
}

#[tokio::test]
async fn protobuf_in_both_directions() {
    let server = Server::start().await;
    let map = core::ConfigMap {
        metadata: Some(meta::ObjectMeta { name: Some("a".into()), ..Default::default() }),
        data: [("k".to_owned(), "v".to_owned())].into(),
        ..Default::default()
    };
    let headers = [("content-type", PROTOBUF), ("accept", CLIENT_GO)];
    let (code, _, body) = bytes(&server, "POST", MAPS, &headers, enveloped("v1", "ConfigMap", &map)).await;
    assert_eq!(code, 201);
    let (kind, raw) = opened(&body);
    let created = core::ConfigMap::decode(&*raw).unwrap();
    assert_eq!((kind.as_str(), created.data["k"].as_str()), ("ConfigMap", "v"));
    assert!(!created.metadata.as_ref().unwrap().uid().is_empty());
    assert!(
        created.metadata.as_ref().unwrap().creation_timestamp.as_ref().unwrap().seconds() > 1_700_000_000
    );
    server.post(MAPS, json!({"metadata": {"name": "b", "labels": {"x": "y"}}})).await.expect(201);

    let (_, raw) = get(&server, &format!("{MAPS}/a")).await;
    assert_eq!(core::ConfigMap::decode(&*raw).unwrap(), created);
    for query in ["", "?limit=5", "?labelSelector=x%3Dy"] {
        let (kind, raw) = get(&server, &format!("{MAPS}{query}")).await;
        let list = core::ConfigMapList::decode(&*raw).unwrap();
        let last = list.items.last().unwrap().metadata.as_ref().unwrap();
        assert_eq!((kind.as_str(), last.name()), ("ConfigMapList", "b"), "{query}");
        assert!(list.metadata.unwrap().resource_version().parse::<u64>().unwrap() > 0);
    }
    let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (_, _, body) = bytes(&server, "GET", MAPS, &[("accept", partial)], Vec::new()).await;
    let (kind, raw) = opened(&body);
    let list = meta::PartialObjectMetadataList::decode(&*raw).unwrap();
    assert_eq!(kind, "PartialObjectMetadataList");
    assert_eq!(list.items[0].metadata.as_ref().unwrap().name(), "a");

    let options = meta::DeleteOptions {
        preconditions: Some(meta::Preconditions { uid: Some("other".into()), ..Default::default() }),
        ..Default::default()
    };
    let body = enveloped("v1", "DeleteOptions", &options);
    let (code, _, body) = bytes(&server, "DELETE", &format!("{MAPS}/a"), &headers, body).await;
    assert_eq!(code, 409);
    let (kind, raw) = opened(&body);
    let status = meta::Status::decode(&*raw).unwrap();
    assert_eq!((kind.as_str(), status.reason(), status.code()), ("Status", "Conflict", 409));
}

#[tokio::test]
async fn a_watch_in_protobuf() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.post(MAPS, json!({"metadata": {"name": name}})).await.expect(201);
    }
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let first = server.get(MAPS).await.version() - 3;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={first}");
    // The second is handed what the first made.
    for accept in [CLIENT_GO, "application/vnd.kubernetes.protobuf;stream=watch"] {
        let (code, headers, body) = bytes(&server, "GET", &path, &[("accept", accept)], Vec::new()).await;
        assert_eq!(code, 200);
        assert_eq!(headers["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
        let mut rest = &body[..];
        let mut seen = Vec::new();
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let (event, more) = more.split_at(u32::from_be_bytes(*length) as usize);
            let event = meta::WatchEvent::decode(event).unwrap();
            let (_, raw) = opened(event.object.as_ref().unwrap().raw());
            let map = core::ConfigMap::decode(&*raw).unwrap();
            seen.push(format!("{} {}", event.r#type(), map.metadata.unwrap().name()));
            rest = more;
        }
        assert_eq!(seen, ["ADDED a", "ADDED b", "DELETED a", "BOOKMARK "]);
    }
}

#[tokio::test]
async fn every_answer_as_it_was_asked_for() {
    let server = Server::start().await;
    for (method, path, accept, code, message) in [
        (
            "GET",
            MAPS,
            "text/html",
            406,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ),
        (
            "GET",
            &format!("{MAPS}/x"),
            "application/cbor",
            406,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "GET",
            &format!("{MAPS}?watch=1"),
            "application/yaml",
            406,
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ),
        ("OPTIONS", MAPS, "*/*", 405, "the server does not allow this method on the requested resource"),
    ] {
        let headers = [("accept", accept)];
        let (got, headers, body) = bytes(&server, method, path, &headers, Vec::new()).await;
        let body: Value = if headers["content-type"] == "application/yaml" {
            serde_norway::from_slice(&body).unwrap()
        } else {
            serde_json::from_slice(&body).unwrap()
        };
        assert_eq!((got, body["message"].as_str().unwrap()), (code, message), "{method} {path}");
    }
    assert_eq!(server.raw("HEAD", MAPS, &[], "").await.status(), 405);
    for content_type in ["text/plain", "application/cbor", "garbage;;"] {
        let reply = server.send("POST", MAPS, &[("content-type", content_type)], "{}").await.expect(415);
        assert_eq!(
            reply.message(),
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        );
    }
    let reply = server.send("PATCH", &format!("{MAPS}/x"), &[("content-type", "text/plain")], "{}").await;
    assert_eq!((reply.code, reply.message()), (415, "415: Unsupported Media Type"));
    let charset = [("content-type", "application/json; charset=utf-8")];
    server.send("POST", MAPS, &charset, r#"{"metadata":{"name":"c"}}"#).await.expect(201);
    let (_, _, body) = bytes(&server, "GET", &format!("{MAPS}/c?pretty=true"), &[], Vec::new()).await;
    assert!(body.starts_with(b"{\n  \""), "{}", String::from_utf8_lossy(&body));
    let headers = [("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")];
    server.send("GET", MAPS, &headers, "").await.expect(406);
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_it() {
    let server = Server::start().await;
    let text = "lorem ipsum ".repeat(3000);
    for i in 0..8 {
        let map = json!({"metadata": {"name": format!("m{i}")}, "data": {"k": text}});
        server.post(MAPS, map).await.expect(201);
    }
    let plain = server.get(MAPS).await.json;
    for (path, accept) in [(MAPS, "*/*"), (&format!("{MAPS}?limit=500"), "*/*"), (MAPS, PROTOBUF)] {
        let headers = [("accept-encoding", "gzip, deflate"), ("accept", accept)];
        for _ in 0..2 {
            let (_, headers, body) = bytes(&server, "GET", path, &headers, Vec::new()).await;
            assert_eq!(
                (&headers["content-encoding"], &headers["vary"]),
                (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
            );
            assert!(body.len() < 50_000, "{}", body.len());
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(&*body).read_to_end(&mut content).unwrap();
            if accept == PROTOBUF {
                let list = core::ConfigMapList::decode(&*opened(&content).1).unwrap();
                assert_eq!(list.items.len(), 8);
            } else {
                assert_eq!(serde_json::from_slice::<Value>(&content).unwrap()["items"], plain["items"]);
            }
        }
    }
    let small = server.raw("GET", &format!("{MAPS}/m1"), &[("accept-encoding", "gzip")], "").await;
    assert!(small.headers().get("content-encoding").is_none());
}
