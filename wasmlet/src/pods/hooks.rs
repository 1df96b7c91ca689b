//! Lifecycle hooks: postStart and preStop as HTTP requests or sleeps; exec has no program to run in a Wasm container.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::probes::{check, http_check};

/// Runs one hook, for at most `limit`. The error is for an event.
pub async fn run(
    hook: &LifecycleHandler,
    container: &Container,
    pod_ip: Ipv4Addr,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(http) = &hook.http_get {
            let request = http_check(http, container, pod_ip)?;
            let status = check::get(&request).await.map_err(|error| error.text())?;
            return if status < 400 { Ok(()) } else { Err(format!("HTTP hook answered {status}")) };
        }
        if hook.exec.is_some() {
            return Err(
                "exec hooks are not supported for Wasm containers: they hold no other program to run".into(),
            );
        }
        // tcpSocket is accepted for compatibility and does nothing, as upstream.
        Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("hook did not end within {}s", limit.as_secs())),
    }
}
