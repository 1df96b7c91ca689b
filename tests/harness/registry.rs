//! A registry on loopback that holds Wasm artifacts: as much of the distribution API as pulls and pushes need.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde_json::json;

const BLOB: &str = "application/octet-stream";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What it has, by path: media type and body.
type Contents = HashMap<String, (String, Vec<u8>)>;

/// Ends with the process: it is a thread that waits for connections.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    contents: Mutex<Contents>,
    /// Uploads that are not finished, by path.
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    manifests_served: AtomicUsize,
    /// `user:password`, in Base64, where pushes need it.
    password: Option<String>,
}

impl Registry {
    /// Serves each module as `NAME:TAG`.
    pub fn start(images: &[(&str, Vec<u8>)]) -> Registry {
        Self::with(images, None)
    }

    /// Takes no pushes but with this `user:password`, in Base64.
    pub fn guarded(password: &str) -> Registry {
        Self::with(&[], Some(password.to_owned()))
    }

    fn with(images: &[(&str, Vec<u8>)], password: Option<String>) -> Registry {
        let mut contents: Contents =
            [("/v2/".to_owned(), ("application/json".to_owned(), b"{}".to_vec()))].into();
        for (image, module) in images {
            let (name, tag) = image.split_once(':').unwrap();
            let mut blob = |bytes: &[u8], kind: &str| {
                let digest = of(bytes);
                contents.insert(format!("/v2/{name}/blobs/{digest}"), (BLOB.to_owned(), bytes.to_vec()));
                json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
            };
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": blob(b"{}", "application/vnd.wasm.config.v0+json"),
                "layers": [blob(module, "application/wasm")],
            })
            .to_string()
            .into_bytes();
            put_manifest(&mut contents, &format!("/v2/{name}/manifests/{tag}"), MANIFEST, manifest);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { contents: Mutex::new(contents), password, ..Shared::default() });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Registry { address, shared }
    }

    /// How a pod names one of its images.
    pub fn image(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// How often an image was asked for.
    pub fn pulls(&self) -> usize {
        self.shared.manifests_served.load(Ordering::SeqCst)
    }
}

/// Under its tag, and under its digest.
fn put_manifest(contents: &mut Contents, path: &str, kind: &str, manifest: Vec<u8>) {
    let (repository, _) = path.rsplit_once('/').unwrap();
    contents.insert(format!("{repository}/{}", of(&manifest)), (kind.to_owned(), manifest.clone()));
    contents.insert(path.to_owned(), (kind.to_owned(), manifest));
}

fn of(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// Status, further header lines, media type, body.
type Answer = (&'static str, String, String, Vec<u8>);

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let line = |reader: &mut dyn BufRead| {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = line(reader)?;
    let mut headers = HashMap::new();
    while let Some(header) = line(reader).filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let (status, headers, kind, body) = answer(&request, shared);
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}content-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let body = if request.method == "HEAD" { Vec::new() } else { body };
        let mut writer = stream;
        if writer.write_all(&[head.into_bytes(), body].concat()).is_err() {
            return;
        }
    }
}

fn answer(request: &Request, shared: &Shared) -> Answer {
    let plain = |status, headers: String| (status, headers, "application/json".to_owned(), Vec::new());
    let (path, method) = (&request.path, request.method.as_str());
    let location = |path: &str| format!("location: {path}\r\n");
    let known = shared
        .password
        .as_ref()
        .is_none_or(|password| request.headers.get("authorization") == Some(&format!("Basic {password}")));
    if path == "/v2/" && !known {
        return plain("401 Unauthorized", "www-authenticate: Basic realm=\"test\"\r\n".to_owned());
    }
    if matches!(method, "GET" | "HEAD") {
        let contents = shared.contents.lock();
        if method == "GET" && path.contains("/manifests/") {
            shared.manifests_served.fetch_add(1, Ordering::SeqCst);
        }
        return match contents.get(path) {
            Some((kind, body)) => ("200 OK", String::new(), kind.clone(), body.clone()),
            None => {
                let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                ("404 Not Found", String::new(), "application/json".to_owned(), body.to_vec())
            }
        };
    }
    if !known {
        let body = br#"{"errors":[{"code":"DENIED","message":"who are you"}]}"#;
        return ("403 Forbidden", String::new(), "application/json".to_owned(), body.to_vec());
    }
    match method {
        "POST" => {
            let mut uploads = shared.uploads.lock();
            let upload = format!("{}{}", path, uploads.len());
            uploads.insert(upload.clone(), Vec::new());
            plain("202 Accepted", location(&upload))
        }
        "PATCH" => {
            shared.uploads.lock().get_mut(path).unwrap().extend_from_slice(&request.body);
            plain("202 Accepted", location(path))
        }
        "PUT" if path.contains("/blobs/uploads/") => {
            let bytes = [shared.uploads.lock().remove(path).unwrap(), request.body.clone()].concat();
            let digest = of(&bytes);
            assert!(request.query.replace("%3A", ":").contains(&digest), "{}", request.query);
            let (repository, _) = path.split_once("/uploads/").unwrap();
            let blob = format!("{repository}/{digest}");
            shared.contents.lock().insert(blob.clone(), (BLOB.to_owned(), bytes));
            plain("201 Created", location(&blob))
        }
        "PUT" => {
            let kind = request.headers.get("content-type").map_or("", String::as_str);
            put_manifest(&mut shared.contents.lock(), path, kind, request.body.clone());
            plain("201 Created", location(path))
        }
        _ => plain("405 Method Not Allowed", String::new()),
    }
}
