//! The cloud controller manager: what a cluster needs of the place it runs in, through a [`provider::Provider`].

pub mod provider;

mod external;
mod local;
mod node;
mod routes;
mod service;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::election::Timing;
use coracle_client::{Client, Informers};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::manager::{self, Controller};
use crate::{Cidr, Options, duration};
use external::{Endpoint, EndpointError, External};
use local::Local;
use provider::Provider;

pub use local::Pool;
pub use node::plan::UNINITIALIZED;

const LEASE: &str = "cloud-controller-manager";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProviderName {
    /// Load balancers on this cluster's own nodes
    #[default]
    Local,
    /// A provider in another process, at --cloud-provider-url
    External,
    /// No cloud: Services of type LoadBalancer wait for somebody else
    None,
}

/// Which cloud, and how it is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct CloudOptions {
    /// Who gives the cluster load balancers, and machines, routes and volumes where there are any
    #[arg(long, value_enum, default_value = "local")]
    pub cloud_provider: ProviderName,

    /// Provider local: addresses for Services of type LoadBalancer, announced by the nodes; without it Services are
    /// served on the nodes' own addresses
    #[arg(long, value_name = "CIDR|FIRST-LAST,...")]
    pub load_balancer_pool: Option<Pool>,

    /// Provider external: where it is
    #[arg(long, value_name = "http(s)://HOST:PORT", required_if_eq("cloud_provider", "external"))]
    pub cloud_provider_url: Option<http::Uri>,

    /// Provider external: a file with the bearer token to show it
    #[arg(long, value_name = "FILE")]
    pub cloud_provider_token_file: Option<PathBuf>,

    /// Provider external: the CA that its certificate comes from (PEM) [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub cloud_provider_ca_file: Option<PathBuf>,

    /// Provider external: how long an answer may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub cloud_provider_timeout: Duration,

    /// The cluster's name at the cloud
    #[arg(long, value_name = "NAME", default_value = "kubernetes")]
    pub cluster_name: String,

    /// Whether nodes' pod ranges become routes of the cloud, where it has any
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub configure_cloud_routes: bool,

    /// Load balancers worked on at a time
    #[arg(long, default_value_t = 1)]
    pub concurrent_service_syncs: usize,

    /// TCP ports of the nodes' addresses that no load balancer gets, handed in by the process that serves there
    #[arg(skip)]
    pub reserved_ports: Vec<i32>,
}

impl Default for CloudOptions {
    fn default() -> Self {
        Self {
            cloud_provider: ProviderName::Local,
            load_balancer_pool: None,
            cloud_provider_url: None,
            cloud_provider_token_file: None,
            cloud_provider_ca_file: None,
            cloud_provider_timeout: Duration::from_secs(30),
            cluster_name: "kubernetes".into(),
            configure_cloud_routes: true,
            concurrent_service_syncs: 1,
            reserved_ports: Vec::new(),
        }
    }
}

/// How the cloud controllers run on their own.
#[derive(Clone, Debug, clap::Args)]
pub struct ManagerOptions {
    /// Work only while holding the lease kube-system/cloud-controller-manager
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,

    #[command(flatten)]
    pub election: Timing,

    /// The range that nodes' pod ranges are taken from; one of each IP family at most
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<Cidr>,

    #[command(flatten)]
    pub cloud: CloudOptions,
}

/// A cloud controller: its name, and what runs it for a provider.
macro_rules! list {
    ($provider:ident: $($name:literal => $run:path,)*) => {
        vec![$({
            let provider: Arc<dyn Provider> = $provider.clone();
            Controller {
                name: $name,
                run: Arc::new(move |context| Box::pin($run(context, provider.clone()))),
            }
        }),*]
    };
}

/// Every cloud controller there is; those for what the provider does not do end at once.
fn controllers(provider: &Arc<dyn Provider>) -> Vec<Controller> {
    list! { provider:
        "cloud-node-controller" => node::run,
        "cloud-node-lifecycle-controller" => node::lifecycle::run,
        "service-lb-controller" => service::run,
        "node-route-controller" => routes::run,
        "cloud-volume-controller" => volumes::run,
    }
}

/// Why the cloud controllers could not start.
#[derive(Debug, thiserror::Error)]
pub enum CloudManagerError {
    #[error("{0}")]
    Election(&'static str),
    #[error("{0}")]
    Endpoint(#[from] EndpointError),
}

/// Runs the cloud's controllers until `shutdown`; behind a lease of their own where the options say so.
pub async fn run(
    options: ManagerOptions,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), CloudManagerError> {
    let ManagerOptions { leader_elect, election, cluster_cidr, cloud } = options;
    election.check().map_err(CloudManagerError::Election)?;
    let options = Arc::new(Options { leader_elect, election, cluster_cidr, cloud, ..Options::default() });
    let endpoint = endpoint(&options.cloud);
    if let Some(endpoint) = &endpoint {
        // What is wrong with it is said at the start, not when this process comes to lead.
        external::check(endpoint)?;
    }
    if options.cloud.cloud_provider == ProviderName::None {
        return Ok(());
    }
    let lead = |term: CancellationToken| {
        let informers = Informers::new(client.clone(), term.clone());
        let context = Context::new(client.clone(), informers, options.clone(), term);
        let endpoint = endpoint.clone();
        async move {
            let cloud = &context.options.cloud;
            let provider: Arc<dyn Provider> = match endpoint {
                None => Arc::new(Local::new(
                    &context,
                    cloud.load_balancer_pool.clone(),
                    cloud.reserved_ports.clone(),
                )),
                Some(endpoint) => {
                    match External::connect(endpoint, &cloud.cluster_name, &context.shutdown).await {
                        Ok(Some(external)) => Arc::new(external),
                        Ok(None) => return,
                        Err(error) => {
                            return tracing::error!(%error, "the cloud provider cannot be used any more");
                        }
                    }
                }
            };
            // What the provider itself looks at.
            if context.synced().await {
                manager::start(controllers(&provider), &context).await;
            }
        }
    };
    manager::led(&options, LEASE, &client, &shutdown, lead).await;
    Ok(())
}

fn endpoint(cloud: &CloudOptions) -> Option<Endpoint> {
    let url = cloud.cloud_provider_url.clone().filter(|_| cloud.cloud_provider == ProviderName::External)?;
    Some(Endpoint {
        url,
        token_file: cloud.cloud_provider_token_file.clone(),
        ca_file: cloud.cloud_provider_ca_file.clone(),
        timeout: cloud.cloud_provider_timeout,
    })
}
