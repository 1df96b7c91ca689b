//! wasi:sockets 0.3 through the pod's network: what carries addresses is ours, under the same policy as 0.2; the rest is
//! wasmtime's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use tokio::sync::oneshot;
use wasmtime::component::{Access, Accessor, FutureReader, HasData, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut, Result};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::{
    self, Duration, ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore,
    IpAddress, IpAddressFamily, IpSocketAddress, TcpSocket, UdpSocket,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsCtxView, WasiSocketsView};

use super::guest::ComponentState;
use super::sockets::{ContainerNetwork, Peers, SOCKETS_MAX};
use super::sockets_p3_streams::{Released, accepted_until};
use crate::network::{AddressError, ResolveError};
use crate::runtime::Protocol;

type Tcp = Resource<TcpSocket>;
type Udp = Resource<UdpSocket>;

/// The 0.3 sockets of one store, by their numbers. A socket's streams outlive its handle and count until they end.
#[derive(Default)]
pub(super) struct Held {
    open: Arc<AtomicU32>,
    permits: HashMap<u32, Arc<Permit>>,
}

/// One socket's part of [`SOCKETS_MAX`].
pub(super) struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn code_of(error: AddressError) -> ErrorCode {
    match error {
        AddressError::NotBindable => ErrorCode::AddressNotBindable,
        AddressError::Ipv6Unsupported => ErrorCode::NotSupported,
        AddressError::Denied | AddressError::NotAllowed => ErrorCode::AccessDenied,
        AddressError::Refused => ErrorCode::ConnectionRefused,
        AddressError::Closed => ErrorCode::InvalidState,
    }
}

fn denied(error: AddressError) -> SocketError {
    code_of(error).into()
}

pub(super) struct PodView<'a> {
    wasi: WasiSocketsCtxView<'a>,
    net: &'a Arc<ContainerNetwork>,
    /// Those of 0.2: a guest may have both.
    others: u32,
    held: &'a mut Held,
    peers: &'a mut Peers,
}

pub(super) struct PodSockets;

impl HasData for PodSockets {
    type Data<'a> = PodView<'a>;
}

pub(super) fn view(state: &mut ComponentState) -> PodView<'_> {
    let ComponentState { wasi, table, net, sockets_open, held, peers, .. } = state;
    let held = held.get_or_insert_default();
    PodView {
        wasi: WasiSocketsCtxView { ctx: wasi.sockets(), table },
        net,
        others: *sockets_open,
        held,
        peers,
    }
}

fn plain(state: &mut ComponentState) -> WasiSocketsCtxView<'_> {
    WasiSocketsView::sockets(state)
}

impl PodView<'_> {
    fn permit(&mut self) -> Option<Arc<Permit>> {
        let permit = Permit(self.held.open.clone());
        let before = self.held.open.fetch_add(1, Ordering::Relaxed);
        (before.saturating_add(self.others) < SOCKETS_MAX).then(|| Arc::new(permit))
    }

    /// For an accepted connection. False: there are too many, and it is dropped.
    pub fn keep_accepted(&mut self, socket: &Tcp) -> bool {
        let permit = self.permit();
        let kept = permit.is_some();
        self.held.permits.extend(permit.map(|permit| (socket.rep(), permit)));
        kept
    }

    pub fn drop_accepted(&mut self, socket: Tcp) -> Result<()> {
        self.wasi.table.delete(socket)?;
        Ok(())
    }

    fn permit_of(&self, rep: u32) -> Option<Arc<Permit>> {
        self.held.permits.get(&rep).cloned()
    }

    fn local(&mut self, rep: u32) -> Option<SocketAddr> {
        HostTcpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(rep)).ok().map(SocketAddr::from)
    }

    /// Sends from the pod's address, and not the node's.
    fn bind_datagrams(&mut self, rep: u32, real: SocketAddr) -> SocketResult<()> {
        if HostUdpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(rep)).is_ok() {
            return Ok(());
        }
        let source = self.net.pod.source_address(real);
        HostUdpSocket::bind(&mut self.wasi, Resource::new_borrow(rep), source.into())
            .now_or_never()
            .unwrap_or_else(|| Err(ErrorCode::InvalidState.into()))?;
        let bound = HostUdpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(rep))?;
        self.net.pod.note_bound(Protocol::Udp, bound.into(), false);
        Ok(())
    }

    /// Where a connect really goes; the socket is bound to the pod's address before.
    fn connecting(&mut self, rep: u32, remote: SocketAddr) -> SocketResult<SocketAddr> {
        let real = self.net.pod.connect_address(remote, Protocol::Tcp).map_err(denied)?;
        if self.net.pod.seen_by_guest(real) != remote && !remote.ip().is_unspecified() {
            self.peers.insert(rep, remote);
        }
        if self.local(rep).is_none() {
            // Peers must see the pod's address, not the node's. Async only because of the address check; ours never waits.
            let source = self.net.pod.source_address(real);
            HostTcpSocket::bind(&mut self.wasi, Resource::new_borrow(rep), source.into())
                .now_or_never()
                .unwrap_or_else(|| Err(ErrorCode::InvalidState.into()))?;
        }
        Ok(real)
    }
}

impl types::Host for PodView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.wasi, error)
    }
}

impl HostTcpSocketWithStore<ComponentState> for PodSockets {
    async fn connect(
        store: &Accessor<ComponentState, Self>,
        this: Tcp,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        let real = store.with(|mut access| access.get().connecting(this.rep(), remote.into()))?;
        let store = store.with_getter::<WasiSockets>(plain);
        <WasiSockets as HostTcpSocketWithStore<ComponentState>>::connect(&store, this, real.into()).await
    }

    async fn listen(
        mut store: Access<'_, ComponentState, Self>,
        this: Tcp,
    ) -> SocketResult<StreamReader<Tcp>> {
        let rep = this.rep();
        let mut view = store.get();
        let terminating = view.net.terminating.clone();
        if terminating.is_cancelled() {
            return Err(ErrorCode::InvalidState.into());
        }
        if view.local(rep).is_none() {
            // The wildcard would be the node's.
            let any = match HostTcpSocket::get_address_family(&mut view, Resource::new_borrow(rep)) {
                Ok(IpAddressFamily::Ipv6) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                _ => std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            };
            let any = SocketAddr::new(any, 0);
            HostTcpSocket::bind(&mut view, Resource::new_borrow(rep), any.into()).await?;
        }
        let inner = Access::<_, WasiSockets>::new(store.as_context_mut(), plain);
        let accepted = <WasiSockets as HostTcpSocketWithStore<ComponentState>>::listen(inner, this).await?;
        let mut view = store.get();
        if let Some(local) = view.local(rep) {
            view.net.note_listening(local);
        }
        accepted_until(terminating, accepted, store.as_context_mut()).map_err(SocketError::trap)
    }

    fn send(
        mut store: Access<'_, ComponentState, Self>,
        this: Tcp,
        data: StreamReader<u8>,
    ) -> Result<FutureReader<Result<(), ErrorCode>>> {
        let permit = store.get().permit_of(this.rep());
        let inner = Access::<_, WasiSockets>::new(store.as_context_mut(), plain);
        let done = <WasiSockets as HostTcpSocketWithStore<ComponentState>>::send(inner, this, data)?;
        held_until(done, permit, store.as_context_mut())
    }

    fn receive(
        mut store: Access<'_, ComponentState, Self>,
        this: Tcp,
    ) -> Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let permit = store.get().permit_of(this.rep());
        let inner = Access::<_, WasiSockets>::new(store.as_context_mut(), plain);
        let (data, done) = <WasiSockets as HostTcpSocketWithStore<ComponentState>>::receive(inner, this)?;
        Ok((data, held_until(done, permit, store.as_context_mut())?))
    }
}

type Done = std::result::Result<(), ErrorCode>;

/// A stream's last word, passed on; the socket counts until then.
fn held_until(
    done: FutureReader<Done>,
    permit: Option<Arc<Permit>>,
    mut store: impl AsContextMut<Data = ComponentState>,
) -> Result<FutureReader<Done>> {
    let (sender, receiver) = oneshot::channel();
    done.pipe(&mut store, Released::new(permit, sender))?;
    FutureReader::new(&mut store, receiver)
}

/// Functions that are wasmtime's as they stand.
macro_rules! forward {
    ($interface:ident: $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, $($arg: $type),*) -> $result { $interface::$name(&mut self.wasi, $($arg),*) })*
    };
}

impl HostTcpSocket for PodView<'_> {
    async fn bind(&mut self, this: Tcp, local: IpSocketAddress) -> SocketResult<()> {
        let wanted: SocketAddr = local.into();
        let real = self.net.pod.bind_address(wanted).map_err(denied)?;
        let rep = this.rep();
        HostTcpSocket::bind(&mut self.wasi, this, real.into()).await?;
        // Port 0 has become a real one.
        if let Some(bound) = self.local(rep) {
            self.net.pod.note_bound(Protocol::Tcp, bound, wanted.ip().is_unspecified());
        }
        Ok(())
    }

    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Tcp> {
        self.has_family(family)?;
        let permit = self.permit().ok_or(ErrorCode::OutOfMemory)?;
        let socket = HostTcpSocket::create(&mut self.wasi, family)?;
        self.held.permits.insert(socket.rep(), permit);
        Ok(socket)
    }

    fn get_local_address(&mut self, this: Tcp) -> SocketResult<IpSocketAddress> {
        let real = HostTcpSocket::get_local_address(&mut self.wasi, this)?;
        Ok(self.net.pod.seen_by_guest(real.into()).into())
    }

    fn get_remote_address(&mut self, this: Tcp) -> SocketResult<IpSocketAddress> {
        let service = self.peers.get(&this.rep()).copied();
        let real = HostTcpSocket::get_remote_address(&mut self.wasi, this)?;
        Ok(service.unwrap_or_else(|| self.net.pod.seen_by_guest(real.into())).into())
    }

    fn drop(&mut self, this: Tcp) -> Result<()> {
        let rep = this.rep();
        let listening = HostTcpSocket::get_is_listening(&mut self.wasi, Resource::new_borrow(rep))?;
        if let Some(local) = self.local(rep) {
            self.net.note_closed(local, listening);
        }
        self.peers.remove(&rep);
        self.held.permits.remove(&rep);
        HostTcpSocket::drop(&mut self.wasi, this)
    }

    forward! { HostTcpSocket:
        get_is_listening(this: Tcp) -> Result<bool>;
        get_address_family(this: Tcp) -> Result<IpAddressFamily>;
        set_listen_backlog_size(this: Tcp, value: u64) -> SocketResult<()>;
        get_keep_alive_enabled(this: Tcp) -> SocketResult<bool>;
        set_keep_alive_enabled(this: Tcp, value: bool) -> SocketResult<()>;
        get_keep_alive_idle_time(this: Tcp) -> SocketResult<Duration>;
        set_keep_alive_idle_time(this: Tcp, value: Duration) -> SocketResult<()>;
        get_keep_alive_interval(this: Tcp) -> SocketResult<Duration>;
        set_keep_alive_interval(this: Tcp, value: Duration) -> SocketResult<()>;
        get_keep_alive_count(this: Tcp) -> SocketResult<u32>;
        set_keep_alive_count(this: Tcp, value: u32) -> SocketResult<()>;
        get_hop_limit(this: Tcp) -> SocketResult<u8>;
        set_hop_limit(this: Tcp, value: u8) -> SocketResult<()>;
        get_receive_buffer_size(this: Tcp) -> SocketResult<u64>;
        set_receive_buffer_size(this: Tcp, value: u64) -> SocketResult<()>;
        get_send_buffer_size(this: Tcp) -> SocketResult<u64>;
        set_send_buffer_size(this: Tcp, value: u64) -> SocketResult<()>;
    }
}

impl HostUdpSocketWithStore<ComponentState> for PodSockets {
    async fn send(
        store: &Accessor<ComponentState, Self>,
        this: Udp,
        data: Vec<u8>,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        let remote = store.with(|mut access| {
            let mut view = access.get();
            let Some(remote) = remote else { return SocketResult::Ok(None) };
            let real = view.net.pod.datagram_address(remote.into()).map_err(denied)?;
            view.bind_datagrams(this.rep(), real)?;
            Ok(Some(real.into()))
        })?;
        let store = store.with_getter::<WasiSockets>(plain);
        <WasiSockets as HostUdpSocketWithStore<ComponentState>>::send(&store, this, data, remote).await
    }

    async fn receive(
        store: &Accessor<ComponentState, Self>,
        this: Udp,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let inner = store.with_getter::<WasiSockets>(plain);
        let (data, from) =
            <WasiSockets as HostUdpSocketWithStore<ComponentState>>::receive(&inner, this).await?;
        let from = store.with(|mut access| access.get().net.pod.datagram_source(from.into()));
        Ok((data, from.into()))
    }
}

impl HostUdpSocket for PodView<'_> {
    async fn bind(&mut self, this: Udp, local: IpSocketAddress) -> SocketResult<()> {
        let wanted: SocketAddr = local.into();
        let real = self.net.pod.bind_address(wanted).map_err(denied)?;
        let rep = this.rep();
        HostUdpSocket::bind(&mut self.wasi, this, real.into()).await?;
        let bound = HostUdpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(rep))?;
        self.net.pod.note_bound(Protocol::Udp, bound.into(), wanted.ip().is_unspecified());
        Ok(())
    }

    async fn connect(&mut self, this: Udp, remote: IpSocketAddress) -> SocketResult<()> {
        let real = self.net.pod.datagram_address(remote.into()).map_err(denied)?;
        self.bind_datagrams(this.rep(), real)?;
        HostUdpSocket::connect(&mut self.wasi, this, real.into()).await
    }

    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Udp> {
        self.has_family(family)?;
        let permit = self.permit().ok_or(ErrorCode::OutOfMemory)?;
        let socket = HostUdpSocket::create(&mut self.wasi, family).await?;
        self.held.permits.insert(socket.rep(), permit);
        Ok(socket)
    }

    fn get_local_address(&mut self, this: Udp) -> SocketResult<IpSocketAddress> {
        let real = HostUdpSocket::get_local_address(&mut self.wasi, this)?;
        Ok(self.net.pod.seen_by_guest(real.into()).into())
    }

    fn get_remote_address(&mut self, this: Udp) -> SocketResult<IpSocketAddress> {
        let real = HostUdpSocket::get_remote_address(&mut self.wasi, this)?;
        Ok(self.net.pod.datagram_source(real.into()).into())
    }

    fn drop(&mut self, this: Udp) -> Result<()> {
        let rep = this.rep();
        if let Ok(local) = HostUdpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(rep)) {
            self.net.pod.note_unbound(Protocol::Udp, local.into());
        }
        self.held.permits.remove(&rep);
        HostUdpSocket::drop(&mut self.wasi, this)
    }

    forward! { HostUdpSocket:
        disconnect(this: Udp) -> SocketResult<()>;
        get_address_family(this: Udp) -> Result<IpAddressFamily>;
        get_unicast_hop_limit(this: Udp) -> SocketResult<u8>;
        set_unicast_hop_limit(this: Udp, value: u8) -> SocketResult<()>;
        get_receive_buffer_size(this: Udp) -> SocketResult<u64>;
        set_receive_buffer_size(this: Udp, value: u64) -> SocketResult<()>;
        get_send_buffer_size(this: Udp) -> SocketResult<u64>;
        set_send_buffer_size(this: Udp, value: u64) -> SocketResult<()>;
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

impl ip_name_lookup::Host for PodView<'_> {}

impl ip_name_lookup::HostWithStore<ComponentState> for PodSockets {
    async fn resolve_addresses(
        store: &Accessor<ComponentState, Self>,
        name: String,
    ) -> Result<std::result::Result<Vec<IpAddress>, ip_name_lookup::ErrorCode>> {
        let pod = store.with(|mut access| access.get().net.pod.clone());
        Ok(match pod.resolve(&name).await {
            Ok(addresses) => Ok(addresses.into_iter().map(IpAddress::from).collect()),
            Err(error) => Err(match error {
                ResolveError::NotFound(_) => ip_name_lookup::ErrorCode::NameUnresolvable,
                ResolveError::InvalidName(_) => ip_name_lookup::ErrorCode::InvalidArgument,
                ResolveError::Denied(_) => ip_name_lookup::ErrorCode::AccessDenied,
                ResolveError::Temporary { .. } => ip_name_lookup::ErrorCode::TemporaryResolverFailure,
            }),
        })
    }
}

/// After `wasmtime_wasi::p3::add_to_linker`: replaces all of wasi:sockets.
pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<ComponentState, PodSockets>(linker, view)?;
    ip_name_lookup::add_to_linker::<ComponentState, PodSockets>(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}
