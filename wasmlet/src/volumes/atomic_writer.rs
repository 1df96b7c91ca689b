//! Replaces the files of a volume all at once: new directory, then one rename of the `..data` link, as upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projected {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, Projected>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the volume hold exactly `payload`. Readers see all of the old files or all of the new ones.
/// Returns whether anything changed.
pub fn write(volume: &Path, payload: &Payload) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    fs::create_dir_all(volume)?;
    let before = match fs::read_link(volume.join(DATA)) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(before) = &before
        && holds(&volume.join(before), payload)?
    {
        return Ok(false);
    }
    let fresh =
        format!("..{}.{:08x}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"), rand::random::<u32>());
    let directory = volume.join(&fresh);
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let target = directory.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::options()
            .write(true)
            .create_new(true)
            .mode(file.mode)
            .open(&target)?
            .write_all(&file.bytes)?;
        // The process's umask must not take bits away.
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
    }
    let new = volume.join(DATA_NEW);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&fresh, &new)?;
    fs::rename(&new, volume.join(DATA))?;
    link_names(volume, payload)?;
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before))?;
    }
    Ok(true)
}

/// Paths that upstream's validation refuses must not reach the file system either.
fn check(path: &str) -> io::Result<()> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path {path:?} in a volume"),
        ));
    }
    Ok(())
}

/// Whether the directory holds these files with these modes and nothing else.
fn holds(directory: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(current) = open.pop() {
        let entries = match fs::read_dir(&current) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path();
            let known = path.strip_prefix(directory).ok().and_then(Path::to_str).and_then(|n| payload.get(n));
            let Some(file) = known else { return Ok(false) };
            if entry.metadata()?.permissions().mode() & 0o7777 != file.mode || fs::read(&path)? != file.bytes
            {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.len())
}

/// The names users see are links into `..data`; names that are gone lose theirs.
fn link_names(volume: &Path, payload: &Payload) -> io::Result<()> {
    let tops: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(&*name) {
            fs::remove_file(volume.join(&*name))?;
        }
    }
    for top in tops {
        let link = volume.join(top);
        match symlink(Path::new(DATA).join(top), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                ((*path).to_owned(), Projected { bytes: text.as_bytes().to_vec(), mode: 0o644 })
            })
            .collect()
    }

    #[test]
    fn files_appear_change_and_vanish_together() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        assert!(write(&volume, &payload(&[("a", "1"), ("d/b", "2"), ("d/c", "3")])).unwrap());
        let first = fs::read_link(volume.join(DATA)).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("d/c")).unwrap(), "3");
        assert!(!write(&volume, &payload(&[("a", "1"), ("d/b", "2"), ("d/c", "3")])).unwrap(), "no change");
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), first);

        assert!(write(&volume, &payload(&[("a", "new"), ("e", "4")])).unwrap());
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "new");
        assert_eq!(fs::read_to_string(volume.join("e")).unwrap(), "4");
        assert!(fs::symlink_metadata(volume.join("d")).is_err(), "its link is gone");
        assert!(!volume.join(first).exists(), "the old directory is gone");
        assert!(write(&volume, &Payload::new()).unwrap());
        assert!(fs::symlink_metadata(volume.join("a")).is_err());
    }

    #[test]
    fn modes_are_kept_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = payload(&[("a", "1")]);
        files.get_mut("a").unwrap().mode = 0o400;
        assert!(write(dir.path(), &files).unwrap());
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o400);
        files.get_mut("a").unwrap().mode = 0o666;
        assert!(write(dir.path(), &files).unwrap());
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o666);
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "/etc/x", "../x", "a/../../x", "..data", "./a"] {
            assert!(write(dir.path(), &payload(&[(bad, "x")])).is_err(), "{bad}");
        }
    }
}
