//! Trust bundle publisher: the CA that signs the API server's certificates, as a ClusterTrustBundle that pods can mount.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, WorkQueue};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::context::Context;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// Of the content's hash in the name.
const HASH_BYTES: usize = 12;

pub async fn run(context: Context) {
    let Some(signer) = context.options.signer.clone() else { return };
    if !context.serves::<ClusterTrustBundle>().await {
        return;
    }
    let certificate = signer.certificate().to_owned();
    let controller = Controller {
        client: context.client.clone(),
        bundles: context.of::<ClusterTrustBundle>(),
        name: bundle_name(&certificate),
        certificate,
    };
    let queue = WorkQueue::new();
    let (added, name) = (queue.clone(), controller.name.clone());
    controller.bundles.on_change(move |_: &Change| added.add(Key::new("", &name)));
    queue.add(Key::new("", &controller.name));
    context.work_with(controller, queue, 1).await;
}

fn bundle_name(certificate: &str) -> String {
    let hash = Sha256::digest(certificate);
    let hash: String = hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hash}", SIGNER.replace('/', ":"))
}

struct Controller {
    client: Client,
    bundles: Informer,
    name: String,
    certificate: String,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "kube-apiserver-serving-clustertrustbundle-publisher-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let wanted = ClusterTrustBundleSpec {
            signer_name: Some(SIGNER.into()),
            trust_bundle: self.certificate.clone(),
        };
        match self.bundles.get("", &key.name) {
            None => {
                let bundle = ClusterTrustBundle {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: wanted,
                };
                match self.client.create(&bundle).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => {}
                }
            }
            Some(object) => {
                let mut bundle: ClusterTrustBundle = object.decode()?;
                if bundle.spec.trust_bundle != wanted.trust_bundle {
                    bundle.spec = wanted;
                    self.client.update(&bundle).await?;
                }
            }
        }
        // Those of an earlier CA.
        for object in self.bundles.list().iter().filter(|o| o.head.name != key.name) {
            let bundle: ClusterTrustBundle = object.decode()?;
            if bundle.spec.signer_name.as_deref() != Some(SIGNER) {
                continue;
            }
            let options = DeleteOptions::default().uid(&object.head.uid);
            match self.client.delete::<ClusterTrustBundle>("", &object.head.name, options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};
    use crate::{Options, Signer};

    #[tokio::test(start_paused = true)]
    async fn the_bundle_of_the_ca_is_there_and_no_older_one() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let signer = Signer::new(&certificate, &key.serialize_pem()).unwrap();
        let cluster = Cluster::with(Options { signer: Some(signer), ..Options::default() });
        let client = &cluster.context.client;
        let bundle = |name: &str, signer: &str| {
            from::<ClusterTrustBundle>(
                json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": "x"}}),
            )
        };
        client.create(&bundle("kubernetes.io:kube-apiserver-serving:old", SIGNER)).await.unwrap();
        client.create(&bundle("example.com:mine:a", "example.com/mine")).await.unwrap();
        cluster.start(|c| Box::pin(super::run(c)));
        let name = bundle_name(&certificate);
        assert_eq!(name.len(), "kubernetes.io:kube-apiserver-serving:".len() + 2 * HASH_BYTES);
        let there = |f: &coracle_client::fake::Fake| {
            let names: Vec<String> =
                f.list::<ClusterTrustBundle>("").into_iter().filter_map(|b| b.metadata.name).collect();
            names == ["example.com:mine:a".to_owned(), name.clone()]
        };
        cluster.until("published", there).await;
        client.delete::<ClusterTrustBundle>("", &name, DeleteOptions::default()).await.unwrap();
        cluster.until("published again", there).await;
    }
}
