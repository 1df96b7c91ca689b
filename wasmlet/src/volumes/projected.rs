//! `projected`: several sources in one directory, among them the pod's service account token.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource};

use super::atomic_writer::{Payload, Projected};
use super::keys::{self, Selection, mode_bits};
use super::{MODE_DEFAULT, MountError, PodVolumes, Volumes, downward, token};
use crate::pods::downward::Fields;
use crate::pods::env::Reference;

/// Tokens of pods with a user or a group of their own are for that only, as upstream.
const TOKEN_MODE: u32 = 0o600;

fn has_owner(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let whole = spec.security_context.as_ref();
    whole.is_some_and(|c| c.fs_group.is_some() || c.run_as_user.is_some())
        || spec
            .containers
            .iter()
            .any(|c| c.security_context.as_ref().is_some_and(|c| c.run_as_user.is_some()))
}

impl Volumes {
    pub(super) async fn project(
        &self,
        pod_volumes: &mut PodVolumes,
        pod: &Pod,
        volume: &str,
        source: &ProjectedVolumeSource,
        fields: &Fields<'_>,
    ) -> Result<Payload, MountError> {
        let default_mode = source.default_mode.map_or(MODE_DEFAULT, mode_bits);
        let mut payload = Payload::new();
        for projection in source.sources.iter().flatten() {
            if let Some(source) = &projection.config_map {
                let reference = Reference::ConfigMap(source.name.clone());
                let data = self.follow(pod_volumes, pod, &reference).await?;
                let selection = Selection {
                    kind: "configmap",
                    name: &source.name,
                    items: source.items.as_deref(),
                    optional: source.optional == Some(true),
                    default_mode,
                };
                payload.extend(keys::select(&selection, data)?);
            } else if let Some(source) = &projection.secret {
                let reference = Reference::Secret(source.name.clone());
                let data = self.follow(pod_volumes, pod, &reference).await?;
                let selection = Selection {
                    kind: "secret",
                    name: &source.name,
                    items: source.items.as_deref(),
                    optional: source.optional == Some(true),
                    default_mode,
                };
                payload.extend(keys::select(&selection, data)?);
            } else if let Some(source) = &projection.downward_api {
                let files = source.items.as_deref().unwrap_or_default();
                payload.extend(downward::select(files, default_mode, fields)?);
            } else if let Some(source) = &projection.service_account_token {
                let key = (volume.to_owned(), source.path.clone());
                let current = pod_volumes.tokens.get(&key).filter(|t| t.renew_at > Timestamp::now()).cloned();
                let token = match current {
                    Some(token) => token,
                    None => token::request(self.sources.client(), pod, source).await?,
                };
                let bytes = token.value.clone().into_bytes();
                payload.insert(
                    source.path.clone(),
                    Projected { bytes, mode: if has_owner(pod) { TOKEN_MODE } else { default_mode } },
                );
                pod_volumes.tokens.insert(key, token);
            } else {
                let kind = if projection.cluster_trust_bundle.is_some() {
                    "projected.clusterTrustBundle"
                } else {
                    "projected.podCertificate"
                };
                return Err(MountError::Unsupported(kind.into()));
            }
        }
        Ok(payload)
    }
}
