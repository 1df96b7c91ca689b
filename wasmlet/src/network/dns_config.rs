//! A pod's resolv.conf, worked out of its dnsPolicy and dnsConfig and of the node's own. Pure.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::resolver::SearchList;

/// Upstream's bounds on a resolv.conf.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;
/// The resolver library's defaults and bounds.
const TIMEOUT_DEFAULT_SECONDS: u64 = 5;
const TIMEOUT_MAX_SECONDS: u64 = 30;
const ATTEMPTS_DEFAULT: u8 = 2;
const ATTEMPTS_MAX: u8 = 5;
const NDOTS_MAX: u8 = 15;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<IpAddr>,
    pub searches: Vec<String>,
    /// `ndots:5` is `("ndots", "5")`.
    pub options: Vec<(String, Option<String>)>,
}

/// How a pod resolves names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    pub servers: Vec<IpAddr>,
    pub search: SearchList,
    pub timeout: Duration,
    pub attempts: u8,
    /// What was left out, for `DNSConfigForming` events.
    pub warnings: Vec<String>,
}

/// What the node knows of DNS.
#[derive(Debug, Clone, Copy)]
pub struct NodeDns<'a> {
    pub cluster_server: IpAddr,
    pub cluster_domain: &'a str,
    /// The node's own.
    pub host: &'a ResolvConf,
}

impl ResolvConf {
    pub fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_ascii_whitespace();
            match words.next() {
                // An interface after `%` is of no use to a pod.
                Some("nameserver") => {
                    conf.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()))
                }
                // The last line counts.
                Some("search" | "domain") => conf.searches = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(|word| match word.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                })),
                _ => {}
            }
        }
        conf
    }
}

/// dnsPolicy chooses what to start from; dnsConfig adds to it.
pub fn of(pod: &Pod, node: NodeDns<'_>) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let mut conf = match spec.and_then(|s| s.dns_policy.as_deref()) {
        Some("None") => ResolvConf::default(),
        Some("Default") => node.host.clone(),
        Some("ClusterFirstWithHostNet") => cluster_first(namespace, node),
        _ if host_network => node.host.clone(),
        _ => cluster_first(namespace, node),
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        let servers = config.nameservers.iter().flatten().filter_map(|s| s.parse().ok());
        extend_new(&mut conf.servers, servers);
        extend_new(&mut conf.searches, config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            conf.options.retain(|(known, _)| known != name);
            conf.options.push((name.clone(), option.value.clone()));
        }
    }
    fit(conf)
}

fn cluster_first(namespace: &str, node: NodeDns<'_>) -> ResolvConf {
    let mut searches = SearchList::cluster_first(namespace, node.cluster_domain).suffixes;
    extend_new(&mut searches, node.host.searches.iter().cloned());
    ResolvConf {
        servers: vec![node.cluster_server],
        searches,
        options: vec![("ndots".into(), Some("5".into()))],
    }
}

fn extend_new<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn fit(mut conf: ResolvConf) -> DnsConfig {
    let mut warnings = Vec::new();
    if conf.servers.len() > SERVERS_MAX {
        conf.servers.truncate(SERVERS_MAX);
        let applied: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            applied.join(" ")
        ));
    }
    let before = conf.searches.len();
    conf.searches.truncate(SEARCHES_MAX);
    while conf.searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        conf.searches.pop();
    }
    if conf.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            conf.searches.join(" ")
        ));
    }
    let number = |name: &str| -> Option<u64> {
        let found = conf.options.iter().rev().find(|(n, _)| n == name)?;
        found.1.as_deref()?.parse().ok()
    };
    let small = |value: Option<u64>, default: u8, max: u8| {
        value.map_or(default, |v| u8::try_from(v).unwrap_or(u8::MAX).min(max))
    };
    let seconds = number("timeout").unwrap_or(TIMEOUT_DEFAULT_SECONDS).clamp(1, TIMEOUT_MAX_SECONDS);
    DnsConfig {
        search: SearchList {
            ndots: small(number("ndots"), 1, NDOTS_MAX),
            suffixes: conf
                .searches
                .iter()
                .map(|s| s.trim_matches('.').to_owned())
                .filter(|s| !s.is_empty())
                .collect(),
        },
        timeout: Duration::from_secs(seconds),
        attempts: small(number("attempts"), ATTEMPTS_DEFAULT, ATTEMPTS_MAX).max(1),
        servers: conf.servers,
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(spec: Value) -> DnsConfig {
        let mut all = json!({"containers": []});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "shop"}, "spec": all})).unwrap();
        let host = ResolvConf::parse(
            "# of the node\nnameserver 192.0.2.1\nsearch corp.example\noptions ndots:2 rotate\n",
        );
        let cluster_server = "10.96.0.10".parse().unwrap();
        of(&pod, NodeDns { cluster_server, cluster_domain: "cluster.local", host: &host })
    }

    #[test]
    fn policies() {
        let cluster =
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"].as_slice();
        let (ours, hosts) = (["10.96.0.10"].as_slice(), ["192.0.2.1"].as_slice());
        let extra = json!({"nameservers": ["198.51.100.1"], "searches": ["x.example"], "options": [{"name": "ndots", "value": "3"}]});
        for (spec, servers, searches, ndots) in [
            (json!({}), ours, cluster, 5),
            (json!({"dnsPolicy": "ClusterFirst"}), ours, cluster, 5),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), hosts, &["corp.example"], 2),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), ours, cluster, 5),
            (json!({"dnsPolicy": "Default"}), hosts, &["corp.example"], 2),
            (json!({"dnsPolicy": "None", "dnsConfig": extra}), &["198.51.100.1"], &["x.example"], 3),
            (
                json!({"dnsPolicy": "Default", "dnsConfig": extra}),
                &["192.0.2.1", "198.51.100.1"],
                &["corp.example", "x.example"],
                3,
            ),
        ] {
            let got = config(spec.clone());
            let shown: Vec<String> = got.servers.iter().map(ToString::to_string).collect();
            assert_eq!(shown, servers, "{spec}");
            assert_eq!(got.search.suffixes, searches, "{spec}");
            assert_eq!(got.search.ndots, ndots, "{spec}");
            assert!(got.warnings.is_empty());
        }
    }

    #[test]
    fn limits_and_options() {
        let many: Vec<String> = (0..40).map(|n| format!("s{n}.example")).collect();
        let got = config(json!({"dnsConfig": {
            "nameservers": ["192.0.2.9", "192.0.2.10", "192.0.2.11"], "searches": many,
            "options": [{"name": "timeout", "value": "99"}, {"name": "attempts", "value": "0"}, {"name": "ndots", "value": "x"}]}}));
        assert_eq!((got.servers.len(), got.search.suffixes.len(), got.warnings.len()), (3, 32, 2));
        assert!(got.warnings[0].ends_with("the applied nameserver line is: 10.96.0.10 192.0.2.9 192.0.2.10"));
        assert_eq!((got.timeout.as_secs(), got.attempts, got.search.ndots), (30, 1, 1));
    }
}
