//! A range cut into equal parts, and who has which.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Cidr;

/// Upstream's bound: 2^16 parts.
const PARTS_MAX_BITS: u8 = 16;

/// No node can be called so.
const RESERVED: &str = "";

pub struct Ranges {
    whole: Cidr,
    prefix: u8,
    parts: u32,
    by_part: BTreeMap<u32, Box<str>>,
    by_node: HashMap<Box<str>, u32>,
    /// Where the next search begins: a range that came free rests as long as there are others.
    next: u32,
}

impl Ranges {
    pub fn new(whole: Cidr, prefix: u8) -> Result<Self, String> {
        if prefix < whole.prefix || prefix > whole.bits() {
            return Err(format!("the node mask /{prefix} does not fit into {whole}"));
        }
        let bits = prefix - whole.prefix;
        if bits > PARTS_MAX_BITS {
            return Err(format!(
                "New CIDR set failed; the node CIDR size /{prefix} is too big for {whole}: at most 2^{PARTS_MAX_BITS} nodes"
            ));
        }
        let parts = 1 << bits;
        Ok(Self { whole, prefix, parts, by_part: BTreeMap::new(), by_node: HashMap::new(), next: 0 })
    }

    /// The node's range, the one it has if it has one; None when all are taken.
    pub fn allocate(&mut self, node: &str) -> Option<Cidr> {
        if let Some(part) = self.by_node.get(node) {
            return Some(self.cidr(*part));
        }
        let part = (0..self.parts)
            .map(|offset| (self.next + offset) % self.parts)
            .find(|part| !self.by_part.contains_key(part))?;
        self.next = (part + 1) % self.parts;
        self.by_part.insert(part, node.into());
        self.by_node.insert(node.into(), part);
        Some(self.cidr(part))
    }

    /// Keeps the parts that overlap with a range that is somebody else's, e.g. the services'.
    pub fn exclude(&mut self, other: Cidr) {
        if other.bits() != self.whole.bits() {
            return;
        }
        let shift = u32::from(self.whole.bits() - self.prefix);
        let end = |cidr: Cidr| {
            let host = u32::from(cidr.bits() - cidr.prefix);
            cidr.start().saturating_add(1_u128.checked_shl(host).unwrap_or(0).wrapping_sub(1))
        };
        let (first, last) = (other.start().max(self.whole.start()), end(other).min(end(self.whole)));
        if first > last {
            return;
        }
        let part = |at: u128| {
            u32::try_from((at - self.whole.start()).checked_shr(shift).unwrap_or(0)).unwrap_or(u32::MAX)
        };
        for part in part(first)..=part(last) {
            self.by_part.insert(part, RESERVED.into());
        }
    }

    /// Notes that the node has this range, if it is one of these; the first to have it keeps it.
    pub fn occupy(&mut self, cidr: Cidr, node: &str) {
        if !self.whole.contains(cidr) {
            return;
        }
        let shift = u32::from(self.whole.bits() - self.prefix);
        let Ok(part) = u32::try_from((cidr.start() - self.whole.start()).checked_shr(shift).unwrap_or(0))
        else {
            return;
        };
        if self.by_part.contains_key(&part) {
            return;
        }
        self.by_part.insert(part, node.into());
        self.by_node.insert(node.into(), part);
    }

    pub fn release(&mut self, node: &str) {
        if let Some(part) = self.by_node.remove(node) {
            self.by_part.remove(&part);
        }
    }

    fn cidr(&self, part: u32) -> Cidr {
        let shift = u32::from(self.whole.bits() - self.prefix);
        let start = self.whole.start() + u128::from(part).checked_shl(shift).unwrap_or(0);
        let address = if self.whole.address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(start).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(start))
        };
        Cidr { address, prefix: self.prefix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(whole: &str, prefix: u8) -> Ranges {
        Ranges::new(whole.parse().unwrap(), prefix).unwrap()
    }

    #[test]
    fn parts_are_given_once_and_again_when_released() {
        let mut ranges = ranges("10.244.0.0/22", 24);
        ranges.occupy("10.244.1.0/24".parse().unwrap(), "x");
        ranges.occupy("10.9.1.0/24".parse().unwrap(), "stranger");
        let mut give = |node: &str| ranges.allocate(node).map(|c| c.to_string());
        assert_eq!(give("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(give("a").as_deref(), Some("10.244.0.0/24"), "idempotent");
        assert_eq!(give("b").as_deref(), Some("10.244.2.0/24"));
        assert_eq!(give("c").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(give("d"), None);
        ranges.release("b");
        assert_eq!(ranges.allocate("d").map(|c| c.to_string()).as_deref(), Some("10.244.2.0/24"));
    }

    #[test]
    fn parts_of_others_are_never_given() {
        for (other, want) in [
            ("10.244.0.0/24", Some("10.244.1.0/24")),
            ("10.244.0.128/25", Some("10.244.1.0/24")),
            ("10.244.0.0/23", Some("10.244.2.0/24")),
            ("10.244.0.0/16", None),
            ("10.0.0.0/8", None),
            ("10.96.0.0/12", Some("10.244.0.0/24")),
            ("fd00::/64", Some("10.244.0.0/24")),
        ] {
            let mut ranges = ranges("10.244.0.0/22", 24);
            ranges.exclude(other.parse().unwrap());
            assert_eq!(ranges.allocate("a").map(|c| c.to_string()).as_deref(), want, "{other}");
        }
    }

    #[test]
    fn six_and_the_edges() {
        assert_eq!(
            ranges("fd00::/48", 64).allocate("a").map(|c| c.to_string()).as_deref(),
            Some("fd00::/64")
        );
        let mut second = ranges("fd00::/48", 64);
        second.allocate("a");
        assert_eq!(second.allocate("b").map(|c| c.to_string()).as_deref(), Some("fd00:0:0:1::/64"));
        assert_eq!(
            ranges("10.0.0.0/24", 24).allocate("a").map(|c| c.to_string()).as_deref(),
            Some("10.0.0.0/24")
        );
        assert!(Ranges::new("10.0.0.0/24".parse().unwrap(), 16).is_err());
        assert!(Ranges::new("fd00::/40".parse().unwrap(), 64).is_err());
    }
}
