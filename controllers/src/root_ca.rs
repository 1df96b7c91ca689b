//! Root CA publisher: every namespace has the ConfigMap `kube-root-ca.crt`, by which pods trust the API.

use std::collections::BTreeMap;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub async fn run(context: Context) {
    let Some(signer) = &context.options.signer else { return };
    let controller = Controller {
        client: context.client.clone(),
        namespaces: context.of::<Namespace>(),
        maps: context.of::<ConfigMap>(),
        certificate: signer.certificate().to_owned(),
    };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.namespaces.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    let added = queue.clone();
    controller.maps.on_change(move |change: &Change| {
        if &*change.object().head.name == NAME {
            added.add(Key::new("", &change.object().head.namespace));
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    namespaces: Informer,
    maps: Informer,
    certificate: String,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let active = self
            .namespaces
            .get_key(key)
            .is_some_and(|n| !n.head.deleting && n.head.field("status.phase") != Some("Terminating"));
        if !active {
            return Ok(Outcome::Done);
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.certificate.clone())]);
        let written = match self.maps.get(&key.name, NAME) {
            Some(object) => {
                let mut map: ConfigMap = object.decode()?;
                if map.data.as_ref() == Some(&data) {
                    return Ok(Outcome::Done);
                }
                map.data = Some(data);
                self.client.update(&map).await
            }
            None => {
                let metadata = ObjectMeta {
                    namespace: Some(key.name.to_string()),
                    name: Some(NAME.into()),
                    annotations: Some(
                        [("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())].into(),
                    ),
                    ..ObjectMeta::default()
                };
                self.client.create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }).await
            }
        };
        match written {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_namespace_terminating() || error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::DeleteOptions;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::namespace::defaults;
    use crate::testing::Cluster;
    use crate::{Options, Signer};

    #[tokio::test(start_paused = true)]
    async fn every_namespace_has_it_and_keeps_it() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let signer = Signer::new(&certificate, &key.serialize_pem()).unwrap();
        let cluster = Cluster::with(Options { signer: Some(signer), ..Options::default() });
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        defaults::create(client, "ns").await.unwrap();
        let there = |f: &coracle_client::fake::Fake| {
            f.get::<ConfigMap>("ns", NAME).and_then(|m| m.data).is_some_and(|d| d["ca.crt"] == certificate)
        };
        cluster.until("published", there).await;
        client.delete::<ConfigMap>("ns", NAME, DeleteOptions::default()).await.unwrap();
        cluster.until("again", there).await;
        let mut map = cluster.fake.get::<ConfigMap>("ns", NAME).unwrap();
        map.data = None;
        client.update(&map).await.unwrap();
        cluster.until("corrected", there).await;
    }
}
