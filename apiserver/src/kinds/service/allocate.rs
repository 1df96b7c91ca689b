//! Hands out cluster addresses and node ports, each to one service.
//!
//! Pure bookkeeping: who calls it holds a lock around it, writes the service, and then says what became of the write:
//! [`ServiceAllocator::undo`] where it failed, [`ServiceAllocator::stored`] where it went through,
//! [`ServiceAllocator::settle`] where it was an update, [`ServiceAllocator::release`] where the service is gone.
//! Which addresses and ports are taken stands in the store. Of addresses only those under way are kept here, of ports
//! all that are known of, so that free ones are found without asking:
//! [`ServiceAllocator::rebuild`] starts over from the stored services.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::families::{Family, settle};
use super::range::{AddressRange, RangeError};
use super::{HEADLESS, is_external, is_headless, listed, needs_health_port, type_of};
use crate::field_error::{Errors, Path};
use crate::validation::given;

/// Upstream's `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// The low ports that are handed out only when the others are used up, so that people can pick from them.
const NODE_PORTS_KEPT: u16 = 86;

/// Who has what, by namespace and name of the service.
pub struct ServiceAllocator {
    /// The server's own, one for each family that it is configured for; the first is the default.
    own: Vec<AddressRange>,
    /// Handed out to services whose writes are under way.
    addresses: HashMap<IpAddr, String>,
    ports: HashMap<u16, String>,
    /// Those of them that were handed out to services whose writes are under way.
    ports_under_way: HashSet<u16>,
    /// Where the last search in a range ended: a freed address is not handed out again at once.
    next_address: HashMap<String, u128>,
    next_port: u16,
}

/// What one call of [`ServiceAllocator::allocate`] took that the service did not have before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

/// What the store says of addresses.
pub struct Surroundings<'a> {
    /// Whose an address is, by namespace and name of the service.
    pub holder: &'a dyn Fn(IpAddr) -> Option<String>,
    /// The ranges beside the server's own.
    pub ranges: &'a [AddressRange],
    /// Whether the store has that service with that port.
    pub has_port: &'a dyn Fn(&str, u16) -> bool,
}

impl Reservation {
    /// The addresses that the service did not have before.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The ports that the service did not have before.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }
}

impl ServiceAllocator {
    /// `service_cidr`: one range, or two of different families with a comma between.
    pub fn new(service_cidr: &str) -> Result<Self, RangeError> {
        Ok(Self {
            own: AddressRange::parse_own(service_cidr)?,
            addresses: HashMap::new(),
            ports: HashMap::new(),
            ports_under_way: HashSet::new(),
            next_address: HashMap::new(),
            next_port: NODE_PORTS.start() + NODE_PORTS_KEPT,
        })
    }

    /// Forgets the ports and takes those that these stored services have.
    pub fn rebuild<'a>(&mut self, services: impl IntoIterator<Item = &'a Service>) {
        self.ports.clear();
        for service in services {
            let owner = owner(service);
            for port in node_ports(service) {
                self.ports.entry(port).or_insert_with(|| owner.clone());
            }
        }
    }

    /// Gives a service that is about to be written the addresses and ports it asks for or lacks. What it has already is
    /// left as it is. On an error nothing is taken. `old`: the service as it is, on updates.
    pub fn allocate(
        &mut self,
        service: &mut Service,
        old: Option<&Service>,
        around: &Surroundings<'_>,
    ) -> Result<Reservation, Errors> {
        let owner = owner(service);
        let mut errors = Errors::default();
        let mut taken = Reservation::default();
        let spec = service.spec.get_or_insert_default();
        if type_of(spec) != "ExternalName" {
            if listed(&spec.cluster_ips).is_empty() {
                spec.cluster_ips = given(&spec.cluster_ip).map(|one| vec![one.to_owned()]);
            }
            let configured: Vec<Family> = self.own.iter().map(AddressRange::family).collect();
            settle(spec, old.and_then(|old| old.spec.as_ref()), &configured)?;
            if !is_headless(spec) {
                self.allocate_addresses(spec, &owner, around, &mut taken, &mut errors);
            }
        }
        if is_external(spec) && spec.allocate_load_balancer_node_ports != Some(false) || has_node_ports(spec)
        {
            self.allocate_ports(spec, &owner, around, &mut taken, &mut errors);
        }
        if needs_health_port(spec) {
            let field = "spec.healthCheckNodePort";
            let wanted = spec.health_check_node_port.unwrap_or_default();
            let port = self.port(wanted, field.into(), &owner, around, &mut taken, &mut errors);
            spec.health_check_node_port = port.map(i32::from);
        }
        if errors.is_empty() {
            return Ok(taken);
        }
        self.undo(&taken);
        Err(errors)
    }

    /// The write failed, or was a dry run: gives back what `allocate` took for it.
    pub fn undo(&mut self, reservation: &Reservation) {
        for ip in &reservation.addresses {
            self.addresses.remove(ip);
        }
        for port in &reservation.ports {
            self.ports.remove(port);
            self.ports_under_way.remove(port);
        }
    }

    /// The store says that the port is another service's.
    pub fn learn(&mut self, port: u16, owner: String) {
        self.ports_under_way.remove(&port);
        self.ports.insert(port, owner);
    }

    /// The write went through: from now on the store says whose the addresses are.
    pub fn stored(&mut self, reservation: &Reservation) {
        for ip in &reservation.addresses {
            self.addresses.remove(ip);
        }
        for port in &reservation.ports {
            self.ports_under_way.remove(port);
        }
    }

    /// An update went through: gives back what only the old form had.
    pub fn settle(&mut self, old: &Service, new: &Service) {
        let owner = owner(old);
        let kept_ports = node_ports(new);
        for port in node_ports(old).into_iter().filter(|p| !kept_ports.contains(p)) {
            give_back(&mut self.ports, &port, &owner);
        }
    }

    /// The service is gone.
    pub fn release(&mut self, service: &Service) {
        let owner = owner(service);
        for port in node_ports(service) {
            give_back(&mut self.ports, &port, &owner);
        }
    }

    /// One address for each family.
    fn allocate_addresses(
        &mut self,
        spec: &mut ServiceSpec,
        owner: &str,
        around: &Surroundings<'_>,
        taken: &mut Reservation,
        errors: &mut Errors,
    ) {
        let asked = spec.cluster_ips.clone().unwrap_or_default();
        let mut all = Vec::new();
        for (i, family) in spec.ip_families.iter().flatten().enumerate() {
            let Some(family) = Family::named(family) else { continue };
            let address = match asked.get(i).filter(|text| !text.is_empty()) {
                Some(text) => self.wanted_address(text, &asked, owner, around, taken, errors),
                None => self.free_address(family, around).map(|ip| self.take_address(ip, owner, taken)),
            };
            match address {
                Some(address) => all.push(address.to_string()),
                None if errors.is_empty() => {
                    let none: [&str; 0] = [];
                    let detail = "failed to allocate a serviceIP: range is full";
                    return errors.invalid("spec.clusterIPs", none, detail);
                }
                None => return,
            }
        }
        if !all.is_empty() {
            spec.cluster_ip = all.first().cloned();
            spec.cluster_ips = Some(all);
        }
    }

    /// None, with an error: it cannot be had.
    fn wanted_address(
        &mut self,
        text: &str,
        asked: &[String],
        owner: &str,
        around: &Surroundings<'_>,
        taken: &mut Reservation,
        errors: &mut Errors,
    ) -> Option<IpAddr> {
        let mut refuse = |why: &str| {
            errors.invalid("spec.clusterIPs", asked, format!("failed to allocate IP {text}: {why}"));
            None
        };
        let Ok(ip) = text.parse::<IpAddr>() else { return refuse("not a valid IP address") };
        match self.addresses.get(&ip).cloned().or_else(|| (around.holder)(ip)) {
            Some(other) if other != owner => refuse("provided IP is already allocated"),
            Some(_) => Some(ip),
            None if !self.own.iter().chain(around.ranges).any(|range| range.contains(ip)) => {
                refuse("the provided network does not match the current range")
            }
            None => Some(self.take_address(ip, owner, taken)),
        }
    }

    fn take_address(&mut self, ip: IpAddr, owner: &str, taken: &mut Reservation) -> IpAddr {
        self.addresses.insert(ip, owner.to_owned());
        taken.addresses.push(ip);
        ip
    }

    /// Of the server's own range of the family, and when that is full of the others.
    fn free_address(&mut self, family: Family, around: &Surroundings<'_>) -> Option<IpAddr> {
        for range in self.own.iter().chain(around.ranges).filter(|range| range.family() == family) {
            let next = self.next_address.get(range.cidr()).copied();
            let free = |ip: IpAddr| !self.addresses.contains_key(&ip) && (around.holder)(ip).is_none();
            if let Some((ip, next)) = range.first_free(next, free) {
                self.next_address.insert(range.cidr().to_owned(), next);
                return Some(ip);
            }
        }
        None
    }

    fn allocate_ports(
        &mut self,
        spec: &mut ServiceSpec,
        owner: &str,
        around: &Surroundings<'_>,
        taken: &mut Reservation,
        errors: &mut Errors,
    ) {
        let path = Path::new("spec");
        let path = path.child("ports");
        let asks = spec.allocate_load_balancer_node_ports != Some(false);
        for (i, port) in spec.ports.iter_mut().flatten().enumerate() {
            let wanted = port.node_port.unwrap_or_default();
            if wanted == 0 && !asks {
                continue;
            }
            let at = path.index(i);
            port.node_port =
                self.port(wanted, at.child("nodePort").into(), owner, around, taken, errors).map(i32::from);
        }
    }

    fn port(
        &mut self,
        wanted: i32,
        field: String,
        owner: &str,
        around: &Surroundings<'_>,
        taken: &mut Reservation,
        errors: &mut Errors,
    ) -> Option<u16> {
        let port = if wanted == 0 {
            match self.free_port(around) {
                Some(port) => port,
                None => {
                    errors.invalid(field, wanted, "failed to allocate a nodePort: range is full");
                    return None;
                }
            }
        } else {
            match u16::try_from(wanted).ok().filter(|p| NODE_PORTS.contains(p)) {
                Some(port) => port,
                None => {
                    let detail = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        NODE_PORTS.start(),
                        NODE_PORTS.end()
                    );
                    errors.invalid(field, wanted, detail);
                    return None;
                }
            }
        };
        if self.ports.get(&port).is_some_and(|other| other != owner && self.forgotten(port, other, around)) {
            self.ports.remove(&port);
        }
        match self.ports.get(&port) {
            Some(other) if other != owner => {
                errors.invalid(field, wanted, "provided port is already allocated");
                return None;
            }
            Some(_) => {}
            None => {
                self.ports.insert(port, owner.to_owned());
                self.ports_under_way.insert(port);
                taken.ports.push(port);
            }
        }
        Some(port)
    }

    /// Another server has let go of the port since.
    fn forgotten(&self, port: u16, owner: &str, around: &Surroundings<'_>) -> bool {
        !self.ports_under_way.contains(&port) && !(around.has_port)(owner, port)
    }

    fn free_port(&mut self, around: &Surroundings<'_>) -> Option<u16> {
        if let Some(port) = self.unused_port() {
            return Some(port);
        }
        let old: Vec<u16> =
            self.ports.iter().filter(|(p, o)| self.forgotten(**p, o, around)).map(|(p, _)| *p).collect();
        for port in old {
            self.ports.remove(&port);
        }
        self.unused_port()
    }

    fn unused_port(&mut self) -> Option<u16> {
        let (start, end) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let kept = start + NODE_PORTS_KEPT;
        let upper = (self.next_port..=end).chain(kept..self.next_port);
        let port = upper.chain(start..kept).find(|p| !self.ports.contains_key(p))?;
        self.next_port = if port >= kept && port < end { port + 1 } else { kept };
        Some(port)
    }
}

fn give_back<K: std::hash::Hash + Eq>(map: &mut HashMap<K, String>, key: &K, owner: &str) {
    if map.get(key).is_some_and(|o| o == owner) {
        map.remove(key);
    }
}

/// How a service is called as a holder.
pub fn owner(service: &Service) -> String {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    format!("{}/{}", text(&service.metadata.namespace), text(&service.metadata.name))
}

/// The cluster addresses that a service has.
pub fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let one = spec.cluster_ip.iter();
    let mut ips: Vec<IpAddr> = one
        .chain(spec.cluster_ips.iter().flatten())
        .filter(|ip| *ip != HEADLESS)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    ips.dedup();
    ips
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    is_external(spec) && spec.ports.iter().flatten().any(|p| p.node_port.unwrap_or_default() != 0)
}

/// The node ports that a service has.
pub fn node_ports(service: &Service) -> Vec<u16> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let ports = spec.ports.iter().flatten().filter_map(|p| p.node_port);
    ports
        .chain(spec.health_check_node_port)
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .collect()
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
