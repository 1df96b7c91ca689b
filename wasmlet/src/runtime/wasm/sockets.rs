//! wasi:sockets through the pod's network: only the functions that carry addresses are ours, the rest is wasmtime's.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, HostTcpSocket};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket,
};
use wasmtime_wasi::p2::bindings::sockets::{network, tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, IoError, Network, Pollable, SocketError, SocketResult,
    TcpSocket, UdpSocket, subscribe,
};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtxView};

use super::guest::ComponentState;
use crate::network::{AddressError, PodNetwork, ResolveError};
use crate::runtime::Protocol;

/// One container's use of its pod's network.
pub(super) struct ContainerNetwork {
    pub pod: Arc<PodNetwork>,
    /// Cancelled by stop: listeners accept nothing any more.
    pub terminating: CancellationToken,
    listeners: Mutex<HashSet<SocketAddr>>,
}

impl ContainerNetwork {
    pub fn new(pod: Arc<PodNetwork>) -> Self {
        ContainerNetwork { pod, terminating: CancellationToken::new(), listeners: Mutex::new(HashSet::new()) }
    }

    /// A guest that listens learns from a failing accept that it is to end; any other guest cannot know.
    pub fn has_listeners(&self) -> bool {
        !self.listeners.lock().is_empty()
    }

    /// A listener that the node opened for the guest.
    pub fn note_listener(&self, address: SocketAddr) {
        self.listeners.lock().insert(address);
        self.pod.note_bound(Protocol::Tcp, address, true);
    }

    /// A socket that the guest bound itself listens now.
    pub fn note_listening(&self, local: SocketAddr) {
        self.listeners.lock().insert(local);
    }

    /// A socket that was bound is closed. An accepted connection has its listener's local address, and does not end it.
    pub fn note_closed(&self, local: SocketAddr, listening: bool) {
        let mut listeners = self.listeners.lock();
        if listening || !listeners.contains(&local) {
            listeners.remove(&local);
            self.pod.note_unbound(Protocol::Tcp, local);
        }
    }

    pub fn forget_listener(&self, address: SocketAddr) {
        self.listeners.lock().remove(&address);
        self.pod.note_unbound(Protocol::Tcp, address);
    }

    /// Makes accept fail from now on, and wakes guests that are parked in a poll on a listener by connecting to it.
    pub async fn terminate(&self) {
        self.terminating.cancel();
        let listeners: Vec<SocketAddr> = self.listeners.lock().iter().copied().collect();
        for address in listeners {
            if let Ok(socket) = socket_for(address)
                && socket.bind(SocketAddr::new(address.ip(), 0)).is_ok()
            {
                // Loopback: answered or refused at once, unless the backlog is full, and then nobody is parked.
                let _ = tokio::time::timeout(DOORBELL_TIMEOUT, socket.connect(address)).await;
            }
        }
    }

    /// The table's second line of defence (it sees node addresses). Anybody may connect to a pod; probes come from
    /// the node's own addresses.
    pub fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::UdpBind => {
                self.pod.owns(address.ip())
            }
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => self.pod.may_reach(address),
            SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive => true,
        }
    }

    /// What the container leaves behind when it is dropped mid-flight.
    pub fn forget_sockets(&self) {
        for address in self.listeners.lock().drain() {
            self.pod.note_unbound(Protocol::Tcp, address);
        }
    }
}

/// A TCP socket of the address's family.
pub(super) fn socket_for(address: SocketAddr) -> std::io::Result<tokio::net::TcpSocket> {
    if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }
}

const DOORBELL_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(100);

impl From<AddressError> for ErrorCode {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::NotBindable => ErrorCode::AddressNotBindable,
            AddressError::Ipv6Unsupported => ErrorCode::NotSupported,
            AddressError::Denied | AddressError::NotAllowed => ErrorCode::AccessDenied,
            AddressError::Refused => ErrorCode::ConnectionRefused,
            AddressError::Closed => ErrorCode::InvalidState,
        }
    }
}

fn denied(error: AddressError) -> SocketError {
    ErrorCode::from(error).into()
}

/// wasmtime's view of a store's sockets beside the container's network.
pub(super) struct PodView<'a> {
    wasi: WasiSocketsCtxView<'a>,
    net: Arc<ContainerNetwork>,
    open: &'a mut u32,
    peers: &'a mut Peers,
}

/// The Services that sockets are connected to, by the socket's number: a guest's peer is the Service, not its endpoint.
pub(super) type Peers = HashMap<u32, SocketAddr>;

/// Sockets that one instance may hold: they are the node's file descriptors.
pub(super) const SOCKETS_MAX: u32 = 1_024;

impl PodView<'_> {
    fn take_socket(&mut self) -> Result<(), ErrorCode> {
        if *self.open >= SOCKETS_MAX {
            return Err(ErrorCode::NewSocketLimit);
        }
        *self.open += 1;
        Ok(())
    }

    fn give_socket_back(&mut self) {
        *self.open = self.open.saturating_sub(1);
    }
}

struct PodSockets;

impl HasData for PodSockets {
    type Data<'a> = PodView<'a>;
}

fn view(state: &mut ComponentState) -> PodView<'_> {
    let net = state.net.clone();
    let ComponentState { wasi, table, sockets_open, peers, .. } = state;
    PodView { wasi: WasiSocketsCtxView { ctx: wasi.sockets(), table }, net, open: sockets_open, peers }
}

/// Functions that are wasmtime's as they stand.
macro_rules! forward {
    ($interface:ident: $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, $($arg: $type),*) -> $result { $interface::$name(&mut self.wasi, $($arg),*) })*
    };
}

type Tcp = Resource<TcpSocket>;

impl tcp::Host for PodView<'_> {}

impl HostTcpSocket for PodView<'_> {
    async fn start_bind(
        &mut self,
        this: Tcp,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        let wanted: SocketAddr = local.into();
        let real = self.net.pod.bind_address(wanted).map_err(denied)?;
        let rep = this.rep();
        HostTcpSocket::start_bind(&mut self.wasi, this, network, real.into()).await?;
        // Port 0 has become a real one.
        let bound: SocketAddr =
            HostTcpSocket::local_address(&mut self.wasi, Resource::new_borrow(rep))?.into();
        self.net.pod.note_bound(Protocol::Tcp, bound, wanted.ip().is_unspecified());
        Ok(())
    }

    fn start_connect(
        &mut self,
        this: Tcp,
        network: Resource<Network>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        let remote: SocketAddr = remote.into();
        let real = self.net.pod.connect_address(remote, Protocol::Tcp).map_err(denied)?;
        if self.net.pod.seen_by_guest(real) != remote && !remote.ip().is_unspecified() {
            self.peers.insert(this.rep(), remote);
        }
        let unbound = HostTcpSocket::local_address(&mut self.wasi, Resource::new_borrow(this.rep())).is_err();
        if unbound {
            // Peers must see the pod's address, not the node's.
            let source = self.net.pod.source_address(real);
            let (socket, net) = (Resource::new_borrow(this.rep()), Resource::new_borrow(network.rep()));
            // Async only because of the address check, and ours never waits.
            HostTcpSocket::start_bind(&mut self.wasi, socket, net, source.into())
                .now_or_never()
                .unwrap_or_else(|| Err(ErrorCode::Unknown.into()))?;
            HostTcpSocket::finish_bind(&mut self.wasi, Resource::new_borrow(this.rep()))?;
        }
        HostTcpSocket::start_connect(&mut self.wasi, this, network, real.into())
    }

    async fn start_listen(&mut self, this: Tcp) -> SocketResult<()> {
        if self.net.terminating.is_cancelled() {
            return Err(ErrorCode::InvalidState.into());
        }
        let rep = this.rep();
        HostTcpSocket::start_listen(&mut self.wasi, this).await?;
        let local: SocketAddr =
            HostTcpSocket::local_address(&mut self.wasi, Resource::new_borrow(rep))?.into();
        self.net.note_listening(local);
        Ok(())
    }

    fn accept(
        &mut self,
        this: Tcp,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        if self.net.terminating.is_cancelled() {
            return Err(ErrorCode::ConnectionAborted.into());
        }
        self.take_socket()?;
        HostTcpSocket::accept(&mut self.wasi, this).inspect_err(|_| *self.open -= 1)
    }

    fn local_address(&mut self, this: Tcp) -> SocketResult<IpSocketAddress> {
        let real = HostTcpSocket::local_address(&mut self.wasi, this)?;
        Ok(self.net.pod.seen_by_guest(real.into()).into())
    }

    fn remote_address(&mut self, this: Tcp) -> SocketResult<IpSocketAddress> {
        let service = self.peers.get(&this.rep()).copied();
        let real = HostTcpSocket::remote_address(&mut self.wasi, this)?;
        Ok(service.unwrap_or_else(|| self.net.pod.seen_by_guest(real.into())).into())
    }

    fn drop(&mut self, this: Tcp) -> Result<()> {
        let local = HostTcpSocket::local_address(&mut self.wasi, Resource::new_borrow(this.rep()));
        if let Ok(local) = local {
            let listening = HostTcpSocket::is_listening(&mut self.wasi, Resource::new_borrow(this.rep()))?;
            self.net.note_closed(local.into(), listening);
        }
        self.peers.remove(&this.rep());
        self.give_socket_back();
        HostTcpSocket::drop(&mut self.wasi, this)
    }

    forward! { HostTcpSocket:
        subscribe(this: Tcp) -> Result<Resource<DynPollable>>;
        finish_bind(this: Tcp) -> SocketResult<()>;
        finish_connect(this: Tcp) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)>;
        finish_listen(this: Tcp) -> SocketResult<()>;
        is_listening(this: Tcp) -> Result<bool>;
        address_family(this: Tcp) -> Result<IpAddressFamily>;
        set_listen_backlog_size(this: Tcp, value: u64) -> SocketResult<()>;
        keep_alive_enabled(this: Tcp) -> SocketResult<bool>;
        set_keep_alive_enabled(this: Tcp, value: bool) -> SocketResult<()>;
        keep_alive_idle_time(this: Tcp) -> SocketResult<u64>;
        set_keep_alive_idle_time(this: Tcp, value: u64) -> SocketResult<()>;
        keep_alive_interval(this: Tcp) -> SocketResult<u64>;
        set_keep_alive_interval(this: Tcp, value: u64) -> SocketResult<()>;
        keep_alive_count(this: Tcp) -> SocketResult<u32>;
        set_keep_alive_count(this: Tcp, value: u32) -> SocketResult<()>;
        hop_limit(this: Tcp) -> SocketResult<u8>;
        set_hop_limit(this: Tcp, value: u8) -> SocketResult<()>;
        receive_buffer_size(this: Tcp) -> SocketResult<u64>;
        set_receive_buffer_size(this: Tcp, value: u64) -> SocketResult<()>;
        send_buffer_size(this: Tcp) -> SocketResult<u64>;
        set_send_buffer_size(this: Tcp, value: u64) -> SocketResult<()>;
        shutdown(this: Tcp, how: tcp::ShutdownType) -> SocketResult<()>;
    }
}

type Udp = Resource<UdpSocket>;

impl udp::Host for PodView<'_> {}

impl HostUdpSocket for PodView<'_> {
    async fn start_bind(
        &mut self,
        this: Udp,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        let wanted: SocketAddr = local.into();
        let real = self.net.pod.bind_address(wanted).map_err(denied)?;
        let rep = this.rep();
        HostUdpSocket::start_bind(&mut self.wasi, this, network, real.into()).await?;
        let bound: SocketAddr =
            HostUdpSocket::local_address(&mut self.wasi, Resource::new_borrow(rep))?.into();
        self.net.pod.note_bound(Protocol::Udp, bound, wanted.ip().is_unspecified());
        Ok(())
    }

    async fn stream(
        &mut self,
        this: Udp,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<udp::IncomingDatagramStream>, Resource<udp::OutgoingDatagramStream>)> {
        let real = match remote {
            Some(remote) => Some(self.net.pod.datagram_address(remote.into()).map_err(denied)?.into()),
            None => None,
        };
        HostUdpSocket::stream(&mut self.wasi, this, real).await
    }

    fn local_address(&mut self, this: Udp) -> SocketResult<IpSocketAddress> {
        let real = HostUdpSocket::local_address(&mut self.wasi, this)?;
        Ok(self.net.pod.seen_by_guest(real.into()).into())
    }

    fn remote_address(&mut self, this: Udp) -> SocketResult<IpSocketAddress> {
        let real = HostUdpSocket::remote_address(&mut self.wasi, this)?;
        Ok(self.net.pod.datagram_source(real.into()).into())
    }

    fn drop(&mut self, this: Udp) -> Result<()> {
        if let Ok(local) = HostUdpSocket::local_address(&mut self.wasi, Resource::new_borrow(this.rep())) {
            self.net.pod.note_unbound(Protocol::Udp, local.into());
        }
        self.give_socket_back();
        HostUdpSocket::drop(&mut self.wasi, this)
    }

    forward! { HostUdpSocket:
        finish_bind(this: Udp) -> SocketResult<()>;
        address_family(this: Udp) -> Result<IpAddressFamily>;
        unicast_hop_limit(this: Udp) -> SocketResult<u8>;
        set_unicast_hop_limit(this: Udp, value: u8) -> SocketResult<()>;
        receive_buffer_size(this: Udp) -> SocketResult<u64>;
        set_receive_buffer_size(this: Udp, value: u64) -> SocketResult<()>;
        send_buffer_size(this: Udp) -> SocketResult<u64>;
        set_send_buffer_size(this: Udp, value: u64) -> SocketResult<()>;
        subscribe(this: Udp) -> Result<Resource<DynPollable>>;
    }
}

impl HostIncomingDatagramStream for PodView<'_> {
    fn receive(
        &mut self,
        this: Resource<udp::IncomingDatagramStream>,
        max: u64,
    ) -> SocketResult<Vec<udp::IncomingDatagram>> {
        let mut datagrams = HostIncomingDatagramStream::receive(&mut self.wasi, this, max)?;
        for datagram in &mut datagrams {
            datagram.remote_address = self.net.pod.datagram_source(datagram.remote_address.into()).into();
        }
        Ok(datagrams)
    }

    forward! { HostIncomingDatagramStream:
        subscribe(this: Resource<udp::IncomingDatagramStream>) -> Result<Resource<DynPollable>>;
        drop(this: Resource<udp::IncomingDatagramStream>) -> Result<()>;
    }
}

impl HostOutgoingDatagramStream for PodView<'_> {
    fn send(
        &mut self,
        this: Resource<udp::OutgoingDatagramStream>,
        mut datagrams: Vec<udp::OutgoingDatagram>,
    ) -> SocketResult<u64> {
        for datagram in &mut datagrams {
            if let Some(remote) = datagram.remote_address {
                let real = self.net.pod.datagram_address(remote.into()).map_err(denied)?;
                datagram.remote_address = Some(real.into());
            }
        }
        HostOutgoingDatagramStream::send(&mut self.wasi, this, datagrams)
    }

    async fn drop(&mut self, this: Resource<udp::OutgoingDatagramStream>) -> Result<()> {
        HostOutgoingDatagramStream::drop(&mut self.wasi, this).await
    }

    forward! { HostOutgoingDatagramStream:
        check_send(this: Resource<udp::OutgoingDatagramStream>) -> SocketResult<u64>;
        subscribe(this: Resource<udp::OutgoingDatagramStream>) -> Result<Resource<DynPollable>>;
    }
}

impl tcp_create_socket::Host for PodView<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        self.has_family(family)?;
        self.take_socket()?;
        tcp_create_socket::Host::create_tcp_socket(&mut self.wasi, family)
    }
}

impl udp_create_socket::Host for PodView<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        self.has_family(family)?;
        self.take_socket()?;
        udp_create_socket::Host::create_udp_socket(&mut self.wasi, family).await
    }
}

impl PodView<'_> {
    /// Guests that try both families fall back on the one that their pod has.
    fn has_family(&self, family: IpAddressFamily) -> SocketResult<()> {
        match family {
            IpAddressFamily::Ipv6 if self.net.pod.ip6().is_none() => Err(ErrorCode::NotSupported.into()),
            _ => Ok(()),
        }
    }
}

impl network::Host for PodView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.wasi, error)
    }

    fn network_error_code(&mut self, error: Resource<IoError>) -> Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.wasi, error)
    }
}

impl network::HostNetwork for PodView<'_> {
    fn drop(&mut self, this: Resource<Network>) -> Result<()> {
        network::HostNetwork::drop(&mut self.wasi, this)
    }
}

/// `resolve-address-stream`: wasmtime's own type cannot be made outside its crate, so this interface is ours whole.
enum AddressStream {
    Pending(AbortOnDropJoinHandle<Result<Vec<IpAddr>, ErrorCode>>),
    Ready(Result<std::vec::IntoIter<IpAddr>, ErrorCode>),
}

#[async_trait::async_trait]
impl Pollable for AddressStream {
    async fn ready(&mut self) {
        if let AddressStream::Pending(answer) = self {
            *self = AddressStream::Ready(answer.await.map(Vec::into_iter));
        }
    }
}

fn resolve(state: &mut ComponentState, network: &Resource<Network>, name: String) -> Result<AddressStream> {
    state.table.get(network)?;
    let pod = state.net.pod.clone();
    Ok(AddressStream::Pending(wasmtime_wasi::runtime::spawn(async move {
        pod.resolve(&name).await.map_err(|error| match error {
            ResolveError::NotFound(_) => ErrorCode::NameUnresolvable,
            ResolveError::InvalidName(_) => ErrorCode::InvalidArgument,
            ResolveError::Denied(_) => ErrorCode::AccessDenied,
            ResolveError::Temporary { .. } => ErrorCode::TemporaryResolverFailure,
        })
    })))
}

type Next = std::result::Result<Option<IpAddress>, ErrorCode>;

fn next_address(stream: &mut AddressStream) -> Next {
    match stream {
        AddressStream::Pending(_) => Err(ErrorCode::WouldBlock),
        AddressStream::Ready(Ok(addresses)) => Ok(addresses.next().map(Into::into)),
        AddressStream::Ready(Err(error)) => Err(*error),
    }
}

/// The version wasmtime registers its interfaces under; the linker takes it for every compatible 0.2.x.
const NAME_LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// After `wasmtime_wasi::p2::add_to_linker_async`: replaces what carries addresses, families and names.
pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> Result<()> {
    linker.allow_shadowing(true);
    tcp::add_to_linker::<ComponentState, PodSockets>(linker, view)?;
    udp::add_to_linker::<ComponentState, PodSockets>(linker, view)?;
    tcp_create_socket::add_to_linker::<ComponentState, PodSockets>(linker, view)?;
    udp_create_socket::add_to_linker::<ComponentState, PodSockets>(linker, view)?;
    let mut lookup = linker.instance(NAME_LOOKUP)?;
    lookup.resource("resolve-address-stream", ResourceType::host::<AddressStream>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<AddressStream>::new_own(rep))?;
        Ok(())
    })?;
    lookup.func_wrap("resolve-addresses", |mut store, (network, name): (Resource<Network>, String)| {
        let state: &mut ComponentState = store.data_mut();
        let stream = resolve(state, &network, name)?;
        let answer: std::result::Result<_, ErrorCode> = Ok(state.table.push(stream)?);
        Ok((answer,))
    })?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store, (stream,): (Resource<AddressStream>,)| {
            Ok((next_address(store.data_mut().table.get_mut(&stream)?),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store, (stream,): (Resource<AddressStream>,)| {
            let pollable: Resource<DynPollable> = subscribe(&mut store.data_mut().table, stream)?;
            Ok((pollable,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
