//! wasi:tls: a guest's own connections secured, by the authorities that its outgoing http requests trust, too.

use std::pin::Pin;

use rustls_pki_types::ServerName;
use wasmtime::component::Linker;
use wasmtime_wasi_tls::p2::LinkOptions;
use wasmtime_wasi_tls::{
    Error, TlsProvider, TlsStream, TlsTransport, WasiTlsCtxBuilder, WasiTlsCtxView, WasiTlsView,
};

use super::guest::ComponentState;
use super::outgoing::tls_connector;

struct NodeTls;

type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn TlsStream>, Error>> + Send>>;

impl TlsProvider for NodeTls {
    fn connect(&self, server_name: String, transport: Box<dyn TlsTransport>) -> Connecting {
        Box::pin(async move {
            let name = ServerName::try_from(server_name).map_err(|_| Error::msg("invalid server name"))?;
            let connector = tls_connector().map_err(Error::msg)?;
            let stream = connector.connect(name, transport).await.map_err(Error::from)?;
            Ok(Box::new(stream) as Box<dyn TlsStream>)
        })
    }
}

impl WasiTlsView for ComponentState {
    fn tls(&mut self) -> WasiTlsCtxView<'_> {
        let new = || WasiTlsCtxBuilder::new().provider(Box::new(NodeTls)).build();
        WasiTlsCtxView { ctx: self.tls.get_or_insert_with(new), table: &mut self.table }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    let mut options = LinkOptions::default();
    // Drafts both: wasmtime has them off until they are asked for.
    options.tls(true);
    wasmtime_wasi_tls::p2::add_to_linker(linker, &options)?;
    wasmtime_wasi_tls::p3::add_to_linker(linker)
}
