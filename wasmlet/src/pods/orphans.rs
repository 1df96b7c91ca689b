//! Removes what pods left behind that went while the node was down.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use coracle_client::informer::Informer;

/// Directories that hold one directory per pod.
pub struct Places {
    /// Named `<namespace>_<name>_<uid>`.
    pub logs: PathBuf,
    /// Named by the uid.
    pub by_uid: Vec<PathBuf>,
}

pub async fn remove(pods: &Informer, places: &Places) {
    let known: HashSet<String> = pods.list().iter().map(|pod| pod.head.uid.to_string()).collect();
    let (logs, by_uid) = (places.logs.clone(), places.by_uid.clone());
    let work = tokio::task::spawn_blocking(move || {
        sweep(&logs, |name| name.rsplit('_').next().is_some_and(|uid| known.contains(uid)));
        for place in by_uid {
            sweep(&place, |name| known.contains(name));
        }
    });
    if let Err(error) = work.await {
        tracing::warn!(%error, "removing what pods left behind");
    }
}

fn sweep(place: &Path, keep: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(&keep) {
            continue;
        }
        tracing::info!(path = %entry.path().display(), "removing what a pod left behind");
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "removing what a pod left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strangers_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ns_a_u1", "ns_b_u2"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        sweep(dir.path(), |name| name.ends_with("_u1"));
        assert!(dir.path().join("ns_a_u1").exists() && !dir.path().join("ns_b_u2").exists());
        sweep(&dir.path().join("none"), |_| false);
    }
}
