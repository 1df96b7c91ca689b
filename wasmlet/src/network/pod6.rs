//! The IPv6 side of a pod's network: its address, its loopback, and which addresses lead nowhere a pod may go. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every pod's ::1 is an address of its own in here, made of its IPv4 address. The range exists for senders on this
/// machine only (see `anyip.rs`), as 127.0.0.0/8 does.
pub(super) const LOOPBACKS: (IpAddr, u8) = (IpAddr::V6(PREFIX), 64);
const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd7f, 0xc0ac, 0x1e, 0, 0, 0, 0, 0);

/// Where clouds tell a machine's secrets to whoever asks from it: AWS, Google, Oracle.
const METADATA: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// A pod's IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Six {
    /// The second of `status.podIPs`.
    pub ip: Ipv6Addr,
    /// What stands for its ::1 on the node.
    pub loopback: Ipv6Addr,
}

impl Six {
    /// `four`: the pod's IPv4 address, which no other pod of the machine has.
    pub fn of_pod(ip: Ipv6Addr, four: Ipv4Addr) -> Self {
        Six { ip, loopback: Ipv6Addr::from_bits(PREFIX.to_bits() | u128::from(four.to_bits())) }
    }

    /// Of pods on the node's network.
    pub fn of_node(ip: Ipv6Addr) -> Self {
        Six { ip, loopback: Ipv6Addr::LOCALHOST }
    }
}

fn is_private_loopback(ip: Ipv6Addr) -> bool {
    ip.to_bits() >> 64 == PREFIX.to_bits() >> 64
}

/// Addresses of the node's surroundings, IPv4 ones of these sorts in the disguises that IPv6 has for them, and pods'
/// loopbacks.
pub(super) fn is_forbidden(ip: Ipv6Addr) -> bool {
    if ip.is_unicast_link_local() || METADATA.contains(&ip) || is_private_loopback(ip) {
        return true;
    }
    let [a, b, c, ..] = ip.segments();
    // Multicast that does not leave the machine or its link.
    if a & 0xff00 == 0xff00 && a & 0x000f <= 2 {
        return true;
    }
    let low = Ipv4Addr::from_bits(u32::try_from(ip.to_bits() & 0xffff_ffff).unwrap_or_default());
    let is_inner = |four: Ipv4Addr| four.is_loopback() || four.is_link_local() || four.is_unspecified();
    match ip.to_bits() >> 32 {
        // IPv4-compatible, which nothing speaks any more; ::1 is looked at elsewhere.
        0 => !ip.is_loopback() && !ip.is_unspecified(),
        0xffff => is_inner(low),
        // NAT64, 6to4.
        0x0064_ff9b_0000_0000_0000_0000 => is_inner(low),
        _ if a == 0x2002 => is_inner(Ipv4Addr::from_bits(u32::from(b) << 16 | u32::from(c))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_loopback_is_its_own() {
        let six = Six::of_pod("fd00:42::5".parse().unwrap(), [10, 42, 0, 5].into());
        assert_eq!(six.loopback.to_string(), "fd7f:c0ac:1e::a2a:5");
        assert!(is_private_loopback(six.loopback) && !is_private_loopback(six.ip));
    }

    #[test]
    fn surroundings_are_forbidden_in_every_spelling() {
        for (address, want) in [
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("fd20:ce::254", true),
            ("fd00:c1::a9fe:a9fe", true),
            ("fd00:ec2::253", false),
            ("::ffff:169.254.169.254", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:192.0.2.1", false),
            ("::169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("64:ff9b::c000:201", false),
            ("2002:a9fe:a9fe::1", true),
            ("2002:7f00:1::", true),
            ("2002:c000:201::1", false),
            ("fd7f:c0ac:1e::a2a:5", true),
            ("ff02::1", true),
            ("ff05::2", false),
            ("::1", false),
            ("fd00:42::5", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_forbidden(address.parse().unwrap()), want, "{address}");
        }
    }
}
