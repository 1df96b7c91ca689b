//! The store over etcd: one store for many apiservers. The only file that names etcd.
//!
//! Keys, revisions and compares are etcd's own, so a cluster's data is where upstream would put it, and compaction is
//! coordinated through upstream's key with upstream's protocol.

mod compaction;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue, KvClient,
    PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchClient,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::compaction::Compactor;
use super::{Entry, Error, Expected, Operation, Outcome, Snapshot, Store, WatchStream, Write, check_size};

/// Keys per page of a load; all pages are read at the revision of the first.
const PAGE_KEYS: i64 = 500;
/// How often a load starts anew because a compaction took its revision away.
const LOAD_ATTEMPTS: usize = 3;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages from etcd may be this long: a page or a batch of events of the largest values.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Upstream's interval (kube-apiserver `--etcd-compaction-interval`).
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Upstream's sharing of leases: one lease serves puts that would expire within a minute (or a twentieth of their time
/// to live) of each other, a thousand at most.
const LEASE_SHARE_SECONDS_MAX: u64 = 60;
const LEASE_OBJECTS_MAX: usize = 1000;

/// The first releases whose progress notifications wait for the events before them (etcd issue 15220).
const SOUND_PROGRESS: [(u64, u64, u64); 2] = [(3, 4, 25), (3, 5, 8)];

/// PEM, as in kube-apiserver's `--etcd-cafile`, `--etcd-certfile` and `--etcd-keyfile`.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Clones share one connection.
pub struct Etcd {
    client: Client,
    kv: KvClient,
    watches: WatchClient,
    leases: tokio::sync::Mutex<Option<Lease>>,
    /// Counts up with every request for progress; every open watch looks at it.
    progress: watch::Sender<u64>,
    sound_progress: bool,
    closed: CancellationToken,
    size: Arc<AtomicU64>,
}

struct Lease {
    id: i64,
    expires: Instant,
    objects: usize,
}

impl Etcd {
    /// Connects, and fails when no endpoint answers. `compaction`: how often to compact; `None` leaves it to others.
    pub async fn connect(
        endpoints: &[String],
        tls: Option<Tls>,
        compaction: Option<Duration>,
    ) -> Result<Self, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(tls) = tls {
            let mut config = TlsOptions::new();
            if let Some(ca) = tls.ca {
                config = config.ca_certificate(Certificate::from_pem(ca));
            }
            if let Some((certificate, key)) = tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(config);
        }
        let mut client =
            within(CONNECT_TIMEOUT, "connect to etcd", Client::connect(endpoints, Some(options))).await?;
        let status = within(REQUEST_TIMEOUT, "ask etcd for its status", client.status()).await?;
        let sound_progress = is_progress_sound(status.version());
        if !sound_progress {
            tracing::warn!(
                version = status.version(),
                "store: this etcd's progress notifications may overtake events; 3.4.25 or 3.5.8 mends it"
            );
        }
        let size = Arc::new(AtomicU64::new(status.db_size() as u64));
        let closed = CancellationToken::new();
        if let Some(interval) = compaction {
            let compactor = Compactor { client: client.clone(), size: size.clone(), version: 0, revision: 0 };
            tokio::spawn(compactor.run(interval, closed.clone()));
        }
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
            watches: client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
            client,
            leases: tokio::sync::Mutex::default(),
            progress: watch::Sender::new(0),
            sound_progress,
            closed,
            size,
        })
    }

    fn open(&self) -> Result<(), Error> {
        if self.closed.is_cancelled() { Err(Error::Closed) } else { Ok(()) }
    }

    async fn load_once(&self, prefix: &str) -> Result<Snapshot, Error> {
        let end = prefix_end(prefix);
        let mut from = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let mut snapshot = Snapshot { revision: 0, entries: Vec::new() };
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(PAGE_KEYS)
                .with_revision(snapshot.revision as i64);
            let page = self.kv.clone();
            let mut page = within(REQUEST_TIMEOUT, "load from etcd", get(page, from, options)).await?;
            if snapshot.revision == 0 {
                snapshot.revision = revision_of(page.header())?;
            }
            let more = page.more();
            let pairs = page.take_kvs();
            let Some(last) = pairs.last() else { return Ok(snapshot) };
            from = [last.key(), &[0]].concat();
            for pair in pairs {
                snapshot.entries.push(entry(pair)?);
            }
            if !more {
                return Ok(snapshot);
            }
        }
    }

    /// A lease that ends at `ttl` from now or a little later, shared with the puts around this one.
    async fn lease(&self, ttl: Duration) -> Result<i64, Error> {
        let seconds = (ttl.as_millis() as u64).div_ceil(1000).max(1);
        let share = Duration::from_secs((seconds / 20).min(LEASE_SHARE_SECONDS_MAX));
        let wanted = Instant::now() + Duration::from_secs(seconds);
        let mut last = self.leases.lock().await;
        if let Some(lease) = last.as_mut() {
            let fits = lease.expires >= wanted && lease.expires <= wanted + share;
            if fits && lease.objects < LEASE_OBJECTS_MAX {
                lease.objects += 1;
                return Ok(lease.id);
            }
        }
        let granted = seconds + share.as_secs();
        let mut client = self.client.lease_client();
        let grant = client.grant(granted as i64, None);
        let id = within(REQUEST_TIMEOUT, "grant an etcd lease", grant).await?.id();
        *last = Some(Lease { id, expires: wanted + share, objects: 1 });
        Ok(id)
    }
}

async fn get(
    mut kv: KvClient,
    key: Vec<u8>,
    options: GetOptions,
) -> Result<etcd_client::GetResponse, etcd_client::Error> {
    kv.get(key, Some(options)).await
}

#[async_trait]
impl Store for Etcd {
    async fn load(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.open()?;
        let mut attempt = 1;
        loop {
            match self.load_once(prefix).await {
                Err(Error::Compacted { .. }) if attempt < LOAD_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, u64), Error> {
        self.open()?;
        let get = get(self.kv.clone(), key.into(), GetOptions::new());
        let mut answer = within(REQUEST_TIMEOUT, "get from etcd", get).await?;
        let revision = revision_of(answer.header())?;
        let found = answer.take_kvs().pop().map(entry).transpose()?;
        Ok((found, revision))
    }

    async fn write(&self, write: Write) -> Result<Outcome, Error> {
        self.open()?;
        check_size(&write)?;
        let Write { key, expected, operation } = write;
        let expected = match expected {
            Expected::Absent => 0,
            Expected::Revision(revision) => revision,
        };
        let bytes = match &operation {
            Operation::Put { value, .. } => value.len(),
            Operation::Delete => 0,
        };
        let operation = match operation {
            // etcd would report the deletion of nothing as a success without a revision of its own.
            Operation::Delete if expected == 0 => {
                return Ok(Outcome::Conflict { current: self.get(&key).await?.0 });
            }
            Operation::Delete => TxnOp::delete(key.clone(), None),
            Operation::Put { value, ttl: None } => TxnOp::put(key.clone(), value, None),
            Operation::Put { value, ttl: Some(ttl) } => {
                let lease = self.lease(ttl).await?;
                TxnOp::put(key.clone(), value, Some(PutOptions::new().with_lease(lease)))
            }
        };
        let transaction = Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, expected as i64)])
            .and_then([operation])
            .or_else([TxnOp::get(key, None)]);
        let mut kv = self.kv.clone();
        let answer = within(REQUEST_TIMEOUT, "write to etcd", kv.txn(transaction)).await;
        let answer = answer.map_err(|error| match error {
            Error::TooLarge { limit, .. } => Error::TooLarge { what: "value", bytes, limit },
            other => other,
        })?;
        if answer.succeeded() {
            return Ok(Outcome::Written { revision: revision_of(answer.header())? });
        }
        let current = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
            _ => None,
        });
        Ok(Outcome::Conflict { current: current.map(entry).transpose()? })
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<WatchStream, Error> {
        self.open()?;
        let start = watching::Start {
            client: self.watches.clone(),
            prefix: prefix.into(),
            after,
            progress: self.progress.subscribe(),
            sound_progress: self.sound_progress,
            closed: self.closed.clone(),
        };
        start.open().await
    }

    async fn revision(&self) -> Result<u64, Error> {
        // No key of ours; the answer's header is what is wanted.
        Ok(self.get("/").await?.1)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.open()?;
        self.progress.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn healthy(&self) -> Result<(), Error> {
        self.open()?;
        let get = get(self.kv.clone(), "health".into(), GetOptions::new());
        within(HEALTH_TIMEOUT, "reach etcd", get).await.map(drop)
    }

    async fn close(&self) -> Result<(), Error> {
        self.open()?;
        self.closed.cancel();
        Ok(())
    }

    fn size_bytes(&self) -> Option<u64> {
        Some(self.size.load(Ordering::Relaxed))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    work: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(classify(step, error)),
        Err(elapsed) => Err(Error::unavailable(step, elapsed)),
    }
}

/// etcd tells its errors apart by their text, which is part of its API (`rpctypes`).
fn classify(step: &'static str, error: etcd_client::Error) -> Error {
    let text = match &error {
        etcd_client::Error::GRpcStatus(status) => status.message(),
        _ => "",
    };
    if text.contains("required revision has been compacted") {
        return Error::Compacted { requested: 0, oldest: 0 };
    }
    if text.contains("request is too large") || text.contains("message larger than max") {
        // etcd's `--max-request-bytes`, which it does not tell; this is its default.
        return Error::TooLarge { what: "request", bytes: 0, limit: 1536 * 1024 };
    }
    if text.contains("too many requests") {
        return Error::Overloaded { queued: 0 };
    }
    Error::unavailable(step, error)
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> Result<u64, Error> {
    header
        .map(|h| h.revision() as u64)
        .ok_or_else(|| Error::unavailable("read etcd's answer", std::io::Error::other("it has no header")))
}

fn key_of(pair: &KeyValue) -> Result<Arc<str>, Error> {
    pair.key_str().map(Arc::from).map_err(|_| Error::Corrupt {
        path: "etcd".into(),
        what: format!("key {:?} is not UTF-8", String::from_utf8_lossy(pair.key())),
    })
}

fn entry(pair: KeyValue) -> Result<Entry, Error> {
    let (key, revision) = (key_of(&pair)?, pair.mod_revision() as u64);
    let (_, value) = pair.into_key_value();
    Ok(Entry { key, value: Bytes::from(value), revision })
}

/// The first key after all that start with `prefix`; a zero byte means no end.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn is_progress_sound(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u64>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    let same_line = SOUND_PROGRESS.iter().find(|first| (first.0, first.1) == (version.0, version.1));
    match same_line {
        Some(first) => version >= *first,
        None => version > SOUND_PROGRESS[1],
    }
}
