//! The controllers: each watches the API and moves what is towards what was asked for.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use coracle_client::Client;
use coracle_client::election::Timing;
use tokio_util::sync::CancellationToken;

pub mod cloud;
pub mod manager;
pub mod manifest;

mod addons;
mod bootstrap_tokens;
mod attach_detach;
mod certificates;
mod cluster_role_aggregation;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod device_taints;
mod endpoints;
mod ephemeral_volume;
mod gc;
pub mod hpa;
mod job;
mod legacy_tokens;
mod local_path;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod persistent_volume;
mod replicaset;
mod resource_claim;
mod root_ca;
mod service_account;
mod service_account_tokens;
mod service_cidr;
mod statefulset;
mod ttl_after_finished;
mod trust_bundle;
mod storage_version_gc;
mod storage_version_migration;
mod volume_expansion;
mod volume_protection;

mod context;
mod custom;
mod expectations;
mod history;
mod int_or_percent;
mod ownership;
mod pod_changes;
mod pod_control;
mod pods;
mod resource_quota;
mod scale;
mod served;
mod steady;
mod subject;
mod template;
#[cfg(test)]
mod testing;

pub use addons::{Addons, FIELD_MANAGER as ADDONS_FIELD_MANAGER};
pub use certificates::signer::Signer;
pub use namespace::defaults::ensure as ensure_default_namespaces;

/// How the controllers run. The defaults are kube-controller-manager's.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Work only while holding the lease kube-system/kube-controller-manager
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,

    #[command(flatten)]
    pub election: Timing,

    /// How long a node may be silent before it counts as lost
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,

    /// Nodes per second of one zone whose pods may be evicted, when the zone is healthy
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,

    /// The range that nodes' pod ranges are taken from; one of each IP family at most
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<Cidr>,

    /// The ranges of services' addresses; no node gets a pod range that overlaps with them
    #[arg(long, value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<Cidr>,

    /// The prefix length of a node's pod range, where there is one cluster CIDR [default: 24, of IPv6 64]
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,

    /// The prefix length of a node's IPv4 pod range [default: 24]
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,

    /// The prefix length of a node's IPv6 pod range [default: 64]
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,

    #[command(flatten)]
    pub autoscaling: hpa::HpaOptions,

    /// Finished pods that may stay before the oldest are deleted; 0: all may
    #[arg(long, default_value_t = 12500)]
    pub terminated_pod_gc_threshold: usize,

    /// The CA certificate (PEM) that signs certificates for nodes and clients
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,

    /// The key (PEM) of that CA
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,

    /// The longest a certificate signed here is valid
    #[arg(long, default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,

    /// The CA itself, handed in by the process that holds it; wins over the files
    #[arg(skip)]
    pub signer: Option<Signer>,

    /// The cloud controllers' part, which run by themselves
    #[arg(skip)]
    pub cloud: cloud::CloudOptions,

    /// Manifests to apply and keep, handed in by the process that has the directory
    #[arg(skip)]
    pub addons: Option<Addons>,

    /// The key (PEM) that signs the tokens of service accounts that are kept in Secrets
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,

    /// That key itself, handed in by the process that holds it; wins over the file
    #[arg(skip)]
    pub account_token_key: Option<std::sync::Arc<coracle_client::token_key::TokenKey>>,

    /// How long a token in a Secret made by earlier versions may be unused before it is marked invalid, and then deleted
    #[arg(long, default_value = "8760h", value_parser = duration)]
    pub legacy_service_account_token_clean_up_period: Duration,

    /// Objects of one controller worked on at a time
    #[arg(long, default_value_t = 5)]
    pub concurrent_syncs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            leader_elect: true,
            election: Timing::default(),
            node_monitor_grace_period: Duration::from_secs(50),
            node_eviction_rate: 0.1,
            cluster_cidr: vec![Cidr { address: IpAddr::from([10, 244, 0, 0]), prefix: 16 }],
            service_cluster_ip_range: Vec::new(),
            node_cidr_mask_size: None,
            node_cidr_mask_size_ipv4: None,
            node_cidr_mask_size_ipv6: None,
            autoscaling: hpa::HpaOptions::default(),
            terminated_pod_gc_threshold: 12500,
            cluster_signing_cert_file: None,
            cluster_signing_key_file: None,
            cluster_signing_duration: Duration::from_secs(365 * 24 * 3600),
            signer: None,
            addons: None,
            cloud: cloud::CloudOptions::default(),
            service_account_private_key_file: None,
            account_token_key: None,
            legacy_service_account_token_clean_up_period: Duration::from_secs(365 * 24 * 3600),
            concurrent_syncs: 5,
        }
    }
}

/// An address range, e.g. `10.244.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// The address length of the family, in bits.
    pub fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The first address, as a number.
    pub(crate) fn start(self) -> u128 {
        let address = match self.address {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        let host = u32::from(self.bits().saturating_sub(self.prefix));
        address.checked_shr(host).map_or(0, |n| n.checked_shl(host).unwrap_or(0))
    }

    pub fn contains(self, other: Self) -> bool {
        self.bits() == other.bits()
            && self.prefix <= other.prefix
            && Self { prefix: self.prefix, ..other }.start() == self.start()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid CIDR address: {text}");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let cidr =
            Self { address: address.parse().map_err(|_| bad())?, prefix: prefix.parse().map_err(|_| bad())? };
        if cidr.prefix > cidr.bits() { Err(bad()) } else { Ok(cidr) }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())
}

/// Why the controllers could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Election(&'static str),
    #[error("--cluster-cidr: {0}")]
    ClusterCidr(String),
    #[error("reading {path}: {source}")]
    ReadSigner {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("--service-account-private-key-file {path}: {why}")]
    AccountKey { path: PathBuf, why: String },
    #[error("the signing CA: {0}")]
    Signer(#[source] certificates::signer::SignerError),
}

/// Runs every controller until `shutdown`; behind leader election where the options say so.
/// The default namespaces are made before anything else, leader or not.
pub async fn run(options: Options, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    manager::run(options, client, shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_durations_parse() {
        for (text, fine) in [
            ("10.244.0.0/16", true),
            ("fd00::/48", true),
            ("10.0.0.0/33", false),
            ("10.0.0.0", false),
            ("x/8", false),
        ] {
            assert_eq!(text.parse::<Cidr>().is_ok(), fine, "{text}");
        }
        let wide: Cidr = "10.244.0.0/16".parse().unwrap();
        assert!(wide.contains("10.244.7.0/24".parse().unwrap()));
        assert!(!wide.contains("10.245.7.0/24".parse().unwrap()));
        assert!(!wide.contains("10.0.0.0/8".parse().unwrap()));
        for (text, want) in
            [("50s", Some(50.0)), ("1.5m", Some(90.0)), ("10ms", Some(0.01)), ("5", None), ("x", None)]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_secs_f64()), want, "{text}");
        }
    }
}
