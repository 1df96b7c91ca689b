//! The node's two components, wasmlet and proxy, set up for this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use coracle_apiserver::pki::Pair;
use coracle_client::Client;
use coracle_controllers::cloud::UNINITIALIZED;
use coracle_proxy::Services;
use coracle_wasmlet::ServingIdentity;
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::guests::Guests;
use crate::networks::Networks;
use crate::server::Components;
use crate::wasmlet_options::WasmletOptions;

/// The domain that the cluster's names end in.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// What both need to know of the node.
pub struct Agent {
    pub name: String,
    /// Where the apiserver reaches this node.
    pub address: IpAddr,
    pub data: PathBuf,
    pub rootless: bool,
    pub wasmlet: WasmletOptions,
    /// New nodes take no pods until a cloud controller has seen to them.
    pub waits_for_cloud: bool,
    /// Who signed the certificates of those that may talk to the wasmlet, PEM.
    pub client_ca: String,
    /// The wasmlet's serving certificate; a new one counts for new connections.
    pub serving: watch::Receiver<ServingIdentity>,
    pub client: Client,
    pub proxy_client: Client,
    pub pod_cidr: Networks,
    pub service_cidr: Networks,
}

/// A pair as the wasmlet takes it.
pub fn serving_identity(pair: Pair) -> ServingIdentity {
    ServingIdentity { certificate: pair.certificate, key: pair.key }
}

/// A certificate that does not change while the process runs.
pub fn fixed(pair: Pair) -> watch::Receiver<ServingIdentity> {
    watch::channel(serving_identity(pair)).1
}

/// What this process is to know of Services, yet to be filled by its proxy.
pub fn services(pod_cidr: Networks, service_cidr: Networks) -> Services {
    let networks = [service_cidr, pod_cidr].iter().flat_map(Networks::all).collect();
    Services::new(CLUSTER_DOMAIN, Some(dns_address(service_cidr)), networks)
}

/// The tenth address of the Service network, as everywhere.
pub fn dns_address(service_cidr: Networks) -> Ipv4Addr {
    Ipv4Addr::from_bits(service_cidr.first.network.to_bits().wrapping_add(10))
}

/// How the proxy of a node is set up.
pub fn proxy_options(
    node: &str,
    rootless: bool,
    address: IpAddr,
    pod_cidr: Networks,
    service_cidr: Networks,
) -> coracle_proxy::Options {
    coracle_proxy::Options {
        node_name: node.to_owned(),
        mode: if rootless { coracle_proxy::Mode::Userspace } else { coracle_proxy::Mode::Nftables },
        service_cidr: (service_cidr.first.network, service_cidr.first.prefix),
        pod_cidr: (pod_cidr.first.network, pod_cidr.first.prefix),
        second: pod_cidr.second.map(|pods| coracle_proxy::Second {
            pod_cidr: pods,
            service_cidr: service_cidr.second,
            node_address: second_address(address),
        }),
        node_address: address,
        dns_address: Some(dns_address(service_cidr)),
        services: services(pod_cidr, service_cidr),
        keep_rules: false,
    }
}

/// A global IPv6 address of the interface that has this one.
fn second_address(first: IpAddr) -> Option<Ipv6Addr> {
    let interfaces: Vec<_> = nix::ifaddrs::getifaddrs().ok()?.collect();
    let has_first = |i: &&nix::ifaddrs::InterfaceAddress| {
        i.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| IpAddr::V4(a.ip()) == first)
    };
    // An address may have a label for a name: `eth0:1`.
    let name = interfaces.iter().find(has_first)?.interface_name.split(':').next()?;
    let of_it = interfaces.iter().filter(|i| i.interface_name == name);
    let mut six = of_it.filter_map(|i| Some(i.address.as_ref()?.as_sockaddr_in6()?.ip()));
    six.find(|ip| !ip.is_loopback() && !ip.is_unicast_link_local())
}

impl Agent {
    /// Wasmlet and proxy, until `shutdown`.
    pub fn start(self, running: &mut Components, shutdown: &CancellationToken) {
        let options =
            proxy_options(&self.name, self.rootless, self.address, self.pod_cidr, self.service_cidr);
        let services = options.services.clone();
        let (client, token) = (self.proxy_client.clone(), shutdown.clone());
        running.spawn("proxy", async move { coracle_proxy::run(options, client, token).await });
        self.start_wasmlet(Some(services), running, shutdown);
    }

    /// The node's second address, where pods have two: one that the interface of its first has, too. A cloud says itself
    /// which addresses its machines have.
    fn address6(&self) -> Option<Ipv6Addr> {
        self.pod_cidr.second.filter(|_| !self.rootless && !self.waits_for_cloud)?;
        second_address(self.address)
    }

    /// Without a proxy in this process, guests' names and connections to Services go over the network, as containers' do.
    pub fn start_wasmlet(
        self,
        services: Option<Services>,
        running: &mut Components,
        shutdown: &CancellationToken,
    ) {
        let address6 = self.address6();
        let mut options = coracle_wasmlet::Options::new(self.name, self.data);
        options.address = self.address;
        options.rootless = self.rootless;
        self.wasmlet.apply(&mut options);
        if self.waits_for_cloud {
            options.taints.push(Taint {
                key: UNINITIALIZED.into(),
                value: Some("true".into()),
                effect: "NoSchedule".into(),
                ..Taint::default()
            });
        }
        options.address6 = address6;
        options.cluster_networks =
            [self.pod_cidr, self.service_cidr].iter().flat_map(Networks::all).collect();
        options.cluster_domain = CLUSTER_DOMAIN.into();
        options.cluster_dns = dns_address(self.service_cidr).into();
        if let Some(services) = services {
            let guests = Arc::new(Guests(services));
            options.resolver = Some(guests.clone());
            options.balancer = Some(guests);
        }
        let identity = coracle_wasmlet::Identity { serving: self.serving, client_ca: self.client_ca };
        let (client, token) = (self.client, shutdown.clone());
        running.spawn("wasmlet", async move {
            coracle_wasmlet::run(options, client, identity, token, |ready| {
                println!("Node {} ready", ready.name)
            })
            .await
        });
    }
}
