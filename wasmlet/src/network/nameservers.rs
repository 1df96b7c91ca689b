//! DNS servers that pods ask: the cluster's in this process, others over the network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use parking_lot::Mutex;

use super::resolver::{Families, ResolveError, Resolver, joined};

/// Servers that are kept ready; beyond them those that no pod uses are let go.
const SERVERS_MAX: usize = 256;
/// Answers remembered per server, and for how long at most.
const ANSWERS_MAX: u64 = 512;
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(300);
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);

/// One resolver per server, shared by all pods of the node.
pub struct Nameservers {
    /// The cluster's, and who answers for it; None: it is asked over the network like others.
    cluster: Option<(IpAddr, Arc<dyn Resolver>)>,
    others: Mutex<HashMap<IpAddr, Arc<dyn Resolver>>>,
}

impl Nameservers {
    pub fn new(cluster: Option<(IpAddr, Arc<dyn Resolver>)>) -> Self {
        Nameservers { cluster, others: Mutex::default() }
    }

    pub fn at(&self, address: IpAddr) -> Arc<dyn Resolver> {
        if let Some((_, resolver)) = self.cluster.as_ref().filter(|(cluster, _)| *cluster == address) {
            return resolver.clone();
        }
        let mut others = self.others.lock();
        if others.len() >= SERVERS_MAX {
            others.retain(|_, server| Arc::strong_count(server) > 1);
        }
        others.entry(address).or_insert_with(|| Arc::new(Server::new(address))).clone()
    }
}

/// A server on the network.
struct Server {
    address: IpAddr,
    resolver: Option<TokioResolver>,
}

impl Server {
    fn new(address: IpAddr) -> Self {
        let servers = vec![NameServerConfig::udp_and_tcp(address)];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = ANSWERS_MAX;
        options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
        options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        // The pod's own attempts are counted elsewhere.
        options.attempts = 1;
        options.try_tcp_on_error = true;
        Server { address, resolver: builder.build().ok() }
    }
}

#[async_trait]
impl Resolver for Server {
    async fn resolve(&self, name: &str, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
        match families {
            Families::V4 => self.ask(name, RecordType::A).await,
            Families::Both => {
                let (four, six) =
                    tokio::join!(self.ask(name, RecordType::A), self.ask(name, RecordType::AAAA));
                joined(four, six)
            }
        }
    }
}

impl Server {
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, ResolveError> {
        let not_found = || ResolveError::NotFound(name.to_owned());
        let failed = |reason: String| ResolveError::Temporary { name: name.to_owned(), reason };
        let mut absolute = Name::from_ascii(name).map_err(|_| ResolveError::InvalidName(name.to_owned()))?;
        absolute.set_fqdn(true);
        let Some(resolver) = &self.resolver else {
            return Err(failed(format!("no resolver for {}", self.address)));
        };
        match resolver.lookup(absolute, kind).await {
            Ok(found) => {
                let addresses: Vec<IpAddr> = found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::A(a) => Some(IpAddr::V4(a.0)),
                        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                        _ => None,
                    })
                    .collect();
                if addresses.is_empty() { Err(not_found()) } else { Ok(addresses) }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
            {
                Err(not_found())
            }
            Err(error) => Err(failed(format!("{}: {error}", self.address))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::resolver::NoNames;

    #[tokio::test]
    async fn one_resolver_per_server() {
        let cluster: IpAddr = "10.96.0.10".parse().unwrap();
        let servers = Nameservers::new(Some((cluster, Arc::new(NoNames))));
        assert!(matches!(
            servers.at(cluster).resolve("a", Families::V4).await,
            Err(ResolveError::NotFound(_))
        ));
        let other: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(Arc::ptr_eq(&servers.at(other), &servers.at(other)));
        for n in 0..SERVERS_MAX + 10 {
            servers.at(std::net::Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into());
        }
        assert!(servers.others.lock().len() <= SERVERS_MAX);
    }
}
