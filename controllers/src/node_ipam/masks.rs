//! How large a node's part of each cluster CIDR is, by kube-controller-manager's rules for the three flags.

use crate::Options;

const IPV4_DEFAULT: u8 = 24;
const IPV6_DEFAULT: u8 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    ipv4: u8,
    ipv6: u8,
}

impl Masks {
    pub fn of_family(self, is_ipv4: bool) -> u8 {
        if is_ipv4 { self.ipv4 } else { self.ipv6 }
    }
}

pub fn of(options: &Options) -> Result<Masks, String> {
    let Options { node_cidr_mask_size: plain, node_cidr_mask_size_ipv4: ipv4, .. } = options;
    let ipv6 = options.node_cidr_mask_size_ipv6;
    let masks = Masks { ipv4: ipv4.unwrap_or(IPV4_DEFAULT), ipv6: ipv6.unwrap_or(IPV6_DEFAULT) };
    if options.cluster_cidr.len() > 1 {
        return match plain {
            Some(_) => Err("usage of --node-cidr-mask-size is not allowed with dual-stack clusters".into()),
            None => Ok(masks),
        };
    }
    if let Some(size) = plain {
        if ipv4.is_some() || ipv6.is_some() {
            return Err("usage of --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6 is not allowed if --node-cidr-mask-size is set. For dual-stack clusters please unset it".into());
        }
        return Ok(Masks { ipv4: *size, ipv6: *size });
    }
    let is_ipv6 = options.cluster_cidr.first().is_some_and(|cidr| cidr.address.is_ipv6());
    if ipv4.is_some() && is_ipv6 {
        return Err(
            "usage of --node-cidr-mask-size-ipv4 is not allowed for a single-stack IPv6 cluster".into()
        );
    }
    if ipv6.is_some() && !is_ipv6 {
        return Err(
            "usage of --node-cidr-mask-size-ipv6 is not allowed for a single-stack IPv4 cluster".into()
        );
    }
    Ok(masks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_of_a_family() {
        const FOUR: &str = "10.0.0.0/16";
        const SIX: &str = "fd00::/48";
        const BOTH: &str = "10.0.0.0/16,fd00::/48";
        for (ranges, plain, ipv4, ipv6, want) in [
            (FOUR, None, None, None, Ok((24, 64))),
            (FOUR, Some(26), None, None, Ok((26, 26))),
            (FOUR, None, Some(26), None, Ok((26, 64))),
            (FOUR, None, None, Some(80), Err("single-stack IPv4 cluster")),
            (FOUR, Some(26), Some(26), None, Err("if --node-cidr-mask-size is set")),
            (SIX, Some(60), None, None, Ok((60, 60))),
            (SIX, None, None, Some(60), Ok((24, 60))),
            (SIX, None, Some(26), None, Err("single-stack IPv6 cluster")),
            (BOTH, None, None, None, Ok((24, 64))),
            (BOTH, None, Some(25), Some(60), Ok((25, 60))),
            (BOTH, Some(24), None, None, Err("not allowed with dual-stack clusters")),
        ] {
            let options = Options {
                cluster_cidr: ranges.split(',').map(|c| c.parse().unwrap()).collect(),
                node_cidr_mask_size: plain,
                node_cidr_mask_size_ipv4: ipv4,
                node_cidr_mask_size_ipv6: ipv6,
                ..Options::default()
            };
            match (of(&options), want) {
                (Ok(got), Ok(want)) => assert_eq!((got.ipv4, got.ipv6), want, "{ranges}"),
                (Err(error), Err(why)) => assert!(error.contains(why), "{error}"),
                (got, want) => panic!("{ranges}: {got:?}, not {want:?}"),
            }
        }
    }
}
