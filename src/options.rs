//! The flags that several subcommands share, and their defaults.

mod feature_gates;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use coracle_apiserver::runtime_config::RuntimeConfig;
use coracle_client::election::Timing;
use coracle_controllers::cloud::CloudOptions;
use coracle_controllers::hpa::HpaOptions;

use crate::process;
pub use feature_gates::FeatureGates;

pub const DEFAULT_PORT: u16 = 6443;

#[derive(Args, Clone, Debug)]
pub struct DataOptions {
    /// Where state is kept [default: /var/lib/coracle, or ~/.local/share/coracle for other users than root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as info,coracle_apiserver=debug
    #[arg(long, value_name = "L", default_value = "warn")]
    pub log_level: String,
}

#[derive(Args, Clone, Debug)]
pub struct ControlPlaneOptions {
    /// Where the API is served
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// Where the administrator's kubeconfig is written [default: DIR/kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Keep the state in etcd instead of the embedded store: comma-separated URLs
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// The CA that etcd's certificates come from (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// The client certificate to show etcd (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["etcd_servers", "etcd_keyfile"])]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["etcd_servers", "etcd_certfile"])]
    pub etcd_keyfile: Option<PathBuf>,
    /// The network that Services get their addresses from, and after a comma an IPv6 one for the second address of those
    /// that ask for two [default: 10.96.0.0/16; rootless 127.96.0.0/16]
    #[arg(long, value_name = "CIDR[,CIDR]", value_parser = parse_service_cidr)]
    pub service_cidr: Option<ServiceCidr>,
    /// The network that nodes get their pods' addresses from [default: 10.244.0.0/16; rootless 127.64.0.0/16]
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub pod_cidr: Option<Cidr>,
    /// How long a node may be silent before it counts as lost
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = parse_duration)]
    pub node_monitor_grace_period: std::time::Duration,
    /// How old the figures of metrics.k8s.io (kubectl top, autoscaling) may be, and the time they are measured over
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_resolution)]
    pub metric_resolution: std::time::Duration,
    /// How long the certificates last that nodes and others get signed; they are renewed in time
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = parse_duration)]
    pub cluster_signing_duration: std::time::Duration,
    #[command(flatten)]
    pub election: Timing,
    /// Where the cluster's CA and keys are kept [default: DIR/pki]. A second server on the same etcd must have the
    /// first one's: the same directory, or a copy of it
    #[arg(long, value_name = "DIR")]
    pub pki_dir: Option<PathBuf>,
    /// Whether requests without credentials are taken, as system:anonymous's
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
    /// Tokens that are always good: lines of TOKEN,USER,UID,"GROUP,GROUP"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Versions of the API that are not served by themselves: internal.apiserver.k8s.io/v1alpha1, or api/alpha for all
    #[arg(long, value_name = "VERSION=BOOL,…", default_value = "", hide_default_value = true)]
    pub runtime_config: RuntimeConfig,
    /// StorageVersionAPI: servers say in StorageVersions how they store (false); APIServerIdentity: a Lease in
    /// kube-system for each server (true with etcd)
    #[arg(long, value_name = "GATE=BOOL,…", default_value = "", hide_default_value = true)]
    pub feature_gates: FeatureGates,
    #[command(flatten)]
    pub autoscaling: HpaOptions,
    #[command(flatten)]
    pub cloud: CloudOptions,
}

#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// The node's name [default: this machine's hostname]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Needs no privileges: pods and Services live in 127.0.0.0/8, and Services are forwarded in user space
    #[arg(long)]
    pub rootless: bool,
}

/// What a node that is not in the control plane's process knows of the cloud.
#[derive(Args, Clone, Debug)]
pub struct NodeCloudOptions {
    /// external: the node takes no pods until the cloud controller manager has seen to it
    #[arg(long, value_enum, default_value = "none")]
    pub cloud_provider: NodeCloud,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NodeCloud {
    None,
    External,
}

impl NodeCloudOptions {
    pub fn waits(&self) -> bool {
        self.cloud_provider == NodeCloud::External
    }
}

/// The cluster's networks, for nodes and proxies that are not in the control plane's process.
#[derive(Args, Clone, Debug)]
pub struct NetworkOptions {
    /// The cluster's pod network
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = parse_cidr)]
    pub pod_cidr: Cidr,
    /// The cluster's Service network
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16", value_parser = parse_cidr)]
    pub service_cidr: Cidr,
}

impl NodeOptions {
    pub fn name(&self) -> anyhow::Result<String> {
        let name = self.node_name.clone().unwrap_or_else(process::hostname).to_lowercase();
        if let Err(why) = coracle_apiserver::validation::dns_subdomain(&name) {
            bail!("--node-name {name:?}: {why}");
        }
        Ok(name)
    }

    /// Rootless when asked for, or when there is no choice; then says what differs.
    pub fn rootless(&self) -> bool {
        let privileged = has_net_admin();
        if !self.rootless && !privileged {
            process::note(
                "not running as root: rootless mode. Pods and Services have addresses in 127.0.0.0/8 that only this machine reaches, and Services are forwarded in user space",
            );
        }
        self.rootless || !privileged
    }
}

/// Whether this process may change the machine's network.
pub fn has_net_admin() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|capabilities| capabilities & CAP_NET_ADMIN != 0)
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub network: std::net::Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    /// The `n`th address of the network.
    pub fn address(&self, n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(self.network.to_bits().wrapping_add(n)))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

pub fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || "give an IPv4 network such as 10.244.0.0/16".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: std::net::Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !(8..=28).contains(&prefix) {
        return Err("the prefix must be from /8 to /28".into());
    }
    let mask = u32::MAX << (32 - u32::from(prefix));
    let network = std::net::Ipv4Addr::from_bits(address.to_bits() & mask);
    if network != address {
        return Err(format!("the address has bits beyond the prefix; did you mean {network}/{prefix}?"));
    }
    Ok(Cidr { network, prefix })
}

/// The ranges of Services: IPv4's, which nodes forward, and maybe one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    pub first: Cidr,
    /// The network and its prefix.
    pub second: Option<(std::net::Ipv6Addr, u8)>,
}

impl std::fmt::Display for ServiceCidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.first.fmt(f)?;
        self.second.map_or(Ok(()), |(network, prefix)| write!(f, ",{network}/{prefix}"))
    }
}

fn parse_service_cidr(text: &str) -> Result<ServiceCidr, String> {
    let Some((first, second)) = text.split_once(',') else {
        return Ok(ServiceCidr { first: parse_cidr(text)?, second: None });
    };
    let first = parse_cidr(first).map_err(|why| format!("the first range: {why}"))?;
    let wrong = || "the second range: give an IPv6 network such as fd00:96::/112".to_owned();
    let (address, prefix) = second.split_once('/').ok_or_else(wrong)?;
    let address: std::net::Ipv6Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !(64..=124).contains(&prefix) {
        return Err("the second range: the prefix must be from /64 to /124".into());
    }
    let network = std::net::Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(prefix))));
    if network != address {
        return Err(format!(
            "the second range: the address has bits beyond the prefix; did you mean {network}/{prefix}?"
        ));
    }
    Ok(ServiceCidr { first, second: Some((network, prefix)) })
}

/// `ADDR:PORT`; an address alone gets the default port.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, DEFAULT_PORT));
    }
    text.parse().map_err(|_| "give an address and port such as 127.0.0.1:6443".into())
}

/// `90s`, `5m`, `1h`, or seconds.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || "give a duration such as 30s, 5m or 1h".to_owned();
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit() && c != '.') {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    std::time::Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Over less than a second nothing is measured that means something.
fn parse_resolution(text: &str) -> Result<std::time::Duration, String> {
    match parse_duration(text)? {
        short if short < std::time::Duration::from_secs(1) => Err("give at least 1s".into()),
        duration => Ok(duration),
    }
}

impl DataOptions {
    pub fn directory(&self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = &self.data_dir {
            return std::path::absolute(directory)
                .with_context(|| format!("--data-dir {}", directory.display()));
        }
        if is_root() {
            return Ok("/var/lib/coracle".into());
        }
        let base = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
        base.map(|base| base.join("coracle"))
            .context("neither HOME nor XDG_DATA_HOME is set: give --data-dir")
    }
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_checked() {
        assert_eq!(parse_cidr("10.244.0.0/16").unwrap().address(1).to_string(), "10.244.0.1");
        for bad in ["", "10.244.0.0", "10.244.0.1/16", "10.0.0.0/33", "10.0.0.0/30", "x/8", "fd00::/64"] {
            assert!(parse_cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn service_networks_are_one_or_two() {
        for text in ["10.96.0.0/16", "10.96.0.0/16,fd00:96::/112"] {
            assert_eq!(parse_service_cidr(text).unwrap().to_string(), text);
        }
        for (bad, why) in [
            ("fd00:96::/112", "give an IPv4 network"),
            ("fd00:96::/112,10.96.0.0/16", "the first range: give an IPv4 network"),
            ("10.96.0.0/16,10.97.0.0/16", "the second range: give an IPv6 network"),
            ("10.96.0.0/16,fd00:96::/48", "the second range: the prefix must be from /64 to /124"),
            ("10.96.0.0/16,fd00:96::1/112", "did you mean fd00:96::/112?"),
            ("10.96.0.0/16,fd00::/112,fd01::/112", "the second range: give an IPv6 network"),
        ] {
            let error = parse_service_cidr(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn durations_are_checked() {
        for (text, millis) in
            [("90s", 90_000), ("5m", 300_000), ("1.5h", 5_400_000), ("250ms", 250), ("7", 7000)]
        {
            assert_eq!(parse_duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for bad in ["", "s", "5x", "-1s", "1e400s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_resolution("1s").is_ok() && parse_resolution("999ms").is_err());
    }
}
