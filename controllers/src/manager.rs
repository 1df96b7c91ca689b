//! Starts every controller of the list, behind leader election.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_client::election::{self, Candidate};
use coracle_client::token_key::TokenKey;
use coracle_client::{Client, Informers};
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::context::Context;
use crate::{Error, Options, certificates, namespace, node_ipam};

/// One controller: its name, and what runs it until the context's shutdown.
pub struct Controller {
    pub name: &'static str,
    pub run: Arc<dyn Fn(Context) -> BoxFuture<'static, ()> + Send + Sync>,
}

macro_rules! list {
    ($($name:literal => $run:path,)*) => {
        vec![$(Controller { name: $name, run: Arc::new(|context| Box::pin($run(context))) }),*]
    };
}

/// Every controller there is. Adding one is a file and a line here.
pub fn controllers() -> Vec<Controller> {
    let all = list! {
        "namespace-controller" => crate::namespace::run,
        "serviceaccount-controller" => crate::service_account::run,
        "serviceaccount-token-controller" => crate::service_account_tokens::run,
        "legacy-serviceaccount-token-cleaner-controller" => crate::legacy_tokens::run,
        "bootstrap-signer-controller" => crate::bootstrap_tokens::signer::run,
        "token-cleaner-controller" => crate::bootstrap_tokens::cleaner::run,
        "root-ca-certificate-publisher-controller" => crate::root_ca::run,
        "addon-controller" => crate::addons::run,
        "kube-apiserver-serving-clustertrustbundle-publisher-controller" => crate::trust_bundle::run,
        "clusterrole-aggregation-controller" => crate::cluster_role_aggregation::run,
        "garbage-collector-controller" => crate::gc::run,
        "deployment-controller" => crate::deployment::run,
        "replicaset-controller" => crate::replicaset::replica_sets,
        "daemonset-controller" => crate::daemonset::run,
        "statefulset-controller" => crate::statefulset::run,
        "replicationcontroller-controller" => crate::replicaset::replication_controllers,
        "job-controller" => crate::job::run,
        "cronjob-controller" => crate::cronjob::run,
        "ttl-after-finished-controller" => crate::ttl_after_finished::run,
        "endpoints-controller" => crate::endpoints::classic::run,
        "endpointslice-controller" => crate::endpoints::slices::run,
        "endpointslice-mirroring-controller" => crate::endpoints::mirroring::run,
        "node-lifecycle-controller" => crate::node_lifecycle::run,
        "disruption-controller" => crate::disruption::run,
        "horizontal-pod-autoscaler-controller" => crate::hpa::run,
        "taint-eviction-controller" => crate::node_lifecycle::eviction::run,
        "device-taint-eviction-controller" => crate::device_taints::run,
        "pod-garbage-collector-controller" => crate::node_lifecycle::pod_gc::run,
        "resourcequota-controller" => crate::resource_quota::run,
        "node-ipam-controller" => crate::node_ipam::run,
        "persistentvolume-binder-controller" => crate::persistent_volume::run,
        "persistentvolume-expander-controller" => crate::volume_expansion::run,
        "persistentvolume-attach-detach-controller" => crate::attach_detach::run,
        "ephemeral-volume-controller" => crate::ephemeral_volume::run,
        "local-path-provisioner-controller" => crate::local_path::run,
        "persistentvolumeclaim-protection-controller" => crate::volume_protection::claims,
        "persistentvolume-protection-controller" => crate::volume_protection::volumes,
        "volumeattributesclass-protection-controller" => crate::volume_protection::attributes_classes,
        "resourceclaim-controller" => crate::resource_claim::run,
        "storageversion-garbage-collector-controller" => crate::storage_version_gc::run,
        "storage-version-migrator-controller" => crate::storage_version_migration::run,
        "service-cidr-controller" => crate::service_cidr::run,
        "certificatesigningrequest-approving-controller" => crate::certificates::approver::run,
        "certificatesigningrequest-signing-controller" => crate::certificates::signer::run,
        "certificatesigningrequest-cleaner-controller" => crate::certificates::cleaner::run,
    };
    let mut names = HashSet::new();
    for controller in &all {
        assert!(names.insert(controller.name), "two controllers are called {}", controller.name);
    }
    all
}

pub(crate) async fn run(
    mut options: Options,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    node_ipam::check(&options).map_err(Error::ClusterCidr)?;
    options.election.check().map_err(Error::Election)?;
    if options.signer.is_none() {
        options.signer = certificates::signer::Signer::from_files(&options)?;
    }
    if options.account_token_key.is_none() {
        options.account_token_key = account_token_key(&options)?;
    }
    // The lease itself lives in kube-system.
    namespace::defaults::insist(&client, &shutdown).await;
    let options = Arc::new(options);
    let lead = |term: CancellationToken| {
        let informers = Informers::new(client.clone(), term.clone());
        let context = Context::new(client.clone(), informers, options.clone(), term);
        async move { start(controllers(), &context).await }
    };
    led(&options, "kube-controller-manager", &client, &shutdown, lead).await;
    Ok(())
}

fn account_token_key(options: &Options) -> Result<Option<Arc<TokenKey>>, Error> {
    let Some(path) = &options.service_account_private_key_file else { return Ok(None) };
    let failed = |why: String| Error::AccountKey { path: path.clone(), why };
    let pem = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    TokenKey::from_pem(&pem).map(|key| Some(Arc::new(key))).map_err(|e| failed(e.to_string()))
}

/// Runs `lead` until `shutdown`: at once, or whenever this process holds the lease.
pub(crate) async fn led<F, L>(
    options: &Options,
    lease: &str,
    client: &Client,
    shutdown: &CancellationToken,
    lead: L,
) where
    L: Fn(CancellationToken) -> F,
    F: Future<Output = ()>,
{
    if options.leader_elect {
        let candidate = Candidate::new(lease, options.election);
        election::run(client.clone(), candidate, shutdown.clone(), lead).await;
    } else {
        lead(shutdown.clone()).await;
    }
}

/// Every controller, until the context's shutdown. One that ends early is a bug: its panic is logged, the others go on.
pub(crate) async fn start(controllers: Vec<Controller>, context: &Context) {
    let mut running = JoinSet::new();
    for controller in controllers {
        let context = context.fresh();
        let term = context.shutdown.clone();
        running.spawn(async move {
            loop {
                let work = tokio::spawn((controller.run)(context.clone()));
                match work.await {
                    Ok(()) if term.is_cancelled() => return,
                    // A controller that has nothing to do with these options.
                    Ok(()) => return info!(controller = controller.name, "not needed"),
                    Err(panic) => error!(controller = controller.name, %panic, "controller died, again"),
                }
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                    () = term.cancelled() => return,
                }
            }
        });
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams_and_distinct() {
        let names: Vec<_> = controllers().iter().map(|c| c.name).collect();
        assert!(names.contains(&"deployment-controller"));
        assert!(names.iter().all(|name| name.ends_with("-controller")));
    }
}
