//! Cluster DNS, on every node: names of Services and pods from the informers' copies, all others from the node's own
//! resolvers. Guests in this process ask [`Names`]; everybody else asks the server at the cluster's DNS address.

mod address;
mod answer;
pub(crate) mod names;
mod server;
mod upstream;
pub(crate) mod zone;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use parking_lot::RwLock;
use rand::seq::SliceRandom;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Mode;
use answer::Answer;
use upstream::{Reply, Upstream};
use zone::{Node, Zone};

pub(crate) const PORT: u16 = 53;
/// Where a process that may not have port 53 serves instead.
const PORT_UNPRIVILEGED: u16 = 1053;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A question that comes before the first lists have been taken in waits this long for them.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// An address that another process holds is tried again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Aliases that lead to aliases of ours are followed this far.
const ALIASES_MAX: usize = 8;

/// What the cluster's names are, for whoever asks in this process. Cheap to clone.
#[derive(Clone)]
pub struct Names {
    inner: Arc<Inner>,
}

struct Inner {
    zone: RwLock<Zone>,
    /// Whose reverse names nobody else knows.
    networks: Vec<(IpAddr, u8)>,
    upstream: Upstream,
    synced: watch::Sender<bool>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("no such name")]
    NotFound,
    #[error("{0}")]
    Failed(String),
}

/// A whole answer, as it goes into a message.
pub(crate) struct Said {
    pub code: ResponseCode,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Names {
    pub fn new(domain: &str, server: Option<Ipv4Addr>, networks: Vec<(IpAddr, u8)>) -> Self {
        Self::with_upstream(domain, server, networks, Path::new(RESOLV_CONF))
    }

    fn with_upstream(
        domain: &str,
        server: Option<Ipv4Addr>,
        networks: Vec<(IpAddr, u8)>,
        resolv_conf: &Path,
    ) -> Self {
        let server = server.map(IpAddr::V4);
        Self {
            inner: Arc::new(Inner {
                zone: RwLock::new(Zone::new(domain, server)),
                networks,
                upstream: Upstream::new(resolv_conf, server.into_iter().collect()),
                synced: watch::Sender::new(false),
            }),
        }
    }

    pub(crate) fn set(&self, service: &Arc<str>, names: Option<names::ServiceNames>) {
        self.inner.zone.write().set(service, names);
    }

    /// From now on a name that is not there does not exist.
    pub(crate) fn set_synced(&self) {
        self.inner.synced.send_replace(true);
    }

    async fn synced(&self) -> Result<(), NameError> {
        if *self.inner.synced.borrow() {
            return Ok(());
        }
        let mut synced = self.inner.synced.subscribe();
        match tokio::time::timeout(SYNC_TIMEOUT, synced.wait_for(|synced| *synced)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NameError::Failed("the cluster's names are not known yet".into())),
        }
    }

    /// The addresses of an absolute name. An empty list: the name is there and has none of this family.
    pub async fn addresses(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, NameError> {
        let is_wanted = |address: &IpAddr| match family {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        };
        let mut name = name.to_owned();
        for _ in 0..ALIASES_MAX {
            let node = {
                let outside = self.inner.zone.read().within(&name).is_none();
                if !outside {
                    self.synced().await?;
                }
                let zone = self.inner.zone.read();
                zone.within(&name).map(|below| zone.find(below))
            };
            match node {
                Some(Some(Node::Addresses(mut addresses))) => {
                    addresses.retain(is_wanted);
                    addresses.shuffle(&mut rand::rng());
                    return Ok(addresses);
                }
                Some(Some(Node::Alias(target))) => name = target.into(),
                Some(Some(_)) => return Ok(Vec::new()),
                Some(None) => return Err(NameError::NotFound),
                None => return self.foreign(&name, family).await,
            }
        }
        Err(NameError::Failed("too many aliases".into()))
    }

    async fn foreign(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, NameError> {
        let Ok(mut name) = Name::from_ascii(name) else { return Err(NameError::NotFound) };
        name.set_fqdn(true);
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        match self.inner.upstream.ask(name, kind).await {
            Reply::Records(records) => Ok(records.iter().filter_map(address_of).collect()),
            Reply::Nothing => Ok(Vec::new()),
            Reply::NoSuchName => Err(NameError::NotFound),
            Reply::Failed(why) => Err(NameError::Failed(why)),
        }
    }

    pub(crate) async fn say(&self, name: &Name, kind: RecordType, class: DNSClass) -> Said {
        if class != DNSClass::IN && class != DNSClass::ANY {
            return Said::code(ResponseCode::NotImp);
        }
        if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return Said::code(ResponseCode::Refused);
        }
        let ours = self.inner.zone.read().within(&name.to_ascii()).is_some();
        if ours && self.synced().await.is_err() {
            return Said::code(ResponseCode::ServFail);
        }
        let (mut aliases, mut name) = (Vec::new(), name.clone());
        while aliases.len() < ALIASES_MAX {
            let answer = answer::answer(&self.inner.zone.read(), &self.inner.networks, &name, kind);
            match answer {
                Answer::Records { mut answers, additionals } => {
                    answers.shuffle(&mut rand::rng());
                    aliases.append(&mut answers);
                    return Said { answers: aliases, additionals, ..Said::ours(ResponseCode::NoError) };
                }
                Answer::Alias(alias) => {
                    aliases.push(alias.record);
                    name = alias.target;
                }
                Answer::Nothing => {
                    return Said {
                        answers: aliases,
                        authorities: self.soa(),
                        ..Said::ours(ResponseCode::NoError)
                    };
                }
                Answer::NoSuchName => {
                    return Said {
                        answers: aliases,
                        authorities: self.soa(),
                        ..Said::ours(ResponseCode::NXDomain)
                    };
                }
                Answer::NotOurs => return self.say_foreign(name, kind, aliases).await,
            }
        }
        Said::code(ResponseCode::ServFail)
    }

    async fn say_foreign(&self, name: Name, kind: RecordType, aliases: Vec<Record>) -> Said {
        let mut said = match self.inner.upstream.ask(name, kind).await {
            Reply::Records(records) => Said { answers: records, ..Said::code(ResponseCode::NoError) },
            Reply::Nothing => Said::code(ResponseCode::NoError),
            Reply::NoSuchName => Said::code(ResponseCode::NXDomain),
            Reply::Failed(_) => Said::code(ResponseCode::ServFail),
        };
        if !aliases.is_empty() {
            // The alias is true, whatever became of its target.
            said.authoritative = true;
            said.answers.splice(0..0, aliases);
        }
        said
    }

    fn soa(&self) -> Vec<Record> {
        answer::soa(&self.inner.zone.read()).into_iter().collect()
    }
}

impl Said {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    fn ours(code: ResponseCode) -> Self {
        Self { authoritative: true, ..Self::code(code) }
    }
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    }
}

/// Serves at the cluster's DNS address until the shutdown. With rules in the kernel the address is made local to this
/// node; in 127.0.0.0/8 it is already. Who may not have port 53 serves at 1053, or any that is free.
pub(crate) async fn serve(
    names: Names,
    ip: Ipv4Addr,
    mode: Mode,
    keep_address: bool,
    shutdown: CancellationToken,
) {
    let mut retry = RETRY_FIRST;
    loop {
        let ended = tokio::select! {
            ended = serve_once(&names, ip, mode) => ended,
            () = shutdown.cancelled() => break,
        };
        warn!("cluster DNS at {ip}: {ended}; again in {retry:?}");
        tokio::select! {
            () = tokio::time::sleep(retry) => {}
            () = shutdown.cancelled() => break,
        }
        retry = (retry * 2).min(RETRY_MAX);
    }
    if mode == Mode::Nftables && !keep_address {
        address::remove_all().await;
    }
}

/// Why it could not, or could not any more.
async fn serve_once(names: &Names, ip: Ipv4Addr, mode: Mode) -> String {
    if mode == Mode::Nftables
        && let Err(error) = address::make_local(ip).await
    {
        return error;
    }
    let mut bound = server::bind(SocketAddr::new(ip.into(), PORT));
    for port in [PORT_UNPRIVILEGED, 0] {
        if mode == Mode::Userspace && bound.is_err() {
            bound = server::bind(SocketAddr::new(ip.into(), port));
        }
    }
    let (udp, tcp) = match bound {
        Ok(sockets) => sockets,
        Err(error) => return error.to_string(),
    };
    if let Ok(address) = udp.local_addr() {
        info!(%address, "cluster DNS");
    }
    let result = tokio::select! {
        result = server::udp(udp, names.clone()) => result,
        result = server::tcp(tcp, names.clone()) => result,
    };
    result.err().map_or_else(|| "its socket is closed".into(), |error| error.to_string())
}

#[cfg(test)]
mod tests;
