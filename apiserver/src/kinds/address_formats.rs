//! Addresses, networks and host names as the networking kinds write them, with upstream's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field_error::{Errors, Path};
use crate::validation;

const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// An address; leading zeros, which some tools read as octal, are forgiven here and refused by name elsewhere.
fn sloppy(text: &str) -> Option<IpAddr> {
    let short = |part: &str| {
        let digits = part.trim_start_matches('0');
        if digits.is_empty() && !part.is_empty() { "0".to_owned() } else { digits.to_owned() }
    };
    text.parse().ok().or_else(|| {
        let plain: Vec<String> = text.split('.').map(short).collect();
        plain.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    })
}

fn sloppy_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, width) = (sloppy(address)?, bits.parse::<u8>().ok()?);
    (width <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, width))
}

pub(super) fn mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

pub(super) fn is_ip(text: &str) -> bool {
    sloppy(text).is_some()
}

/// The first address of the network.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// A network, strictly written: its first address and its width.
pub(super) fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, bits) = sloppy_network(text).ok_or(CIDR)?;
    let (written, digits) = text.split_once('/').ok_or(CIDR)?;
    if written.parse::<IpAddr>().is_err() || (digits.len() > 1 && digits.starts_with('0')) {
        return Err("must not have leading 0s in IP or prefix length".into());
    }
    if mapped(address) {
        return Err("must not have an IPv4-mapped IPv6 address".into());
    }
    if masked(address, bits) != address {
        return Err("must not have bits set beyond the prefix length".into());
    }
    Ok((address, bits))
}

pub(super) fn canonical_cidr(text: &str) -> Result<(), String> {
    let (address, bits) = network(text)?;
    let canonical = format!("{address}/{bits}");
    if canonical == text { Ok(()) } else { Err(format!("must be in canonical form ({canonical:?})")) }
}

pub(super) fn strict_ip(text: &str) -> Result<(), String> {
    let address = sloppy(text).ok_or(IP)?;
    if text.parse::<IpAddr>().is_err() {
        return Err("must not have leading 0s".into());
    }
    if mapped(address) { Err("must not be an IPv4-mapped IPv6 address".into()) } else { Ok(()) }
}

pub(super) fn canonical_ip(text: &str) -> Result<(), String> {
    strict_ip(text)?;
    let canonical = sloppy(text).map(|ip| ip.to_string()).unwrap_or_default();
    if canonical == text { Ok(()) } else { Err(format!("must be in canonical form ({canonical:?})")) }
}

/// An address with the width of its network.
pub(super) fn interface_address(text: &str) -> Result<(), String> {
    const FORM: &str = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
    let (address, bits) = sloppy_network(text).ok_or(FORM)?;
    let canonical = format!("{address}/{bits}");
    if canonical == text { Ok(()) } else { Err(format!("must be in canonical form ({canonical:?})")) }
}

/// Whether the second network is within the first, and smaller.
pub(super) fn strictly_within(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    outer.0.is_ipv4() == inner.0.is_ipv4() && outer.1 < inner.1 && masked(inner.0, outer.1) == outer.0
}

/// IPv6 networks that are valid, but not as RFC 5952 writes them.
pub(super) fn cidr_warning(path: &Path<'_>, text: &str) -> Option<String> {
    let (address, bits) = network(text).ok().filter(|(address, _)| address.is_ipv6())?;
    let canonical = format!("{address}/{bits}");
    (canonical != text).then(|| {
        format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

/// A DNS name, or `*.` and one.
pub(super) fn host(text: &str) -> Result<(), String> {
    if !text.contains('*') {
        return validation::dns_subdomain(text);
    }
    if text.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    match text.strip_prefix("*.") {
        Some(rest) if validation::dns_subdomain(rest).is_ok() => Ok(()),
        _ => Err(WILDCARD.into()),
    }
}

/// `example.com/some/path`
pub(super) fn domain_prefixed_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let (domain, rest) = text.split_once('/').unwrap_or_default();
    if domain.is_empty() || rest.is_empty() {
        return errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    errors.check(path, domain, validation::dns_subdomain);
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(fine) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, rest, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_strictly() {
        for (text, want) in [
            ("10.0.0.0/8", Ok(())),
            ("::/0", Ok(())),
            ("0.0.0.0/0", Ok(())),
            ("10.0.0.1/32", Ok(())),
            ("10.0.0.1/8", Err("must not have bits set")),
            ("010.0.0.0/8", Err("must not have leading 0s in IP")),
            ("10.0.0.0/08", Err("must not have leading 0s in IP")),
            ("::ffff:10.0.0.0/104", Err("must not have an IPv4-mapped")),
            ("10.0.0.0/33", Err("must be a valid CIDR")),
            ("10.0.0.0", Err("must be a valid CIDR")),
            ("x", Err("must be a valid CIDR")),
        ] {
            match (network(text).map(drop), want) {
                (Ok(()), Ok(())) => {}
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?}, not {want:?}"),
            }
        }
        assert_eq!(canonical_cidr("FD00::/64"), Err("must be in canonical form (\"fd00::/64\")".into()));
        assert_eq!(canonical_ip("2001:db8:0::1"), Err("must be in canonical form (\"2001:db8::1\")".into()));
        assert_eq!(strict_ip("10.0.0.01"), Err("must not have leading 0s".into()));
        assert_eq!(strict_ip("::ffff:1.2.3.4"), Err("must not be an IPv4-mapped IPv6 address".into()));
        assert_eq!(strict_ip("a"), Err(IP.into()));
    }

    #[test]
    fn hosts_may_begin_with_a_star() {
        for good in ["a", "*.a.b", "a.b"] {
            assert_eq!(host(good), Ok(()));
        }
        for bad in ["*", "*a", "a.*.b", "A", ""] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
