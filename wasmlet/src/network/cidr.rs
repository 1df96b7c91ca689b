//! Ranges in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `10.244.1.0/24`; the host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 CIDR such as 10.244.0.0/24")]
pub struct CidrError(pub String);

impl Cidr {
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Cidr { network: u32::from(address) & mask(prefix), prefix })
    }

    pub fn network(&self) -> Ipv4Addr {
        self.network.into()
    }

    pub fn broadcast(&self) -> Ipv4Addr {
        (self.network | !mask(self.prefix)).into()
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.network
    }

    /// How many addresses it spans.
    pub fn size(&self) -> u64 {
        1u64 << (32 - u32::from(self.prefix))
    }

    /// The address at `offset` from the network address.
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        if offset >= self.size() {
            return None;
        }
        u32::try_from(offset).ok().map(|offset| (self.network | offset).into())
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        Cidr::new(address, prefix).ok_or_else(error)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// `fd00:244::/64`; the host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr6 {
    network: u128,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv6 CIDR such as fd00:244::/64")]
pub struct Cidr6Error(pub String);

impl Cidr6 {
    pub fn new(address: Ipv6Addr, prefix: u8) -> Option<Self> {
        (prefix <= 128).then(|| Cidr6 { network: address.to_bits() & mask6(prefix), prefix })
    }

    pub fn network(&self) -> Ipv6Addr {
        self.network.into()
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask6(self.prefix) == self.network
    }

    pub fn overlaps(&self, other: &Cidr6) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// How many addresses it spans; more than fit are u64's most.
    pub fn size(&self) -> u64 {
        1u64.checked_shl(128 - u32::from(self.prefix)).unwrap_or(u64::MAX)
    }

    /// The address at `offset` from the network address.
    pub fn nth(&self, offset: u64) -> Option<Ipv6Addr> {
        (offset < self.size()).then(|| (self.network | u128::from(offset)).into())
    }
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr6 {
    type Err = Cidr6Error;

    fn from_str(text: &str) -> Result<Self, Cidr6Error> {
        let error = || Cidr6Error(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv6Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        Cidr6::new(address, prefix).ok_or_else(error)
    }
}

impl fmt::Display for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// Ranges of either family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    four: Vec<Cidr>,
    six: Vec<Cidr6>,
}

impl Ranges {
    pub fn add(&mut self, address: IpAddr, prefix: u8) {
        match address {
            IpAddr::V4(address) => self.four.extend(Cidr::new(address, prefix)),
            IpAddr::V6(address) => self.six.extend(Cidr6::new(address, prefix)),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.four.iter().any(|range| range.contains(address)),
            IpAddr::V6(address) => self.six.iter().any(|range| range.contains(address)),
        }
    }
}

impl FromIterator<(IpAddr, u8)> for Ranges {
    fn from_iter<T: IntoIterator<Item = (IpAddr, u8)>>(all: T) -> Self {
        let mut ranges = Ranges::default();
        all.into_iter().for_each(|(address, prefix)| ranges.add(address, prefix));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_parses_and_contains() {
        let cidr: Cidr6 = "fd00:42:0:1::9/64".parse().unwrap();
        assert_eq!(cidr.to_string(), "fd00:42:0:1::/64");
        assert_eq!(cidr.size(), u64::MAX);
        assert_eq!(cidr.nth(0x105).unwrap().to_string(), "fd00:42:0:1::105");
        let small: Cidr6 = "fd00:42:0:1::/120".parse().unwrap();
        assert_eq!((small.size(), small.nth(256)), (256, None));
        assert!(cidr.overlaps(&small) && small.overlaps(&cidr));
        assert!(!small.overlaps(&"fd00:42::/64".parse().unwrap()));
        let ranges: Ranges =
            [("10.0.0.0".parse().unwrap(), 8), ("fd00:42::".parse().unwrap(), 56)].into_iter().collect();
        for (address, want) in
            [("10.9.9.9", true), ("11.0.0.1", false), ("fd00:42:0:1::5", true), ("fd00:43::1", false)]
        {
            assert_eq!(ranges.contains(address.parse().unwrap()), want, "{address}");
        }
        for bad in ["", "fd00::", "fd00::/129", "10.0.0.0/8", "::ffff/x"] {
            assert!(bad.parse::<Cidr6>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parses_and_contains() {
        let cidr: Cidr = "10.244.1.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.1.0/24");
        assert_eq!(cidr.broadcast(), Ipv4Addr::new(10, 244, 1, 255));
        assert_eq!(cidr.size(), 256);
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 1, 9)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 244, 2, 9)));
        assert_eq!(cidr.nth(256), None);
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/0"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
