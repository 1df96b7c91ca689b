//! `coracle server`: the control plane without a node; `coracle apiserver`: the apiserver alone.

use anyhow::Context;
use clap::Args;
use coracle_apiserver::component_health::Component;
use coracle_controllers::cloud;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::component::CLOUD_FIELD_MANAGER;
use crate::control_plane::ControlPlane;
use crate::data_directory::DataDirectory;
use crate::networks::NodeMasks;
use crate::options::{ControlPlaneOptions, DataOptions};
use crate::process;

#[derive(Args)]
pub struct Server {
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    control_plane: ControlPlaneOptions,
    #[command(flatten)]
    masks: NodeMasks,
}

impl Server {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.data.log_level.clone();
        process::run(&level, |shutdown| async move {
            let data = DataDirectory::open(&self.data.directory()?)?;
            let control_plane = ControlPlane::start(&self.control_plane, &data, false).await?;
            control_plane.announce();
            let components = CancellationToken::new();
            let mut running =
                Components::start(&control_plane, &self.control_plane, self.masks, &components)?;
            let result = running.until(&shutdown).await;
            components.cancel();
            running.ended().await;
            control_plane.stop().await;
            result
        })
    }
}

#[derive(Args)]
pub struct Apiserver {
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    control_plane: ControlPlaneOptions,
}

impl Apiserver {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.data.log_level.clone();
        process::run(&level, |shutdown| async move {
            let data = DataDirectory::open(&self.data.directory()?)?;
            let control_plane = ControlPlane::start(&self.control_plane, &data, false).await?;
            control_plane.announce();
            shutdown.cancelled().await;
            control_plane.stop().await;
            Ok(())
        })
    }
}

/// Components that run in this process; the end of one is the end of all.
#[derive(Default)]
pub struct Components {
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Components {
    /// Scheduler and controllers beside their apiserver. With the embedded store no other process can lead, so no
    /// lease is written every two seconds for nothing.
    pub fn start(
        control_plane: &ControlPlane,
        options: &ControlPlaneOptions,
        masks: NodeMasks,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let pki = &control_plane.pki;
        let signer = coracle_controllers::Signer::new(pki.ca_certificate(), pki.ca_key())
            .context("the cluster's CA cannot sign certificates for nodes")?;
        let mut components = Self::default();
        let leader_elect = !control_plane.embedded;
        options.election.check().map_err(anyhow::Error::msg)?;
        let scheduler = coracle_scheduler::Options {
            leader_elect,
            election: options.election,
            ..coracle_scheduler::Options::default()
        };
        let client = control_plane.client("system:kube-scheduler", &[], "kube-scheduler");
        let token = shutdown.clone();
        let running = control_plane.component_health.running(Component::Scheduler);
        components.spawn("scheduler", async move {
            let _running = running;
            coracle_scheduler::run(scheduler, client, token).await
        });

        let controllers = coracle_controllers::Options {
            leader_elect,
            election: options.election,
            node_monitor_grace_period: options.node_monitor_grace_period,
            cluster_signing_duration: options.cluster_signing_duration,
            autoscaling: options.autoscaling.clone(),
            node_cidr_mask_size: masks.node_cidr_mask_size,
            node_cidr_mask_size_ipv4: masks.node_cidr_mask_size_ipv4,
            node_cidr_mask_size_ipv6: masks.node_cidr_mask_size_ipv6,
            cluster_cidr: control_plane.pod_cidr.ranges(),
            service_cluster_ip_range: control_plane.service_cidr.ranges(),
            signer: Some(signer),
            addons: Some(control_plane.addons()),
            account_token_key: Some(control_plane.token_key.clone()),
            ..coracle_controllers::Options::default()
        };
        let cluster_cidr = controllers.cluster_cidr.clone();
        let client = control_plane.client("system:kube-controller-manager", &[], "kube-controller-manager");
        let token = shutdown.clone();
        let running = control_plane.component_health.running(Component::ControllerManager);
        components.spawn("controllers", async move {
            let _running = running;
            coracle_controllers::run(controllers, client, token).await
        });
        let mut cloud = options.cloud.clone();
        cloud.reserved_ports = vec![control_plane.address.port().into()];
        let cloud = cloud::ManagerOptions { leader_elect, election: options.election, cluster_cidr, cloud };
        let client = control_plane.client("system:cloud-controller-manager", &[], CLOUD_FIELD_MANAGER);
        let token = shutdown.clone();
        components.spawn("cloud controllers", async move { cloud::run(cloud, client, token).await });
        Ok(components)
    }

    pub fn spawn<E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { work.await.with_context(|| format!("the {name} failed")) });
    }

    pub fn spawn_quiet(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            work.await;
            Ok(())
        });
    }

    /// Until shutdown is asked for, or a component ends with an error.
    pub async fn until(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.tasks.join_next() => match ended {
                    Some(Ok(Ok(()))) if shutdown.is_cancelled() => return Ok(()),
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => return Err(error),
                    Some(Err(error)) => return Err(error).context("a component crashed"),
                    None => {
                        shutdown.cancelled().await;
                        return Ok(());
                    }
                },
            }
        }
    }

    /// Lets what still runs end, for a while.
    pub async fn ended(&mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(std::time::Duration::from_secs(5), all).await.is_err() {
            self.tasks.abort_all();
        }
    }
}
