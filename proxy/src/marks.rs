//! The marks of our routes (`ip route show proto N`): by them each part knows its own, also those of an earlier process,
//! and takes away no other's. 67 among local routes are the wasmlet's, for pods.

use rtnetlink::packet_route::route::RouteProtocol;

/// To Services' IPv4 network and to other nodes' pods.
pub const NETWORKS: RouteProtocol = RouteProtocol::Other(67);
/// Of the cluster's DNS address, in the table of local ones.
pub const DNS: RouteProtocol = RouteProtocol::Other(68);
/// To Services' IPv6 network, in the table of local ones.
pub const SERVICES6: RouteProtocol = RouteProtocol::Other(69);
/// Of load balancers' addresses, in the table of local ones.
pub const ANNOUNCED: RouteProtocol = RouteProtocol::Other(70);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_anothers_mark() {
        let numbers: std::collections::BTreeSet<u8> =
            [NETWORKS, DNS, SERVICES6, ANNOUNCED].into_iter().map(u8::from).collect();
        assert_eq!(numbers.len(), 4);
    }
}
