//! ConfigMaps, Secrets and claims for pods: read once for environments, followed by one shared watch while mounted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use coracle_client::informer::{Informer, InformerScope, Informers};
use coracle_client::{ApiError, Client, Object, Resource};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::env::{Fetched, Reference, config_map_data, secret_data};

/// Hands out sources; each is watched once however many pods mount it.
pub struct Sources {
    client: Client,
    shutdown: CancellationToken,
    open: Mutex<HashMap<(String, Subject), Weak<Source>>>,
}

/// What is followed.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Subject {
    Data(Reference),
    Claim(String),
}

/// One object, followed until the last holder drops it.
pub struct Source {
    subject: Subject,
    informer: Informer,
    namespace: String,
    changed: watch::Sender<()>,
    _watching: DropGuard,
}

impl Sources {
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Sources { client, shutdown, open: Mutex::default() }
    }

    /// The source, with its first state (or absence) known.
    pub async fn open(&self, namespace: &str, reference: &Reference) -> Arc<Source> {
        self.follow(namespace, Subject::Data(reference.clone())).await
    }

    /// The same for a claim.
    pub async fn open_claim(&self, namespace: &str, name: &str) -> Arc<Source> {
        self.follow(namespace, Subject::Claim(name.to_owned())).await
    }

    async fn follow(&self, namespace: &str, subject: Subject) -> Arc<Source> {
        let source = self.open_now(namespace, subject);
        source.informer.synced().await;
        source
    }

    fn open_now(&self, namespace: &str, subject: Subject) -> Arc<Source> {
        let key = (namespace.to_owned(), subject.clone());
        let mut open = self.open.lock();
        if let Some(source) = open.get(&key).and_then(Weak::upgrade) {
            return source;
        }
        open.retain(|_, source| source.strong_count() > 0);
        let (resource, name) = match &subject {
            Subject::Data(Reference::ConfigMap(name)) => (Resource::of::<ConfigMap>(), name),
            Subject::Data(Reference::Secret(name)) => (Resource::of::<Secret>(), name),
            Subject::Claim(name) => (Resource::of::<PersistentVolumeClaim>(), name),
        };
        let token = self.shutdown.child_token();
        let scope = InformerScope {
            namespace: Some(namespace.to_owned()),
            field_selector: Some(format!("metadata.name={name}")),
            label_selector: None,
        };
        let informer = Informers::new(self.client.clone(), token.clone()).scoped(resource, scope);
        let changed = watch::Sender::new(());
        let notify = changed.clone();
        informer.on_change(move |_| {
            notify.send_replace(());
        });
        let source = Arc::new(Source {
            subject,
            informer,
            namespace: namespace.to_owned(),
            changed,
            _watching: token.drop_guard(),
        });
        open.insert(key, Arc::downgrade(&source));
        source
    }

    /// Reads the objects once.
    pub async fn fetch(&self, namespace: &str, references: Vec<Reference>) -> Result<Fetched, ApiError> {
        let mut fetched = Fetched::new();
        for reference in references {
            let data = match &reference {
                Reference::ConfigMap(name) => {
                    self.client.find::<ConfigMap>(namespace, name).await?.map(config_map_data)
                }
                Reference::Secret(name) => {
                    self.client.find::<Secret>(namespace, name).await?.map(secret_data)
                }
            };
            fetched.insert(reference, data);
        }
        Ok(fetched)
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Source {
    /// What it holds now; None while it does not exist.
    pub fn data(&self) -> Result<Option<BTreeMap<String, Vec<u8>>>, serde_json::Error> {
        let Some(object) = self.object() else { return Ok(None) };
        match self.subject {
            Subject::Data(Reference::ConfigMap(_)) => object.decode().map(config_map_data).map(Some),
            Subject::Data(Reference::Secret(_)) => object.decode().map(secret_data).map(Some),
            Subject::Claim(_) => Ok(None),
        }
    }

    pub fn object(&self) -> Option<Arc<Object>> {
        self.informer.get(&self.namespace, self.name())
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn name(&self) -> &str {
        match &self.subject {
            Subject::Data(Reference::ConfigMap(name) | Reference::Secret(name)) | Subject::Claim(name) => {
                name
            }
        }
    }
}
