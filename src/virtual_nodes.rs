//! `coracle node --runtime fake`: virtual nodes, by one identity for all of them or by a certificate each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use coracle_client::http::Https;
use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, Client};
use coracle_wasmlet::node::Heartbeat;
use coracle_wasmlet::{Identity, virtual_nodes};
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::serving_identity;
use crate::component::{ca_of, read_config};
use crate::join::{self, Held, SERVING_SIGNER, Wanted};
use crate::node::address_towards;
use crate::options::parse_duration;
use crate::server::Components;

/// More nodes than this with a certificate each are slower to join than anybody wants to wait: give a kubeconfig.
pub const JOINED_MAX: u32 = 64;
/// A serving certificate that could not be renewed is asked for again after this.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Runs Wasm
    Wasm,
    /// Runs nothing: virtual nodes, for tests of scale
    Fake,
}

/// Flags for virtual nodes.
#[derive(Args, Clone, Debug)]
pub struct VirtualOptions {
    /// How many virtual nodes to play: NAME-0, NAME-1, …; one alone is called NAME
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Virtual nodes")]
    count: u32,
    /// Play them with this one identity, which must be allowed to write all nodes and pods, instead of a certificate each
    #[arg(long, value_name = "FILE", conflicts_with = "token", help_heading = "Virtual nodes")]
    pub kubeconfig: Option<PathBuf>,
    /// How pods behave that do not say it themselves, e.g. start-delay=2s or failure=CrashLoopBackOff; may be repeated.
    ///
    /// A pod says it by annotations coracle.dev/fake-NAME, or coracle.dev/fake-NAME.CONTAINER for one container:
    /// start-delay (from bound to started), ready-delay (or never), run-duration (or forever; pods of Jobs end at
    /// once otherwise), exit-code, stop-delay, failure (ImagePullBackOff, CrashLoopBackOff, OOMKilled, Evicted, None),
    /// cpu-usage, memory-usage (what the container requests otherwise). Durations are 250ms, 5s, 2m, or LEAST..MOST.
    /// The annotation coracle.dev/fake-silent=true on a node takes its power away.
    #[arg(long = "fake", value_name = "NAME=VALUE", value_parser = parse_behaviour, help_heading = "Virtual nodes", verbatim_doc_comment)]
    fake: Vec<(String, String)>,
    /// Labels of the virtual nodes
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = parse_pair, help_heading = "Virtual nodes")]
    node_labels: Vec<(String, String)>,
    /// Zones, given to the virtual nodes in turn
    #[arg(long, value_name = "ZONE,…", value_delimiter = ',', help_heading = "Virtual nodes")]
    zones: Vec<String>,
    /// Taints of the virtual nodes
    #[arg(long, value_name = "KEY[=VALUE]:EFFECT,…", value_delimiter = ',', value_parser = parse_taint, help_heading = "Virtual nodes")]
    register_with_taints: Vec<Taint>,
    /// What each virtual node has; what is not named stays: cpu=32,memory=256Gi,ephemeral-storage=1Ti,pods=110
    #[arg(long, value_name = "RESOURCE=QUANTITY,…", value_delimiter = ',', value_parser = parse_amount, help_heading = "Virtual nodes")]
    node_capacity: Vec<(String, Wire)>,
    /// The virtual nodes' architecture
    #[arg(long, value_name = "ARCH", default_value = "amd64", help_heading = "Virtual nodes")]
    node_arch: String,
    /// How long a virtual node's lease lasts; it is renewed four times as often
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = parse_duration, help_heading = "Virtual nodes")]
    node_lease_duration: Duration,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_behaviour(text: &str) -> Result<(String, String), String> {
    let (name, value) = parse_pair(text)?;
    virtual_nodes::check(&name, &value)?;
    Ok((format!("{}{name}", virtual_nodes::PREFIX), value))
}

fn parse_amount(text: &str) -> Result<(String, Wire), String> {
    let (resource, amount) = parse_pair(text)?;
    let parsed: Quantity = amount.parse().map_err(|error| format!("{resource}: {error}"))?;
    if parsed.is_negative() {
        return Err(format!("{resource}: must be greater than or equal to 0"));
    }
    Ok((resource, Wire(amount)))
}

fn parse_taint(text: &str) -> Result<Taint, String> {
    let (pair, effect) = text.rsplit_once(':').ok_or("give KEY=VALUE:EFFECT or KEY:EFFECT")?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("{effect:?}: give NoSchedule, PreferNoSchedule or NoExecute"));
    }
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (pair, None),
    };
    Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

impl VirtualOptions {
    pub fn names(&self, name: &str) -> Vec<String> {
        match self.count {
            1 => vec![name.to_owned()],
            count => (0..count).map(|index| format!("{name}-{index}")).collect(),
        }
    }

    fn options(&self, address: IpAddr) -> virtual_nodes::Options {
        let lasts = self.node_lease_duration.max(Duration::from_secs(1));
        let mut options = virtual_nodes::Options::new(address);
        options.heartbeat = Heartbeat { lease_every: lasts / 4, lease_lasts: lasts, ..Heartbeat::default() };
        options.labels = self.node_labels.iter().cloned().collect();
        options.zones = self.zones.clone();
        options.taints = self.register_with_taints.clone();
        options.architecture = self.node_arch.clone();
        options.capacity.extend(self.node_capacity.iter().cloned());
        options.annotations = self.fake.iter().cloned().collect::<BTreeMap<_, _>>();
        options
    }

    /// Plays the nodes in `running` until `shutdown`.
    pub fn start(
        &self,
        address: IpAddr,
        access: virtual_nodes::Access,
        identity: Option<Identity>,
        running: &mut Components,
        shutdown: &CancellationToken,
    ) {
        let names = match &access {
            virtual_nodes::Access::Shared { names, .. } => names.clone(),
            virtual_nodes::Access::Own(members) => members.iter().map(|(name, _)| name.clone()).collect(),
        };
        let (options, token) = (self.options(address), shutdown.clone());
        running.spawn("virtual nodes", async move {
            virtual_nodes::run(options, access, identity, token, |_| match names.as_slice() {
                [first, .., last] => println!("Nodes {first} to {last} ready"),
                _ => println!("Node {} ready", names.concat()),
            })
            .await
        });
    }

    /// With one identity for all of them: needs no directory and no joining.
    pub async fn run_shared(
        &self,
        kubeconfig: &Path,
        name: &str,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let config = read_config(kubeconfig).await?;
        let address = address_towards(&config.cluster_url)?;
        let ca = ca_of(&config);
        let client = Client::new(Https::new(config)?, "kubelet");
        let components = CancellationToken::new();
        let mut running = Components::default();
        let names = self.names(name);
        let first = names.first().cloned().unwrap_or_default();
        let certificate = tokio::select! {
            certificate = serving_certificate(&client, &first, address) => certificate,
            () = shutdown.cancelled() => return Ok(()),
        };
        let identity = match certificate {
            Ok(held) if !ca.is_empty() => {
                let (sender, serving) = watch::channel(serving_identity(held.pair.clone()));
                running.spawn_quiet(renew(client.clone(), first, address, held, sender, components.clone()));
                Some(Identity { serving, client_ca: ca })
            }
            Ok(_) => {
                warn!("the kubeconfig names no certificate-authority: the virtual nodes serve no figures");
                None
            }
            Err(error) if is_refusal(&error) => {
                warn!(
                    error = format!("{error:#}"),
                    "without a serving certificate the virtual nodes serve no figures"
                );
                None
            }
            Err(error) => return Err(error),
        };
        let access = virtual_nodes::Access::Shared { client, names };
        self.start(address, access, identity, &mut running, &components);
        let result = running.until(&shutdown).await;
        components.cancel();
        running.ended().await;
        result
    }

    pub fn check_joined(&self) -> anyhow::Result<()> {
        if self.count > JOINED_MAX {
            bail!(
                "--count {}: with --token each node gets a certificate of its own, {JOINED_MAX} at most; give --kubeconfig to play more of them with one identity",
                self.count
            );
        }
        Ok(())
    }
}

/// The identity may not do it, whereas another time may be better for other errors.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<ApiError>().is_some_and(|e| e.code() == 403))
}

/// The certificate of their server; whoever may write all nodes may approve it too.
async fn serving_certificate(client: &Client, node: &str, address: IpAddr) -> anyhow::Result<Held> {
    let wanted = Wanted { signer: SERVING_SIGNER, node, addresses: &[address] };
    let pair = join::request_approved_certificate(client, &wanted)
        .await
        .context("getting a serving certificate for the virtual nodes")?;
    Ok(Held::new(pair))
}

async fn renew(
    client: Client,
    node: String,
    address: IpAddr,
    mut held: Held,
    serving: watch::Sender<coracle_wasmlet::ServingIdentity>,
    shutdown: CancellationToken,
) {
    let mut retry = None;
    loop {
        let left = held.due_at().saturating_sub(jiff::Timestamp::now().as_second()).max(0).unsigned_abs();
        let pause = retry.take().unwrap_or(Duration::from_secs(left));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        match serving_certificate(&client, &node, address).await {
            Ok(fresh) => {
                serving.send_replace(serving_identity(fresh.pair.clone()));
                held = fresh;
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "renewing the virtual nodes' serving certificate failed");
                retry = Some(RENEWAL_RETRY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_checked() {
        assert_eq!(
            parse_behaviour("start-delay=2s").unwrap(),
            ("coracle.dev/fake-start-delay".into(), "2s".into())
        );
        for bad in ["start-delay", "start-delay=soon", "nonsense=1", "failure=Sadness"] {
            assert!(parse_behaviour(bad).is_err(), "{bad}");
        }
        let taint = parse_taint("a/b=c:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("a/b", Some("c"), "NoSchedule")
        );
        assert!(parse_taint("a:Sometimes").is_err());
        assert!(parse_amount("cpu=-1").is_err() && parse_amount("cpu=x").is_err());
        assert_eq!(parse_amount("example.com/gpu=4").unwrap().1.0, "4");
    }
}
