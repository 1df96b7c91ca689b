//! `coracle up`: a whole cluster in one process.

use clap::Args;
use coracle_controllers::cloud::ProviderName;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Agent};
use crate::control_plane::ControlPlane;
use crate::data_directory::DataDirectory;
use crate::options::{ControlPlaneOptions, DataOptions, NodeOptions};
use crate::process;
use crate::server::Components;
use crate::wasmlet_options::WasmletOptions;

#[derive(Args)]
pub struct Up {
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    control_plane: ControlPlaneOptions,
    #[command(flatten)]
    node: NodeOptions,
    #[command(flatten)]
    wasmlet: WasmletOptions,
}

impl Up {
    pub fn run(self) -> anyhow::Result<()> {
        self.wasmlet.check()?;
        let level = self.data.log_level.clone();
        process::run(&level, |shutdown| self.work(shutdown))
    }

    async fn work(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let name = self.node.name()?;
        let rootless = self.node.rootless();
        let data = DataDirectory::open(&self.data.directory()?)?;
        let control_plane = ControlPlane::start(&self.control_plane, &data, rootless).await?;
        control_plane.announce();

        let components = CancellationToken::new();
        let masks = control_plane.pod_cidr.masks_of_one();
        let mut running = Components::start(&control_plane, &self.control_plane, masks, &components)?;
        let address = control_plane.address.ip();
        let serving = control_plane.pki.node_serving(&name, &[address])?;
        let agent = Agent {
            name: name.clone(),
            address,
            data: data.path().to_owned(),
            rootless,
            wasmlet: self.wasmlet.clone(),
            waits_for_cloud: self.control_plane.cloud.cloud_provider == ProviderName::External,
            client_ca: control_plane.pki.ca_certificate().to_owned(),
            serving: agent::fixed(serving),
            client: control_plane.client(&format!("system:node:{name}"), &["system:nodes"], "kubelet"),
            proxy_client: control_plane.client("system:kube-proxy", &[], "kube-proxy"),
            pod_cidr: control_plane.pod_cidr,
            service_cidr: control_plane.service_cidr,
        };
        agent.start(&mut running, &components);

        let result = running.until(&shutdown).await;
        components.cancel();
        running.ended().await;
        control_plane.stop().await;
        result
    }
}
