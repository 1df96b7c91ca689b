//! A network that services' addresses come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::families::Family;

/// A range of that many bits or more has addresses that nobody ever hands out: as upstream's allocator.
const HOST_BITS_MAX: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    #[error("the service range {0:?} is not a CIDR with room for at least one address")]
    Cidr(String),
    #[error("the service ranges {0:?} must be one, or two of different address families")]
    Families(String),
}

#[derive(Clone, Debug)]
pub struct AddressRange {
    text: String,
    first: IpAddr,
    size: u128,
}

impl AddressRange {
    pub fn parse(cidr: &str) -> Result<Self, RangeError> {
        let error = || RangeError::Cidr(cidr.to_owned());
        let (address, bits) = cidr.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits: u32 = bits.parse().map_err(|_| error())?;
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = width.checked_sub(bits).ok_or_else(error)?;
        if host_bits < 2 {
            return Err(error());
        }
        let size = 1u128 << host_bits.min(HOST_BITS_MAX);
        let mask = if host_bits == 128 { 0 } else { u128::MAX << host_bits };
        let first = number_to_ip(number(address) & mask, address.is_ipv4());
        Ok(Self { text: format!("{first}/{bits}"), first, size })
    }

    /// One range, or two of different families with a comma between.
    pub fn parse_own(cidrs: &str) -> Result<Vec<Self>, RangeError> {
        let ranges: Vec<Self> =
            cidrs.split(',').map(|cidr| Self::parse(cidr.trim())).collect::<Result<_, _>>()?;
        match ranges.as_slice() {
            [_] => Ok(ranges),
            [a, b] if a.family() != b.family() => Ok(ranges),
            _ => Err(RangeError::Families(cidrs.to_owned())),
        }
    }

    /// With the first address of the network.
    pub fn cidr(&self) -> &str {
        &self.text
    }

    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Without the network's own address and the last one, which is IPv4's broadcast address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let offset = number(ip).checked_sub(number(self.first));
        ip.is_ipv4() == self.first.is_ipv4() && offset.is_some_and(|o| (1..self.size - 1).contains(&o))
    }

    /// The first address that is free from the offset `next` on, and the offset to look from the next time.
    pub fn first_free(&self, next: Option<u128>, free: impl Fn(IpAddr) -> bool) -> Option<(IpAddr, u128)> {
        let (kept, end) = (self.kept(), self.size - 1);
        let next = next.unwrap_or(kept);
        let mut offsets = (next..end).chain(kept..next).chain(1..kept);
        let offset = offsets.find(|offset| free(self.at(*offset)))?;
        Some((self.at(offset), if offset >= kept && offset + 1 < end { offset + 1 } else { kept }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ranges() {
        for (text, want) in [
            ("10.96.0.0/16", Ok(vec!["10.96.0.0/16"])),
            ("10.96.0.7/16, fd00::1/112", Ok(vec!["10.96.0.0/16", "fd00::/112"])),
            ("fd00::/64,10.0.0.0/8", Ok(vec!["fd00::/64", "10.0.0.0/8"])),
            ("10.96.0.0/16,10.97.0.0/16", Err("must be one, or two of different address families")),
            ("10.96.0.0/16,fd00::/112,fd01::/112", Err("must be one, or two of different address families")),
            ("10.96.0.0/31", Err("is not a CIDR with room for at least one address")),
            ("", Err("is not a CIDR with room for at least one address")),
        ] {
            let got = AddressRange::parse_own(text);
            let got = got.as_deref().map(|all| all.iter().map(AddressRange::cidr).collect::<Vec<_>>());
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(error), Err(want)) => assert!(error.to_string().ends_with(want), "{error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn the_far_end_of_a_wide_range_belongs_to_it() {
        let range = AddressRange::parse("fd00::/64").unwrap();
        for (ip, within) in
            [("fd00::1", true), ("fd00::ffff:0:0:1", true), ("fd00::", false), ("fd01::1", false)]
        {
            assert_eq!(range.contains(ip.parse().unwrap()), within, "{ip}");
        }
        assert_eq!(range.first_free(None, |_| true), Some(("fd00::100".parse().unwrap(), 257)));
    }
}
