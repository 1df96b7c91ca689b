//! `emptyDir`: a directory of the pod's own that lives as long as the pod.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

/// True for `medium: Memory`.
pub fn in_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

pub fn set_up(path: &Path, source: &EmptyDirVolumeSource) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let mode = source.mode.map_or(0o777, |mode| u32::try_from(mode).unwrap_or(0o777) & 0o7777);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// What the directory holds, in bytes: allocated blocks, so that sparse files count what they take.
pub fn usage(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory)?.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anyone_may_write_and_usage_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        set_up(&path, &EmptyDirVolumeSource::default()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        std::fs::write(path.join("f"), vec![1; 100_000]).unwrap();
        assert!(usage(&path).unwrap() >= 100_000);
        set_up(&path, &EmptyDirVolumeSource::default()).unwrap();
        assert!(path.join("f").exists(), "a restart keeps the content");
    }
}
