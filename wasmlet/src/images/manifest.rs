//! OCI manifests and configurations: which blob of an image is the Wasm module. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ImageConfig, digest};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_LAYER: &str = "application/wasm";

/// Layers that are a Wasm file as they stand: the current type, and those of older tools.
const WASM_LAYERS: [&str; 4] = [
    WASM_LAYER,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// A manifest or configuration is a page of JSON; registries bound them likewise.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest module (or layer) taken.
pub const LAYER_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("malformed manifest: {0}")]
    Json(String),
    #[error("malformed image configuration: {0}")]
    Config(String),
    #[error("no match for platform in manifest: wanted wasi/wasm, found {found}")]
    NoPlatform { found: String },
    #[error("not a Wasm image: {0}")]
    NotWasm(String),
    #[error("malformed descriptor: {0}")]
    Descriptor(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<Descriptor>,
}

/// What a manifest turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    Image {
        config: Option<Descriptor>,
        content: Content,
    },
    /// An index: go on with this one.
    Index(Descriptor),
}

/// Where the module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Wasm(Descriptor),
    /// In a file system made of these layers.
    Layers(Vec<Layer>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub descriptor: Descriptor,
    pub gzip: bool,
}

/// What a manifest says it is; an OCI one where it does not say.
pub fn media_type(bytes: &[u8]) -> String {
    let raw: Option<RawManifest> = serde_json::from_slice(bytes).ok();
    raw.and_then(|raw| raw.media_type).unwrap_or_else(|| MANIFEST.to_owned())
}

pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let raw: RawManifest =
        serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
    if raw.schema_version != 2 {
        return Err(ManifestError::Json(format!("schemaVersion {} is not 2", raw.schema_version)));
    }
    for descriptor in raw.config.iter().chain(&raw.layers).chain(&raw.manifests) {
        check(descriptor)?;
    }
    if !raw.manifests.is_empty() {
        return choose(&raw.manifests).map(Manifest::Index);
    }
    let wasm: Vec<_> =
        raw.layers.iter().filter(|layer| WASM_LAYERS.contains(&layer.media_type.as_str())).collect();
    let content = match wasm.as_slice() {
        [one] => Content::Wasm((*one).clone()),
        [] => Content::Layers(file_system(&raw.layers)?),
        many => return Err(ManifestError::NotWasm(format!("{} Wasm layers, one is wanted", many.len()))),
    };
    Ok(Manifest::Image { config: raw.config, content })
}

fn check(descriptor: &Descriptor) -> Result<(), ManifestError> {
    if digest::sha256_hex(&descriptor.digest).is_none() {
        return Err(ManifestError::Descriptor(format!("digest {:?} is not sha256", descriptor.digest)));
    }
    if descriptor.size > LAYER_BYTES_MAX {
        return Err(ManifestError::Descriptor(format!(
            "{} is {} bytes long, at most {LAYER_BYTES_MAX} are taken",
            descriptor.digest, descriptor.size
        )));
    }
    Ok(())
}

/// The manifest for Wasm in an index; the only one there is needs no platform.
fn choose(manifests: &[Descriptor]) -> Result<Descriptor, ManifestError> {
    let is_wasm = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|platform| {
            matches!(platform.architecture.as_str(), "wasm" | "wasm32")
                || matches!(platform.os.as_str(), "wasi" | "wasip1" | "wasip2")
        })
    };
    if let Some(found) = manifests.iter().find(is_wasm) {
        return Ok(found.clone());
    }
    match manifests {
        [only] if only.platform.is_none() => Ok(only.clone()),
        _ => {
            let found: Vec<String> = manifests
                .iter()
                .map(|descriptor| match &descriptor.platform {
                    Some(platform) => format!("{}/{}", platform.os, platform.architecture),
                    None => "none".into(),
                })
                .collect();
            Err(ManifestError::NoPlatform { found: found.join(", ") })
        }
    }
}

fn file_system(layers: &[Descriptor]) -> Result<Vec<Layer>, ManifestError> {
    if layers.is_empty() {
        return Err(ManifestError::NotWasm("no layers".into()));
    }
    let layer = |descriptor: &Descriptor| {
        let gzip = match descriptor.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                false
            }
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => true,
            other => return Err(ManifestError::NotWasm(format!("layer of media type {other}"))),
        };
        Ok(Layer { descriptor: descriptor.clone(), gzip })
    };
    layers.iter().map(layer).collect()
}

/// The part of an OCI image configuration that says how to run it. Artifacts have none of it.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfig, ManifestError> {
    #[derive(Deserialize, Default)]
    struct Outer {
        #[serde(default)]
        config: Option<Inner>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        env: Option<Vec<String>>,
        working_dir: Option<String>,
    }
    let outer: Outer =
        serde_json::from_slice(bytes).map_err(|error| ManifestError::Config(error.to_string()))?;
    let inner = outer.config.unwrap_or_default();
    let variable = |text: String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text, String::new()),
    };
    Ok(ImageConfig {
        entrypoint: inner.entrypoint.unwrap_or_default(),
        cmd: inner.cmd.unwrap_or_default(),
        env: inner.env.unwrap_or_default().into_iter().map(variable).collect(),
        working_dir: inner.working_dir.filter(|dir| !dir.is_empty()),
    })
}

/// A manifest for a bare Wasm file, with its configuration: what a Wasm artifact in a registry would have.
pub fn for_wasm(wasm_digest: &str, size: u64) -> Result<(Vec<u8>, Vec<u8>), ManifestError> {
    let json = |error: serde_json::Error| ManifestError::Json(error.to_string());
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "wasm", "os": "wasi", "layerDigests": [wasm_digest],
    }))
    .map_err(json)?;
    let descriptor = |media_type: &str, digest: String, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let manifest = RawManifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Some(descriptor(WASM_CONFIG, digest::of_bytes(&config), config.len() as u64)),
        layers: vec![descriptor(WASM_LAYER, wasm_digest.to_owned(), size)],
        manifests: Vec::new(),
    };
    Ok((serde_json::to_vec(&manifest).map_err(json)?, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn manifest(layers: &[(&str, &str)]) -> Vec<u8> {
        let layers: Vec<_> = layers
            .iter()
            .map(|(media, digest)| serde_json::json!({"mediaType": media, "digest": digest, "size": 3}))
            .collect();
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "layers": layers})).unwrap()
    }

    #[test]
    fn every_wasm_media_type_is_taken() {
        for media in WASM_LAYERS {
            let parsed = parse(&manifest(&[("application/json", &hex('b')), (media, &hex('a'))])).unwrap();
            let Manifest::Image { content: Content::Wasm(layer), .. } = parsed else { panic!("{parsed:?}") };
            assert_eq!(layer.digest, hex('a'));
        }
    }

    #[test]
    fn file_systems() {
        let media = "application/vnd.oci.image.layer.v1.tar+gzip";
        let parsed = parse(&manifest(&[(media, &hex('a'))])).unwrap();
        let Manifest::Image { content: Content::Layers(layers), .. } = parsed else { panic!("{parsed:?}") };
        assert!(layers[0].gzip);
        let error = parse(&manifest(&[("application/vnd.cncf.helm.chart", &hex('a'))])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not a Wasm image: layer of media type application/vnd.cncf.helm.chart"
        );
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(matches!(parse(b"{"), Err(ManifestError::Json(_))));
        assert!(matches!(parse(br#"{"schemaVersion":1}"#), Err(ManifestError::Json(_))));
        assert!(matches!(parse(&manifest(&[])), Err(ManifestError::NotWasm(_))));
        let path = manifest(&[(WASM_LAYER, "sha256:../../../etc/shadow")]);
        assert!(matches!(parse(&path), Err(ManifestError::Descriptor(_))));
        let two = manifest(&[(WASM_LAYER, &hex('a')), (WASM_LAYER, &hex('b'))]);
        assert!(matches!(parse(&two), Err(ManifestError::NotWasm(_))));
    }

    #[test]
    fn the_wasm_entry_of_an_index() {
        let entry = |digest: String, os: &str, architecture: &str| {
            serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": 3,
                "platform": {"os": os, "architecture": architecture}})
        };
        let index = |manifests: Vec<serde_json::Value>| {
            serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": manifests})).unwrap()
        };
        let both = index(vec![entry(hex('a'), "linux", "amd64"), entry(hex('b'), "wasip1", "wasm")]);
        let Manifest::Index(chosen) = parse(&both).unwrap() else { panic!() };
        assert_eq!(chosen.digest, hex('b'));
        let linux = index(vec![entry(hex('a'), "linux", "amd64"), entry(hex('c'), "linux", "arm64")]);
        assert_eq!(
            parse(&linux).unwrap_err().to_string(),
            "no match for platform in manifest: wanted wasi/wasm, found linux/amd64, linux/arm64"
        );
    }

    #[test]
    fn configurations() {
        let config = parse_config(
            br#"{"config":{"Entrypoint":["/app.wasm"],"Cmd":null,"Env":["A=b=c","X"],"WorkingDir":""}}"#,
        )
        .unwrap();
        assert_eq!(config.entrypoint, ["/app.wasm"]);
        assert_eq!(config.env, [("A".into(), "b=c".into()), ("X".into(), String::new())]);
        assert_eq!(config.working_dir, None);
        assert_eq!(parse_config(br#"{"os":"wasi"}"#).unwrap(), ImageConfig::default());
    }

    #[test]
    fn a_bare_file_gets_a_manifest_that_parses() {
        let (manifest, _config) = for_wasm(&hex('a'), 7).unwrap();
        let Manifest::Image { content: Content::Wasm(layer), .. } = parse(&manifest).unwrap() else {
            panic!()
        };
        assert_eq!((layer.digest, layer.size), (hex('a'), 7));
    }
}
