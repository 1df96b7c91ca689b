//! Lifecycle hooks: postStart and preStop as HTTP requests, sleeps or commands in the container.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::probes::{check, http_check};
use crate::runtime::Container as Running;
use crate::runtime::output::output_of;

/// What a hook's message is cut to.
const OUTPUT_BYTES_MAX: usize = 1024;

/// Runs one hook, for at most `limit`. The error is for an event.
pub async fn run(
    hook: &LifecycleHandler,
    container: &Container,
    running: &Arc<dyn Running>,
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
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let shown = command.join(" ");
            return match output_of(running, command, OUTPUT_BYTES_MAX).await {
                Ok((0, _)) => Ok(()),
                Ok((code, text)) => Err(format!(
                    "Exec lifecycle hook ([{shown}]) for Container {:?} failed - error: command '{shown}' exited with {code}: , message: {:?}",
                    container.name,
                    String::from_utf8_lossy(&text)
                )),
                Err(error) => Err(format!(
                    "Exec lifecycle hook ([{shown}]) for Container {:?} failed - error: {error}, message: \"\"",
                    container.name
                )),
            };
        }
        // tcpSocket is accepted for compatibility and does nothing, as upstream.
        Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("hook did not end within {}s", limit.as_secs())),
    }
}
