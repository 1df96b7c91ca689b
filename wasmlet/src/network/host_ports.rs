//! Ports of the node that its pods have (`hostPort`), and the way from there to guests that listen for themselves.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::runtime::{Port, Protocol};

/// Connections per port; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// Clients of a UDP port; datagrams of more are dropped.
const CLIENTS_MAX: usize = 1_024;
const CLIENT_IDLE: Duration = Duration::from_secs(120);
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
const DATAGRAM_MAX: usize = 65_535;

/// Who has which port of the node. The scheduler keeps conflicts away; pods that did not come by it are refused here.
#[derive(Default)]
pub struct HostPorts {
    taken: Mutex<Vec<Taken>>,
}

struct Taken {
    uid: Box<str>,
    pod: Box<str>,
    protocol: Protocol,
    port: u16,
    /// None: every address.
    address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hostPort {port}/{protocol:?} is taken by pod {holder}")]
pub struct HostPortTaken {
    pub port: u16,
    pub protocol: Protocol,
    pub holder: String,
}

impl HostPorts {
    /// All of a pod's, or none.
    pub fn claim(&self, uid: &str, pod: &str, ports: &[Port]) -> Result<(), HostPortTaken> {
        let mut taken = self.taken.lock();
        let wanted = ports.iter().filter_map(|port| {
            let address = port.host_ip.filter(|ip| !ip.is_unspecified());
            Some((port.host_port?, port.protocol, address))
        });
        for (port, protocol, address) in wanted.clone() {
            let conflict = taken.iter().find(|t| {
                *t.uid != *uid
                    && t.port == port
                    && t.protocol == protocol
                    && (t.address.is_none() || address.is_none() || t.address == address)
            });
            if let Some(other) = conflict {
                return Err(HostPortTaken { port, protocol, holder: other.pod.to_string() });
            }
        }
        taken.retain(|t| *t.uid != *uid);
        taken.extend(wanted.map(|(port, protocol, address)| Taken {
            uid: uid.into(),
            pod: pod.into(),
            protocol,
            port,
            address,
        }));
        Ok(())
    }

    pub fn release(&self, uid: &str) {
        self.taken.lock().retain(|t| *t.uid != *uid);
    }

    pub fn has(&self, address: IpAddr, port: u16, protocol: Protocol) -> bool {
        let is_at = |t: &Taken| t.address.is_none_or(|a| a == address);
        self.taken.lock().iter().any(|t| t.port == port && t.protocol == protocol && is_at(t))
    }
}

/// Listens at a port of the node and joins what comes to the pod's, until `end`. Binds at once.
pub fn forward(
    from: SocketAddr,
    to: SocketAddr,
    protocol: Protocol,
    end: CancellationToken,
) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => {
            let listener = std::net::TcpListener::bind(from)?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                end.clone().run_until_cancelled_owned(connections(listener, to, end)).await
            });
        }
        Protocol::Udp => {
            let socket = std::net::UdpSocket::bind(from)?;
            socket.set_nonblocking(true)?;
            let socket = Arc::new(UdpSocket::from_std(socket)?);
            tokio::spawn(
                async move { end.clone().run_until_cancelled_owned(datagrams(socket, to, end)).await },
            );
        }
        Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(())
}

async fn connections(listener: TcpListener, to: SocketAddr, end: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let end = end.clone();
        tokio::spawn(async move {
            let _permit = permit;
            end.run_until_cancelled(join(client, to)).await;
        });
    }
}

async fn join(mut client: TcpStream, to: SocketAddr) {
    let _ = client.set_nodelay(true);
    match TcpStream::connect(to).await {
        Ok(mut guest) => {
            let _ = guest.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut guest).await;
        }
        // A reset tells the client what a refusal would have.
        Err(_) => drop(client.set_zero_linger()),
    }
}

async fn datagrams(socket: Arc<UdpSocket>, to: SocketAddr, end: CancellationToken) {
    let clients: Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>> = Arc::default();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let known = clients.lock().get(&client).cloned();
        let flow = match known {
            Some(flow) => flow,
            None if clients.lock().len() >= CLIENTS_MAX => continue,
            None => {
                let any = if to.is_ipv4() {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    IpAddr::from(Ipv6Addr::UNSPECIFIED)
                };
                let Ok(flow) = UdpSocket::bind((any, 0)).await else { continue };
                if flow.connect(to).await.is_err() {
                    continue;
                }
                let flow = Arc::new(flow);
                clients.lock().insert(client, flow.clone());
                let (socket, flow_of, clients) = (socket.clone(), flow.clone(), clients.clone());
                let end = end.clone();
                tokio::spawn(async move {
                    end.run_until_cancelled(answers(&socket, &flow_of, client)).await;
                    clients.lock().remove(&client);
                });
                flow
            }
        };
        if let Some(datagram) = buffer.get(..length) {
            let _ = flow.send(datagram).await;
        }
    }
}

/// Until the guest is silent for long.
async fn answers(socket: &UdpSocket, flow: &UdpSocket, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while let Ok(Ok(length)) = tokio::time::timeout(CLIENT_IDLE, flow.recv(&mut buffer)).await {
        let Some(datagram) = buffer.get(..length) else { return };
        if socket.send_to(datagram, client).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn port(number: u16, protocol: Protocol, address: Option<&str>) -> Port {
        let host_ip = address.map(|a| a.parse().unwrap());
        Port { port: 80, protocol, host_port: Some(number), host_ip }
    }

    #[test]
    fn a_port_has_one_pod() {
        let ports = HostPorts::default();
        ports
            .claim("a", "ns/a", &[port(80, Protocol::Tcp, None), port(53, Protocol::Udp, Some("10.0.0.1"))])
            .unwrap();
        for (wanted, free) in [
            (port(80, Protocol::Tcp, None), false),
            (port(80, Protocol::Tcp, Some("10.0.0.1")), false),
            (port(80, Protocol::Udp, None), true),
            (port(53, Protocol::Udp, Some("10.0.0.2")), true),
            (port(53, Protocol::Udp, Some("0.0.0.0")), false),
        ] {
            assert_eq!(ports.claim("b", "ns/b", std::slice::from_ref(&wanted)).is_ok(), free, "{wanted:?}");
            ports.release("b");
        }
        let error = ports.claim("b", "ns/b", &[port(80, Protocol::Tcp, None)]).unwrap_err();
        assert_eq!(error.to_string(), "hostPort 80/Tcp is taken by pod ns/a");
        assert!(ports.has(IpAddr::from([10, 9, 9, 9]), 80, Protocol::Tcp));
        assert!(!ports.has(IpAddr::from([10, 9, 9, 9]), 53, Protocol::Udp));
        ports.claim("a", "ns/a", &[port(80, Protocol::Tcp, None)]).expect("its own, again");
        ports.release("a");
        assert!(!ports.has(IpAddr::from([10, 9, 9, 9]), 80, Protocol::Tcp));
    }

    #[tokio::test]
    async fn what_comes_to_the_node_reaches_the_guest() {
        let guest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = guest.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = guest.accept().await.unwrap();
            let mut buffer = [0; 4];
            stream.read_exact(&mut buffer).await.unwrap();
            stream.write_all(&buffer).await.unwrap();
        });
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let from = free.local_addr().unwrap();
        let end = CancellationToken::new();
        assert!(forward(from, to, Protocol::Tcp, end.clone()).is_err(), "taken");
        drop(free);
        forward(from, to, Protocol::Tcp, end.clone()).unwrap();
        let mut client = TcpStream::connect(from).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");

        let guest = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = guest.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 16];
            let (length, client) = guest.recv_from(&mut buffer).await.unwrap();
            guest.send_to(&buffer[..length], client).await.unwrap();
        });
        forward(from, to, Protocol::Udp, end.clone()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"ping", from).await.unwrap();
        let mut buffer = [0; 16];
        let (length, source) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], source), (b"ping".as_slice(), from));
        end.cancel();
        while TcpListener::bind(from).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}
