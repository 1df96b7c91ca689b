//! A guest's outgoing http requests: from the pod's address, by the pod's names, to where the pod may connect.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::sockets::socket_for;
use crate::network::{AddressError, PodNetwork, ResolveError};
use crate::runtime::Protocol;

/// What the guest did not bound is bounded here: an instance that waits for ever holds its slot for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(600);

/// wasmtime's hooks for one store.
pub(super) struct PodHttp {
    pod: Arc<PodNetwork>,
}

impl PodHttp {
    pub fn new(pod: Arc<PodNetwork>) -> Self {
        PodHttp { pod }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for PodHttp {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _outcome: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let pod = self.pod.clone();
        Box::new(send(pod, request, options.unwrap_or_default()))
    }
}

async fn send(pod: Arc<PodNetwork>, mut request: Request<WasiBody>, options: RequestOptions) -> Sent {
    let tls = request.uri().scheme() == Some(&Scheme::HTTPS);
    let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    if !pod.allows_request(tls, &host, port) {
        return Err(Error::HttpRequestDenied);
    }
    let deadline = Instant::now() + options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);

    let stream =
        timeout_at(deadline, connect(&pod, &host, port)).await.map_err(|_| Error::ConnectionTimeout)??;
    let stream: Box<dyn Connection> = if tls {
        let name = ServerName::try_from(host).map_err(|_| Error::TlsProtocolError)?;
        let secured = timeout_at(deadline, tls_connector()?.connect(name, stream))
            .await
            .map_err(|_| Error::ConnectionTimeout)?;
        Box::new(secured.map_err(tls_error)?)
    } else {
        Box::new(stream)
    };
    let (mut sender, connection) = timeout_at(deadline, http1::handshake(TokioIo::new(stream)))
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    // Driven from here on; dropped with the handle when the guest drops the response.
    let connection = wasmtime_wasi::runtime::spawn(async move { connection.await.map_err(Error::from) });

    // On the wire a request to the origin carries the path only.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() =
        Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)?;
    let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
    let response = timeout(first_byte, sender.send_request(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let between = options.between_bytes_timeout.unwrap_or(BETWEEN_BYTES_TIMEOUT);
    let response = response.map(|body| TimedBody { body, limit: between, timer: None }.boxed_unsync());
    Ok((response, Box::new(connection)))
}

async fn connect(pod: &PodNetwork, host: &str, port: u16) -> Result<TcpStream, Error> {
    let addresses = pod.resolve(host).await.map_err(|error| match error {
        ResolveError::NotFound(_) | ResolveError::InvalidName(_) => {
            Error::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None }
        }
        ResolveError::Denied(_) => Error::HttpRequestDenied,
        ResolveError::Temporary { .. } => Error::DnsError { rcode: Some("SERVFAIL".into()), info_code: None },
    })?;
    let mut last = Error::DestinationNotFound;
    for address in addresses {
        match connect_one(pod, SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_one(pod: &PodNetwork, wanted: SocketAddr) -> Result<TcpStream, Error> {
    let real = pod.connect_address(wanted, Protocol::Tcp).map_err(|error| match error {
        AddressError::Denied => Error::DestinationIpProhibited,
        AddressError::NotAllowed => Error::HttpRequestDenied,
        AddressError::Refused => Error::ConnectionRefused,
        AddressError::Ipv6Unsupported => Error::DestinationIpUnroutable,
        AddressError::NotBindable | AddressError::Closed => Error::DestinationUnavailable,
    })?;
    let socket = socket_for(real).map_err(Error::Connect)?;
    // The port is chosen at connect, so that one may serve many destinations: a pod that makes a connection per request
    // would run out of them within a minute's TIME_WAIT. Without the option it still works, for fewer.
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true);
    socket.bind(pod.source_address(real)).map_err(Error::Connect)?;
    let stream = socket.connect(real).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Error::DestinationIpUnroutable,
        _ => Error::Connect(error),
    })?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn tls_error(error: io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        _ => Error::Tls(error),
    }
}

/// One TLS configuration for the process: the machine's CA bundle, or Mozilla's where it has none.
pub(super) fn tls_connector() -> Result<TlsConnector, Error> {
    static CONFIG: OnceLock<Option<Arc<rustls::ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Some(Arc::new(config))
    });
    config.clone().map(TlsConnector::from).ok_or(Error::ConfigurationError)
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A response body whose silences are bounded.
struct TimedBody {
    body: hyper::body::Incoming,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.timer = None;
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => {
                let limit = this.limit;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                std::task::ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
