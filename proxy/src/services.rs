//! The cluster's Services as this node knows them, for lookups in this process: their names, and which endpoint a
//! connection to one goes to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;

use crate::balance::Balancer;
use crate::dns::names::ServiceNames;
use crate::dns::{Family, Names};
use crate::table::{PortRules, Protocol, ServiceRules, WayIn};

/// Filled by the proxy as it follows Services and endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    names: Names,
    connects: Arc<RwLock<Connects>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The address is no Service's.
    NotAService,
    Endpoint(SocketAddr),
    /// A Service without an endpoint that could take it: to be refused at once.
    NoEndpoint,
}

/// Where clients come in: an address of a Service, or (None) every address of the node.
type Entrance = (Family, Option<IpAddr>, Protocol, u16);

/// A Service and where its connections go.
type Claim = (Arc<str>, Arc<Balancer>);

#[derive(Default)]
struct Connects {
    /// Two Services may want one entrance, such as an external address; the first one has it, the others wait.
    entrances: HashMap<Entrance, Vec<Claim>>,
    /// What each Service has, to take it away.
    services: HashMap<Arc<str>, Vec<Entrance>>,
}

impl Services {
    /// `networks`: those of the cluster's Services and pods.
    pub fn new(domain: &str, dns: Option<Ipv4Addr>, networks: Vec<(IpAddr, u8)>) -> Self {
        Self { names: Names::new(domain, dns, networks), connects: Arc::default() }
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Where a connection from `source` to a Service's address goes.
    pub fn choose(&self, source: IpAddr, destination: SocketAddr, protocol: Protocol) -> Choice {
        let ip = destination.ip();
        self.at((Family::of(ip), Some(ip), protocol, destination.port()), source)
    }

    /// Where a connection from `source` to a port of the node, at its address of the same family, goes, if it is a
    /// Service's.
    pub fn choose_node_port(&self, source: IpAddr, port: u16, protocol: Protocol) -> Choice {
        self.at((Family::of(source), None, protocol, port), source)
    }

    fn at(&self, entrance: Entrance, source: IpAddr) -> Choice {
        let balancer = self.connects.read().entrances.get(&entrance).and_then(|c| c.first()).cloned();
        match balancer {
            None => Choice::NotAService,
            Some((_, balancer)) => match balancer.choose(source, Instant::now()) {
                Some(endpoint) => Choice::Endpoint(endpoint),
                None => Choice::NoEndpoint,
            },
        }
    }

    pub(crate) fn set(&self, service: &Arc<str>, rules: &ServiceRules, names: Option<ServiceNames>) {
        self.names.set(service, names);
        self.connects.write().set(service, rules);
    }
}

impl Connects {
    /// Clients keep their endpoints where Service and endpoint stay.
    fn set(&mut self, service: &Arc<str>, rules: &ServiceRules) {
        let wanted = entrances(rules);
        let mut before = self.services.remove(service).unwrap_or_default();
        before.retain(|entrance| !wanted.iter().any(|(w, ..)| w == entrance));
        for entrance in before {
            if let Some(claims) = self.entrances.get_mut(&entrance) {
                claims.retain(|(name, _)| name != service);
                if claims.is_empty() {
                    self.entrances.remove(&entrance);
                }
            }
        }
        for (entrance, way, port) in &wanted {
            let claims = self.entrances.entry(*entrance).or_default();
            let balancer = match claims.iter().find(|(name, _)| name == service) {
                Some((_, balancer)) => {
                    balancer.set(way.endpoints, port.affinity);
                    balancer.clone()
                }
                None => {
                    let balancer = Arc::new(Balancer::new(way.endpoints, port.affinity));
                    claims.push((service.clone(), balancer.clone()));
                    balancer
                }
            };
            balancer.let_in(way.sources);
        }
        if !wanted.is_empty() {
            self.services
                .insert(service.clone(), wanted.into_iter().map(|(entrance, ..)| entrance).collect());
        }
    }
}

fn entrances(rules: &ServiceRules) -> Vec<(Entrance, WayIn<'_>, &PortRules)> {
    let of_port = |port| {
        let ways = PortRules::ways_in(port).into_iter();
        ways.map(move |way| ((way.family, way.address, port.protocol, way.port), way, port))
    };
    rules.ports.iter().flat_map(of_port).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rules(endpoints: &[&str], affinity: bool) -> ServiceRules {
        let endpoints: Vec<_> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        let port = PortRules {
            family: Family::V4,
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            addresses: vec!["10.96.0.20".parse().unwrap()],
            external_addresses: Vec::new(),
            balanced_addresses: Vec::new(),
            sources: Vec::new(),
            inside_endpoints: Vec::new(),
            node_port: Some(30_080),
            affinity: affinity.then_some(Duration::from_secs(60)),
            node_port_endpoints: endpoints.iter().take(1).copied().collect(),
            endpoints,
        };
        ServiceRules { ports: vec![port], ..ServiceRules::default() }
    }

    #[test]
    fn connections_go_to_endpoints() {
        let services = Services::new("cluster.local", None, Vec::new());
        let source: IpAddr = "10.244.0.2".parse().unwrap();
        let ask = |to: &str| services.choose(source, to.parse().unwrap(), Protocol::Tcp);
        let (a, b) = ("10.244.0.3:8080", "10.244.0.4:8080");
        services.set(&"ns/web".into(), &rules(&[a, b], true), None);
        let first = ask("10.96.0.20:80");
        assert!(matches!(first, Choice::Endpoint(_)));
        for _ in 0..10 {
            assert_eq!(ask("10.96.0.20:80"), first, "a client with affinity stays");
        }
        assert_eq!(
            services.choose_node_port(source, 30_080, Protocol::Tcp),
            Choice::Endpoint(a.parse().unwrap())
        );
        for other in ["10.96.0.20:81", "10.96.0.21:80", "[::1]:80"] {
            assert_eq!(ask(other), Choice::NotAService, "{other}");
        }
        let udp = services.choose(source, "10.96.0.20:80".parse().unwrap(), Protocol::Udp);
        assert_eq!(udp, Choice::NotAService);
        // Another one waits for the address until it is free.
        services.set(&"ns/late".into(), &rules(&["10.244.0.9:1"], false), None);
        assert_eq!(ask("10.96.0.20:80"), first);
        services.set(&"ns/web".into(), &rules(&[], true), None);
        assert_eq!(ask("10.96.0.20:80"), Choice::NoEndpoint);
        services.set(&"ns/web".into(), &ServiceRules::default(), None);
        assert_eq!(ask("10.96.0.20:80"), Choice::Endpoint("10.244.0.9:1".parse().unwrap()));
        services.set(&"ns/late".into(), &ServiceRules::default(), None);
        assert_eq!(ask("10.96.0.20:80"), Choice::NotAService);
        assert_eq!(services.choose_node_port(source, 30_080, Protocol::Tcp), Choice::NotAService);
    }
}
