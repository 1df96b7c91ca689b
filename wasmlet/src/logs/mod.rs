//! Container logs: CRI-format files that a sink writes, rotates and bounds, and readers follow without polling.

pub mod format;
pub mod reader;
pub mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use reader::LogOptions;
pub use writer::{LogWriter, Progress};

/// Which runs of containers wrote logs last, and where the files of all of them are.
pub struct Logs {
    root: PathBuf,
    limits: Limits,
    latest: Mutex<HashMap<Owner, Arc<LogWriter>>>,
}

/// A pod's uid and a container's name.
type Owner = (Box<str>, Box<str>);

/// The bounds of one container's logs; the defaults are the kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub file_bytes_max: u64,
    pub files_max: usize,
    /// Sustained; what a guest writes beyond it is dropped and counted in the log.
    pub bytes_per_second_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { file_bytes_max: 10 << 20, files_max: 5, bytes_per_second_max: 64 << 20 }
    }
}

/// `<namespace>_<name>_<uid>`: the directory of one pod's logs.
pub fn pod_directory(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}_{name}_{uid}")
}

impl Logs {
    /// `root` holds one directory per pod.
    pub fn new(root: PathBuf, limits: Limits) -> Self {
        Logs { root, limits, latest: Mutex::default() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of one run of a container, of a pod directory as [`pod_directory`] names it.
    pub fn path(&self, pod: &str, container: &str, restart: u32) -> PathBuf {
        self.root.join(pod).join(container).join(format!("{restart}.log"))
    }

    /// A sink for one run. The file appears with the first output, so silent containers cost no file.
    pub fn open(&self, pod: &str, uid: &str, container: &str, restart: u32) -> Arc<LogWriter> {
        let writer = Arc::new(LogWriter::new(self.path(pod, container, restart), restart, self.limits));
        self.latest.lock().insert((uid.into(), container.into()), writer.clone());
        writer
    }

    /// The sink of the container's latest run since the node started; it may be closed.
    pub fn latest(&self, uid: &str, container: &str) -> Option<Arc<LogWriter>> {
        self.latest.lock().get(&(uid.into(), container.into())).cloned()
    }

    /// Removes files of runs before the one before `restart`: only the last two can be asked for.
    pub fn forget_old_runs(&self, pod: &str, container: &str, restart: u32) {
        let Ok(entries) = std::fs::read_dir(self.root.join(pod).join(container)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let run = name.to_str().and_then(|n| n.split('.').next()).and_then(|n| n.parse::<u32>().ok());
            if run.is_some_and(|run| run + 1 < restart)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::debug!(%error, path = %entry.path().display(), "removing an old log");
            }
        }
    }

    pub fn remove_pod(&self, pod: &str, uid: &str) -> io::Result<()> {
        self.latest.lock().retain(|(owner, _), _| **owner != *uid);
        match std::fs::remove_dir_all(self.root.join(pod)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
