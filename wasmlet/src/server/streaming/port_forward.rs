//! `/portForward`: connections to a pod's ports, as SPDY streams (also within a WebSocket), as WebSocket channels, or raw.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::idle::{IDLE_MAX, Idle};
use super::spdy::{Output, Stream, connection};
use super::upgrade::{self, RAW, Refusal, Wish};
use super::{Open, Target, answer, port_forward_websocket, websocket};
use crate::network::PodNetwork;
use crate::runtime::Protocol;
use crate::server::Site;
use crate::server::query::Query;

/// The other stream of a pair must come within this time.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const COPY_BYTES: usize = 32 << 10;

const PORT_FORWARD: &str = "portforward.k8s.io";
/// SPDY within the binary messages of a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKETS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// Where connections go.
#[derive(Clone)]
pub struct Ports {
    network: Arc<PodNetwork>,
    pod: Arc<str>,
}

impl Ports {
    /// As from within the pod: to its loopback, which also reaches what listens on its address.
    pub async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("failed to connect to localhost:{port} inside the pod's network: {error}")
        };
        let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut addresses = Vec::new();
        for loopback in loopbacks.into_iter().take(self.network.ips().len()) {
            let asked = SocketAddr::new(loopback, port);
            addresses.push(self.network.connect_address(asked, Protocol::Tcp).map_err(|e| failed(&e))?);
        }
        // A guest may listen on the pod's addresses by their numbers.
        let by_number = self.network.ips().into_iter().map(|ip| SocketAddr::new(ip, port));
        addresses.extend(by_number);
        let mut stream = Err(std::io::ErrorKind::ConnectionRefused.into());
        for address in addresses {
            stream = connect(address).await;
            if !stream.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
                break;
            }
        }
        let stream = stream.map_err(|error| failed(&error))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn error(&self, port: u16, why: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid : {why}", self.pod)
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

pub async fn serve(
    State(site): State<Arc<Site>>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    answer(upgraded(&site, &target, &query, request).await)
}

async fn upgraded(
    site: &Site,
    target: &Target,
    query: &Query,
    mut request: Request,
) -> Result<Response, Refusal> {
    let wish = upgrade::wish(request.headers())?;
    let pod = target.pod(site)?;
    let network = site.context.network.of_pod(&pod.head.uid).ok_or_else(|| {
        let text = format!("pod {}/{} is not running", pod.head.namespace, pod.head.name);
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let ports = Ports { network, pod: pod.head.uid.as_str().into() };
    let open = Open::new(site)?;
    let idle = Idle::new(IDLE_MAX);
    match wish {
        Wish::Spdy => {
            let version = upgrade::negotiate(request.headers(), &[PORT_FORWARD])?;
            let (response, io) = upgrade::switch(&mut request, "SPDY/3.1", Some(version))?;
            tokio::spawn(open.run(async move {
                if let Some(io) = io.await {
                    streams(io, ports, idle).await;
                }
            }));
            Ok(response)
        }
        Wish::WebSocket => {
            let wanted = port_forward_websocket::ports(query)?;
            let (socket, name) = websocket(request, WEBSOCKETS).await?;
            if name == TUNNEL {
                return Ok(socket.on_upgrade(move |socket| open.run(tunnelled(socket, ports, idle))));
            }
            if wanted.is_empty() {
                return Err((StatusCode::BAD_REQUEST, "query parameter \"port\" is required".into()));
            }
            let base64 = name.contains("base64");
            Ok(socket.on_upgrade(move |socket| {
                open.run(port_forward_websocket::serve(socket, ports, wanted, base64, idle))
            }))
        }
        Wish::Raw => {
            let wanted = port_forward_websocket::ports(query)?;
            let [port] = wanted.as_slice() else {
                return Err((StatusCode::BAD_REQUEST, "one port, please".into()));
            };
            let mut to = ports.connect(*port).await.map_err(|why| (StatusCode::BAD_GATEWAY, why))?;
            let (response, io) = upgrade::switch(&mut request, RAW, None)?;
            tokio::spawn(open.run(async move {
                if let Some(mut io) = io.await {
                    let _ = tokio::io::copy_bidirectional(&mut io, &mut to).await;
                }
            }));
            Ok(response)
        }
    }
}

async fn tunnelled(socket: WebSocket, ports: Ports, idle: Idle) {
    let (sink, stream) = socket.split();
    let pieces = stream
        .take_while(|message| std::future::ready(!matches!(message, Err(_) | Ok(Message::Close(_)))))
        .filter_map(|message| {
            std::future::ready(match message {
                Ok(Message::Binary(bytes)) => Some(Ok::<_, std::io::Error>(bytes)),
                _ => None,
            })
        });
    let messages = sink
        .sink_map_err(std::io::Error::other)
        .with(|bytes: Bytes| std::future::ready(Ok::<_, std::io::Error>(Message::Binary(bytes))));
    let io = tokio::io::join(StreamReader::new(pieces), SinkWriter::new(CopyToBytes::new(messages)));
    streams(io, ports, idle).await;
}

/// The two streams of one forwarded connection, as they come.
#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
    began: Option<tokio::time::Instant>,
}

/// Serves the pairs of streams that a client opens, until it goes.
async fn streams(io: impl AsyncRead + AsyncWrite, ports: Ports, idle: Idle) {
    let (mut accept, moving) = connection(io, idle);
    let work = async move {
        let mut pairs: HashMap<String, Pair> = HashMap::new();
        let mut forwards = FuturesUnordered::new();
        loop {
            let stream = tokio::select! {
                stream = accept.recv() => match stream {
                    Some(stream) => stream,
                    None => return,
                },
                Some(()) = forwards.next(), if !forwards.is_empty() => continue,
                () = tokio::time::sleep(PAIR_TIMEOUT), if !pairs.is_empty() => {
                    pairs.retain(|_, pair| pair.began.is_some_and(|at| at.elapsed() < PAIR_TIMEOUT));
                    continue;
                }
            };
            let Some((id, is_data, port)) = describe(&stream) else {
                stream.output.cancel().await;
                continue;
            };
            if stream.output.accept().await.is_err() {
                continue;
            }
            let pair = pairs.entry(id.clone()).or_default();
            pair.began.get_or_insert_with(tokio::time::Instant::now);
            *(if is_data { &mut pair.data } else { &mut pair.error }) = Some(stream);
            if pair.data.is_some()
                && pair.error.is_some()
                && let Some(Pair { data: Some(data), error: Some(error), .. }) = pairs.remove(&id)
            {
                let ports = ports.clone();
                forwards.push(async move { forward(data, error, port, &ports).await });
            }
        }
    };
    tokio::select! {
        () = moving => {}
        () = work => {}
    }
}

/// The pair that a stream belongs to, whether it is the data's, and the port.
fn describe(stream: &Stream) -> Option<(String, bool, u16)> {
    let is_data = match stream.headers.get("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let port = stream.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let id = match stream.headers.get("requestid") {
        Some(id) => id.to_owned(),
        // Clients older than the header open the error stream, and then the data's.
        None if is_data => stream.id.saturating_sub(2).to_string(),
        None => stream.id.to_string(),
    };
    Some((id, is_data, port))
}

async fn forward(data: Stream, error: Stream, port: u16, ports: &Ports) {
    match ports.connect(port).await {
        Ok(to) => {
            copy(data, to).await;
        }
        Err(why) => {
            let _ = error.output.write(ports.error(port, &why).into()).await;
            data.output.cancel().await;
        }
    }
    error.output.finish().await;
}

/// Until both directions are over, or either side is gone.
async fn copy(data: Stream, to: TcpStream) {
    let Stream { mut input, output, .. } = data;
    let (mut reading, mut writing) = to.into_split();
    let up = async {
        while let Some(bytes) = input.recv().await {
            writing.write_all(&bytes).await.ok()?;
        }
        writing.shutdown().await.ok()
    };
    let down = async {
        let done = send(&mut reading, &output).await;
        output.finish().await;
        done
    };
    tokio::pin!(up, down);
    tokio::select! {
        _ = &mut down => {}
        sent = &mut up => if sent.is_some() {
            tokio::select! {
                _ = down => {}
                () = output.reset.cancelled() => {}
            }
        },
        () = output.reset.cancelled() => {}
    }
}

async fn send(from: &mut (impl AsyncRead + Unpin), to: &Output) -> Option<()> {
    let mut buffer = bytes::BytesMut::with_capacity(COPY_BYTES);
    loop {
        buffer.reserve(COPY_BYTES);
        if from.read_buf(&mut buffer).await.ok()? == 0 {
            return Some(());
        }
        to.write(buffer.split().freeze()).await.ok()?;
    }
}
