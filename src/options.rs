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

use crate::networks::{Networks, parse_pods, parse_services};
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
    #[arg(long, value_name = "CIDR[,CIDR]", value_parser = parse_services)]
    pub service_cidr: Option<Networks>,
    /// The network that nodes get their pods' addresses from, and after a comma an IPv6 one for a second address of every
    /// pod [default: 10.244.0.0/16; rootless 127.64.0.0/16]
    #[arg(long, value_name = "CIDR[,CIDR]", value_parser = parse_pods)]
    pub pod_cidr: Option<Networks>,
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
