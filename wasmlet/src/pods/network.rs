//! What a pod's spec asks of the network, in the network's terms.

use coracle_client::Object;
use k8s_openapi::api::core::v1::Pod;

use super::context::Context;
use super::events::PodEvents;
use super::hostname;
use super::start::ports_of;
use crate::network::{AllowList, DnsConfig, Hosts, NodeDns, Request, ResolvConf, dns_config};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// The error says which part of the pod is wrong.
pub fn request(context: &Context, object: &Object, pod: &Pod) -> Result<Request, String> {
    let empty = Default::default();
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&empty);
    let allowed = AllowList::from_annotations(annotations).map_err(|error| error.to_string())?;
    let hostname = hostname::of(pod, &context.node.cluster_domain, &context.node.name)?;
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let mut own_names = vec![hostname.name.clone()];
    own_names.extend(hostname.fully_qualified());
    let aliases = spec.and_then(|s| s.host_aliases.as_ref()).into_iter().flatten();
    let aliases = aliases.filter_map(|alias| Some((alias.ip.parse().ok()?, alias.hostnames.as_ref()?)));
    let mut hosts: Vec<_> =
        aliases.flat_map(|(ip, names)| names.iter().map(move |name| (name.clone(), ip))).collect();
    if host_network && let Ok(text) = std::fs::read_to_string(HOSTS) {
        hosts.extend(Hosts::parse(&text));
    }
    Ok(Request {
        pod: object.key().to_string(),
        host_network,
        dns: dns(context, object, pod),
        own_names,
        hosts,
        allowed,
        host_ports: spec.map(|s| s.containers.iter().flat_map(ports_of).collect()).unwrap_or_default(),
    })
}

fn dns(context: &Context, object: &Object, pod: &Pod) -> DnsConfig {
    let host = std::fs::read_to_string(RESOLV_CONF).map(|text| ResolvConf::parse(&text)).unwrap_or_default();
    let node = NodeDns {
        cluster_server: context.network.cluster_dns(),
        cluster_domain: &context.node.cluster_domain,
        host: &host,
    };
    let config = dns_config::of(pod, node);
    for warning in &config.warnings {
        PodEvents::new(&context.recorder, object).warning("DNSConfigForming", warning.clone());
    }
    config
}
