//! The store over a real etcd server on loopback.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use futures::StreamExt;

use super::{
    super::{WatchItem, conformance},
    *,
};

const SERVER: &str = "/usr/bin/etcd";

/// A server of this test's own; killed with the value.
struct Server {
    process: Child,
    endpoint: String,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(data: &Path, client: u16, peer: u16, extra: &[String]) -> Child {
    assert!(Path::new(SERVER).exists(), "{SERVER} is missing: apt-get install etcd-server");
    let scheme = if extra.iter().any(|a| a.starts_with("--cert-file")) { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    Command::new(SERVER)
        .args(["--name", "test", "--data-dir", &data.join("etcd").to_string_lossy()])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}"), "--max-request-bytes", "8388608"])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Server {
    fn start(data: &Path, extra: &[String]) -> Self {
        let client = free_port();
        Self { process: spawn(data, client, free_port(), extra), endpoint: format!("127.0.0.1:{client}") }
    }

    async fn connect(&self, tls: Option<Tls>) -> Etcd {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match Etcd::connect(std::slice::from_ref(&self.endpoint), tls.clone(), None).await {
                Ok(store) => return store,
                Err(error) => assert!(Instant::now() < deadline, "etcd does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn put(key: &str, expected: Expected, value: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write { key: key.into(), expected, operation: Operation::Put { value, ttl: None } }
}

async fn written(store: &Etcd, write: Write) -> u64 {
    match store.write(write).await.unwrap() {
        Outcome::Written { revision } => revision,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let store = Arc::new(server.connect(None).await);
    let (client, subject) = (store.client.clone(), store.clone());
    let forget_history = move || {
        let (mut client, store) = (client.clone(), subject.clone());
        Box::pin(async move {
            let revision = store.revision().await.unwrap();
            client.compact(revision as i64, None).await.unwrap();
        }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    conformance::run(conformance::Subject { store, forget_history: Box::new(forget_history) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_its_server() {
    let data = tempfile::tempdir().unwrap();
    let (client, peer) = (free_port(), free_port());
    let mut server =
        Server { process: spawn(data.path(), client, peer, &[]), endpoint: format!("127.0.0.1:{client}") };
    let store = server.connect(None).await;
    let mut watch = store.watch("/k/", store.revision().await.unwrap()).await.unwrap();
    let first = written(&store, put("/k/a", Expected::Absent, "1")).await;
    let Some(Ok(WatchItem::Changes(changes))) = watch.next().await else { panic!() };
    assert_eq!(changes[0].revision, first);

    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let next = tokio::spawn(async move {
        let mut all = Vec::new();
        while all.len() < 2 {
            match watch.next().await {
                Some(Ok(WatchItem::Changes(changes))) => all.extend(changes),
                Some(Ok(WatchItem::Progress(_))) => {}
                other => panic!("{other:?}"),
            }
        }
        all.iter().map(|c| c.revision).collect::<Vec<_>>()
    });
    assert!(matches!(store.healthy().await, Err(Error::Unavailable { .. })));
    server.process = spawn(data.path(), client, peer, &[]);
    let other = server.connect(None).await;
    let second = written(&other, put("/k/a", Expected::Revision(first), "2")).await;
    let third = written(&other, put("/k/b", Expected::Absent, "3")).await;
    assert_eq!(next.await.unwrap(), [second, third]);
    store.healthy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apiservers_compact_once_between_them() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let store = server.connect(None).await;
    let compactor =
        || Compactor { client: store.client.clone(), size: store.size.clone(), version: 0, revision: 0 };
    let (mut one, mut two) = (compactor(), compactor());
    let first = written(&store, put("/k/a", Expected::Absent, "1")).await;
    one.compact().await.unwrap();
    two.compact().await.unwrap();
    let seen = one.revision;
    assert_eq!((one.version, two.version), (1, 1));
    for value in ["2", "3"] {
        let at = store.get("/k/a").await.unwrap().0.unwrap().revision;
        written(&store, put("/k/a", Expected::Revision(at), value)).await;
    }
    // The first of them in this interval compacts to what it saw in the last; the second finds it done.
    one.compact().await.unwrap();
    two.compact().await.unwrap();
    assert_eq!((one.version, two.version), (2, 2));
    let mut watch = store.watch("/k/", first - 1).await.unwrap();
    let gone = watch.next().await.unwrap().unwrap_err();
    assert!(matches!(gone, Error::Compacted { oldest, .. } if oldest == seen as u64 - 1), "{gone:?} {seen}");
    let mut watch = store.watch("/k/", seen as u64 - 1).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Changes(c))) if c.len() == 2));
    assert!(store.size_bytes().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_share_leases() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let store = server.connect(None).await;
    let hour = Duration::from_secs(3600);
    let first = store.lease(hour).await.unwrap();
    for _ in 1..LEASE_OBJECTS_MAX {
        assert_eq!(store.lease(hour).await.unwrap(), first);
    }
    let second = store.lease(hour).await.unwrap();
    assert_ne!(second, first, "full");
    assert_ne!(store.lease(Duration::from_secs(60)).await.unwrap(), second, "another time to live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_client_certificates() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let data = tempfile::tempdir().unwrap();
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let leaf_key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&leaf_key, &authority).unwrap();
    let write = |name: &str, text: String| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (ca, certificate, key) = (authority.pem(), leaf.pem(), leaf_key.serialize_pem());
    let server = Server::start(
        data.path(),
        &[
            format!("--trusted-ca-file={}", write("ca.pem", ca.clone())),
            format!("--cert-file={}", write("cert.pem", certificate.clone())),
            format!("--key-file={}", write("key.pem", key.clone())),
            "--client-cert-auth".into(),
        ],
    );
    let identity = Some((certificate.into_bytes(), key.into_bytes()));
    let store = server.connect(Some(Tls { ca: Some(ca.clone().into_bytes()), identity })).await;
    written(&store, put("/k/a", Expected::Absent, "1")).await;
    assert_eq!(store.load("/k/").await.unwrap().entries.len(), 1);
    let anonymous = Some(Tls { ca: Some(ca.into_bytes()), identity: None });
    let refused = Etcd::connect(std::slice::from_ref(&server.endpoint), anonymous, None).await.err().unwrap();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
}

#[tokio::test]
async fn nobody_there_is_said_at_connect() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let refused = Etcd::connect(&[endpoint], None, None).await.err().unwrap();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
}

#[test]
fn prefix_ends() {
    for (prefix, end) in
        [("/a/", &b"/a0"[..]), ("a", b"b"), ("", b"\0"), ("/registry/pods/", b"/registry/pods0")]
    {
        assert_eq!(prefix_end(prefix), end, "{prefix}");
    }
}

#[test]
fn versions_with_sound_progress() {
    for (version, sound) in [
        ("3.4.23", false),
        ("3.4.25", true),
        ("3.5.1", false),
        ("3.5.7", false),
        ("3.5.8", true),
        ("3.5.21", true),
        ("3.6.0", true),
        ("3.6.0-rc.1", true),
        ("3.3.27", false),
        ("4.0.0", true),
        ("unknown", false),
    ] {
        assert_eq!(is_progress_sound(version), sound, "{version}");
    }
}
