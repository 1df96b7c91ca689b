//! `hostPath`: a path of the node, checked for the type that the volume names.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::MountError;

/// Upstream's checks; `DirectoryOrCreate` and `FileOrCreate` make what is missing.
pub fn set_up(source: &HostPathVolumeSource) -> Result<(), MountError> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let refuse = |what: &str| {
        Err(MountError::HostPath(format!("hostPath type check failed: {} is not a {what}", source.path)))
    };
    let io = |error| MountError::Io { path: path.to_owned(), source: error };
    let found = fs::metadata(path).ok().map(|meta| meta.file_type());
    match (kind, found) {
        ("", _) => Ok(()),
        ("Directory" | "DirectoryOrCreate", Some(found)) if found.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(found)) if found.is_file() => Ok(()),
        ("Socket", Some(found)) if found.is_socket() => Ok(()),
        ("CharDevice", Some(found)) if found.is_char_device() => Ok(()),
        ("BlockDevice", Some(found)) if found.is_block_device() => Ok(()),
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io)
        }
        ("FileOrCreate", None) => {
            fs::File::options().append(true).create(true).open(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io)
        }
        ("Directory" | "DirectoryOrCreate", _) => refuse("directory"),
        ("File" | "FileOrCreate", _) => refuse("file"),
        ("Socket", _) => refuse("socket file"),
        ("CharDevice", _) => refuse("character device"),
        ("BlockDevice", _) => refuse("block device"),
        (other, _) => Err(MountError::HostPath(format!("{other:?} is not a hostPath type"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for (name, kind, want) in [
            ("none", "", true),
            ("none", "Directory", false),
            ("none", "File", false),
            ("new/dir", "DirectoryOrCreate", true),
            ("new/file", "FileOrCreate", true),
            ("file", "File", true),
            ("file", "Directory", false),
            ("file", "DirectoryOrCreate", false),
            ("dir", "Directory", true),
            ("dir", "FileOrCreate", false),
            ("socket", "Socket", true),
            ("file", "Socket", false),
            ("file", "CharDevice", false),
            ("file", "Nonsense", false),
        ] {
            let source = HostPathVolumeSource {
                path: dir.path().join(name).to_string_lossy().into_owned(),
                type_: Some(kind.into()),
            };
            assert_eq!(set_up(&source).is_ok(), want, "{name} {kind}");
        }
        let source = HostPathVolumeSource { path: "/dev/null".into(), type_: Some("CharDevice".into()) };
        assert!(set_up(&source).is_ok());
        let source = HostPathVolumeSource { path: "/nope".into(), type_: Some("Directory".into()) };
        assert_eq!(
            set_up(&source).unwrap_err().to_string(),
            "hostPath type check failed: /nope is not a directory"
        );
    }
}
