//! What guests on this node ask of its proxy: names, and where their connections to Services go.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use coracle_proxy::Services;
use coracle_proxy::dns::{Family, NameError};
use coracle_wasmlet::network::resolver::joined;
use coracle_wasmlet::network::{Choice, ConnectBalancer, Families, ResolveError, Resolver};
use coracle_wasmlet::runtime::Protocol;

/// The proxy's tables as the wasmlet asks them.
pub struct Guests(pub Services);

#[async_trait]
impl Resolver for Guests {
    async fn resolve(&self, name: &str, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
        match families {
            Families::V4 => self.of_family(name, Family::V4).await,
            Families::Both => {
                let (four, six) =
                    tokio::join!(self.of_family(name, Family::V4), self.of_family(name, Family::V6));
                joined(four, six)
            }
        }
    }
}

impl Guests {
    async fn of_family(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
        match self.0.names().addresses(name, family).await {
            Ok(addresses) if addresses.is_empty() => Err(ResolveError::NotFound(name.to_owned())),
            Ok(addresses) => Ok(addresses),
            Err(NameError::NotFound) => Err(ResolveError::NotFound(name.to_owned())),
            Err(NameError::Failed(reason)) => Err(ResolveError::Temporary { name: name.to_owned(), reason }),
        }
    }
}

impl ConnectBalancer for Guests {
    fn choose(&self, source: IpAddr, destination: SocketAddr, protocol: Protocol) -> Choice {
        carried(protocol).map_or(Choice::NotAService, |p| choice(self.0.choose(source, destination, p)))
    }

    fn choose_node_port(&self, source: IpAddr, port: u16, protocol: Protocol) -> Choice {
        carried(protocol).map_or(Choice::NotAService, |p| choice(self.0.choose_node_port(source, port, p)))
    }
}

fn carried(protocol: Protocol) -> Option<coracle_proxy::Protocol> {
    match protocol {
        Protocol::Tcp => Some(coracle_proxy::Protocol::Tcp),
        Protocol::Udp => Some(coracle_proxy::Protocol::Udp),
        Protocol::Sctp => None,
    }
}

fn choice(choice: coracle_proxy::Choice) -> Choice {
    match choice {
        coracle_proxy::Choice::NotAService => Choice::NotAService,
        coracle_proxy::Choice::Endpoint(endpoint) => Choice::Backend(endpoint),
        coracle_proxy::Choice::NoEndpoint => Choice::NoBackend,
    }
}
