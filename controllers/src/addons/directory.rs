//! The directory of manifests, as it was last written: read at the start, then followed by inotify.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::plan::{self, Reference};
use crate::manifest::{self, Document, Problem};

/// A manifest of more is not read.
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;
/// `x.yaml` is left alone, neither applied nor pruned, while `x.yaml.skip` stands beside it.
const SKIP: &str = ".skip";

#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("making the directory {path}: {source}")]
    Make {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("following changes of {path}: {source}")]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Missing,
    Skipped,
    Bad(Problem),
    Good(Arc<Vec<Document>>),
}

#[derive(Default)]
struct State {
    files: BTreeMap<Arc<str>, (u64, Content)>,
    /// Counts what was read.
    version: u64,
}

#[derive(Clone)]
pub struct Directory {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

/// Paths that changed since they were last looked at; `all` when too much did to say what.
#[derive(Default)]
struct Dirty {
    paths: Mutex<BTreeSet<PathBuf>>,
    some: Notify,
}

impl Directory {
    /// Everything that is there has been read when this returns; `changed` is told of every file, now and later.
    pub async fn follow(
        root: &Path,
        shutdown: CancellationToken,
        changed: impl Fn(Arc<str>) + Send + Sync + 'static,
    ) -> Result<Self, DirectoryError> {
        make(root)?;
        let directory = Self { root: root.to_owned(), state: Arc::default() };
        let dirty = Arc::new(Dirty::default());
        // First watched, then read: nothing that is written in between is missed.
        let watcher = directory.watch(&dirty)?;
        directory.read(root, &changed).await;
        tokio::spawn(directory.clone().run(watcher, dirty, shutdown, changed));
        Ok(directory)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// What the file held when it was last written, and a number that grows whenever that changes.
    pub fn content(&self, file: &str) -> (u64, Content) {
        self.state.lock().files.get(file).cloned().unwrap_or((0, Content::Missing))
    }

    /// The first other file that declares the object.
    pub fn declaring(&self, file: &str, reference: &Reference) -> Option<Arc<str>> {
        let state = self.state.lock();
        let declares = |content: &Content| match content {
            Content::Good(documents) => documents.iter().any(|document| {
                let mut declared = plan::reference(&document.object);
                if declared.namespace.is_empty() && reference.namespace == "default" {
                    declared.namespace.clone_from(&reference.namespace);
                }
                declared.is_same(reference)
            }),
            _ => false,
        };
        state
            .files
            .iter()
            .find(|(other, (_, content))| &***other != file && declares(content))
            .map(|(f, _)| f.clone())
    }

    /// Files of which only the cluster knows what they declare.
    pub fn unclear(&self) -> BTreeSet<Arc<str>> {
        let state = self.state.lock();
        let unclear = |content: &Content| matches!(content, Content::Bad(_) | Content::Skipped);
        state
            .files
            .iter()
            .filter(|(_, (_, content))| unclear(content))
            .map(|(file, _)| file.clone())
            .collect()
    }

    fn watch(&self, dirty: &Arc<Dirty>) -> Result<notify::RecommendedWatcher, DirectoryError> {
        let failed = |source| DirectoryError::Watch { path: self.root.clone(), source };
        let (marks, root) = (dirty.clone(), self.root.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let paths = match event {
                Ok(event) if event.need_rescan() => vec![root.clone()],
                Ok(event) if is_complete(&event) => event.paths,
                Ok(_) => return,
                Err(_) => vec![root.clone()],
            };
            marks.paths.lock().extend(paths);
            marks.some.notify_one();
        })
        .map_err(failed)?;
        watcher.watch(&self.root, RecursiveMode::Recursive).map_err(failed)?;
        Ok(watcher)
    }

    async fn run(
        self,
        mut watcher: notify::RecommendedWatcher,
        dirty: Arc<Dirty>,
        shutdown: CancellationToken,
        changed: impl Fn(Arc<str>),
    ) {
        loop {
            tokio::select! {
                () = dirty.some.notified() => {}
                () = shutdown.cancelled() => return,
            }
            let paths = std::mem::take(&mut *dirty.paths.lock());
            if !self.root.is_dir() {
                warn!(directory = %self.root.display(), "the directory of manifests went; making it anew");
                let anew = make(&self.root).and_then(|()| self.watch(&dirty));
                match anew {
                    Ok(fresh) => watcher = fresh,
                    Err(error) => {
                        // What was applied stays.
                        warn!(%error, "manifests are not followed any more");
                        return;
                    }
                }
                self.read(&self.root, &changed).await;
                continue;
            }
            for path in paths {
                self.read(&path, &changed).await;
            }
            // The watcher lives as long as this loop.
            let _ = &watcher;
        }
    }

    /// Reads what is at a path now, which may be a file, a directory or nothing.
    async fn read(&self, path: &Path, changed: &impl Fn(Arc<str>)) {
        let skipped = path.to_str().and_then(|p| p.strip_suffix(SKIP)).map(PathBuf::from);
        let path = skipped.unwrap_or_else(|| path.to_owned());
        let Some(below) = self.below(&path) else { return };
        let mut found = BTreeMap::new();
        let (root, start) = (self.root.clone(), path.clone());
        let walked = tokio::task::spawn_blocking(move || {
            walk(&root, &start, 0, &mut found);
            found
        });
        let Ok(found) = walked.await else { return };
        let mut news = Vec::new();
        {
            let mut state = self.state.lock();
            let within =
                |file: &str| file == &*below || below.is_empty() || file.starts_with(&format!("{below}/"));
            let gone: Vec<Arc<str>> = state
                .files
                .keys()
                .filter(|file| within(file) && !found.contains_key(*file))
                .cloned()
                .collect();
            let gone = gone.into_iter().map(|file| (file, Content::Missing));
            let found: Vec<_> = gone.chain(found).collect();
            for (file, content) in found {
                if state.files.get(&file).is_some_and(|(_, known)| *known == content) {
                    continue;
                }
                state.version += 1;
                let version = state.version;
                state.files.insert(file.clone(), (version, content));
                news.push(file);
            }
        }
        for file in news {
            info!(file = %self.path(&file).display(), "manifest read");
            changed(file);
        }
    }

    fn below(&self, path: &Path) -> Option<Box<str>> {
        path.strip_prefix(&self.root).ok()?.to_str().map(Into::into)
    }
}

/// Only root's, as whoever writes here may do everything in the cluster.
fn make(root: &Path) -> Result<(), DirectoryError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.map_err(|source| DirectoryError::Make { path: root.to_owned(), source })
}

/// Whether something is whole now: written to its end, moved, gone. A file that is being written is not.
fn is_complete(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_)
        | EventKind::Create(CreateKind::Folder) => true,
        // Links are never written.
        EventKind::Create(_) => event.paths.iter().any(|path| {
            path.symlink_metadata()
                .is_ok_and(|meta| meta.is_symlink() || (meta.is_file() && meta.nlink() > 1))
        }),
        _ => false,
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'))
}

fn walk(root: &Path, path: &Path, depth: usize, found: &mut BTreeMap<Arc<str>, Content>) {
    let Ok(below) = path.strip_prefix(root) else { return };
    let hidden = below.ancestors().any(|part| part != Path::new("") && is_hidden(part));
    let Ok(meta) = std::fs::metadata(path) else { return };
    if hidden || depth > DEPTH_MAX || found.len() >= FILES_MAX {
        return;
    }
    if meta.is_dir() {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        let mut entries: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        entries.sort();
        entries.iter().for_each(|entry| walk(root, entry, depth + 1, found));
        return;
    }
    let is_manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    if let Some(file) = below.to_str().filter(|_| is_manifest && meta.is_file()) {
        found.insert(file.into(), content(path, meta.len()));
    }
}

fn content(path: &Path, size: u64) -> Content {
    let mut skip = path.as_os_str().to_owned();
    skip.push(SKIP);
    if Path::new(&skip).exists() {
        return Content::Skipped;
    }
    let bad = |what: String| Content::Bad(Problem { number: 1, what });
    if size > FILE_BYTES_MAX {
        return bad(format!("the file has {size} bytes, more than {FILE_BYTES_MAX}"));
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Content::Missing,
        Err(error) => return bad(error.to_string()),
    };
    match manifest::documents(&text) {
        Ok(documents) => Content::Good(Arc::new(documents)),
        Err(problem) => Content::Bad(problem),
    }
}
