//! ServiceAccount: a pod runs as an account that exists, and has its token where API clients look for it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::selector::FieldSelector;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, PodSpec, ProjectedVolumeSource, ServiceAccount as Account,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use super::{Attributes, Operation, Plugin};
use crate::kinds::references;
use crate::object::ApiObject;
use crate::validation::given;
use crate::verbs::Call;
use crate::verbs::metadata::generate_name;
use crate::watch_cache::{Filter, From, ResourceCache, key_of};

const DEFAULT: &str = "default";
/// Mirrors of static pods run as nobody in particular.
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A little over an hour: the server knows by it that nobody asked for a certain time.
const TOKEN_SECONDS: i64 = 3607;
/// How long the first pods of a namespace wait for its account, about as long as upstream tries.
const PATIENCE: Duration = Duration::from_millis(1500);

pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        if attributes.operation != Operation::Create || call.subresource.is_some() {
            return Ok(());
        }
        let Some(pod) = object.and_then(|o| o.as_any_mut().downcast_mut::<Pod>()) else { return Ok(()) };
        if is_mirror(pod) {
            return Ok(());
        }
        let spec = pod.spec.get_or_insert_default();
        let name = given(&spec.service_account_name).unwrap_or(DEFAULT).to_owned();
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name.clone());
        let Some(account) = account(call, &name).await? else { return Ok(()) };
        let automount = spec.automount_service_account_token.or(account.automount_service_account_token);
        if automount != Some(false) {
            mount_token(spec);
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = account.image_pull_secrets.filter(|s| !s.is_empty());
        }
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let subresource = call.subresource.as_deref();
        let judged = matches!(
            (attributes.operation, subresource),
            (Operation::Create, None) | (Operation::Update, Some("ephemeralcontainers"))
        );
        let Some(pod) = object.and_then(|o| o.as_any().downcast_ref::<Pod>()).filter(|_| judged) else {
            return Ok(());
        };
        let forbidden = |why: String| Err(ApiError::forbidden(call.kind.resource(), call.name(), why));
        let Some(spec) = &pod.spec else { return Ok(()) };
        if is_mirror(pod) {
            return mirror(spec).map_or(Ok(()), |why| forbidden(why.into()));
        }
        let Some(name) = given(&spec.service_account_name) else { return Ok(()) };
        let Some(account) = account(call, name).await? else { return Ok(()) };
        let enforced = account.metadata.annotations.as_ref().and_then(|a| a.get(ENFORCE));
        if enforced.is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")) {
            return unlisted_secret(spec, &account).map_or(Ok(()), forbidden);
        }
        Ok(())
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR))
}

/// None: this server has no accounts. Err: there is none of that name.
async fn account(call: &Call, name: &str) -> Result<Option<Account>, ApiError> {
    let Ok(accounts) = call.api.kind(&Resource::of::<Account>()) else { return Ok(None) };
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let key = key_of(Some(namespace), name);
    let mut found = accounts.cache.get(&key);
    if found.is_none() {
        call.api.cache.catch_up(&*call.api.store).await?;
        found = accounts.cache.get(&key);
    }
    if found.is_none() && name == DEFAULT {
        // The namespace may be so new that its account is only about to be made.
        found = tokio::time::timeout(PATIENCE, appearing(&accounts.cache, namespace)).await.ok().flatten();
    }
    match found {
        Some(object) => Ok(Some(object.decode()?)),
        None => Err(ApiError::forbidden(
            call.kind.resource(),
            call.name(),
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"),
        )),
    }
}

async fn appearing(accounts: &Arc<ResourceCache>, namespace: &str) -> Option<Arc<coracle_client::Object>> {
    let filter = Filter {
        namespace: Some(namespace.to_owned()),
        fields: FieldSelector::parse(&format!("metadata.name={DEFAULT}")).ok()?,
        ..Filter::default()
    };
    let mut watch = accounts.watch(filter, From::Now, 0).ok()?;
    match watch.initial.pop() {
        Some(delivery) => Some(delivery.object),
        None => watch.receiver.recv().await.map(|delivery| delivery.object),
    }
}

/// Mounts the token, the CA and the namespace into every container that has nothing else there.
fn mount_token(spec: &mut PodSpec) {
    let own = spec.volumes.iter().flatten().find(|volume| volume.name.starts_with(VOLUME));
    let present = own.map(|volume| volume.name.clone());
    let name = present.clone().unwrap_or_else(|| generate_name(VOLUME));
    let mut needed = false;
    let containers: [&mut Vec<Container>; 2] =
        [spec.init_containers.get_or_insert_default(), &mut spec.containers];
    for container in containers.into_iter().flatten() {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
            continue;
        }
        needed = true;
        mounts.push(VolumeMount {
            name: name.clone(),
            mount_path: MOUNT_PATH.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    spec.init_containers = spec.init_containers.take().filter(|all| !all.is_empty());
    if present.is_none() && needed {
        spec.volumes.get_or_insert_default().push(Volume {
            name,
            projected: Some(api_access()),
            ..Volume::default()
        });
    }
}

fn api_access() -> ProjectedVolumeSource {
    let token = ServiceAccountTokenProjection {
        path: "token".into(),
        expiration_seconds: Some(TOKEN_SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    let ca = ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), ..KeyToPath::default() }]),
        optional: None,
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".into(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".into()),
            field_path: "metadata.namespace".into(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let downward = DownwardAPIProjection { items: Some(vec![namespace]) };
    ProjectedVolumeSource {
        default_mode: Some(0o644),
        sources: Some(vec![
            VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
            VolumeProjection { config_map: Some(ca), ..VolumeProjection::default() },
            VolumeProjection { downward_api: Some(downward), ..VolumeProjection::default() },
        ]),
        ..ProjectedVolumeSource::default()
    }
}

/// Why a mirror pod is refused: a node could read through it what its other pods may not.
fn mirror(spec: &PodSpec) -> Option<&'static str> {
    if given(&spec.service_account_name).is_some() {
        return Some("a mirror pod may not reference service accounts");
    }
    if references::secrets(spec).next().is_some() {
        return Some("a mirror pod may not reference secrets");
    }
    let mut sources = spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref());
    sources
        .any(|p| p.sources.iter().flatten().any(|s| s.service_account_token.is_some()))
        .then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// Why a pod is refused whose account lists what its pods may mount.
fn unlisted_secret(spec: &PodSpec, account: &Account) -> Option<String> {
    let own = account.metadata.name.as_deref().unwrap_or_default();
    let listed =
        |name: &str| account.secrets.iter().flatten().any(|secret| secret.name.as_deref() == Some(name));
    let tail = |name: &str| {
        format!(
            "secret.secretName={name:?} is not allowed because service account {own} does not reference that secret"
        )
    };
    for volume in spec.volumes.iter().flatten() {
        let name = volume.secret.as_ref().map(|s| s.secret_name.as_deref().unwrap_or_default());
        if let Some(name) = name.filter(|name| !listed(name)) {
            return Some(format!("volume with {}", tail(name)));
        }
    }
    for container in references::containers(spec) {
        for env in container.env.into_iter().flatten() {
            let key = env.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
            if let Some(key) = key.filter(|key| !listed(&key.name)) {
                let (kind, container) = (container.kind, container.name);
                return Some(format!(
                    "{kind} {container} with envVar {} referencing {}",
                    env.name,
                    tail(&key.name)
                ));
            }
        }
        for from in container.env_from.into_iter().flatten() {
            if let Some(secret) = from.secret_ref.as_ref().filter(|secret| !listed(&secret.name)) {
                let (kind, container) = (container.kind, container.name);
                return Some(format!("{kind} {container} with envFrom referencing {}", tail(&secret.name)));
            }
        }
    }
    let pulled = account.image_pull_secrets.as_deref().unwrap_or_default();
    let mut pulls = spec.image_pull_secrets.iter().flatten().enumerate();
    pulls.find(|(_, secret)| !pulled.iter().any(|own| own.name == secret.name)).map(|(i, secret)| {
        format!(
            "imagePullSecrets[{i}].name={:?} is not allowed because service account {own} does not reference that imagePullSecret",
            secret.name
        )
    })
}

#[cfg(test)]
#[path = "service_account_tests.rs"]
mod tests;
