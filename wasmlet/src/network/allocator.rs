//! Which pod addresses of the node's range are taken.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::cidr::Cidr;

/// Hands out addresses round-robin, so that a freed one rests as long as the range allows before it is used again
/// (a client with a stale endpoint then meets nobody, not somebody else).
#[derive(Debug)]
pub struct Allocator {
    cidr: Cidr,
    taken: HashMap<Ipv4Addr, String>,
    owners: HashMap<String, Ipv4Addr>,
    next: u64,
    /// No number from here on is given.
    end: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    #[error("no pod address left in {cidr}: all {usable} are in use")]
    Exhausted { cidr: Cidr, usable: u64 },
    #[error("{address} is not a usable pod address of {cidr}")]
    OutOfRange { address: Ipv4Addr, cidr: Cidr },
    #[error("{address} already belongs to pod {owner}")]
    Taken { address: Ipv4Addr, owner: String },
}

/// The network address and the node's own (the first); the broadcast address at the end is not used either.
const FIRST_USABLE: u64 = 2;

impl Allocator {
    pub fn new(cidr: Cidr) -> Self {
        Self::within(cidr, u64::MAX)
    }

    /// Gives only the range's first `size` addresses, less the one that would be the last of so many.
    pub fn within(cidr: Cidr, size: u64) -> Self {
        Allocator { cidr, taken: HashMap::new(), owners: HashMap::new(), next: FIRST_USABLE, end: size }
    }

    /// How many pods the range holds.
    pub fn usable(&self) -> u64 {
        self.cidr.size().min(self.end).saturating_sub(FIRST_USABLE + 1)
    }

    pub fn in_use(&self) -> usize {
        self.taken.len()
    }

    /// A free address for the pod with this uid; the one it has when it already has one.
    pub fn allocate(&mut self, owner: &str) -> Result<Ipv4Addr, AllocateError> {
        if let Some(address) = self.owners.get(owner) {
            return Ok(*address);
        }
        let usable = self.usable();
        for _ in 0..usable {
            let offset = self.next;
            self.next = if offset + 1 >= FIRST_USABLE + usable { FIRST_USABLE } else { offset + 1 };
            if let Some(address) = self.cidr.nth(offset)
                && !self.taken.contains_key(&address)
            {
                self.take(address, owner);
                return Ok(address);
            }
        }
        Err(AllocateError::Exhausted { cidr: self.cidr, usable })
    }

    /// Takes a certain address: how a restarted node rebuilds the table from the pods' statuses.
    pub fn claim(&mut self, address: Ipv4Addr, owner: &str) -> Result<(), AllocateError> {
        let offset = u64::from(u32::from(address).wrapping_sub(u32::from(self.cidr.network())));
        if !self.cidr.contains(address) || offset < FIRST_USABLE || offset >= FIRST_USABLE + self.usable() {
            return Err(AllocateError::OutOfRange { address, cidr: self.cidr });
        }
        match self.taken.get(&address) {
            Some(other) if other != owner => Err(AllocateError::Taken { address, owner: other.clone() }),
            _ => {
                self.take(address, owner);
                Ok(())
            }
        }
    }

    /// Frees the address if `owner` has it.
    pub fn free(&mut self, address: Ipv4Addr, owner: &str) {
        if self.taken.get(&address).is_some_and(|o| o == owner) {
            self.taken.remove(&address);
            self.owners.remove(owner);
        }
    }

    fn take(&mut self, address: Ipv4Addr, owner: &str) {
        self.taken.insert(address, owner.to_owned());
        self.owners.insert(owner.to_owned(), address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(cidr: &str) -> Allocator {
        Allocator::new(cidr.parse().unwrap())
    }

    #[test]
    fn skips_network_node_and_broadcast() {
        let mut a = allocator("10.0.0.0/29");
        let got: Vec<_> = (0..5).map(|i| a.allocate(&i.to_string()).unwrap().octets()[3]).collect();
        assert_eq!(got, [2, 3, 4, 5, 6]);
        assert_eq!(
            a.allocate("x").unwrap_err().to_string(),
            "no pod address left in 10.0.0.0/29: all 5 are in use"
        );
    }

    #[test]
    fn a_smaller_second_range_bounds_the_first() {
        let mut a = Allocator::within("10.0.0.0/24".parse().unwrap(), 8);
        assert_eq!(a.usable(), 5);
        assert!((0..5).all(|i| a.allocate(&i.to_string()).is_ok()) && a.allocate("x").is_err());
        assert!(a.claim(Ipv4Addr::new(10, 0, 0, 9), "y").is_err());
    }

    #[test]
    fn a_freed_address_rests() {
        let mut a = allocator("10.0.0.0/29");
        let first = a.allocate("a").unwrap();
        a.free(first, "somebody else");
        assert_eq!(a.in_use(), 1);
        a.free(first, "a");
        assert_ne!(a.allocate("b").unwrap(), first);
    }

    #[test]
    fn an_owner_keeps_its_address() {
        let mut a = allocator("10.0.0.0/24");
        let first = a.allocate("a").unwrap();
        assert_eq!(a.allocate("a").unwrap(), first);
        assert_eq!(a.in_use(), 1);
    }

    #[test]
    fn claims() {
        let mut a = allocator("10.0.0.0/24");
        let address = Ipv4Addr::new(10, 0, 0, 2);
        a.claim(address, "a").unwrap();
        a.claim(address, "a").unwrap();
        assert!(matches!(a.claim(address, "b"), Err(AllocateError::Taken { .. })));
        assert_eq!(a.allocate("b").unwrap(), Ipv4Addr::new(10, 0, 0, 3));
        for bad in [[10, 0, 0, 0], [10, 0, 0, 1], [10, 0, 0, 255], [10, 0, 1, 4]] {
            assert!(matches!(a.claim(bad.into(), "c"), Err(AllocateError::OutOfRange { .. })), "{bad:?}");
        }
    }

    #[test]
    fn tiny_ranges_hold_nobody() {
        for cidr in ["10.0.0.0/32", "10.0.0.0/31"] {
            assert!(allocator(cidr).allocate("a").is_err(), "{cidr}");
        }
    }
}
