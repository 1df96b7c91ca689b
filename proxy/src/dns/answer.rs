//! Answers to questions about the cluster's domain, as records. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::zone::{Node, Target, VERSION, Zone};
use crate::table::contains;

/// How long others may remember what we say: a Service's endpoints change.
pub const TTL: u32 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is another's, whose records are to be looked up.
    Alias(Box<Alias>),
    /// The name is there and has none of these records.
    Nothing,
    NoSuchName,
    /// The question is not about the cluster.
    NotOurs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub record: Record,
    pub target: Name,
}

pub fn answer(zone: &Zone, networks: &[(IpAddr, u8)], name: &Name, kind: RecordType) -> Answer {
    let text = name.to_ascii();
    if let Some(below) = zone.within(&text) {
        return match zone.find(below) {
            Some(node) => records(zone, name, node, kind),
            None => Answer::NoSuchName,
        };
    }
    let Some(address) = reversed(&text) else { return Answer::NotOurs };
    let names = zone.names_of(address);
    if names.is_empty() {
        // What is the cluster's nobody else can know.
        return if is_within(networks, address) { Answer::NoSuchName } else { Answer::NotOurs };
    }
    let targets = names.iter().filter_map(|n| absolute(n));
    some(targets.filter(|_| wants(kind, RecordType::PTR)).map(|t| record(name, RData::PTR(PTR(t)))).collect())
}

fn records(zone: &Zone, name: &Name, node: Node, kind: RecordType) -> Answer {
    match node {
        Node::Empty => Answer::Nothing,
        Node::Apex => apex(zone, name, kind),
        Node::Version if wants(kind, RecordType::TXT) => {
            some(vec![record(name, RData::TXT(TXT::new(vec![VERSION.into()])))])
        }
        Node::Version => Answer::Nothing,
        Node::Addresses(addresses) => some(of_addresses(name, &addresses, kind)),
        Node::Ports(targets) if wants(kind, RecordType::SRV) => services(name, &targets),
        Node::Ports(_) => Answer::Nothing,
        Node::Alias(target) => match absolute(&target) {
            Some(target) => {
                let record = record(name, RData::CNAME(CNAME(target.clone())));
                if kind == RecordType::CNAME || kind == RecordType::ANY {
                    return some(vec![record]);
                }
                Answer::Alias(Box::new(Alias { record, target }))
            }
            None => Answer::Nothing,
        },
    }
}

fn apex(zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    let soa = soa(zone).filter(|_| wants(kind, RecordType::SOA));
    let server = absolute(&format!("ns.dns.{}", zone.domain)).filter(|_| kind == RecordType::NS);
    some(soa.into_iter().chain(server.map(|s| record(name, RData::NS(NS(s))))).collect())
}

/// The record that says how long "there is no such name" may be remembered.
pub fn soa(zone: &Zone) -> Option<Record> {
    let (server, mailbox) = (format!("ns.dns.{}", zone.domain), format!("hostmaster.{}", zone.domain));
    let data = SOA::new(absolute(&server)?, absolute(&mailbox)?, 1, 7200, 1800, 86_400, TTL);
    Some(record(&absolute(&zone.domain)?, RData::SOA(data)))
}

fn services(name: &Name, targets: &[Target]) -> Answer {
    let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
    let (mut answers, mut additionals) = (Vec::new(), Vec::new());
    for target in targets {
        let Some(at) = absolute(&target.name) else { continue };
        additionals.extend(of_addresses(&at, &target.addresses, RecordType::ANY));
        answers.push(record(name, RData::SRV(SRV::new(0, weight, target.port, at))));
    }
    Answer::Records { answers, additionals }
}

fn of_addresses(name: &Name, addresses: &[IpAddr], kind: RecordType) -> Vec<Record> {
    let data = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(ip) => wants(kind, RecordType::A).then(|| RData::A((*ip).into())),
        IpAddr::V6(ip) => wants(kind, RecordType::AAAA).then(|| RData::AAAA((*ip).into())),
    });
    data.map(|data| record(name, data)).collect()
}

fn some(answers: Vec<Record>) -> Answer {
    if answers.is_empty() {
        return Answer::Nothing;
    }
    Answer::Records { answers, additionals: Vec::new() }
}

fn wants(asked: RecordType, kind: RecordType) -> bool {
    asked == kind || asked == RecordType::ANY
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<u8> = digits.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [d, c, b, a] = *parts else { return None };
        return Some(Ipv4Addr::new(a, b, c, d).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits: u128 = 0;
    let mut count = 0;
    for digit in digits.rsplit('.') {
        let mut characters = digit.chars();
        let (Some(value), None) = (characters.next().and_then(|c| c.to_digit(16)), characters.next()) else {
            return None;
        };
        (bits, count) = ((bits << 4) | u128::from(value), count + 1);
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

fn is_within(networks: &[(IpAddr, u8)], address: IpAddr) -> bool {
    networks.iter().any(|network| contains(*network, address))
}

#[cfg(test)]
mod tests;
