//! Carries out one check: an HTTP request or a TCP connect, within its timeout, with upstream's messages.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::unverified_tls;
use http::{Method, Request};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Check, HttpCheck, Outcome};
use crate::runtime::Container;
use crate::runtime::output::output_of;

/// What an exec probe's output is cut to, as upstream.
const OUTPUT_BYTES_MAX: usize = 10 << 10;

/// `container`: where commands are run.
pub async fn run(check: &Check, timeout: Duration, container: &Arc<dyn Container>) -> Outcome {
    let Check::Exec(command) = check else { return ask(check, timeout).await };
    let run = output_of(container, command.clone(), OUTPUT_BYTES_MAX);
    match tokio::time::timeout(timeout, run).await {
        Ok(Ok((0, _))) => Outcome::Success,
        Ok(Ok((_, text))) => Outcome::Failure(String::from_utf8_lossy(&text).into_owned()),
        Ok(Err(error)) => Outcome::Unknown(error.to_string()),
        Err(_) => Outcome::Failure(format!(
            "command timed out: \"{}\" timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        )),
    }
}

/// What needs no container to ask.
async fn ask(check: &Check, timeout: Duration) -> Outcome {
    match check {
        Check::Exec(_) => Outcome::Unknown("missing probe handler".into()),
        Check::Impossible(reason) => Outcome::Unknown(reason.clone()),
        Check::Tcp { host, port } => {
            let address = format!("{host}:{port}");
            match tokio::time::timeout(timeout, TcpStream::connect((host.as_str(), *port))).await {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(error)) => dial_failure(&address, "", &error),
                Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
            }
        }
        Check::Http(request) => {
            let url = url(request);
            match tokio::time::timeout(timeout, get(request)).await {
                Ok(Ok(status)) if (200..400).contains(&status) => Outcome::Success,
                Ok(Ok(status)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
                Ok(Err(GetError::Dial(error))) => dial_failure(
                    &format!("{}:{}", request.host, request.port),
                    &format!("Get \"{url}\": "),
                    &error,
                ),
                Ok(Err(GetError::Other(text))) => Outcome::Failure(format!("Get \"{url}\": {text}")),
                Err(_) => Outcome::Failure(format!(
                    "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                )),
            }
        }
    }
}

fn url(request: &HttpCheck) -> String {
    let scheme = if request.tls { "https" } else { "http" };
    format!("{scheme}://{}:{}{}", request.host, request.port, request.path)
}

fn dial_failure(address: &str, prefix: &str, error: &io::Error) -> Outcome {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Outcome::Refused(format!("{prefix}dial tcp {address}: connect: connection refused"));
    }
    Outcome::Failure(format!("{prefix}dial tcp {address}: connect: {error}"))
}

pub enum GetError {
    Dial(io::Error),
    Other(String),
}

impl GetError {
    pub fn text(&self) -> String {
        match self {
            GetError::Dial(error) => error.to_string(),
            GetError::Other(text) => text.clone(),
        }
    }
}

/// The status code that a GET is answered with; the body is not read.
pub async fn get(request: &HttpCheck) -> Result<u16, GetError> {
    let stream = TcpStream::connect((request.host.as_str(), request.port)).await.map_err(GetError::Dial)?;
    let other = |error: String| GetError::Other(error);
    if !request.tls {
        return exchange(request, stream).await;
    }
    let config = unverified_tls::CONFIG.clone().ok_or_else(|| other("TLS is not available".into()))?;
    let name =
        rustls_pki_types::ServerName::try_from(request.host.clone()).map_err(|e| other(e.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.map_err(|e| other(e.to_string()))?;
    exchange(request, stream).await
}

async fn exchange<S>(request: &HttpCheck, stream: S) -> Result<u16, GetError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let other = |error: String| GetError::Other(error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| other(e.to_string()))?;
    let mut builder = Request::builder().method(Method::GET).uri(&request.path);
    let named = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("Host", format!("{}:{}", request.host, request.port)),
        ("User-Agent", "kube-probe/1.37".into()),
        ("Accept", "*/*".into()),
    ] {
        if !named(name) {
            builder = builder.header(name, value);
        }
    }
    // An empty value removes a default header, as upstream documents for User-Agent and Accept.
    for (name, value) in request.headers.iter().filter(|(_, value)| !value.is_empty()) {
        builder = builder.header(name, value);
    }
    let message =
        builder.header("Connection", "close").body(Empty::new()).map_err(|e| other(e.to_string()))?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(message));
    // One future drives both: a probe is no task of its own.
    tokio::select! {
        answer = &mut answer => answer.map(|a| a.status().as_u16()).map_err(|e| other(e.to_string())),
        ended = &mut connection => {
            ended.map_err(|e| other(e.to_string()))?;
            answer.await.map(|a| a.status().as_u16()).map_err(|e| other(e.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(500);

    /// Answers each connection with `answer`; None: never.
    async fn server(answer: Option<&'static str>) -> (u16, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                if let Some(answer) = answer {
                    let text = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
                    assert!(text.contains("user-agent: kube-probe/1.37") || read == 0, "{text}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                } else {
                    held.push(stream);
                }
            }
        });
        (port, task)
    }

    fn http(port: u16) -> Check {
        Check::Http(HttpCheck {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/healthz".into(),
            headers: vec![],
        })
    }

    #[tokio::test]
    async fn http_outcomes() {
        for (answer, want) in [
            (Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None),
            (Some("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"), None),
            (
                Some("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"),
                Some("HTTP probe failed with statuscode: 503"),
            ),
            (None, Some("context deadline exceeded")),
        ] {
            let (port, task) = server(answer).await;
            match (ask(&http(port), TIMEOUT).await, want) {
                (Outcome::Success, None) => {}
                (Outcome::Failure(text), Some(want)) => assert!(text.contains(want), "{text}"),
                (got, want) => panic!("{got:?}, want {want:?}"),
            }
            task.abort();
        }
    }

    #[tokio::test]
    async fn tcp_and_refusal() {
        let (port, task) = server(None).await;
        assert_eq!(ask(&Check::Tcp { host: "127.0.0.1".into(), port }, TIMEOUT).await, Outcome::Success);
        task.abort();
        let _ = task.await;
        let want = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(
            ask(&Check::Tcp { host: "127.0.0.1".into(), port }, TIMEOUT).await,
            Outcome::Refused(want.clone())
        );
        let got = ask(&http(port), TIMEOUT).await;
        assert_eq!(got, Outcome::Refused(format!("Get \"http://127.0.0.1:{port}/healthz\": {want}")));
    }
}
