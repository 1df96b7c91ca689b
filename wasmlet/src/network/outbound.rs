//! Which hosts a pod may reach, where its annotation names them: names are checked when they are resolved, addresses
//! when they are connected to, so that a name that suddenly leads elsewhere opens nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::runtime::Protocol;

/// Hosts a pod may reach, as `scheme://host:port`: a JSON list, or separated by commas or spaces. Without the annotation
/// a pod may reach what upstream's pods may; an empty list is nothing beyond the pod itself.
pub const ANNOTATION: &str = "coracle.dev/allowed-outbound-hosts";

const ENTRIES_MAX: usize = 256;
/// Addresses that a pod's names led to and that it may still connect to, and for how long after the last lookup.
const GRANTS_MAX: usize = 1_024;
const GRANT_TIME: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {ANNOTATION}: {entry:?}: {why}")]
pub struct OutboundError {
    pub entry: String,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList {
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    scheme: Scheme,
    host: Host,
    ports: (u16, u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Any,
    Tcp,
    Udp,
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    Name(Box<str>),
    /// Of `*.example.com`, with the first dot.
    Suffix(Box<str>),
    Network(IpAddr, u8),
    /// The pod itself, which needs no permission.
    Own,
}

impl AllowList {
    /// None where the pod has no such annotation.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, OutboundError> {
        annotations.get(ANNOTATION).map(|text| Self::parse(text)).transpose()
    }

    fn parse(text: &str) -> Result<Self, OutboundError> {
        let refuse = |why| OutboundError { entry: text.chars().take(80).collect(), why };
        let words: Vec<String> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(|_| refuse("not a JSON list of strings"))?
        } else {
            let words = text.split(|c: char| c == ',' || c.is_whitespace());
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        if words.len() > ENTRIES_MAX {
            return Err(refuse("more than 256 entries"));
        }
        let entries = words.iter().map(|word| {
            entry(word).map_err(|why| OutboundError { entry: word.chars().take(80).collect(), why })
        });
        Ok(AllowList { entries: entries.collect::<Result<_, _>>()? })
    }

    /// The entries that a name matches.
    fn matching(&self, name: &str) -> Vec<u16> {
        let entries = self.entries.iter().enumerate().filter(|(_, entry)| entry.host.matches_name(name));
        entries.filter_map(|(index, _)| u16::try_from(index).ok()).collect()
    }
}

fn entry(text: &str) -> Result<Entry, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("give scheme://host:port")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (scheme, default_port) = match scheme {
        "*" => (Scheme::Any, None),
        "tcp" => (Scheme::Tcp, None),
        "udp" => (Scheme::Udp, None),
        "http" => (Scheme::Http, Some(80)),
        "https" => (Scheme::Https, Some(443)),
        "redis" | "rediss" => (Scheme::Tcp, Some(6379)),
        "postgres" | "postgresql" => (Scheme::Tcp, Some(5432)),
        "mysql" => (Scheme::Tcp, Some(3306)),
        "mqtt" => (Scheme::Tcp, Some(1883)),
        "mqtts" => (Scheme::Tcp, Some(8883)),
        _ => return Err("unknown scheme: give *, tcp, udp, http, https, redis, postgres, mysql or mqtt"),
    };
    if rest == "self" {
        return Ok(Entry { scheme, host: Host::Own, ports: (0, u16::MAX) });
    }
    // `[fd00::1]:80`, `[fd00::]/8:80`, `10.0.0.0/8:80`, `*.example.com:80`
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, after)) => {
            let (prefix, port) = match after.split_once(':') {
                Some((prefix, port)) => (prefix, Some(port)),
                None => (after, None),
            };
            (host(&format!("{address}{prefix}"))?, port)
        }
        None => match rest.rsplit_once(':') {
            Some((name, port)) => (host(name)?, Some(port)),
            None => (host(rest)?, None),
        },
    };
    let ports = match (port, default_port) {
        (Some(text), _) => ports(text)?,
        (None, Some(port)) => (port, port),
        (None, None) => return Err("this scheme needs a port, a range such as 8000..9000, or *"),
    };
    Ok(Entry { scheme, host, ports })
}

fn host(text: &str) -> Result<Host, &'static str> {
    const WRONG: &str = "the host must be a name, *.name, an address, a network such as 10.0.0.0/8, or *";
    if text == "*" {
        return Ok(Host::Any);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Network(address, if address.is_ipv4() { 32 } else { 128 }));
    }
    if let Some((address, prefix)) = text.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| WRONG)?;
        let prefix: u8 = prefix.parse().map_err(|_| WRONG)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        return if prefix <= most { Ok(Host::Network(address, prefix)) } else { Err(WRONG) };
    }
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    if let Some(suffix) = name.strip_prefix("*.") {
        return if super::resolver::is_name(suffix) {
            Ok(Host::Suffix(format!(".{suffix}").into()))
        } else {
            Err(WRONG)
        };
    }
    if super::resolver::is_name(&name) { Ok(Host::Name(name.into())) } else { Err(WRONG) }
}

fn ports(text: &str) -> Result<(u16, u16), &'static str> {
    const WRONG: &str = "the port must be a number, a range such as 8000..9000, or *";
    if text == "*" {
        return Ok((0, u16::MAX));
    }
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0).ok_or(WRONG);
    match text.split_once("..") {
        // The end is not part of the range, as in Rust.
        Some((from, to)) => {
            let (from, to) = (number(from)?, number(to)?);
            if from < to { Ok((from, to - 1)) } else { Err(WRONG) }
        }
        None => number(text).map(|n| (n, n)),
    }
}

impl Host {
    fn matches_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        match self {
            Host::Any => true,
            Host::Name(own) => own.eq_ignore_ascii_case(name),
            Host::Suffix(suffix) => {
                name.len() > suffix.len()
                    && name
                        .get(name.len() - suffix.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            Host::Network(..) | Host::Own => false,
        }
    }

    fn matches_address(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Host::Any, _) => true,
            (Host::Network(IpAddr::V4(network), prefix), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (Host::Network(IpAddr::V6(network), prefix), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl Entry {
    fn carries(&self, port: u16, protocol: Protocol) -> bool {
        let by_scheme = match self.scheme {
            Scheme::Any => true,
            Scheme::Udp => protocol == Protocol::Udp,
            Scheme::Tcp | Scheme::Http | Scheme::Https => protocol == Protocol::Tcp,
        };
        by_scheme && (self.ports.0..=self.ports.1).contains(&port)
    }

    fn carries_request(&self, https: bool, port: u16) -> bool {
        let by_scheme = match self.scheme {
            Scheme::Any | Scheme::Tcp => true,
            Scheme::Http => !https,
            Scheme::Https => https,
            Scheme::Udp => false,
        };
        by_scheme && (self.ports.0..=self.ports.1).contains(&port)
    }
}

/// A pod's permissions as they stand: its list, and what its names led to.
pub struct Outbound {
    list: AllowList,
    grants: Mutex<HashMap<IpAddr, Grant>>,
}

struct Grant {
    entries: Vec<u16>,
    until: Instant,
}

impl Outbound {
    pub fn new(list: AllowList) -> Self {
        Outbound { list, grants: Mutex::default() }
    }

    pub fn allows_name(&self, name: &str) -> bool {
        self.list.entries.iter().any(|entry| entry.host.matches_name(name))
    }

    /// One of these names, which are the same to the pod, led to these addresses: it may connect to them now.
    pub fn grant(&self, names: &[&str], addresses: &[IpAddr], now: Instant) {
        let mut entries: Vec<u16> = names.iter().flat_map(|name| self.list.matching(name)).collect();
        entries.sort_unstable();
        entries.dedup();
        let mut grants = self.grants.lock();
        for address in addresses {
            if grants.len() >= GRANTS_MAX {
                grants.retain(|_, grant| grant.until > now);
            }
            if grants.len() >= GRANTS_MAX && !grants.contains_key(address) {
                let oldest = grants.iter().min_by_key(|(_, grant)| grant.until).map(|(address, _)| *address);
                oldest.and_then(|address| grants.remove(&address));
            }
            let grant = grants.entry(*address).or_insert_with(|| Grant { entries: Vec::new(), until: now });
            if grant.until <= now {
                grant.entries.clear();
            }
            grant.until = now + GRANT_TIME;
            grant
                .entries
                .extend(entries.iter().filter(|e| !grant.entries.contains(e)).copied().collect::<Vec<_>>());
        }
    }

    pub fn allows_address(&self, address: SocketAddr, protocol: Protocol, now: Instant) -> bool {
        let carries = |entry: &Entry| entry.carries(address.port(), protocol);
        if self.list.entries.iter().any(|e| e.host.matches_address(address.ip()) && carries(e)) {
            return true;
        }
        let grants = self.grants.lock();
        let Some(grant) = grants.get(&address.ip()).filter(|grant| grant.until > now) else {
            return false;
        };
        grant.entries.iter().filter_map(|index| self.list.entries.get(usize::from(*index))).any(carries)
    }

    /// `names`: how the host may be called; an address is one of them.
    pub fn allows_request(&self, https: bool, names: &[&str], port: u16) -> bool {
        self.list.entries.iter().filter(|entry| entry.carries_request(https, port)).any(|entry| {
            names.iter().any(|name| match name.parse::<IpAddr>() {
                Ok(address) => entry.host.matches_address(address),
                Err(_) => entry.host.matches_name(name),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AllowList {
        AllowList::parse(text).unwrap()
    }

    #[test]
    fn entries_are_checked() {
        for good in [
            "",
            "[]",
            r#"["https://example.com", "*://*:*"]"#,
            "http://a, https://*.b.example:8443 tcp://10.0.0.0/8:5432",
            "udp://192.0.2.1:53",
            "redis://cache",
            "http://self",
            "tcp://[fd00::1]:80",
            "tcp://[fd00::]/8:8000..9000",
            "https://example.com/",
        ] {
            assert!(AllowList::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("example.com", "scheme://host:port"),
            ("gopher://x:70", "unknown scheme"),
            ("tcp://x", "needs a port"),
            ("http://x:0", "port must be"),
            ("http://x:70000", "port must be"),
            ("http://x:9..8", "port must be"),
            ("http://10.0.0.0/33", "host must be"),
            ("http://a.*.b", "host must be"),
            ("http://example.com/path", "host must be"),
            ("http://", "host must be"),
            ("[1]", "JSON list"),
        ] {
            let error = AllowList::parse(bad).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.starts_with("annotation coracle.dev/allowed-outbound-hosts: "),
                "{error}"
            );
        }
    }

    #[test]
    fn names_are_matched() {
        for (entry, name, want) in [
            ("https://example.com", "Example.COM.", true),
            ("https://example.com", "www.example.com", false),
            ("https://*.example.com", "www.example.com", true),
            ("https://*.example.com", "a.b.example.com", true),
            ("https://*.example.com", "example.com", false),
            ("https://*.example.com", "badexample.com", false),
            ("https://*", "anything", true),
            ("https://10.0.0.1", "10.0.0.1.example", false),
        ] {
            assert_eq!(Outbound::new(list(entry)).allows_name(name), want, "{entry} {name}");
        }
    }

    #[test]
    fn addresses_are_matched_by_network_port_and_protocol() {
        for (entry, address, protocol, want) in [
            ("tcp://10.0.0.0/8:80", "10.9.9.9:80", Protocol::Tcp, true),
            ("tcp://10.0.0.0/8:80", "10.9.9.9:81", Protocol::Tcp, false),
            ("tcp://10.0.0.0/8:80", "11.0.0.1:80", Protocol::Tcp, false),
            ("tcp://10.0.0.0/8:80", "10.9.9.9:80", Protocol::Udp, false),
            ("udp://10.0.0.1:53", "10.0.0.1:53", Protocol::Udp, true),
            ("*://10.0.0.1:*", "10.0.0.1:53", Protocol::Udp, true),
            ("http://10.0.0.1", "10.0.0.1:80", Protocol::Tcp, true),
            ("tcp://10.0.0.1:8000..9000", "10.0.0.1:8999", Protocol::Tcp, true),
            ("tcp://10.0.0.1:8000..9000", "10.0.0.1:9000", Protocol::Tcp, false),
            ("tcp://[fd00::]/8:80", "[fd12::1]:80", Protocol::Tcp, true),
            ("tcp://0.0.0.0/0:80", "192.0.2.1:80", Protocol::Tcp, true),
            ("https://example.com", "192.0.2.1:443", Protocol::Tcp, false),
        ] {
            let got =
                Outbound::new(list(entry)).allows_address(address.parse().unwrap(), protocol, Instant::now());
            assert_eq!(got, want, "{entry} {address}");
        }
    }

    #[test]
    fn a_name_opens_what_it_led_to_for_a_while() {
        let outbound = Outbound::new(list("https://example.com tcp://db:5432"));
        let begun = Instant::now();
        let open = |text: &str, now| outbound.allows_address(text.parse().unwrap(), Protocol::Tcp, now);
        outbound.grant(&["example.com"], &["192.0.2.1".parse().unwrap()], begun);
        assert!(open("192.0.2.1:443", begun));
        for other in ["192.0.2.1:80", "192.0.2.1:5432", "192.0.2.2:443"] {
            assert!(!open(other, begun), "{other}");
        }
        outbound.grant(&["db", "db.shop.svc.cluster.local"], &["192.0.2.1".parse().unwrap()], begun);
        assert!(open("192.0.2.1:5432", begun) && open("192.0.2.1:443", begun));
        assert!(!open("192.0.2.1:443", begun + GRANT_TIME));
        for n in 0..GRANTS_MAX + 10 {
            let address = std::net::Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into();
            outbound.grant(&["db"], &[address], begun);
        }
        assert!(outbound.grants.lock().len() <= GRANTS_MAX);
    }

    #[test]
    fn requests_are_matched_by_scheme() {
        let outbound =
            Outbound::new(list("https://example.com http://web.shop.svc.cluster.local:8080 *://10.0.0.1:*"));
        for (https, host, port, want) in [
            (true, "example.com", 443, true),
            (false, "example.com", 443, false),
            (false, "example.com", 80, false),
            (false, "web.shop.svc.cluster.local", 8080, true),
            (true, "10.0.0.1", 9, true),
            (true, "10.0.0.2", 9, false),
        ] {
            assert_eq!(outbound.allows_request(https, &[host], port), want, "{host}:{port}");
        }
    }
}
