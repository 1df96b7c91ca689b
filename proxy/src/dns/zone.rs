//! The cluster's domain: which names there are, and what each of them has. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::names::{Endpoint, Kind, ServiceNames, dashed, undashed};

/// The version of the specification that this serves, as `dns-version` says.
pub const VERSION: &str = "1.1.0";

/// Every name of the cluster's Services, kept up to date one Service at a time.
pub struct Zone {
    /// `cluster.local`, lower case.
    pub domain: Box<str>,
    /// What `ns.dns` and the zone's own records lead to.
    server: Option<IpAddr>,
    /// By `namespace/name`.
    services: HashMap<Arc<str>, Arc<ServiceNames>>,
    /// How many Services a namespace has.
    namespaces: BTreeMap<Box<str>, usize>,
    /// Services by an address that is theirs, and endpoints with hostnames by theirs.
    by_address: HashMap<IpAddr, Vec<Arc<str>>>,
}

/// What there is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A name between others, with no records.
    Empty,
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    Addresses(Vec<IpAddr>),
    /// `_port._protocol` of a Service: targets with their ports.
    Ports(Vec<Target>),
    /// Another name.
    Alias(Box<str>),
}

/// One target of an SRV record: a full name with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

impl Zone {
    pub fn new(domain: &str, server: Option<IpAddr>) -> Self {
        Self {
            domain: domain.trim_matches('.').to_lowercase().into(),
            server,
            services: HashMap::new(),
            namespaces: BTreeMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// The names of a Service (`namespace/name`) are now these; None: it is gone.
    pub fn set(&mut self, service: &Arc<str>, names: Option<ServiceNames>) {
        let Some((namespace, _)) = service.split_once('/') else { return };
        if let Some(old) = self.services.remove(service) {
            for address in reverse(&old) {
                if let Some(holders) = self.by_address.get_mut(&address) {
                    holders.retain(|s| s != service);
                    if holders.is_empty() {
                        self.by_address.remove(&address);
                    }
                }
            }
            if let Some(count) = self.namespaces.get_mut(namespace) {
                *count -= 1;
                if *count == 0 {
                    self.namespaces.remove(namespace);
                }
            }
        }
        let Some(names) = names else { return };
        *self.namespaces.entry(namespace.into()).or_default() += 1;
        for address in reverse(&names) {
            let holders = self.by_address.entry(address).or_default();
            if !holders.contains(service) {
                holders.push(service.clone());
            }
        }
        self.services.insert(service.clone(), Arc::new(names));
    }

    /// The part of an absolute name that is below the zone; None: the name is another's.
    pub fn within<'a>(&self, name: &'a str) -> Option<&'a str> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let cut = name.len().checked_sub(self.domain.len())?;
        let (rest, domain) = (name.get(..cut)?, name.get(cut..)?);
        if !domain.eq_ignore_ascii_case(&self.domain) {
            return None;
        }
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
    }

    /// What is at a name below the zone, given without the zone's own; None: there is no such name.
    pub fn find(&self, below: &str) -> Option<Node> {
        if below.is_empty() {
            return Some(Node::Apex);
        }
        let below = below.to_ascii_lowercase();
        let mut labels: Vec<&str> = below.split('.').collect();
        labels.reverse();
        match *labels {
            ["dns-version"] => Some(Node::Version),
            ["dns"] => self.server.map(|_| Node::Empty),
            ["dns", "ns"] => self.server.map(|address| Node::Addresses(vec![address])),
            ["svc" | "pod"] => Some(Node::Empty),
            ["svc", namespace] => self.namespaces.contains_key(namespace).then_some(Node::Empty),
            ["svc", namespace, ref rest @ ..] => self.service(namespace, rest),
            ["pod", namespace] => is_label(namespace).then_some(Node::Empty),
            ["pod", namespace, label] if is_label(namespace) => {
                undashed(label).map(|address| Node::Addresses(vec![address]))
            }
            _ => None,
        }
    }

    /// `rest`: the Service's name and what is below it, in that order.
    fn service(&self, namespace: &str, rest: &[&str]) -> Option<Node> {
        let (name, below) = rest.split_first()?;
        let service = self.services.get(format!("{namespace}/{name}").as_str())?;
        let full = || format!("{name}.{namespace}.svc.{}", self.domain);
        match *below {
            [] => Some(match &service.kind {
                Kind::ClusterIp { addresses, .. } => Node::Addresses(addresses.to_vec()),
                Kind::Headless if service.endpoints.is_empty() => Node::Empty,
                Kind::Headless => Node::Addresses(service.endpoints.iter().map(|e| e.address).collect()),
                Kind::ExternalName(target) => Node::Alias(target.clone()),
            }),
            [protocol] if protocol.starts_with('_') => {
                let wanted = protocol.trim_start_matches('_');
                let known = match &service.kind {
                    Kind::ClusterIp { ports, .. } => ports.iter().any(|p| &*p.protocol == wanted),
                    Kind::Headless => {
                        service.endpoints.iter().flat_map(|e| &e.ports).any(|p| &*p.protocol == wanted)
                    }
                    Kind::ExternalName(_) => false,
                };
                known.then_some(Node::Empty)
            }
            [label] => {
                let found: Vec<IpAddr> =
                    service.endpoints.iter().filter(|e| is_called(e, label)).map(|e| e.address).collect();
                (!found.is_empty()).then_some(Node::Addresses(found))
            }
            [protocol, port] => {
                let (protocol, port) = (protocol.strip_prefix('_')?, port.strip_prefix('_')?);
                let is = |p: &&super::names::Port| &*p.protocol == protocol && &*p.name == port;
                let targets: Vec<Target> = match &service.kind {
                    Kind::ClusterIp { addresses, ports } => ports
                        .iter()
                        .filter(is)
                        .map(|p| Target { name: full(), port: p.number, addresses: addresses.to_vec() })
                        .collect(),
                    Kind::Headless => service
                        .endpoints
                        .iter()
                        .flat_map(|e| e.ports.iter().filter(is).map(move |p| (e, p)))
                        .map(|(e, p)| Target {
                            name: format!("{}.{}", e.label(), full()),
                            port: p.number,
                            addresses: vec![e.address],
                        })
                        .collect(),
                    Kind::ExternalName(_) => Vec::new(),
                };
                (!targets.is_empty()).then_some(Node::Ports(targets))
            }
            _ => None,
        }
    }

    /// The full names that an address has, sorted.
    pub fn names_of(&self, address: IpAddr) -> Vec<String> {
        let mut all = Vec::new();
        for key in self.by_address.get(&address).into_iter().flatten() {
            let (Some(service), Some((namespace, name))) = (self.services.get(key), key.split_once('/'))
            else {
                continue;
            };
            let full = format!("{name}.{namespace}.svc.{}", self.domain);
            if matches!(&service.kind, Kind::ClusterIp { addresses, .. } if addresses.contains(&address)) {
                all.push(full);
                continue;
            }
            let endpoints = service.endpoints.iter().filter(|e| e.address == address);
            all.extend(endpoints.filter_map(|e| e.hostname.as_ref()).map(|h| format!("{h}.{full}")));
        }
        all.sort_unstable();
        all
    }
}

fn is_called(endpoint: &Endpoint, label: &str) -> bool {
    match &endpoint.hostname {
        Some(hostname) => **hostname == *label,
        None => dashed(endpoint.address) == label,
    }
}

/// The addresses whose reverse names a Service gives: its own, or those of its endpoints that have hostnames.
fn reverse(names: &ServiceNames) -> Vec<IpAddr> {
    match &names.kind {
        Kind::ClusterIp { addresses, .. } => addresses.to_vec(),
        Kind::Headless => {
            names.endpoints.iter().filter(|e| e.hostname.is_some()).map(|e| e.address).collect()
        }
        Kind::ExternalName(_) => Vec::new(),
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
