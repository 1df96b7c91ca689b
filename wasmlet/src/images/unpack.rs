//! Finds the one Wasm file of an OCI image's file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::manifest::LAYER_BYTES_MAX;

/// Files named in an error, at most.
const NAMED_MAX: usize = 3;
const FILES_MAX: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("read layer: {0}")]
    Read(#[source] io::Error),
    #[error("not a Wasm image: its file system holds no .wasm file")]
    NoModule,
    #[error("not a Wasm image: its file system holds files beside one .wasm file: {0}")]
    OtherFiles(String),
    #[error("the image's file system is larger than {LAYER_BYTES_MAX} bytes")]
    TooLarge,
}

/// Applies the layers in order (later files replace earlier ones, whiteouts remove them) and returns the module.
/// Nothing is written to disk, so no path of the archive can reach anywhere. Blocking.
pub fn module_of(layers: &[(PathBuf, bool)]) -> Result<Vec<u8>, UnpackError> {
    let mut files: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    let mut left = LAYER_BYTES_MAX;
    for (path, gzip) in layers {
        let file = io::BufReader::new(File::open(path).map_err(UnpackError::Read)?);
        let reader: Box<dyn Read> =
            if *gzip { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
        // One more than the bound, so that reaching it can be told from passing it.
        let mut archive = tar::Archive::new(reader.take(left.saturating_add(1)));
        for entry in archive.entries().map_err(UnpackError::Read)? {
            let mut entry = entry.map_err(UnpackError::Read)?;
            left = left.checked_sub(entry.size()).ok_or(UnpackError::TooLarge)?;
            if files.len() > FILES_MAX {
                return Err(UnpackError::TooLarge);
            }
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            let (dir, base) = name.rsplit_once('/').unwrap_or(("", &name));
            let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
            if base == ".wh..wh..opq" {
                files.retain(|file, _| !file.starts_with(&prefix));
            } else if let Some(removed) = base.strip_prefix(".wh.") {
                let removed = format!("{prefix}{removed}");
                let below = format!("{removed}/");
                files.retain(|file, _| *file != removed && !file.starts_with(&below));
            } else if base.ends_with(".wasm") {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(UnpackError::Read)?;
                files.insert(name, Some(bytes));
            } else {
                files.insert(name, None);
            }
        }
    }
    let others: Vec<&str> =
        files.iter().filter(|(_, module)| module.is_none()).map(|(name, _)| name.as_str()).collect();
    let modules = files.values().filter(|module| module.is_some()).count();
    match (modules, others.len()) {
        (0, _) => Err(UnpackError::NoModule),
        (1, 0) => files.into_values().flatten().next().ok_or(UnpackError::NoModule),
        (1, _) => Err(UnpackError::OtherFiles(others[..others.len().min(NAMED_MAX)].join(", "))),
        _ => {
            let names: Vec<&str> = files.keys().take(NAMED_MAX).map(String::as_str).collect();
            Err(UnpackError::OtherFiles(names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dir: &std::path::Path, name: &str, files: &[(&str, &[u8])]) -> (PathBuf, bool) {
        let path = dir.join(name);
        let gzip = name.ends_with("gz");
        let file = File::create(&path).unwrap();
        let write: Box<dyn io::Write> = if gzip {
            Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()))
        } else {
            Box::new(file)
        };
        let mut builder = tar::Builder::new(write);
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap().flush().unwrap();
        (path, gzip)
    }

    #[test]
    fn one_module_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let plain = layer(dir.path(), "a.tar", &[("app/main.wasm", b"one")]);
        assert_eq!(module_of(std::slice::from_ref(&plain)).unwrap(), b"one");
        let newer = layer(dir.path(), "b.tar.gz", &[("app/main.wasm", b"two")]);
        assert_eq!(module_of(&[plain.clone(), newer]).unwrap(), b"two");
        let moved = layer(dir.path(), "c.tar", &[("app/.wh.main.wasm", b""), ("x.wasm", b"three")]);
        assert_eq!(module_of(&[plain.clone(), moved]).unwrap(), b"three");
        let opaque = layer(dir.path(), "d.tar", &[("app/.wh..wh..opq", b"")]);
        assert!(matches!(module_of(&[plain.clone(), opaque]), Err(UnpackError::NoModule)));
        let other = layer(dir.path(), "e.tar", &[("etc/passwd", b"root")]);
        let error = module_of(&[plain.clone(), other]).unwrap_err();
        assert!(error.to_string().contains("etc/passwd"), "{error}");
        let second = layer(dir.path(), "f.tar", &[("y.wasm", b"")]);
        assert!(matches!(module_of(&[plain, second]), Err(UnpackError::OtherFiles(_))));
    }

    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb.tar.gz");
        let mut out =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        // A header that promises more than any image may hold; the bytes need not even be there.
        let mut header = tar::Header::new_gnu();
        header.set_path("app.wasm").unwrap();
        header.set_size(LAYER_BYTES_MAX + 1);
        header.set_cksum();
        io::Write::write_all(&mut out, header.as_bytes()).unwrap();
        out.finish().unwrap();
        let error = module_of(&[(path, true)]).unwrap_err();
        assert_eq!(error.to_string(), "the image's file system is larger than 1073741824 bytes");
    }
}
