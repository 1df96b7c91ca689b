//! What load balancers ask the node: whether it has endpoints of a Service whose traffic stays on the node.
//!
//! Answers as kube-proxy's `healthCheckNodePort`: 200 with endpoints, 503 without.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::table::HealthCheck;

const CONNECTIONS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 8192;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A port that is taken may come free.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// One listener per Service that has such a port.
pub struct HealthChecks {
    reach: Ipv4Addr,
    open: Mutex<HashMap<Arc<str>, Open>>,
}

struct Open {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthChecks {
    /// Listens on `reach`.
    pub fn new(reach: Ipv4Addr) -> Self {
        Self { reach, open: Mutex::default() }
    }

    pub fn set(&self, service: &Arc<str>, check: Option<HealthCheck>) {
        let mut open = self.open.lock();
        let Some(check) = check else {
            open.remove(service);
            return;
        };
        if let Some(known) = open.get(service).filter(|known| known.port == check.port) {
            known.endpoints.store(check.local_endpoints, Ordering::Relaxed);
            return;
        }
        let endpoints = Arc::new(AtomicUsize::new(check.local_endpoints));
        let address = SocketAddrV4::new(self.reach, check.port);
        let task = tokio::spawn(serve(address, service.clone(), endpoints.clone()));
        open.insert(service.clone(), Open { port: check.port, endpoints, task });
    }
}

async fn serve(address: SocketAddrV4, service: Arc<str>, endpoints: Arc<AtomicUsize>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => warn!(%service, %address, %error, "health checks cannot be answered"),
        }
        tokio::time::sleep(BIND_RETRY).await;
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (service, count) = (service.clone(), endpoints.load(Ordering::Relaxed));
        tokio::spawn(async move {
            let _permit = permit;
            let answered = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, &service, count)).await;
            if !matches!(answered, Ok(Ok(()))) {
                debug!(%service, "a health check ended early");
            }
        });
    }
}

async fn answer(mut stream: TcpStream, service: &str, count: usize) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut part).await?;
        if read == 0 || head.len() + read > HEAD_BYTES_MAX {
            return Ok(());
        }
        head.extend_from_slice(part.get(..read).unwrap_or_default());
    }
    stream.write_all(response(service, count).as_bytes()).await?;
    stream.shutdown().await
}

fn response(service: &str, count: usize) -> String {
    let status = if count > 0 { "200 OK" } else { "503 Service Unavailable" };
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    });
    let body = format!("{body}\n");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nX-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn until(port: u16, what: impl Fn(Option<&str>) -> bool) {
        for _ in 0..500 {
            if what(ask(port).await.as_deref()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never");
    }

    #[tokio::test]
    async fn the_answer_follows_the_endpoints() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let checks = HealthChecks::new(Ipv4Addr::LOCALHOST);
        let service: Arc<str> = "ns/web".into();
        checks.set(&service, Some(HealthCheck { port, local_endpoints: 2 }));
        until(port, |text| {
            text.is_some_and(|t| t.starts_with("HTTP/1.1 200") && t.contains("\"localEndpoints\":2"))
        })
        .await;
        checks.set(&service, Some(HealthCheck { port, local_endpoints: 0 }));
        until(port, |text| {
            text.is_some_and(|t| t.starts_with("HTTP/1.1 503") && t.contains("\"name\":\"web\""))
        })
        .await;
        checks.set(&service, None);
        until(port, |text| text.is_none()).await;
    }
}
