//! `/healthz`, `/livez`, `/readyz` with their single checks, and `/version`.

use std::fmt::Write;

use axum::response::Response;
use coracle_client::KUBERNETES_VERSION;
use serde_json::json;

use crate::api::Api;
use crate::response;
use crate::verbs::options::Query;

/// The checks, in the order upstream lists them.
const CHECKS: &[&str] = &["ping", "log", "etcd", "etcd-readiness", "informer-sync", "shutdown"];
/// Of these only who asks for readiness hears.
const OF_READINESS: &[&str] = &["etcd-readiness", "informer-sync", "shutdown"];

/// The names of an endpoint's checks.
pub fn checks(endpoint: &str) -> impl Iterator<Item = &'static str> {
    let ready = endpoint == "readyz";
    CHECKS.iter().copied().filter(move |name| ready || !OF_READINESS.contains(name))
}

async fn check(api: &Api, name: &str) -> Result<(), String> {
    match name {
        "etcd" | "etcd-readiness" => api.store.healthy().await.map_err(|e| e.to_string()),
        "informer-sync" => {
            let newest = api.store.revision().await.map_err(|e| e.to_string())?;
            match api.cache.catch_up(&*api.store).await {
                Ok(()) => Ok(()),
                Err(_) => {
                    Err(format!("the watch cache is at {}, the store at {newest}", api.cache.revision()))
                }
            }
        }
        "shutdown" if api.shutdown.is_cancelled() => Err("process is shutting down".into()),
        _ => Ok(()),
    }
}

/// None: the path is none of these.
pub async fn answer(api: &Api, path: &str, query: &str) -> Option<Response> {
    if path == "/version" {
        return Some(response::json(200, version().to_string()));
    }
    let (endpoint, single) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.get(1..)?, ""));
    if !matches!(endpoint, "healthz" | "livez" | "readyz") {
        return None;
    }
    let names: Vec<&str> = checks(endpoint).filter(|name| single.is_empty() || *name == single).collect();
    if names.is_empty() {
        return Some(response::page_not_found());
    }
    let query = Query::parse(query);
    let excluded: Vec<&str> = query.all("exclude").collect();
    let unknown: Vec<String> =
        excluded.iter().filter(|name| !names.contains(name)).map(|name| format!("{name:?}")).collect();
    let mut report = String::new();
    let mut failed = false;
    for name in names {
        let outcome = if excluded.contains(&name) { Ok(()) } else { check(api, name).await };
        let line = match outcome {
            Ok(()) if excluded.contains(&name) => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(reason) => {
                failed = true;
                tracing::warn!(check = name, %reason, "health check failed");
                format!("[-]{name} failed: reason withheld\n")
            }
        };
        report.push_str(&line);
    }
    if !unknown.is_empty() {
        report.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(",")
        ));
    }
    // Writing to a string does not fail.
    let _ = writeln!(report, "{endpoint} check {}", if failed { "failed" } else { "passed" });
    if !single.is_empty() {
        return Some(if failed {
            response::text(500, format!("internal server error: {single} failed\n"))
        } else {
            response::text(200, "ok")
        });
    }
    Some(match (failed, query.contains("verbose")) {
        (true, _) => response::text(500, report),
        (false, true) => response::text(200, report),
        (false, false) => response::text(200, "ok"),
    })
}

fn version() -> serde_json::Value {
    let mut parts = KUBERNETES_VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let previous = minor.parse::<u32>().unwrap_or(1).saturating_sub(1).to_string();
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": previous,
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

pub fn git_version() -> String {
    format!("{KUBERNETES_VERSION}+coracle-{}", env!("CARGO_PKG_VERSION"))
}

pub fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
