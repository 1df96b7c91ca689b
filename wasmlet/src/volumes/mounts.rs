//! A container's volumeMounts as host paths: subPath, subPathExpr and readOnly.

use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use super::{MountError, PodVolume, PodVolumes};
use crate::pods::expansion::expand;
use crate::runtime::Mount;

pub fn of(
    volumes: &PodVolumes,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<Mount>, MountError> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes
            .volumes
            .iter()
            .find(|v| *v.name == *mount.name)
            .ok_or_else(|| MountError::NotFound { kind: "volume", name: mount.name.clone() })?;
        let lookup = |name: &str| env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) if !expression.is_empty() => expand(expression, lookup),
            (_, Some(path)) => path.clone(),
            _ => String::new(),
        };
        let refuse = |reason: String| MountError::SubPath { mount: mount.name.clone(), reason };
        let host_path = if sub_path.is_empty() {
            volume.path.clone()
        } else {
            inside(volume, &sub_path).map_err(|error| refuse(error.to_string()))?
        };
        mounts.push(Mount {
            host_path,
            container_path: mount.mount_path.clone(),
            read_only: volume.managed || volume.read_only || mount.read_only == Some(true),
        });
    }
    Ok(mounts)
}

/// The path below the volume, made when it is missing, and checked to be inside whatever links it passes.
fn inside(volume: &PodVolume, sub_path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(sub_path);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{sub_path:?} must be a relative path without '..'"),
        ));
    }
    let target = volume.path.join(relative);
    if !target.exists() && !volume.managed && !volume.read_only {
        // The parents that exist must not lead outside before anything is made below them.
        let mut existing = target.as_path();
        while !existing.exists() {
            existing = existing.parent().unwrap_or(&volume.path);
        }
        check(&volume.path, existing)?;
        std::fs::create_dir_all(&target)?;
    }
    check(&volume.path, &target)
}

fn check(volume: &Path, target: &Path) -> io::Result<PathBuf> {
    let (base, real) = (volume.canonicalize()?, target.canonicalize()?);
    if real.starts_with(&base) {
        return Ok(real);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} leads outside the volume", target.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(volumes: &PodVolumes, mount: serde_json::Value) -> Result<Vec<Mount>, MountError> {
        let container =
            serde_json::from_value(serde_json::json!({"name": "c", "volumeMounts": [mount]})).unwrap();
        of(volumes, &container, &[("POD".to_owned(), "p1".to_owned())])
    }

    #[test]
    fn sub_paths() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("v")).unwrap();
        std::fs::write(root.join("v/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("v/out")).unwrap();
        let volume = |name: &str, managed| PodVolume {
            name: name.into(),
            path: root.join("v"),
            managed,
            size_limit: None,
            read_only: false,
        };
        let volumes = PodVolumes {
            volumes: vec![volume("data", false), volume("config", true)],
            ..PodVolumes::default()
        };
        let at = |name: &str, extra: serde_json::Value| {
            let mut mount = serde_json::json!({"name": name, "mountPath": "/m"});
            mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            mount
        };
        use serde_json::json;
        for (mount, want) in [
            (at("data", json!({})), Some(("v", false))),
            (at("data", json!({"readOnly": true})), Some(("v", true))),
            (at("config", json!({})), Some(("v", true))),
            (at("data", json!({"subPath": "file"})), Some(("v/file", false))),
            (at("data", json!({"subPath": "new/dir"})), Some(("v/new/dir", false))),
            (at("data", json!({"subPathExpr": "x/$(POD)"})), Some(("v/x/p1", false))),
            (at("config", json!({"subPath": "nope"})), None),
            (at("data", json!({"subPath": "../x"})), None),
            (at("data", json!({"subPath": "/etc"})), None),
            (at("data", json!({"subPath": "out"})), None),
            (at("data", json!({"subPath": "out/new"})), None),
            (at("none", json!({})), None),
        ] {
            let got = mounts(&volumes, mount.clone());
            match want {
                Some((path, read_only)) => {
                    let got = got.unwrap();
                    assert_eq!(
                        (got[0].host_path.clone(), got[0].read_only),
                        (root.join(path), read_only),
                        "{mount}"
                    );
                }
                None => assert!(got.is_err(), "{mount}"),
            }
        }
        assert!(root.join("v/new/dir").is_dir());
    }
}
