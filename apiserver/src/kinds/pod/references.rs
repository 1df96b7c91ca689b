//! Which other objects a pod refers to, wherever it may name them.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, PodSpec};

/// A container of any sort, as far as it may refer to something.
pub struct ContainerRef<'a> {
    /// `container`, `init container` or `ephemeral container`.
    pub kind: &'static str,
    pub name: &'a str,
    pub env: Option<&'a [EnvVar]>,
    pub env_from: Option<&'a [EnvFromSource]>,
}

pub fn containers(spec: &PodSpec) -> impl Iterator<Item = ContainerRef<'_>> {
    let init = spec.init_containers.iter().flatten().map(|c| ("init container", c));
    let main = spec.containers.iter().map(|c| ("container", c));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| ContainerRef {
        kind: "ephemeral container",
        name: &c.name,
        env: c.env.as_deref(),
        env_from: c.env_from.as_deref(),
    });
    init.chain(main)
        .map(|(kind, c)| ContainerRef {
            kind,
            name: &c.name,
            env: c.env.as_deref(),
            env_from: c.env_from.as_deref(),
        })
        .chain(ephemeral)
}

/// Every Secret that is named.
pub fn secrets(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let pulls = spec.image_pull_secrets.iter().flatten().map(|s| s.name.as_str());
    let volumes = spec.volumes.iter().flatten().flat_map(|volume| {
        let whole = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref());
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        whole.into_iter().chain(sources.filter_map(|s| s.secret.as_ref()).map(|s| s.name.as_str()))
    });
    let environments = containers(spec).flat_map(|c| {
        let keys = c.env.into_iter().flatten().filter_map(|e| e.value_from.as_ref()?.secret_key_ref.as_ref());
        let whole = c.env_from.into_iter().flatten().filter_map(|e| e.secret_ref.as_ref());
        keys.map(|k| k.name.as_str()).chain(whole.map(|s| s.name.as_str()))
    });
    pulls.chain(volumes).chain(environments).filter(|name| !name.is_empty())
}

/// The first object of the API that is named, as upstream calls its resource; mirror pods name none.
pub fn any(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_ref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if secrets(spec).next().is_some() {
        return Some("secrets");
    }
    let mut environments = containers(spec);
    let maps = environments.any(|c| {
        let key = |e: &EnvVar| e.value_from.as_ref().is_some_and(|v| v.config_map_key_ref.is_some());
        c.env.is_some_and(|all| all.iter().any(key))
            || c.env_from.is_some_and(|all| all.iter().any(|e| e.config_map_ref.is_some()))
    });
    if maps {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(|volume| {
        if volume.config_map.is_some() {
            return Some("configmaps (via configmap volumes)");
        }
        if volume.persistent_volume_claim.is_some() {
            return Some("persistentvolumeclaims");
        }
        if volume.csi.is_some() {
            return Some("csidrivers (via CSI volumes)");
        }
        volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).find_map(|source| {
            if source.service_account_token.is_some() {
                Some("serviceaccounts (via projected volumes)")
            } else if source.config_map.is_some() {
                Some("configmaps (via projected volumes)")
            } else if source.cluster_trust_bundle.is_some() {
                Some("clustertrustbundles (via projected volumes)")
            } else {
                None
            }
        })
    })
}
