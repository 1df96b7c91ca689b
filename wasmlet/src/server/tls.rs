//! TLS of the node's server: a client certificate is demanded, verified, and read for who it is.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ServingIdentity;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("serving certificate: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("serving certificate: {0}")]
    Config(#[from] rustls::Error),
    #[error("client CA: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    pub user: String,
    pub groups: Vec<String>,
}

impl Peer {
    /// The apiserver and the cluster's administrators.
    pub fn may_enter(&self) -> bool {
        self.user == "kube-apiserver" || self.groups.iter().any(|group| group == "system:masters")
    }

    fn of(certificate: &[u8]) -> Self {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Peer::default() };
        let subject = parsed.subject();
        let text =
            |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
        Peer {
            user: subject.iter_common_name().find_map(text).unwrap_or_default(),
            groups: subject.iter_organization().filter_map(text).collect(),
        }
    }
}

pub fn acceptor(identity: &ServingIdentity, client_ca: &str) -> Result<Acceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
}

impl Acceptor {
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Peer)> {
        let stream = self.0.accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = certificate.map_or_else(Peer::default, |certificate| Peer::of(certificate));
        Ok((stream, peer))
    }
}
