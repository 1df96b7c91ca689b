//! The cluster's networks as flags give them: one IPv4 range, and maybe one of IPv6 beside it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::bail;
use clap::Args;

/// Networks, for nodes and proxies that are not in the control plane's process.
#[derive(Args, Clone, Debug)]
pub struct NetworkOptions {
    /// The cluster's pod network, and after a comma its IPv6 one where pods have two addresses
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.244.0.0/16", value_parser = parse_pods)]
    pub pod_cidr: Networks,
    /// The cluster's Service network, and after a comma its IPv6 one
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.96.0.0/16", value_parser = parse_services)]
    pub service_cidr: Networks,
}

/// How much of the pod network a node gets.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct NodeMasks {
    /// The prefix length of a node's pod range [default: 24, which holds 253 pods]; only where pods have one address
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(9..=30))]
    pub node_cidr_mask_size: Option<u8>,
    /// The prefix length of a node's IPv4 pod range [default: 24]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(9..=30))]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// The prefix length of a node's IPv6 pod range [default: 64]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(32..=122))]
    pub node_cidr_mask_size_ipv6: Option<u8>,
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub network: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    /// The `n`th address of the network.
    pub fn address(&self, n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(self.network.to_bits().wrapping_add(n)))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// An IPv6 network: its address and prefix length.
pub type Cidr6 = (Ipv6Addr, u8);

/// One range, or one of each family. IPv4's is the first: Services' and pods' first addresses are of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    pub first: Cidr,
    pub second: Option<Cidr6>,
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.second.map_or(Ok(()), |(network, prefix)| write!(f, ",{network}/{prefix}"))
    }
}

impl Networks {
    pub fn all(&self) -> Vec<(IpAddr, u8)> {
        let second = self.second.map(|(network, prefix)| (network.into(), prefix));
        std::iter::once((self.first.network.into(), self.first.prefix)).chain(second).collect()
    }

    pub fn ranges(&self) -> Vec<coracle_controllers::Cidr> {
        self.all()
            .into_iter()
            .map(|(address, prefix)| coracle_controllers::Cidr { address, prefix })
            .collect()
    }

    /// What a node gets of them where the machine is the only one: it holds more pods than a /24 has addresses, and a
    /// quarter leaves room for others.
    pub fn masks_of_one(&self) -> NodeMasks {
        let quarter = self.first.prefix + 2;
        match self.second {
            None => NodeMasks { node_cidr_mask_size: Some(quarter), ..NodeMasks::default() },
            Some((_, prefix)) => NodeMasks {
                node_cidr_mask_size: None,
                node_cidr_mask_size_ipv4: Some(quarter),
                // At most 2^16 nodes have a part.
                node_cidr_mask_size_ipv6: Some(if prefix <= 62 { (prefix + 16).min(64) } else { prefix + 2 }),
            },
        }
    }
}

/// Whether pods and Services can live beside each other, here.
pub fn check(pods: &Networks, services: &Networks, rootless: bool) -> anyhow::Result<()> {
    if let Some((network, prefix)) = pods.second
        && rootless
    {
        bail!(
            "--pod-cidr {network}/{prefix}: rootless pods have no IPv6 addresses (127.0.0.0/8, where they live, has no like in IPv6): give one range, or run with CAP_NET_ADMIN"
        );
    }
    for pod in pods.all() {
        for service in services.all() {
            if overlap(pod, service) {
                bail!(
                    "--pod-cidr {}/{} and --service-cidr {}/{} overlap: an address must be a pod's or a Service's",
                    pod.0,
                    pod.1,
                    service.0,
                    service.1
                );
            }
        }
    }
    Ok(())
}

fn overlap((a, a_prefix): (IpAddr, u8), (b, b_prefix): (IpAddr, u8)) -> bool {
    let shorter = u32::from(a_prefix.min(b_prefix));
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - shorter).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - shorter).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn parse_v4(text: &str) -> Result<Cidr, String> {
    let wrong = || "give an IPv4 network such as 10.244.0.0/16".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !(8..=28).contains(&prefix) {
        return Err("the prefix must be from /8 to /28".into());
    }
    let mask = u32::MAX << (32 - u32::from(prefix));
    let network = Ipv4Addr::from_bits(address.to_bits() & mask);
    if network != address {
        return Err(format!("the address has bits beyond the prefix; did you mean {network}/{prefix}?"));
    }
    Ok(Cidr { network, prefix })
}

fn parse_v6(text: &str, example: &str, prefixes: std::ops::RangeInclusive<u8>) -> Result<Cidr6, String> {
    let wrong = || format!("the second range: give an IPv6 network such as {example}");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !prefixes.contains(&prefix) {
        let (least, most) = (prefixes.start(), prefixes.end());
        return Err(format!("the second range: the prefix must be from /{least} to /{most}"));
    }
    let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(prefix))));
    if network != address {
        return Err(format!(
            "the second range: the address has bits beyond the prefix; did you mean {network}/{prefix}?"
        ));
    }
    if network.is_multicast() || network.is_unicast_link_local() || network.to_bits() >> 32 == 0 {
        return Err(format!("the second range: {network}/{prefix} is not a range of unicast addresses"));
    }
    Ok((network, prefix))
}

fn parse(text: &str, example: &str, prefixes: std::ops::RangeInclusive<u8>) -> Result<Networks, String> {
    let Some((first, second)) = text.split_once(',') else {
        return Ok(Networks { first: parse_v4(text)?, second: None });
    };
    let first = parse_v4(first).map_err(|why| format!("the first range: {why}"))?;
    Ok(Networks { first, second: Some(parse_v6(second, example, prefixes)?) })
}

pub fn parse_services(text: &str) -> Result<Networks, String> {
    parse(text, "fd00:96::/112", 64..=124)
}

pub fn parse_pods(text: &str) -> Result<Networks, String> {
    parse(text, "fd00:244::/56", 32..=120)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_checked() {
        assert_eq!(parse_v4("10.244.0.0/16").unwrap().address(1).to_string(), "10.244.0.1");
        for bad in ["", "10.244.0.0", "10.244.0.1/16", "10.0.0.0/33", "10.0.0.0/30", "x/8", "fd00::/64"] {
            assert!(parse_v4(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_one_or_two() {
        for text in ["10.96.0.0/16", "10.96.0.0/16,fd00:96::/112"] {
            assert_eq!(parse_services(text).unwrap().to_string(), text);
        }
        for text in ["10.42.0.0/16", "10.42.0.0/16,fd00:42::/56", "10.42.0.0/16,fd00:42::/112"] {
            assert_eq!(parse_pods(text).unwrap().to_string(), text);
        }
        type Parse = fn(&str) -> Result<Networks, String>;
        let (services, pods): (Parse, Parse) = (parse_services, parse_pods);
        for (parse, bad, why) in [
            (services, "fd00:96::/112", "give an IPv4 network"),
            (services, "fd00:96::/112,10.96.0.0/16", "the first range: give an IPv4 network"),
            (services, "10.96.0.0/16,10.97.0.0/16", "the second range: give an IPv6 network"),
            (services, "10.96.0.0/16,fd00:96::/48", "the second range: the prefix must be from /64 to /124"),
            (services, "10.96.0.0/16,fd00:96::1/112", "did you mean fd00:96::/112?"),
            (services, "10.96.0.0/16,fd00::/112,fd01::/112", "the second range: give an IPv6 network"),
            (pods, "fd00:42::/56", "give an IPv4 network"),
            (
                pods,
                "10.42.0.0/16,10.43.0.0/16",
                "the second range: give an IPv6 network such as fd00:244::/56",
            ),
            (pods, "10.42.0.0/16,fd00:42::/8", "the second range: the prefix must be from /32 to /120"),
            (pods, "10.42.0.0/16,fd00:42::/124", "the second range: the prefix must be from /32 to /120"),
            (pods, "10.42.0.0/16,fd00:42::1/56", "did you mean fd00:42::/56?"),
            (pods, "10.42.0.0/16,fe80::/56", "is not a range of unicast addresses"),
            (pods, "10.42.0.0/16,::/56", "is not a range of unicast addresses"),
            (pods, "10.42.0.0/16,", "the second range: give an IPv6 network"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn pods_and_services_stand_beside_each_other() {
        for (pods, services, rootless, why) in [
            ("10.42.0.0/16,fd00:42::/56", "10.43.0.0/16,fd00:43::/112", false, None),
            ("10.42.0.0/16", "10.43.0.0/16,fd00:43::/112", true, None),
            ("10.42.0.0/16,fd00:42::/56", "10.43.0.0/16", true, Some("rootless pods have no IPv6")),
            ("10.0.0.0/8", "10.43.0.0/16", false, Some("10.0.0.0/8 and --service-cidr 10.43.0.0/16 overlap")),
            (
                "10.42.0.0/16,fd00:42::/56",
                "10.43.0.0/16,fd00:42:0:0::/112",
                false,
                Some("fd00:42::/56 and --service-cidr fd00:42::/112 overlap"),
            ),
        ] {
            let got = check(&parse_pods(pods).unwrap(), &parse_services(services).unwrap(), rootless);
            match (got, why) {
                (Ok(()), None) => {}
                (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{error}"),
                (got, _) => panic!("{pods} {services}: {got:?}"),
            }
        }
    }

    #[test]
    fn one_machine_gets_a_good_part() {
        for (text, plain, v4, v6) in [
            ("10.42.0.0/16", Some(18), None, None),
            ("10.42.0.0/16,fd00:42::/56", None, Some(18), Some(64)),
            ("10.42.0.0/16,fd00:42::/40", None, Some(18), Some(56)),
            ("10.42.0.0/16,fd00:42::/112", None, Some(18), Some(114)),
        ] {
            let masks = parse_pods(text).unwrap().masks_of_one();
            let got =
                (masks.node_cidr_mask_size, masks.node_cidr_mask_size_ipv4, masks.node_cidr_mask_size_ipv6);
            assert_eq!(got, (plain, v4, v6), "{text}");
        }
    }
}
