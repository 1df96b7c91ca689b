//! The store against a small registry on loopback, and imports of every form.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use parking_lot::Mutex;

use super::manifest::{MANIFEST, WASM_CONFIG, WASM_LAYER};
use super::*;

/// Status, content type, body.
type Answer = (u16, String, Vec<u8>);

/// A registry whose every answer is in a table.
#[derive(Default)]
struct Registry {
    answers: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<String>>,
    password: Option<String>,
    delay: Option<Duration>,
    /// A bad link: connections break after so many bytes of a blob.
    cut: Option<usize>,
    ignores_ranges: bool,
}

/// A blob from where the client has it, but no further than the link holds.
fn cut_off(registry: &Registry, request: &Request, whole: &[u8], most: usize) -> Response {
    let range = request.headers().get("range").and_then(|range| range.to_str().ok());
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from = from.filter(|_| !registry.ignores_ranges);
    // One that does not know ranges would never get further.
    let most = if registry.ignores_ranges && range.is_some() { whole.len() } else { most };
    let rest = &whole[from.unwrap_or(0)..];
    let sent = bytes::Bytes::copy_from_slice(&rest[..most.min(rest.len())]);
    let broken = (sent.len() < rest.len()).then(|| Err(std::io::Error::other("the link broke")));
    let stream = futures::stream::iter([Ok(sent)].into_iter().chain(broken));
    let body = Body::from_stream(futures::StreamExt::then(stream, |piece| async {
        // What was sent before must have left.
        tokio::task::yield_now().await;
        piece
    }));
    Response::builder()
        .status(if from.is_some() { 206 } else { 200 })
        .header("content-length", rest.len())
        .body(body)
        .unwrap()
}

async fn answer(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    registry.requests.lock().push(path.clone());
    if let Some(delay) = registry.delay {
        tokio::time::sleep(delay).await;
    }
    let reply = |status: u16, kind: &str, body: Vec<u8>| {
        Response::builder().status(status).header("content-type", kind).body(Body::from(body)).unwrap()
    };
    if let Some(password) = &registry.password {
        let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(password));
        if request.headers().get("authorization").is_none_or(|given| given != wanted.as_str()) {
            let mut denied = reply(401, "application/json", Vec::new());
            let challenge = http::HeaderValue::from_static("Basic realm=\"test\"");
            denied.headers_mut().insert("www-authenticate", challenge);
            return denied;
        }
    }
    if path == "/v2/" {
        return reply(200, "application/json", b"{}".to_vec());
    }
    if let Some(most) = registry.cut.filter(|_| path.contains("/blobs/")) {
        let whole = registry.answers.lock().get(&path).unwrap().2.clone();
        return cut_off(&registry, &request, &whole, most);
    }
    match registry.answers.lock().get(&path) {
        Some((status, kind, body)) => reply(*status, kind, body.clone()),
        None => reply(
            404,
            "application/json",
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec(),
        ),
    }
}

impl Registry {
    async fn serve(self) -> (Arc<Self>, SocketAddr) {
        let registry = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (registry, address)
    }

    fn put(&self, path: &str, kind: &str, body: &[u8]) {
        self.answers.lock().insert(path.to_owned(), (200, kind.to_owned(), body.to_vec()));
    }

    fn blob(&self, name: &str, body: &[u8]) -> serde_json::Value {
        let digest = digest::of_bytes(body);
        self.put(&format!("/v2/{name}/blobs/{digest}"), "application/octet-stream", body);
        serde_json::json!({"mediaType": "x", "digest": digest, "size": body.len()})
    }

    /// Serves a Wasm artifact and returns its manifest's digest.
    fn artifact(&self, name: &str, tag: &str, layer: &str, module: &[u8]) -> String {
        let mut config = self.blob(name, b"{}");
        config["mediaType"] = WASM_CONFIG.into();
        let mut blob = self.blob(name, module);
        blob["mediaType"] = layer.into();
        self.manifest(
            name,
            tag,
            &serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": config, "layers": [blob]}),
        )
    }

    fn manifest(&self, name: &str, tag: &str, manifest: &serde_json::Value) -> String {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = digest::of_bytes(&bytes);
        for reference in [tag, &digest] {
            self.put(&format!("/v2/{name}/manifests/{reference}"), MANIFEST, &bytes);
        }
        digest
    }

    fn count(&self, part: &str) -> usize {
        self.requests.lock().iter().filter(|path| path.contains(part)).count()
    }
}

fn module(code: u8) -> Vec<u8> {
    wat::parse_str(format!("(module (func (export \"_start\") (drop (i32.const {code}))))")).unwrap()
}

fn store() -> (tempfile::TempDir, Arc<ImageStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

#[tokio::test]
async fn pulls_old_and_new_media_types_and_keeps_them() {
    let (registry, address) = Registry::default().serve().await;
    let (dir, store) = store();
    for (tag, layer) in [("new", WASM_LAYER), ("old", "application/vnd.wasm.content.layer.v1+wasm")] {
        let digest = registry.artifact("team/app", tag, layer, &module(1));
        let image = format!("{address}/team/app:{tag}");
        let local = store.ensure(&image, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
        assert_eq!(local.reference, image);
        assert_eq!(local.digest, digest);
        assert_eq!(fs::read(&local.wasm_path).unwrap(), module(1));
        let before = registry.requests.lock().len();
        assert_eq!(store.ensure(&image, PullPolicy::IfNotPresent, Vec::new()).await.unwrap(), local);
        assert_eq!(store.ensure(&image, PullPolicy::Never, Vec::new()).await.unwrap(), local);
        assert_eq!(registry.requests.lock().len(), before, "what is here is not asked for");
        // By digest the same image is found under its tag.
        let by_digest = format!("{address}/team/app@{digest}");
        let found = store.ensure(&by_digest, PullPolicy::Never, Vec::new()).await.unwrap();
        assert_eq!(found.wasm_digest, local.wasm_digest);
        let again = ImageStore::open(dir.path()).unwrap();
        assert_eq!(
            again.ensure(&image, PullPolicy::Never, Vec::new()).await.unwrap(),
            local,
            "after a restart"
        );
    }
}

#[tokio::test]
async fn always_asks_and_fetches_only_what_is_new() {
    let (registry, address) = Registry::default().serve().await;
    let (_dir, store) = store();
    let image = format!("{address}/app:v1");
    registry.artifact("app", "v1", WASM_LAYER, &module(1));
    store.ensure(&image, PullPolicy::Always, Vec::new()).await.unwrap();
    let blobs = registry.count("/blobs/");
    store.ensure(&image, PullPolicy::Always, Vec::new()).await.unwrap();
    assert_eq!(registry.count("/blobs/"), blobs);
    assert_eq!(registry.count("/manifests/v1"), 2);
    registry.artifact("app", "v1", WASM_LAYER, &module(2));
    let newer = store.ensure(&image, PullPolicy::Always, Vec::new()).await.unwrap();
    assert_eq!(fs::read(&newer.wasm_path).unwrap(), module(2));
}

#[tokio::test]
async fn a_pull_goes_on_where_the_link_broke() {
    for ignores_ranges in [false, true] {
        let bad = Registry { cut: Some(40), ignores_ranges, ..Registry::default() };
        let (registry, address) = bad.serve().await;
        let (_dir, store) = store();
        let mut module = module(1);
        // A custom section, so that there is something to break.
        module.extend([0, 100, 1, b'x']);
        module.extend([7; 98]);
        registry.artifact("team/app", "v1", WASM_LAYER, &module);
        let image = format!("{address}/team/app:v1");
        let local = store.ensure(&image, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
        assert_eq!(fs::read(&local.wasm_path).unwrap(), module);
        let asked = registry.count(&local.wasm_digest);
        assert!(if ignores_ranges { asked == 2 } else { asked > 2 }, "{asked}");
    }
}

#[tokio::test]
async fn a_link_that_lets_nothing_through_is_given_up() {
    let (registry, address) = Registry { cut: Some(0), ..Registry::default() }.serve().await;
    let (_dir, store) = store();
    registry.artifact("team/app", "v1", WASM_LAYER, &module(1));
    let image = format!("{address}/team/app:v1");
    let error = store.ensure(&image, PullPolicy::IfNotPresent, Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("failed to do request"), "{error}");
}

#[tokio::test]
async fn many_who_want_one_image_make_one_pull() {
    let slow = Registry { delay: Some(Duration::from_millis(50)), ..Registry::default() };
    let (registry, address) = slow.serve().await;
    let (_dir, store) = store();
    registry.artifact("app", "v1", WASM_LAYER, &module(1));
    let image = format!("{address}/app:v1");
    let pulls = (0..10).map(|_| {
        let (store, image) = (store.clone(), image.clone());
        tokio::spawn(async move { store.ensure(&image, PullPolicy::IfNotPresent, Vec::new()).await })
    });
    for pull in futures::future::join_all(pulls).await {
        pull.unwrap().unwrap();
    }
    assert_eq!(registry.count("/manifests/"), 1);
}

#[tokio::test]
async fn errors_have_upstreams_reasons_and_the_registrys() {
    let (registry, address) = Registry::default().serve().await;
    let (_dir, store) = store();
    let pull =
        async |image: String| store.ensure(&image, PullPolicy::IfNotPresent, Vec::new()).await.unwrap_err();

    let missing = pull(format!("{address}/nope:v1")).await;
    assert_eq!(missing.reason(), "ErrImagePull");
    let name = format!("{address}/nope:v1");
    assert_eq!(
        missing.to_string(),
        format!(
            "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: {name}: not found"
        )
    );

    let never = store.ensure("app", PullPolicy::Never, Vec::new()).await.unwrap_err();
    assert_eq!(never.reason(), "ErrImageNeverPull");
    assert_eq!(never.to_string(), "Container image \"app\" is not present with pull policy of Never");

    let name = pull("Not A Name".into()).await;
    assert_eq!(name.reason(), "InvalidImageName");
    assert!(name.to_string().contains("couldn't parse image name \"Not A Name\""), "{name}");

    // Nobody listens on the port that was just given back.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = pull(format!("{closed}/app:v1")).await;
    assert!(refused.to_string().to_lowercase().contains("connection refused"), "{refused}");

    registry.artifact("bad", "v1", WASM_LAYER, &module(1));
    let digest = digest::of_bytes(&module(1));
    let mut tampered = module(1);
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    registry.put(&format!("/v2/bad/blobs/{digest}"), "application/octet-stream", &tampered);
    let mismatch = pull(format!("{address}/bad:v1")).await;
    assert!(mismatch.to_string().contains("failed to verify digest"), "{mismatch}");
    registry.put(&format!("/v2/bad/blobs/{digest}"), "application/octet-stream", &module(1)[..4]);
    let short = pull(format!("{address}/bad:v1")).await;
    assert!(matches!(short, PullError::Failed { .. }), "{short}");
    assert!(store.list().unwrap().is_empty());

    registry.artifact("text", "v1", WASM_LAYER, b"#!/bin/sh");
    let text = pull(format!("{address}/text:v1")).await;
    assert!(text.to_string().contains("not a Wasm file"), "{text}");
}

#[tokio::test]
async fn credentials_are_tried_in_order_and_refusals_named() {
    let closed = Registry { password: Some("ada:secret".into()), ..Registry::default() };
    let (registry, address) = closed.serve().await;
    let (_dir, store) = store();
    registry.artifact("app", "v1", WASM_LAYER, &module(1));
    let image = format!("{address}/app:v1");
    let basic = |password: &str| RegistryAuth::Basic { username: "ada".into(), password: password.into() };
    for wrong in [Vec::new(), vec![basic("wrong")]] {
        let error = store.ensure(&image, PullPolicy::IfNotPresent, wrong).await.unwrap_err();
        assert_eq!(error.reason(), "ErrImagePull");
        assert!(error.to_string().contains("pull access denied"), "{error}");
    }
    let auths = vec![basic("wrong"), basic("secret")];
    store.ensure(&image, PullPolicy::IfNotPresent, auths).await.unwrap();
}

#[tokio::test]
async fn an_oci_image_with_one_wasm_file_and_its_configuration() {
    let (registry, address) = Registry::default().serve().await;
    let (dir, store) = store();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(module(5).len() as u64);
    builder.append_data(&mut header, "app.wasm", module(5).as_slice()).unwrap();
    let layer = builder.into_inner().unwrap();
    let mut blob = registry.blob("img", &layer);
    blob["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
    let config =
        br#"{"os":"wasip1","architecture":"wasm","config":{"Entrypoint":["/app.wasm"],"Env":["A=b"]}}"#;
    let mut config = registry.blob("img", config);
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [blob]});
    let inner = registry.manifest("img", "inner", &manifest);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": digest::of_bytes(b"x"), "size": 1,
         "platform": {"os": "linux", "architecture": "amd64"}},
        {"mediaType": MANIFEST, "digest": inner, "size": 1,
         "platform": {"os": "wasip1", "architecture": "wasm"}}]});
    let root = registry.manifest("img", "v1", &index);
    let local =
        store.ensure(&format!("{address}/img:v1"), PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
    assert_eq!(local.digest, root);
    assert_eq!(local.wasm_digest, digest::of_bytes(&module(5)));
    assert_eq!(local.config.entrypoint, ["/app.wasm"]);
    assert_eq!(local.config.env, [("A".to_owned(), "b".to_owned())]);
    let kept = dir.path().join("blobs/sha256").join(digest::sha256_hex(&digest::of_bytes(&layer)).unwrap());
    assert!(!kept.exists(), "layers are not kept");
}

#[tokio::test]
async fn imports_lists_inspects_and_removes() {
    let (dir, store) = store();
    let file = dir.path().join("m.wasm");
    fs::write(&file, module(1)).unwrap();
    let local = store.import(&file, "coracle.dev/samples/m:v1").await.unwrap();
    assert_eq!(local.reference, "coracle.dev/samples/m:v1");
    store.import(&file, "other").await.unwrap();
    let names: Vec<_> = store.list().unwrap().into_iter().map(|listed| listed.reference).collect();
    assert_eq!(names, ["coracle.dev/samples/m:v1", "docker.io/library/other:latest"]);
    let (_, inspection) = store.inspect("other").unwrap();
    assert_eq!(inspection.kind, Kind::Module);

    store.remove("other").unwrap();
    assert!(local.wasm_path.exists(), "another name needs it");
    store.remove("coracle.dev/samples/m:v1").unwrap();
    assert!(!local.wasm_path.exists());
    assert_eq!(store.remove("other").unwrap_err().to_string(), "image \"other\" is not on this node");
    assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn imports_layouts_and_archives() {
    let (dir, store) = store();
    let layout = dir.path().join("layout");
    let manifest = write_layout(&layout, &module(3));
    let local = store.import(&layout, "a").await.unwrap();
    assert_eq!(local.digest, manifest);

    for name in ["a.tar", "a.tar.gz"] {
        let path = dir.path().join(name);
        let file = fs::File::create(&path).unwrap();
        let out: Box<dyn std::io::Write> = if name.ends_with("gz") {
            Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()))
        } else {
            Box::new(file)
        };
        let mut builder = tar::Builder::new(out);
        builder.append_dir_all(".", &layout).unwrap();
        drop(builder.into_inner().unwrap());
        let again = store.import(&path, "b").await.unwrap();
        assert_eq!((&again.digest, &again.wasm_digest), (&manifest, &local.wasm_digest));
    }
    let left = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".import"));
    assert_eq!(left.count(), 0, "unpacked archives are removed");
}

fn write_layout(dir: &Path, module: &[u8]) -> String {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = digest::of_bytes(bytes);
        fs::write(blobs.join(digest::sha256_hex(&digest).unwrap()), bytes).unwrap();
        digest
    };
    let (manifest, config) = manifest::for_wasm(&put(module), module.len() as u64).unwrap();
    put(&config);
    let digest = put(&manifest);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": digest, "size": manifest.len()}]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}

#[tokio::test]
async fn what_cannot_be_imported_is_said() {
    let (dir, store) = store();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, text) in [
        (write("a.wat", b"(module)"), "is a text file"),
        (write("a.bin", &[0, 1, 2, 3]), "is no Wasm file"),
        (write("a.wasm", b"\0asm\x01\0\0\0\xff\xff"), "malformed"),
        (dir.path().join("blobs"), "without an oci-layout file"),
        (dir.path().join("missing"), "No such file"),
    ] {
        let error = store.import(&path, "a").await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    let file = write("ok.wasm", &module(1));
    assert!(matches!(store.import(&file, "A:B:C").await.unwrap_err(), ImportError::Name { .. }));
}
