//! Hands out cluster addresses and node ports, each to one service.
//!
//! Pure bookkeeping: who calls it holds a lock around it, writes the service, and then says what became of the write:
//! [`ServiceAllocator::undo`] where it failed, [`ServiceAllocator::stored`] where it went through,
//! [`ServiceAllocator::settle`] where it was an update, [`ServiceAllocator::release`] where the service is gone.
//! Which addresses and ports are taken stands in the store. Of addresses only those under way are kept here, of ports
//! all that are known of, so that free ones are found without asking:
//! [`ServiceAllocator::rebuild`] starts over from the stored services.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{HEADLESS, is_external, is_headless, needs_health_port, type_of};
use crate::field_error::{Errors, Path};
use crate::validation::given;

/// Upstream's `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// The low ports that are handed out only when the others are used up, so that people can pick from them.
const NODE_PORTS_KEPT: u16 = 86;

/// Who has what, by namespace and name of the service.
pub struct ServiceAllocator {
    range: AddressRange,
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

#[derive(Debug, thiserror::Error)]
#[error("the service range {0:?} is not a CIDR with room for at least one address")]
pub struct RangeError(String);

#[derive(Clone, Debug)]
pub struct AddressRange {
    text: String,
    first: IpAddr,
    size: u128,
}

impl AddressRange {
    pub fn parse(cidr: &str) -> Result<Self, RangeError> {
        let error = || RangeError(cidr.to_owned());
        let (address, bits) = cidr.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits: u32 = bits.parse().map_err(|_| error())?;
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = width.checked_sub(bits).ok_or_else(error)?;
        if host_bits < 2 {
            return Err(error());
        }
        // More than 2^20 addresses are more than anyone hands out; upstream has the same bound.
        let size = 1u128 << host_bits.min(20);
        let mask = if host_bits == 128 { 0 } else { u128::MAX << host_bits };
        let first = number_to_ip(number(address) & mask, address.is_ipv4());
        Ok(Self { text: format!("{first}/{bits}"), first, size })
    }

    /// With the first address of the network.
    pub fn cidr(&self) -> &str {
        &self.text
    }

    /// Without the network's own address and the last one, which is IPv4's broadcast address.
    fn contains(&self, ip: IpAddr) -> bool {
        let offset = number(ip).checked_sub(number(self.first));
        ip.is_ipv4() == self.first.is_ipv4() && offset.is_some_and(|o| (1..self.size - 1).contains(&o))
    }

    fn at(&self, offset: u128) -> IpAddr {
        number_to_ip(number(self.first) + offset, self.first.is_ipv4())
    }

    /// The first addresses are handed out only when the others are used up, so that people can pick from them.
    fn kept(&self) -> u128 {
        (self.size / 16).clamp(16, 256).min(self.size / 2)
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn number_to_ip(number: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::from(number as u32)) } else { IpAddr::V6(Ipv6Addr::from(number)) }
}

impl ServiceAllocator {
    pub fn new(service_cidr: &str) -> Result<Self, RangeError> {
        Ok(Self {
            range: AddressRange::parse(service_cidr)?,
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

    /// Gives a service that is about to be written the address and ports it asks for or lacks. What it has already is
    /// left as it is. On an error nothing is taken.
    pub fn allocate(
        &mut self,
        service: &mut Service,
        around: &Surroundings<'_>,
    ) -> Result<Reservation, Errors> {
        let owner = owner(service);
        let mut errors = Errors::default();
        let mut taken = Reservation::default();
        let spec = service.spec.get_or_insert_default();
        if type_of(spec) != "ExternalName" {
            self.families(spec, &mut errors);
            if !is_headless(spec) {
                self.allocate_address(spec, &owner, around, &mut taken, &mut errors);
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

    /// One family, that of the range; headless services without a selector may have endpoints of both.
    fn families(&self, spec: &mut ServiceSpec, errors: &mut Errors) {
        let (own, other) = if self.range.first.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let selectorless = is_headless(spec) && spec.selector.as_ref().is_none_or(|s| s.is_empty());
        let policy = spec.ip_family_policy.get_or_insert_with(|| {
            if selectorless { "RequireDualStack".into() } else { "SingleStack".into() }
        });
        if policy == "RequireDualStack" && !selectorless {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid("spec.ipFamilyPolicy", &*policy, detail);
        }
        let both = policy == "RequireDualStack" && selectorless;
        let families = spec.ip_families.get_or_insert_with(Vec::new);
        if families.is_empty() {
            families.push(own.into());
            if both {
                families.push(other.into());
            }
        } else if !selectorless && families[0] != own {
            errors.invalid("spec.ipFamilies[0]", &families[0], "not configured on this cluster");
        }
    }

    fn allocate_address(
        &mut self,
        spec: &mut ServiceSpec,
        owner: &str,
        around: &Surroundings<'_>,
        taken: &mut Reservation,
        errors: &mut Errors,
    ) {
        let wanted = given(&spec.cluster_ip).or(spec
            .cluster_ips
            .as_ref()
            .and_then(|ips| ips.first())
            .map(String::as_str));
        let ip = match wanted.map(|w| (w.to_owned(), w.parse::<IpAddr>())) {
            // No address at all: validation has its say.
            Some((_, Err(_))) => return,
            Some((text, Ok(ip))) => match self.addresses.get(&ip).cloned().or_else(|| (around.holder)(ip)) {
                Some(other) if other != owner => {
                    let detail = format!("failed to allocate IP {ip}: provided IP is already allocated");
                    return errors.invalid("spec.clusterIPs", [text], detail);
                }
                Some(_) => ip,
                None if !std::iter::once(&self.range).chain(around.ranges).any(|r| r.contains(ip)) => {
                    let detail = format!(
                        "failed to allocate IP {ip}: the provided network does not match the current range"
                    );
                    return errors.invalid("spec.clusterIPs", [text], detail);
                }
                None => self.take_address(ip, owner, taken),
            },
            None => match self.free_address(around) {
                Some(ip) => self.take_address(ip, owner, taken),
                None => {
                    let none: [&str; 0] = [];
                    return errors.invalid(
                        "spec.clusterIPs",
                        none,
                        "failed to allocate a serviceIP: range is full",
                    );
                }
            },
        };
        spec.cluster_ip = Some(ip.to_string());
        if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            spec.cluster_ips = Some(vec![ip.to_string()]);
        }
    }

    fn take_address(&mut self, ip: IpAddr, owner: &str, taken: &mut Reservation) -> IpAddr {
        self.addresses.insert(ip, owner.to_owned());
        taken.addresses.push(ip);
        ip
    }

    /// Of the server's own range, and when that is full of the others of its family.
    fn free_address(&mut self, around: &Surroundings<'_>) -> Option<IpAddr> {
        let own = self.range.first.is_ipv4();
        let ranges = around.ranges.iter().filter(|range| range.first.is_ipv4() == own);
        for range in std::iter::once(&self.range).chain(ranges) {
            let (kept, end) = (range.kept(), range.size - 1);
            let next = self.next_address.get(&range.text).copied().unwrap_or(kept);
            let free = |offset: &u128| {
                let ip = range.at(*offset);
                !self.addresses.contains_key(&ip) && (around.holder)(ip).is_none()
            };
            if let Some(offset) = (next..end).chain(kept..next).chain(1..kept).find(free) {
                let next = if offset >= kept && offset + 1 < end { offset + 1 } else { kept };
                self.next_address.insert(range.text.clone(), next);
                return Some(range.at(offset));
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
