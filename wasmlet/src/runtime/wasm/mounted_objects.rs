//! Reads mounted ConfigMaps and Secrets by key, as they are at that moment.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::runtime::MountedObject;

/// An object of the API is smaller than this in all.
const VALUE_BYTES_MAX: u64 = 2 << 20;
/// Directories below each other that `items` may make.
const DEPTH_MAX: usize = 4;

/// None where there is no such key.
pub(super) fn read(object: &MountedObject, key: &str) -> std::io::Result<Option<Vec<u8>>> {
    if !is_key(key) {
        return Ok(None);
    }
    let root = File::open(&object.host_path)?;
    // Keys are links to the present version beside them.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    let file = match openat2(&root, key, how) {
        Ok(file) => File::from(file),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut value = Vec::new();
    file.take(VALUE_BYTES_MAX).read_to_end(&mut value)?;
    Ok(Some(value))
}

/// Sorted.
pub(super) fn keys(object: &MountedObject) -> std::io::Result<Vec<String>> {
    let mut keys = Vec::new();
    gather(&object.host_path, "", 0, &mut keys)?;
    keys.sort();
    Ok(keys)
}

fn gather(dir: &Path, prefix: &str, depth: usize, keys: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with("..")) else { continue };
        let key = format!("{prefix}{name}");
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() && depth < DEPTH_MAX {
            gather(&entry.path(), &format!("{key}/"), depth + 1, keys)?;
        } else if metadata.is_file() {
            keys.push(key);
        }
    }
    Ok(())
}

/// Names that begin with two dots are the node's own, of its versions.
fn is_key(key: &str) -> bool {
    !key.is_empty()
        && !key.contains('\0')
        && Path::new(key).components().all(|part| match part {
            Component::Normal(name) => !name.as_encoded_bytes().starts_with(b".."),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ObjectKind;

    #[test]
    fn keys_are_files_of_the_present_version_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("object");
        std::fs::create_dir_all(root.join("..1/sub")).unwrap();
        std::fs::write(root.join("..1/plain"), "a").unwrap();
        std::fs::write(root.join("..1/sub/deep"), "b").unwrap();
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        std::os::unix::fs::symlink("..1", root.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/plain", root.join("plain")).unwrap();
        std::os::unix::fs::symlink("..data/sub", root.join("sub")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        let object = MountedObject { kind: ObjectKind::ConfigMap, name: "x".into(), host_path: root };
        for (key, want) in [
            ("plain", Some("a")),
            ("sub/deep", Some("b")),
            ("missing", None),
            ("plain/x", None),
            ("sub", None),
            ("..1/plain", None),
            ("../outside", None),
            ("/etc/passwd", None),
            ("", None),
        ] {
            assert_eq!(read(&object, key).unwrap().as_deref(), want.map(str::as_bytes), "{key}");
        }
        assert!(read(&object, "link").is_err(), "leads out");
        assert!(keys(&object).unwrap().starts_with(&["link".into(), "plain".into(), "sub/deep".into()]));
    }
}
