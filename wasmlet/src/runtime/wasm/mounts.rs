//! A container's mounts as directories: WASI knows no other, so single files get a directory of their own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::{ContainerSpec, Mount, StartError};

/// The directories a guest is given. What was made for single files is removed with this.
pub(super) struct Mounts {
    directories: Vec<Mount>,
    staged: Option<PathBuf>,
}

impl Mounts {
    /// A file mount (subPath of a volume) is linked into a staged directory that stands at its parent's place; the
    /// guest sees the file there, and nothing beside it. Where it cannot be linked (another file system) it is
    /// copied, which only a read-only mount allows.
    pub fn prepare(spec: &ContainerSpec, scratch: &Path) -> Result<Self, StartError> {
        let mut mounts = Mounts { directories: Vec::new(), staged: None };
        let mut files: BTreeMap<String, Vec<(&str, &Mount)>> = BTreeMap::new();
        for mount in &spec.mounts {
            let failed = |source| StartError::Mount { container_path: mount.container_path.clone(), source };
            if fs::metadata(&mount.host_path).map_err(failed)?.is_dir() {
                mounts.directories.push(mount.clone());
                continue;
            }
            let (parent, name) = split(&mount.container_path)
                .ok_or_else(|| failed(io::Error::other("is a file, and its mount path names a directory")))?;
            files.entry(parent).or_default().push((name, mount));
        }
        for (at, (parent, files)) in files.into_iter().enumerate() {
            if let Some((_, file)) = files.first()
                && mounts.directories.iter().any(|mount| mount.container_path.trim_end_matches('/') == parent)
            {
                let text =
                    "is a file in a directory that is a mount itself, which a Wasm guest cannot be given";
                return Err(StartError::Mount {
                    container_path: file.container_path.clone(),
                    source: io::Error::other(text),
                });
            }
            let read_only = files.iter().all(|(_, mount)| mount.read_only);
            for (name, mount) in files {
                let failed =
                    |source| StartError::Mount { container_path: mount.container_path.clone(), source };
                let dir = mounts.stage(spec, scratch, at).map_err(failed)?;
                place(mount, &dir.join(name)).map_err(failed)?;
                if !mounts.directories.iter().any(|mount| mount.host_path == dir) {
                    let container_path = parent.clone();
                    mounts.directories.push(Mount { host_path: dir, container_path, read_only });
                }
            }
        }
        Ok(mounts)
    }

    pub fn directories(&self) -> &[Mount] {
        &self.directories
    }

    fn stage(&mut self, spec: &ContainerSpec, scratch: &Path, at: usize) -> io::Result<PathBuf> {
        let staged = self.staged.get_or_insert_with(|| {
            // Names of the API hold no slash; the number keeps a restart apart from its predecessor's removal.
            let name = format!("{}-{}-{:016x}", spec.pod_uid, spec.container_name, rand::random::<u64>());
            scratch.join(name.replace('/', "_"))
        });
        let dir = staged.join(at.to_string());
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

fn place(mount: &Mount, to: &Path) -> io::Result<()> {
    // The volume's file may be a symlink (as in a configMap); the guest could not follow it out of its directory.
    let file = fs::canonicalize(&mount.host_path)?;
    match fs::hard_link(&file, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices && mount.read_only => {
            fs::copy(&file, to).map(|_| ())
        }
        Err(error) => Err(error),
    }
}

/// `/etc/app/config.yaml` is `/etc/app` and `config.yaml`.
fn split(path: &str) -> Option<(String, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() || name == "." || name == ".." {
        return None;
    }
    Some((if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, name))
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            let _ = fs::remove_dir_all(staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(split("/etc/app/c.yaml"), Some(("/etc/app".into(), "c.yaml")));
        assert_eq!(split("/c"), Some(("/".into(), "c")));
        for bad in ["/etc/", "c", "/..", ""] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
