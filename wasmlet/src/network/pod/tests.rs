//! What a pod may bind, reach and resolve.

use std::time::Duration;

use super::*;
use crate::network::dns_config::{self, NodeDns, ResolvConf};
use crate::network::names::Hosts;
use crate::network::outbound::{ANNOTATION, AllowList};
use crate::network::resolver::{Families, NoNames, Resolver, SearchList};

struct OneService;
impl ConnectBalancer for OneService {
    fn choose(&self, _source: IpAddr, destination: SocketAddr, _protocol: Protocol) -> Choice {
        match destination.to_string().as_str() {
            "10.96.0.10:80" => Choice::Backend("10.244.0.9:8080".parse().unwrap()),
            "10.96.0.11:80" => Choice::NoBackend,
            "10.96.0.1:443" => Choice::Backend("127.0.0.1:6443".parse().unwrap()),
            "10.96.0.66:80" => Choice::Backend("127.200.0.6:80".parse().unwrap()),
            "10.96.0.67:80" => Choice::Backend("169.254.169.254:80".parse().unwrap()),
            "[fd00:96::10]:80" => Choice::Backend("[fd00:244::9]:8080".parse().unwrap()),
            "[fd00:96::11]:80" => Choice::NoBackend,
            "[fd00:96::67]:80" => Choice::Backend("[fd00:ec2::254]:80".parse().unwrap()),
            _ => Choice::NotAService,
        }
    }

    fn choose_node_port(&self, source: IpAddr, port: u16, _protocol: Protocol) -> Choice {
        match port {
            30_080 if source.is_ipv6() => Choice::Backend("[fd00:244::9]:8080".parse().unwrap()),
            30_080 => Choice::Backend("10.244.0.9:8080".parse().unwrap()),
            30_081 => Choice::NoBackend,
            _ => Choice::NotAService,
        }
    }
}

/// Names of the cluster and of others.
struct Names;
#[async_trait::async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str, _: Families) -> Result<Vec<IpAddr>, ResolveError> {
        let address = match name {
            "web.shop.svc.cluster.local" => "10.96.0.10",
            "good.example" => "192.0.2.10",
            "evil.example" => "10.244.0.77",
            "metadata.example" => "169.254.169.254",
            _ => return Err(ResolveError::NotFound(name.to_owned())),
        };
        Ok(vec![address.parse().unwrap()])
    }
}

const NETWORKS: [(&str, u8); 5] =
    [("10.96.0.0", 16), ("10.244.0.0", 16), ("127.64.0.0", 16), ("fd00:96::", 112), ("fd00:244::", 56)];

struct Make {
    ip: &'static str,
    /// Its second address.
    six: Option<&'static str>,
    host: bool,
    allowed: Option<&'static str>,
    resolver: Arc<dyn Resolver>,
}

impl Default for Make {
    fn default() -> Self {
        Make { ip: "10.244.0.5", six: None, host: false, allowed: None, resolver: Arc::new(NoNames) }
    }
}

impl Make {
    fn pod(self) -> PodNetwork {
        let annotations = self.allowed.map(|text| (ANNOTATION.to_owned(), text.to_owned()));
        let list = AllowList::from_annotations(&annotations.into_iter().collect()).unwrap();
        let host_ports = HostPorts::default();
        let port = |number| crate::runtime::Port {
            port: 80,
            protocol: Protocol::Tcp,
            host_port: Some(number),
            host_ip: None,
        };
        host_ports.claim("other", "ns/other", &[port(8_081)]).unwrap();
        PodNetwork::new(PodNetworkParts {
            ip: self.ip.parse().unwrap(),
            loopback: if self.host { Ipv4Addr::LOCALHOST } else { "127.200.0.5".parse().unwrap() },
            six: self.six.map(|six| {
                let ip = six.parse().unwrap();
                if self.host { Six::of_node(ip) } else { Six::of_pod(ip, self.ip.parse().unwrap()) }
            }),
            host: self.host,
            names: PodNames {
                hosts: Hosts::new([
                    ("me".to_owned(), self.ip.parse().unwrap()),
                    ("alias.example".to_owned(), "192.0.2.20".parse().unwrap()),
                ]),
                search: SearchList::cluster_first("shop", "cluster.local"),
                servers: Box::new([self.resolver]),
                timeout: Duration::from_secs(1),
                attempts: 1,
            },
            outbound: list.map(Outbound::new),
            shared: Arc::new(Shared {
                balancer: Some(Arc::new(OneService)),
                cluster_networks: NETWORKS
                    .iter()
                    .map(|(ip, prefix)| (ip.parse().unwrap(), *prefix))
                    .collect(),
                cluster_domain: "cluster.local".into(),
                node: NodeAddresses::new("198.51.100.1".parse().unwrap(), "2001:db8::1".parse().ok()),
                host_ports,
            }),
        })
    }
}

fn connect(pod: &PodNetwork, to: &str) -> Result<String, AddressError> {
    pod.connect_address(to.parse().unwrap(), Protocol::Tcp).map(|a| a.to_string())
}

#[test]
fn binds() {
    let pod = Make::default().pod();
    for (wanted, got) in [
        ("0.0.0.0:80", Ok("10.244.0.5:80")),
        ("10.244.0.5:0", Ok("10.244.0.5:0")),
        ("127.0.0.1:80", Ok("127.200.0.5:80")),
        ("127.1.0.1:80", Err(AddressError::NotBindable)),
        ("10.244.0.6:80", Err(AddressError::NotBindable)),
        ("198.51.100.1:80", Err(AddressError::NotBindable)),
        ("[::]:80", Err(AddressError::Ipv6Unsupported)),
    ] {
        assert_eq!(pod.bind_address(wanted.parse().unwrap()), got.map(|a| a.parse().unwrap()), "{wanted}");
    }
    let host = Make { ip: "198.51.100.1", host: true, ..Make::default() }.pod();
    for (wanted, got) in [
        ("0.0.0.0:80", Ok("198.51.100.1:80")),
        ("127.0.0.1:80", Ok("127.0.0.1:80")),
        ("10.244.0.6:80", Err(AddressError::NotBindable)),
    ] {
        assert_eq!(host.bind_address(wanted.parse().unwrap()), got.map(|a| a.parse().unwrap()), "{wanted}");
    }
}

#[test]
fn connects() {
    use AddressError::{Denied, Ipv6Unsupported, Refused};
    let pod = Make::default().pod();
    pod.note_bound(Protocol::Tcp, "10.244.0.5:8080".parse().unwrap(), true);
    pod.note_bound(Protocol::Tcp, "10.244.0.5:8081".parse().unwrap(), false);
    for (wanted, got) in [
        ("127.0.0.1:8080", Ok("10.244.0.5:8080")),
        ("127.0.0.1:8081", Ok("127.200.0.5:8081")),
        ("127.0.0.1:9", Ok("127.200.0.5:9")),
        ("127.64.3.4:80", Ok("127.64.3.4:80")),
        // The node's loopback, and another pod's.
        ("127.3.4.5:80", Err(Denied)),
        ("127.200.0.6:80", Err(Denied)),
        ("10.244.0.77:80", Ok("10.244.0.77:80")),
        ("192.0.2.1:80", Ok("192.0.2.1:80")),
        // Services, and what their endpoints may not be.
        ("10.96.0.10:80", Ok("10.244.0.9:8080")),
        ("10.96.0.11:80", Err(Refused)),
        ("10.96.0.1:443", Ok("127.0.0.1:6443")),
        ("10.96.0.66:80", Err(Denied)),
        ("10.96.0.67:80", Err(Denied)),
        // Ports of the node: only its Services' and its pods'.
        ("198.51.100.1:10250", Err(Denied)),
        ("198.51.100.1:30080", Ok("10.244.0.9:8080")),
        ("198.51.100.1:30081", Err(Refused)),
        ("198.51.100.1:8081", Ok("198.51.100.1:8081")),
        ("169.254.169.254:80", Err(Denied)),
        ("[::1]:80", Err(Ipv6Unsupported)),
    ] {
        assert_eq!(connect(&pod, wanted), got.map(str::to_owned), "{wanted}");
    }
    assert_eq!(
        pod.connect_address("127.0.0.1:8080".parse().unwrap(), Protocol::Udp),
        Ok("127.200.0.5:8080".parse().unwrap()),
        "a TCP listener does not answer datagrams"
    );
    for (address, may) in [("127.0.0.1:6443", true), ("127.0.0.1:6444", false), ("169.254.169.254:80", false)]
    {
        assert_eq!(pod.may_reach(address.parse().unwrap()), may, "{address}");
    }
    let host = Make { ip: "198.51.100.1", host: true, ..Make::default() }.pod();
    for (wanted, got) in [
        ("127.0.0.1:10250", "127.0.0.1:10250"),
        ("198.51.100.1:10250", "198.51.100.1:10250"),
        ("10.96.0.10:80", "10.244.0.9:8080"),
    ] {
        assert_eq!(connect(&host, wanted).as_deref(), Ok(got), "{wanted}");
    }
}

#[test]
fn datagrams_of_a_flow_stay_with_their_endpoint() {
    let pod = Make::default().pod();
    let (service, endpoint) = ("10.96.0.10:80".parse().unwrap(), "10.244.0.9:8080".parse().unwrap());
    assert_eq!(pod.datagram_address(service), Ok(endpoint));
    assert_eq!(pod.datagram_address(service), Ok(endpoint));
    assert_eq!(pod.datagram_source(endpoint), service, "it is the Service that answers");
    let other: SocketAddr = "10.244.0.8:53".parse().unwrap();
    assert_eq!(pod.datagram_address(other), Ok(other));
    assert_eq!(pod.datagram_source(other), other);
    assert_eq!(pod.datagram_source("127.200.0.5:9".parse().unwrap()), "127.0.0.1:9".parse().unwrap());
}

#[test]
fn a_closed_pod_binds_nothing() {
    let pod = Make::default().pod();
    pod.close();
    assert_eq!(pod.bind_address("0.0.0.0:80".parse().unwrap()), Err(AddressError::Closed));
    assert_eq!(connect(&pod, "10.0.0.1:80"), Err(AddressError::Closed));
    assert_eq!(pod.datagram_address("10.0.0.1:80".parse().unwrap()), Err(AddressError::Closed));
}

#[tokio::test]
async fn resolves_addresses_and_own_names_without_asking() {
    let pod = Make { allowed: Some(""), ..Make::default() }.pod();
    for (name, address) in [("10.1.2.3", "10.1.2.3"), ("localhost", "127.0.0.1"), ("ME.", "10.244.0.5")] {
        assert_eq!(pod.resolve(name).await, Ok(vec![address.parse().unwrap()]), "{name}");
    }
    assert_eq!(pod.resolve("a b").await, Err(ResolveError::InvalidName("a b".into())));
    assert_eq!(pod.resolve("alias.example").await, Err(ResolveError::Denied("alias.example".into())));
    assert_eq!(pod.resolve("other").await, Err(ResolveError::Denied("other".into())));
}

#[tokio::test]
async fn allowed_hosts_are_reached_by_the_addresses_that_their_names_led_to() {
    let allowed = "http://web:80 https://*.example tcp://192.0.2.20:5432 http://alias.example";
    let pod = Make { allowed: Some(allowed), resolver: Arc::new(Names), ..Make::default() }.pod();
    for to in ["10.96.0.10:80", "192.0.2.10:443", "10.244.0.77:80"] {
        assert_eq!(connect(&pod, to), Err(AddressError::NotAllowed), "{to}: nobody has asked for its name");
    }
    assert_eq!(connect(&pod, "192.0.2.20:5432").as_deref(), Ok("192.0.2.20:5432"));
    assert_eq!(pod.resolve("web").await, Ok(vec!["10.96.0.10".parse().unwrap()]));
    assert_eq!(connect(&pod, "10.96.0.10:80").as_deref(), Ok("10.244.0.9:8080"));
    assert_eq!(pod.resolve("good.example").await, Ok(vec!["192.0.2.10".parse().unwrap()]));
    assert_eq!(connect(&pod, "192.0.2.10:443").as_deref(), Ok("192.0.2.10:443"));
    assert_eq!(connect(&pod, "192.0.2.10:80"), Err(AddressError::NotAllowed));
    // Permitted names that lead into the cluster or the node's surroundings.
    for name in ["evil.example", "metadata.example"] {
        assert_eq!(pod.resolve(name).await, Err(ResolveError::Denied(name.into())));
    }
    assert_eq!(connect(&pod, "10.244.0.77:443"), Err(AddressError::NotAllowed));
    assert_eq!(pod.resolve("alias.example").await, Ok(vec!["192.0.2.20".parse().unwrap()]));
    for (https, host, port, want) in [
        (false, "web", 80, true),
        (true, "web", 443, false),
        (true, "good.example", 443, true),
        (false, "good.example", 80, false),
        (false, "localhost", 9, true),
        (false, "10.244.0.5", 9, true),
        (true, "192.0.2.20", 5432, true),
    ] {
        assert_eq!(pod.allows_request(https, host, port), want, "{host}:{port}");
    }
}

#[tokio::test]
async fn without_a_list_names_lead_wherever_they_lead() {
    let pod = Make { resolver: Arc::new(Names), ..Make::default() }.pod();
    assert_eq!(pod.resolve("evil.example").await, Ok(vec!["10.244.0.77".parse().unwrap()]));
    assert_eq!(pod.resolve("web").await, Ok(vec!["10.96.0.10".parse().unwrap()]));
    assert!(matches!(pod.resolve("nope").await, Err(ResolveError::NotFound(_))));
    assert!(pod.allows_request(true, "anything", 1));
    // Still not the metadata address.
    assert_eq!(connect(&pod, "169.254.169.254:80"), Err(AddressError::Denied));
}

#[test]
fn a_pod_without_servers_has_no_names() {
    let host = ResolvConf::default();
    let node = NodeDns {
        cluster_server: "10.96.0.10".parse().unwrap(),
        cluster_domain: "cluster.local",
        host: &host,
    };
    let pod = serde_json::from_value(
        serde_json::json!({"metadata": {}, "spec": {"dnsPolicy": "None", "containers": []}}),
    );
    assert!(dns_config::of(&pod.unwrap(), node).servers.is_empty());
}

fn dual() -> PodNetwork {
    Make { six: Some("fd00:244::5"), ..Make::default() }.pod()
}

#[test]
fn a_pod_of_two_families_binds_in_both() {
    let pod = dual();
    assert_eq!(pod.ips().iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.5", "fd00:244::5"]);
    for (wanted, got) in [
        ("0.0.0.0:80", Ok("10.244.0.5:80")),
        ("[::]:80", Ok("[fd00:244::5]:80")),
        ("[fd00:244::5]:0", Ok("[fd00:244::5]:0")),
        ("[::1]:80", Ok("[fd7f:c0ac:1e::af4:5]:80")),
        ("[fd00:244::6]:80", Err(AddressError::NotBindable)),
        ("[2001:db8::1]:80", Err(AddressError::NotBindable)),
        ("[::ffff:10.244.0.5]:80", Err(AddressError::NotBindable)),
    ] {
        assert_eq!(pod.bind_address(wanted.parse().unwrap()), got.map(|a| a.parse().unwrap()), "{wanted}");
    }
    for (to, from) in [
        ("[fd00:244::9]:80", "[fd00:244::5]:0"),
        ("[fd7f:c0ac:1e::af4:5]:80", "[fd7f:c0ac:1e::af4:5]:0"),
        ("10.244.0.9:80", "10.244.0.5:0"),
    ] {
        assert_eq!(pod.source_address(to.parse().unwrap()), from.parse().unwrap(), "{to}");
    }
    assert_eq!(pod.seen_by_guest("[fd7f:c0ac:1e::af4:5]:9".parse().unwrap()), "[::1]:9".parse().unwrap());
}

#[test]
fn ipv6_leads_to_no_more_than_ipv4() {
    use AddressError::{Denied, Refused};
    let pod = dual();
    pod.note_bound(Protocol::Tcp, "[fd00:244::5]:8080".parse().unwrap(), true);
    for (wanted, got) in [
        ("[::1]:8080", Ok("[fd00:244::5]:8080")),
        ("[::1]:9", Ok("[fd7f:c0ac:1e::af4:5]:9")),
        ("[fd00:244::77]:80", Ok("[fd00:244::77]:80")),
        ("[2001:db8:9::1]:80", Ok("[2001:db8:9::1]:80")),
        ("[fd00:96::10]:80", Ok("[fd00:244::9]:8080")),
        ("[fd00:96::11]:80", Err(Refused)),
        ("[fd00:96::67]:80", Err(Denied)),
        ("[2001:db8::1]:10250", Err(Denied)),
        ("[2001:db8::1]:30080", Ok("[fd00:244::9]:8080")),
        ("[2001:db8::1]:8081", Ok("[2001:db8::1]:8081")),
        // Another pod's loopback, the metadata address, and 10.96.0.10 and 169.254.169.254 in other letters.
        ("[fd7f:c0ac:1e::af4:6]:80", Err(Denied)),
        ("[fd00:ec2::254]:80", Err(Denied)),
        ("[fe80::1]:80", Err(Denied)),
        ("[::ffff:169.254.169.254]:80", Err(Denied)),
        ("[64:ff9b::a9fe:a9fe]:80", Err(Denied)),
        ("[::ffff:127.3.4.5]:80", Err(Denied)),
        ("[::ffff:198.51.100.1]:10250", Err(Denied)),
        ("[::ffff:10.96.0.10]:80", Ok("10.244.0.9:8080")),
    ] {
        assert_eq!(connect(&pod, wanted), got.map(str::to_owned), "{wanted}");
    }
    for (address, may) in [
        ("[fd00:244::77]:80", true),
        ("[fd7f:c0ac:1e::af4:5]:80", true),
        ("[fd7f:c0ac:1e::af4:6]:80", false),
        ("[::1]:6443", false),
        ("[fd00:ec2::254]:80", false),
    ] {
        assert_eq!(pod.may_reach(address.parse().unwrap()), may, "{address}");
    }
    let host = Make { ip: "198.51.100.1", six: Some("2001:db8::1"), host: true, ..Make::default() }.pod();
    for (wanted, got) in [("[::]:80", "[2001:db8::1]:80"), ("[::1]:80", "[::1]:80")] {
        assert_eq!(host.bind_address(wanted.parse().unwrap()), Ok(got.parse().unwrap()), "{wanted}");
    }
}

#[tokio::test]
async fn names_have_the_families_that_the_pod_has() {
    struct Both;
    #[async_trait::async_trait]
    impl Resolver for Both {
        async fn resolve(&self, _: &str, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
            let all = ["fd00::1", "192.0.2.1"].map(|a| a.parse().unwrap());
            Ok(all.into_iter().filter(|a: &IpAddr| families == Families::Both || a.is_ipv4()).collect())
        }
    }
    let of = |six| Make { six, resolver: Arc::new(Both), ..Make::default() }.pod();
    for (name, one, two) in [
        ("web.example", &["192.0.2.1"][..], &["192.0.2.1", "fd00::1"][..]),
        ("localhost", &["127.0.0.1"], &["127.0.0.1", "::1"]),
    ] {
        for (pod, want) in [(of(None), one), (of(Some("fd00:244::5")), two)] {
            let got = pod.resolve(name).await.unwrap();
            assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), want, "{name}");
        }
    }
}
