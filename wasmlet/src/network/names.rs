//! How one pod's names resolve: its hosts file, its search list, its servers, in that order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::dns_config::DnsConfig;
use super::resolver::{Families, ResolveError, Resolver};

/// A pod's `/etc/hosts` and `/etc/resolv.conf`, ready to be asked.
pub struct PodNames {
    pub hosts: Hosts,
    pub search: super::SearchList,
    /// Tried in order: the next one only where one does not answer.
    pub servers: Box<[Arc<dyn Resolver>]>,
    pub timeout: Duration,
    pub attempts: u8,
}

impl PodNames {
    pub fn new(hosts: Hosts, config: &DnsConfig, at: impl Fn(IpAddr) -> Arc<dyn Resolver>) -> Self {
        PodNames {
            hosts,
            search: config.search.clone(),
            servers: config.servers.iter().map(|address| at(*address)).collect(),
            timeout: config.timeout,
            attempts: config.attempts,
        }
    }

    /// The addresses of an absolute name.
    pub async fn ask(&self, name: &str, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
        let mut last =
            ResolveError::Temporary { name: name.to_owned(), reason: "the pod has no DNS server".into() };
        for _ in 0..self.attempts.max(1) {
            for server in &self.servers {
                match tokio::time::timeout(self.timeout, server.resolve(name, families)).await {
                    Ok(Err(error @ ResolveError::Temporary { .. })) => last = error,
                    Ok(answer) => return answer,
                    Err(_) => {
                        let reason = "its DNS server did not answer in time".into();
                        last = ResolveError::Temporary { name: name.to_owned(), reason };
                    }
                }
            }
        }
        Err(last)
    }
}

/// Lines of a hosts file: names with their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    entries: Box<[(Box<str>, IpAddr)]>,
}

impl Hosts {
    pub fn new(entries: impl IntoIterator<Item = (String, IpAddr)>) -> Self {
        let lower =
            |(name, address): (String, IpAddr)| (name.trim_end_matches('.').to_lowercase().into(), address);
        Hosts { entries: entries.into_iter().map(lower).collect() }
    }

    /// Adds the lines of a file such as the node's.
    pub fn parse(text: &str) -> Vec<(String, IpAddr)> {
        let mut entries = Vec::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            entries.extend(words.map(|name| (name.to_owned(), address)));
        }
        entries
    }

    pub fn find(&self, name: &str) -> Vec<IpAddr> {
        let name = name.trim_end_matches('.');
        self.entries.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, a)| *a).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server(Result<Vec<IpAddr>, ResolveError>);
    #[async_trait::async_trait]
    impl Resolver for Server {
        async fn resolve(&self, _name: &str, _: Families) -> Result<Vec<IpAddr>, ResolveError> {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_next_server_is_asked_only_where_one_does_not_answer() {
        let address: IpAddr = "10.1.1.1".parse().unwrap();
        let failing = || Server(Err(ResolveError::Temporary { name: "a".into(), reason: "x".into() }));
        let absent = || Server(Err(ResolveError::NotFound("a".into())));
        let knowing = || Server(Ok(vec![address]));
        for (servers, want) in [
            (vec![failing(), knowing()], Ok(vec![address])),
            (vec![absent(), knowing()], Err(ResolveError::NotFound("a".into()))),
            (vec![failing()], Err(ResolveError::Temporary { name: "a".into(), reason: "x".into() })),
        ] {
            let servers = servers.into_iter().map(|s| Arc::new(s) as Arc<dyn Resolver>).collect();
            let names = PodNames {
                hosts: Hosts::default(),
                search: Default::default(),
                servers,
                timeout: Duration::from_secs(1),
                attempts: 1,
            };
            assert_eq!(names.ask("a", Families::V4).await, want);
        }
    }

    #[test]
    fn hosts_files() {
        let hosts = Hosts::new(Hosts::parse(
            "127.0.0.1 localhost # me\n\nbad line\n10.0.0.1\tA.example a\n10.0.0.2 a",
        ));
        assert_eq!(hosts.find("a.example."), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts.find("A").len(), 2);
        assert!(hosts.find("me").is_empty());
    }
}
