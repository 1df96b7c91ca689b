//! TCP: each accepted connection is joined to one of its own to an endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::balance::Balancer;

/// Connections per entrance; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 8192;
const BACKLOG: u32 = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens at once; serves in the background until closed. Connections that are open then go on.
pub fn serve(address: SocketAddr, balancer: Arc<Balancer>, closed: CancellationToken) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    tokio::spawn(accept(listener, balancer, closed));
    Ok(())
}

async fn accept(listener: TcpListener, balancer: Arc<Balancer>, closed: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "accepting failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let balancer = balancer.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = join(stream, client.ip(), &balancer).await {
                debug!(%client, %error, "connection ended");
            }
        });
    }
}

/// An endpoint that does not answer is passed over, as long as there are others.
async fn join(mut client: TcpStream, ip: std::net::IpAddr, balancer: &Balancer) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for _ in 0..balancer.count().clamp(1, 3) {
        let Some(endpoint) = balancer.choose(ip, Instant::now()) else { break };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await {
            Ok(Ok(mut server)) => {
                server.set_nodelay(true)?;
                return tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
        balancer.failed(ip);
    }
    // A reset tells the client what a refusal would have.
    client.set_zero_linger()?;
    Err(last)
}
