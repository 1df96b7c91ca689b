//! Names that are not the cluster's: asked of the node's own resolvers (`/etc/resolv.conf`), and remembered for a while.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::{Resolver, TokioResolver, system_conf};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

/// Questions on their way at once; more fail at once.
const QUESTIONS_MAX: usize = 1_000;
/// Answers remembered.
const ANSWERS_MAX: u64 = 2_048;
/// However long an answer says that it is good for.
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(300);
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// The file is looked at again when a question comes this long after the last look: laptops change networks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub struct Upstream {
    path: PathBuf,
    /// Addresses that are ours: to forward there would be to ask ourselves.
    own: Vec<IpAddr>,
    questions: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    resolver: Option<Arc<TokioResolver>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Records(Vec<Record>),
    Nothing,
    NoSuchName,
    Failed(String),
}

impl Upstream {
    pub fn new(path: &Path, own: Vec<IpAddr>) -> Self {
        Self { path: path.to_owned(), own, questions: Semaphore::new(QUESTIONS_MAX), state: Mutex::default() }
    }

    pub async fn ask(&self, name: Name, kind: RecordType) -> Reply {
        let Ok(_permit) = self.questions.try_acquire() else {
            return Reply::Failed("too many questions are waiting for upstream resolvers".into());
        };
        let Some(resolver) = self.resolver() else {
            return Reply::Failed(format!("no resolver in {}", self.path.display()));
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => Reply::Records(lookup.answers().to_vec()),
            Ok(Err(error)) => reply_of(&error),
            Err(_) => Reply::Failed("no upstream resolver answered in time".into()),
        }
    }

    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY) {
            return state.resolver.clone();
        }
        state.looked = Some(now);
        let changed = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        if state.resolver.is_none() || changed != state.changed {
            state.changed = changed;
            state.resolver = read(&self.path, &self.own).map(Arc::new);
        }
        state.resolver.clone()
    }
}

fn reply_of(error: &NetError) -> Reply {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            Reply::NoSuchName
        }
        NetError::Dns(DnsError::NoRecordsFound(_)) => Reply::Nothing,
        other => Reply::Failed(other.to_string()),
    }
}

fn read(path: &Path, own: &[IpAddr]) -> Option<TokioResolver> {
    let parsed = std::fs::read(path).map_err(|e| e.to_string());
    let parsed = parsed.and_then(|text| system_conf::parse_resolv_conf(text).map_err(|e| e.to_string()));
    let (config, _) = parsed.inspect_err(|error| debug!(%error, "{}", path.display())).ok()?;
    let (_, _, mut servers) = config.into_parts();
    servers.retain(|server| !own.contains(&server.ip));
    if servers.is_empty() {
        return None;
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    set_options(builder.options_mut());
    builder.build().inspect_err(|error| debug!(%error, "building a resolver")).ok()
}

fn set_options(options: &mut ResolverOpts) {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = ANSWERS_MAX;
    options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.timeout = ATTEMPT_TIMEOUT;
    options.attempts = ATTEMPTS;
    options.try_tcp_on_error = true;
    options.max_active_requests = QUESTIONS_MAX;
}
