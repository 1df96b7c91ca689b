//! Reads an image from a file: a bare module, an OCI layout directory, or an OCI archive.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::blobs::BlobWriter;
use super::digest;
use super::error::ImportError;
use super::manifest::{self, Descriptor, LAYER_BYTES_MAX};
use super::source::{Layout, Source, SourceError};

/// What a path turned out to be. An unpacked archive is removed with it.
pub(super) enum Opened {
    Bare(Bare),
    Layout(Layout),
    Archive { layout: Layout, _scratch: Scratch },
}

impl Opened {
    pub fn source(&self) -> &dyn Source {
        match self {
            Opened::Bare(bare) => bare,
            Opened::Layout(layout) | Opened::Archive { layout, .. } => layout,
        }
    }
}

/// Blocking. An archive is unpacked under `scratch`.
pub(super) fn open(path: &Path, scratch: &Path) -> Result<Opened, ImportError> {
    let failed = |source| ImportError::Open { path: path.to_owned(), source };
    let unknown = |reason: &str| ImportError::Unknown { path: path.to_owned(), reason: reason.to_owned() };
    if fs::metadata(path).map_err(failed)?.is_dir() {
        if !path.join("oci-layout").exists() {
            return Err(unknown("is a directory without an oci-layout file"));
        }
        return Ok(Opened::Layout(Layout::new(path)));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut head = [0; 512];
    let length = read_up_to(&mut file, &mut head).map_err(failed)?;
    let head = &head[..length];
    if head.starts_with(b"\0asm") {
        return Bare::read(path).map(Opened::Bare);
    }
    let gzip = head.starts_with(b"\x1f\x8b");
    let tar = head.get(257..262) == Some(b"ustar");
    if !gzip && !tar {
        return Err(unknown(if looks_like_text(head) {
            "is a text file; a module must be in the binary format (wasm-tools parse makes one of .wat)"
        } else {
            "is no Wasm file, no OCI layout directory and no OCI archive"
        }));
    }
    let scratch = Scratch::new(scratch).map_err(failed)?;
    let file = io::BufReader::new(File::open(path).map_err(failed)?);
    let reader: Box<dyn Read> =
        if gzip { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let docker = unpack_layout(reader, &scratch.0).map_err(failed)?;
    if !scratch.0.join("index.json").exists() {
        return Err(unknown(if docker {
            "is a docker archive; an OCI archive is wanted (docker save makes one from version 25 on)"
        } else {
            "is an archive without an OCI index.json"
        }));
    }
    Ok(Opened::Archive { layout: Layout::new(&scratch.0), _scratch: scratch })
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

fn looks_like_text(head: &[u8]) -> bool {
    !head.is_empty() && !head.contains(&0) && std::str::from_utf8(&head[..head.len().min(64)]).is_ok()
}

/// Takes the members of an OCI layout by their exact names, and no other: no path of the archive is followed.
/// True when there is a docker archive's manifest.json too.
fn unpack_layout(reader: impl Read, dir: &Path) -> io::Result<bool> {
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let mut docker = false;
    let mut archive = tar::Archive::new(reader.take(2 * LAYER_BYTES_MAX));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let blob = name
            .strip_prefix("blobs/sha256/")
            .is_some_and(|hex| digest::sha256_hex(&format!("sha256:{hex}")).is_some());
        docker |= name == "manifest.json";
        if blob || name == "index.json" || name == "oci-layout" {
            io::copy(&mut entry, &mut File::create(dir.join(&name))?)?;
        }
    }
    Ok(docker)
}

/// A directory that goes away with its owner.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> io::Result<Self> {
        let dir = parent.join(format!(".import.{:016x}.tmp", rand::random::<u64>()));
        fs::create_dir(&dir)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A bare module, with the manifest it would have in a registry.
pub(super) struct Bare {
    module: Vec<u8>,
    manifest: Vec<u8>,
    config: Vec<u8>,
}

impl Bare {
    fn read(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Open { path: path.to_owned(), source };
        let unknown = |reason: String| ImportError::Unknown { path: path.to_owned(), reason };
        if fs::metadata(path).map_err(failed)?.len() > LAYER_BYTES_MAX {
            return Err(unknown(format!("is larger than {LAYER_BYTES_MAX} bytes")));
        }
        let module = fs::read(path).map_err(failed)?;
        super::inspect::inspect(&module).map_err(|error| unknown(error.to_string()))?;
        let (manifest, config) = manifest::for_wasm(&digest::of_bytes(&module), module.len() as u64)
            .map_err(|error| unknown(error.to_string()))?;
        Ok(Bare { module, manifest, config })
    }
}

#[async_trait]
impl Source for Bare {
    async fn root(&self) -> Result<(Vec<u8>, String), SourceError> {
        Ok((self.manifest.clone(), digest::of_bytes(&self.manifest)))
    }

    async fn manifest(&self, _descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotFound)
    }

    async fn blob(&self, descriptor: &Descriptor, out: &mut BlobWriter) -> Result<(), SourceError> {
        let bytes = if descriptor.media_type == manifest::WASM_CONFIG { &self.config } else { &self.module };
        Ok(out.write(bytes).await?)
    }
}
