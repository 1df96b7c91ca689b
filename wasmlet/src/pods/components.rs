//! A container that is composed of several components: those that its pod's annotation names are linked into its image's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::images::compose::{ComposeError, Part, compose};
use crate::images::{LocalImage, digest};

/// `components.coracle.dev/CONTAINER`: image references, separated by commas.
pub const ANNOTATION_COMPONENTS: &str = "components.coracle.dev/";
/// Components of one container.
const COMPONENTS_MAX: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum ComponentsError {
    #[error("annotation {ANNOTATION_COMPONENTS}{container}: more than {COMPONENTS_MAX} components")]
    TooMany { container: String },
    #[error("annotation {ANNOTATION_COMPONENTS}{container}: {source}")]
    Compose { container: String, source: ComposeError },
    #[error("annotation {ANNOTATION_COMPONENTS}{container}: read {path}: {source}")]
    Io { container: String, path: PathBuf, source: std::io::Error },
}

/// The references that the annotation of a container names.
pub fn references(pod: &Pod, container: &str) -> Result<Vec<String>, ComponentsError> {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(&format!("{ANNOTATION_COMPONENTS}{container}")));
    let names = text.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
    let names: Vec<_> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.len() > COMPONENTS_MAX {
        return Err(ComponentsError::TooMany { container: container.to_owned() });
    }
    Ok(names)
}

/// The image with its dependencies in it. What was composed before is found under `directory`; blocking.
pub fn composed(
    directory: &Path,
    container: &str,
    image: &LocalImage,
    dependencies: &[Arc<LocalImage>],
) -> Result<LocalImage, ComponentsError> {
    let io = |path: &Path, source| ComponentsError::Io {
        container: container.to_owned(),
        path: path.to_owned(),
        source,
    };
    let all = || std::iter::once(image).chain(dependencies.iter().map(Arc::as_ref));
    // By what went in: the same parts make the same whole.
    let parts: Vec<&str> = all().map(|part| part.wasm_digest.as_str()).collect();
    let name = digest::of_bytes(parts.join("\n").as_bytes()).replace(':', "-");
    let path = directory.join(format!("{name}.wasm"));
    let whole = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(_) => {
            let read = |image: &LocalImage| {
                std::fs::read(&image.wasm_path).map_err(|error| io(&image.wasm_path, error))
            };
            let bytes = all().map(read).collect::<Result<Vec<_>, _>>()?;
            let mut parts = all().zip(&bytes).map(|(image, bytes)| Part { name: &image.reference, bytes });
            let (Some(main), dependencies) = (parts.next(), parts.collect::<Vec<_>>()) else {
                return Ok(image.clone());
            };
            let whole = compose(&main, &dependencies)
                .map_err(|source| ComponentsError::Compose { container: container.to_owned(), source })?;
            let written = tempfile_beside(&path);
            std::fs::create_dir_all(directory)
                .and_then(|()| std::fs::write(&written, &whole))
                .and_then(|()| std::fs::rename(&written, &path))
                .map_err(|error| io(&path, error))?;
            whole
        }
    };
    Ok(LocalImage {
        wasm_digest: digest::of_bytes(&whole),
        size_bytes: whole.len() as u64,
        wasm_path: path,
        ..image.clone()
    })
}

/// Renamed when it is whole; two that compose the same at once do not meet.
fn tempfile_beside(path: &Path) -> PathBuf {
    path.with_extension(format!("{:016x}", rand::random::<u64>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_listed() {
        let pod = |text: &str| Pod {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                annotations: Some([("components.coracle.dev/main".to_owned(), text.to_owned())].into()),
                ..Default::default()
            },
            ..Pod::default()
        };
        assert_eq!(references(&pod(" a:v1, b@sha256:00 ,"), "main").unwrap(), ["a:v1", "b@sha256:00"]);
        assert!(references(&pod("a"), "other").unwrap().is_empty());
        let error = references(&pod(&"a,".repeat(33)), "main").unwrap_err();
        assert!(error.to_string().contains("components.coracle.dev/main: more than 32"), "{error}");
    }
}
