//! UDP: each client gets a socket of its own towards an endpoint, as long as it talks.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::balance::Balancer;

/// A client that is silent this long is forgotten, as conntrack does with streams.
const IDLE: Duration = Duration::from_secs(120);
/// Clients per entrance; datagrams of more are dropped.
const FLOWS_MAX: usize = 4096;
const DATAGRAM_MAX: usize = 65_535;

type Flows = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

pub fn serve(address: SocketAddr, balancer: Arc<Balancer>, closed: CancellationToken) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    tokio::spawn(async move {
        tokio::select! {
            result = forward(socket, balancer, closed.clone()) => {
                if let Err(error) = result {
                    debug!(%address, %error, "UDP forwarding ended");
                }
            }
            () = closed.cancelled() => {}
        }
    });
    Ok(())
}

async fn forward(
    socket: Arc<UdpSocket>,
    balancer: Arc<Balancer>,
    closed: CancellationToken,
) -> io::Result<()> {
    let flows = Flows::default();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        let known = flows.lock().get(&client).cloned();
        let flow = match known {
            Some(flow) => flow,
            None => {
                if flows.lock().len() >= FLOWS_MAX {
                    continue;
                }
                let Some(endpoint) = balancer.choose(client.ip(), Instant::now()) else { continue };
                let any: IpAddr = match endpoint {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let flow = Arc::new(UdpSocket::bind((any, 0)).await?);
                flow.connect(endpoint).await?;
                flows.lock().insert(client, flow.clone());
                tokio::spawn(answers(socket.clone(), flow.clone(), client, flows.clone(), closed.clone()));
                flow
            }
        };
        if let Err(error) = flow.send(&buffer[..length]).await {
            debug!(%client, %error, "a datagram was not delivered");
        }
    }
}

/// Brings an endpoint's datagrams back to the client until either is silent for long.
async fn answers(
    socket: Arc<UdpSocket>,
    flow: Arc<UdpSocket>,
    client: SocketAddr,
    flows: Flows,
    closed: CancellationToken,
) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let received = tokio::select! {
            received = tokio::time::timeout(IDLE, flow.recv(&mut buffer)) => received,
            () = closed.cancelled() => break,
        };
        match received {
            Ok(Ok(length)) => {
                if socket.send_to(&buffer[..length], client).await.is_err() {
                    break;
                }
            }
            Ok(Err(_)) | Err(_) => break,
        }
    }
    flows.lock().remove(&client);
}
