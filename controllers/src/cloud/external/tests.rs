//! The contract against a provider that answers what the test says, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::NOTHING;
use super::http::{Caller, Endpoint};
use crate::cloud::provider::CloudError;

/// What came: first lines and `authorization`.
type Seen = Arc<Mutex<Vec<String>>>;

/// Answers each connection with the next of the answers, as they are.
async fn provider(answers: Vec<&'static str>) -> (Endpoint, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Seen::default();
    let log = seen.clone();
    tokio::spawn(async move {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..read]).to_ascii_lowercase();
            let wanted = text.lines().filter(|l| l.contains("http/1.1") || l.starts_with("authorization"));
            log.lock().push(wanted.collect::<Vec<_>>().join(" | "));
            if answer == "silence" {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (Endpoint { url, token_file: None, ca_file: None, timeout: Duration::from_millis(300) }, seen)
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n{\"a\":1}";
const GONE: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const EMPTY: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
const BUSY: &str =
    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{\"message\":\"on break\"}";
const REFUSED: &str =
    "HTTP/1.1 422 X\r\nContent-Length: 20\r\nConnection: close\r\n\r\n{\"message\":\"no quota\"";
const NO: &str =
    "HTTP/1.1 403 X\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{\"message\":\"no quota\"}";
const NONSENSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n<>";

async fn call(endpoint: Endpoint) -> Result<Option<Value>, CloudError> {
    Caller::new(endpoint).unwrap().call(Method::GET, "/v1/x", NOTHING).await
}

#[tokio::test]
async fn answers_are_told_apart_and_what_may_pass_is_tried_again() {
    let fine = Ok(Some(json!({"a": 1})));
    for (answers, want, requests) in [
        (vec![FINE], fine.clone(), 1),
        (vec![GONE], Ok(None), 1),
        (vec![EMPTY], Ok(Some(json!({}))), 1),
        (vec![BUSY, BROKEN, FINE], fine.clone(), 3),
        (vec![BROKEN, BROKEN, BROKEN, FINE], Err("on break"), 3),
        (vec![NO, FINE], Err("no quota"), 1),
        (vec![REFUSED, FINE], Err("/v1/x"), 1),
        (vec![NONSENSE, FINE], Err("the answer is not what the contract says"), 1),
        (vec!["", FINE], fine, 2),
    ] {
        let (endpoint, seen) = provider(answers.clone()).await;
        let got = call(endpoint).await;
        match (&got, &want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{answers:?}"),
            (Err(error), Err(words)) if error.to_string().contains(words) => {}
            _ => panic!("{answers:?}: {got:?}"),
        }
        // A body that is cut off is another try's business, in the one case where it is.
        assert!(seen.lock().len() >= requests, "{answers:?}: {:?}", seen.lock());
    }
}

#[tokio::test]
async fn silence_ends_in_time() {
    let (endpoint, _) = provider(vec!["silence"]).await;
    let error = call(endpoint).await.unwrap_err().to_string();
    assert!(error.contains("no answer within 300ms") || error.contains("connect"), "{error}");
}

#[tokio::test]
async fn the_token_is_read_each_time() {
    let (mut endpoint, seen) = provider(vec![FINE, FINE]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    endpoint.token_file = Some(path.clone());
    let error = call(endpoint.clone()).await.unwrap_err().to_string();
    assert!(error.contains("--cloud-provider-token-file"), "{error}");
    let caller = Caller::new(endpoint).unwrap();
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        caller.call::<Value>(Method::GET, "/v1/x", NOTHING).await.unwrap();
    }
    let seen = seen.lock().clone();
    assert!(
        seen[0].ends_with("authorization: bearer first") && seen[1].ends_with("bearer second"),
        "{seen:?}"
    );
}

#[test]
fn endpoints_are_checked() {
    let endpoint = |url: &str, ca: Option<&str>| Endpoint {
        url: url.parse().unwrap(),
        token_file: None,
        ca_file: ca.map(Into::into),
        timeout: Duration::from_secs(1),
    };
    assert!(Caller::new(endpoint("http://127.0.0.1:1", None)).is_ok());
    for (url, ca) in [
        ("ftp://x", None),
        ("/path", None),
        ("https://x", Some("/nowhere")),
        ("https://x", Some("/dev/null")),
    ] {
        assert!(Caller::new(endpoint(url, ca)).is_err(), "{url} {ca:?}");
    }
}
