//! Requests to the API server as they stand, well-formed or not: no client library comes between.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// The API server's address and the administrator's credentials.
pub struct Https {
    address: String,
    config: Arc<ClientConfig>,
    anonymous: Arc<ClientConfig>,
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}), status {}: {}", self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Https {
    pub fn from_kubeconfig(path: &Path) -> Https {
        let text = std::fs::read_to_string(path).unwrap();
        let config: Value = serde_norway::from_str(&text).unwrap();
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let decoded = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&decoded(&cluster["certificate-authority-data"])) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&decoded(&user["client-certificate-data"]))
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_slice(&decoded(&user["client-key-data"])).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots.clone())
        };
        Https {
            address: cluster["server"].as_str().unwrap().trim_start_matches("https://").to_owned(),
            config: Arc::new(builder().with_client_auth_cert(chain, key).unwrap()),
            anonymous: Arc::new(builder().with_no_client_auth()),
        }
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, &[("content-type", "application/json")], body.as_ref())
    }

    pub fn put(&self, path: &str, body: &Value) -> Response {
        self.request("PUT", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// A request with its answer; the whole body is read.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.exchange(&self.config, method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A request that may fail on its way, as those to a server that is being killed do.
    pub fn try_request(&self, method: &str, path: &str, body: &[u8]) -> Result<Response, String> {
        self.exchange(&self.config, method, path, &[("content-type", "application/json")], body)
    }

    /// A request without a client certificate.
    pub fn anonymous(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.exchange(&self.anonymous, method, path, headers, b"")
            .unwrap_or_else(|error| panic!("anonymous {method} {path}: {error}"))
    }

    /// A connection of the administrator's, for whoever sends more than one request over it.
    pub fn connect(&self) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
        self.connection(&self.config)
    }

    /// `ADDRESS:PORT`, as the host header has it.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn connection(
        &self,
        config: &Arc<ClientConfig>,
    ) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
        let host = self.address.split(':').next().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let connection = ClientConnection::new(config.clone(), name).map_err(|error| error.to_string())?;
        let socket = TcpStream::connect(&self.address).map_err(|error| error.to_string())?;
        socket.set_read_timeout(Some(ANSWER_PATIENCE)).map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(StreamOwned::new(connection, socket))
    }

    fn exchange(
        &self,
        config: &Arc<ClientConfig>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, String> {
        let mut stream = self.connection(config)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        for (header, value) in headers {
            head.push_str(&format!("{header}: {value}\r\n"));
        }
        if !body.is_empty() || method != "GET" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).map_err(|error| error.to_string())?;
        // A server may answer, and close, before it has read a body that it refuses.
        let sent = stream.write_all(body).and_then(|()| stream.flush());
        let mut answer = Vec::new();
        let received = stream.read_to_end(&mut answer);
        match parse(&answer) {
            Ok(response) => Ok(response),
            Err(reason) => Err(format!("{reason}; sending {sent:?}, receiving {received:?}")),
        }
    }
}

/// One HTTP/1.1 answer that ends with its connection.
pub fn parse(answer: &[u8]) -> Result<Response, String> {
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("no whole answer")?;
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("no status in «{head}»"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &answer[split + 4..];
    let chunked =
        headers.iter().any(|(name, value)| name == "transfer-encoding" && value.contains("chunked"));
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, v)| v.parse().ok());
    let body = match (chunked, length) {
        (true, _) => unchunk(rest)?,
        (false, Some(length)) if rest.len() < length => {
            return Err(format!("{} of {length} bytes came", rest.len()));
        }
        (false, Some(length)) => rest[..length].to_vec(),
        (false, None) => rest.to_vec(),
    };
    Ok(Response { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").ok_or("a chunk without a length")?;
        let size = std::str::from_utf8(&rest[..end]).map_err(|error| error.to_string())?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|error| error.to_string())?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).ok_or("a chunk cut short")?);
        rest = rest.get(size + 2..).ok_or("a chunk without an end")?;
    }
}
