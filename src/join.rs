//! How a node joins: the token pins the CA, a bootstrap credential gets a client certificate by CSR, that one a
//! serving certificate.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::pki::{Pair, certificate_hash, write_private};
use coracle_client::unverified_tls::Anyone;
use coracle_client::{Client, WatchOptions};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;

pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Certificates are approved and signed by a controller; this long is waited for it.
const SIGNING_PATIENCE: Duration = Duration::from_secs(60);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// `coracle1.<sha256 of the CA certificate>.<token id>.<token secret>`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub ca_hash: String,
    pub id: String,
    pub secret: String,
}

impl Token {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let lower = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        match parts[..] {
            ["coracle1", hash, id, secret]
                if hash.len() == 64
                    && hash.bytes().all(|b| b.is_ascii_hexdigit())
                    && id.len() == 6
                    && secret.len() == 16
                    && lower(id)
                    && lower(secret) =>
            {
                Ok(Self { ca_hash: hash.into(), id: id.into(), secret: secret.into() })
            }
            _ => bail!("not a join token; it is what `coracle server` writes to DATA-DIR/node-token"),
        }
    }

    /// From the flag's value: a token, or a file that holds one.
    pub fn from_flag(value: &str) -> anyhow::Result<Self> {
        if value.starts_with("coracle1.") {
            return Self::parse(value).context("--token");
        }
        let text =
            std::fs::read_to_string(value).with_context(|| format!("--token: reading the file {value}"))?;
        Self::parse(&text).with_context(|| format!("--token: the file {value}"))
    }

    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "coracle1.{}.{}.{}", self.ca_hash, self.id, self.secret)
    }
}

/// Connects once and takes the CA certificate (PEM) out of the chain that the server shows, if it is the pinned one.
pub async fn fetch_ca(server: &http::Uri, ca_hash: &str) -> anyhow::Result<String> {
    let host = server.host().context("--server has no host")?.trim_matches(['[', ']']).to_owned();
    let port = server.port_u16().unwrap_or(443);
    let pin = Arc::new(Pin { ca_hash: ca_hash.into(), ca: Mutex::new(None), signatures: Anyone::default() });
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.clone()).with_context(|| format!("--server {server}"))?;
    let connecting = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let connected = tokio::time::timeout(CONNECT_PATIENCE, connecting)
        .await
        .with_context(|| format!("connecting to {server}: no answer in {CONNECT_PATIENCE:?}"))?;
    connected.with_context(|| format!("connecting to {server}"))?;
    let ca = pin.ca.lock().ok().and_then(|ca| ca.clone());
    ca.with_context(|| format!("{server} did not show the CA certificate that the token names"))
}

/// Accepts a chain that contains the pinned CA and is signed by it.
#[derive(Debug)]
struct Pin {
    ca_hash: String,
    ca: Mutex<Option<String>>,
    signatures: Anyone,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find_map(|certificate| {
            let pem = to_pem(certificate);
            (certificate_hash(&pem).as_deref() == Some(&self.ca_hash)).then_some((certificate, pem))
        });
        let Some((certificate, pem)) = pinned else {
            return Err(rustls::Error::General(
                "the server's CA is not the one that the token names: wrong server, or a token of another cluster"
                    .into(),
            ));
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone().into_owned())?;
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(rustls::crypto::ring::default_provider()),
        )
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if let Ok(mut ca) = self.ca.lock() {
            *ca = Some(pem);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A connection to `server` that trusts only the CA, with a client certificate or a bearer token.
pub fn config(server: &http::Uri, ca: &str, credential: Credential<'_>) -> anyhow::Result<kube::Config> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut config = kube::Config::new(server.clone());
    let (_, parsed) = x509_parser::pem::parse_x509_pem(ca.as_bytes()).context("the CA certificate")?;
    config.root_cert = Some(vec![parsed.contents]);
    match credential {
        Credential::Bearer(token) => config.auth_info.token = Some(token.into()),
        Credential::Certificate(pair) => {
            config.auth_info.client_certificate_data = Some(STANDARD.encode(&pair.certificate));
            config.auth_info.client_key_data = Some(STANDARD.encode(&pair.key).into());
        }
    }
    Ok(config)
}

pub enum Credential<'a> {
    Bearer(String),
    Certificate(&'a Pair),
}

/// What a certificate is asked for.
pub struct Wanted<'a> {
    pub signer: &'a str,
    pub node: &'a str,
    pub addresses: &'a [IpAddr],
}

/// Asks for a certificate by CSR and waits until it is signed.
pub async fn request_certificate(client: &Client, wanted: &Wanted<'_>) -> anyhow::Result<Pair> {
    request(client, wanted, false).await
}

/// Likewise, for one who may approve it: no controller approves what is not the node's own wish.
pub async fn request_approved_certificate(client: &Client, wanted: &Wanted<'_>) -> anyhow::Result<Pair> {
    request(client, wanted, true).await
}

async fn request(client: &Client, wanted: &Wanted<'_>, approve: bool) -> anyhow::Result<Pair> {
    let key = KeyPair::generate().context("making a key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", wanted.node));
    let serving = wanted.signer == SERVING_SIGNER;
    if serving {
        params.subject_alt_names.push(SanType::DnsName(wanted.node.try_into().context("the node's name")?));
        params.subject_alt_names.extend(wanted.addresses.iter().map(|a| SanType::IpAddress(*a)));
    }
    let request =
        params.serialize_request(&key).and_then(|r| r.pem()).context("making a certificate request")?;
    let usages = ["digital signature", if serving { "server auth" } else { "client auth" }];
    let csr = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: wanted.signer.into(),
            usages: Some(usages.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let created = client.create(&csr).await.context("creating the certificate signing request")?.decode()?;
    let name = created.metadata.name.clone().unwrap_or_default();
    let version = created.metadata.resource_version.clone();
    if approve {
        self::approve(client, created).await?;
    }
    let certificate = tokio::time::timeout(SIGNING_PATIENCE, signed(client, &name, version))
        .await
        .with_context(|| format!("certificate signing request {name}: not signed within {SIGNING_PATIENCE:?}; is a controller manager running?"))??;
    Ok(Pair { certificate, key: key.serialize_pem() })
}

async fn approve(client: &Client, mut csr: CertificateSigningRequest) -> anyhow::Result<()> {
    csr.status.get_or_insert_default().conditions = Some(vec![CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("VirtualNodes".into()),
        message: Some("Approved by the identity that plays the virtual nodes.".into()),
        ..CertificateSigningRequestCondition::default()
    }]);
    client
        .update_subresource(&csr, "approval")
        .await
        .map(drop)
        .context("approving the certificate signing request")
}

async fn signed(client: &Client, name: &str, version: Option<String>) -> anyhow::Result<String> {
    let resource = coracle_client::Resource::of::<CertificateSigningRequest>();
    let options = WatchOptions {
        field_selector: Some(format!("metadata.name={name}")),
        resource_version: version,
        ..WatchOptions::default()
    };
    let mut events = client.watch_objects(&resource, "", options).await?;
    while let Some(event) = events.next().await {
        let csr: CertificateSigningRequest = event?.object.decode()?;
        let Some(status) = csr.status else { continue };
        if let Some(refused) =
            status.conditions.iter().flatten().find(|c| c.type_ == "Denied" || c.type_ == "Failed")
        {
            bail!(
                "certificate signing request {name} was {}: {}",
                refused.type_.to_lowercase(),
                refused.message.as_deref().unwrap_or_default()
            );
        }
        if let Some(certificate) = status.certificate {
            return String::from_utf8(certificate.0).context("the signed certificate");
        }
    }
    bail!("certificate signing request {name}: the watch ended before it was signed")
}

/// A certificate and since when this node has it, in Unix seconds.
#[derive(Clone)]
pub struct Held {
    pub pair: Pair,
    pub since: i64,
}

impl Held {
    pub fn new(pair: Pair) -> Self {
        Self { pair, since: jiff::Timestamp::now().as_second() }
    }

    /// Renewal is due when 70 % of the life is over that it had left when it came; what does not parse, at once.
    /// Certificates are dated back a little, which matters to short ones.
    pub fn due_at(&self) -> i64 {
        validity(&self.pair.certificate).map_or(self.since, |(_, to)| due_at(self.since, to))
    }
}

fn due_at(since: i64, to: i64) -> i64 {
    since + (to - since).max(0) / 10 * 7
}

/// What a node that has joined keeps in its data directory.
pub struct Joined {
    pub ca: String,
    pub client: Held,
    /// The wasmlet's certificate, so that a restart needs no new one.
    pub serving: Option<Held>,
}

const CLIENT: &str = "client";
const SERVING: &str = "serving";

/// None where the node has not joined, or has been away for so long that its certificate has expired.
pub fn load(directory: &Path) -> Option<Joined> {
    let ca = std::fs::read_to_string(directory.join("ca.crt")).ok()?;
    Some(Joined { ca, client: load_pair(directory, CLIENT)?, serving: load_pair(directory, SERVING) })
}

fn load_pair(directory: &Path, name: &str) -> Option<Held> {
    let read = |ending: &str| std::fs::read_to_string(directory.join(format!("{name}.{ending}"))).ok();
    let pair = Pair { certificate: read("crt")?, key: read("key")? };
    let (from, to) = validity(&pair.certificate)?;
    (to > jiff::Timestamp::now().as_second()).then_some(Held { pair, since: from })
}

pub fn store_client(directory: &Path, ca: &str, pair: &Pair) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    write(directory, "ca.crt", ca)?;
    store_pair(directory, CLIENT, pair)
}

pub fn store_serving(directory: &Path, pair: &Pair) -> anyhow::Result<()> {
    store_pair(directory, SERVING, pair)
}

/// The certificate comes last: a key without its certificate is a pair that does not match, and counts as none.
fn store_pair(directory: &Path, name: &str, pair: &Pair) -> anyhow::Result<()> {
    std::fs::remove_file(directory.join(format!("{name}.crt"))).ok();
    write(directory, &format!("{name}.key"), &pair.key)?;
    write(directory, &format!("{name}.crt"), &pair.certificate)
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    write_private(&path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// The common name and the addresses that a certificate is for.
pub fn subject(certificate: &str) -> Option<(String, Vec<IpAddr>)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let parsed = pem.parse_x509().ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let names = parsed.subject_alternative_name().ok()?.map(|extension| &extension.value.general_names);
    let addresses = names.into_iter().flatten().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
        },
        _ => None,
    });
    let addresses = addresses.collect();
    Some((name, addresses))
}

/// Begin and end of a certificate's life in Unix seconds.
pub fn validity(certificate: &str) -> Option<(i64, i64)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let parsed = pem.parse_x509().ok()?;
    Some((parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_at_seven_tenths_of_the_life() {
        assert_eq!(due_at(1000, 2000), 1700);
        assert_eq!(due_at(1000, 900), 1000);
        let broken = Pair { certificate: "x".into(), key: String::new() };
        assert_eq!(Held { pair: broken, since: 5 }.due_at(), 5);
    }

    #[test]
    fn what_is_stored_is_loaded_and_says_whose_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        let certificate = params.self_signed(&key).unwrap().pem();
        let pair = Pair { certificate, key: key.serialize_pem() };
        assert!(load(directory.path()).is_none());
        store_client(directory.path(), "ca", &pair).unwrap();
        let joined = load(directory.path()).unwrap();
        assert!(joined.serving.is_none());
        let subject = subject(&joined.client.pair.certificate).unwrap();
        assert_eq!(subject, ("system:node:a".into(), vec![IpAddr::from([192, 0, 2, 1])]));
        store_serving(directory.path(), &pair).unwrap();
        assert!(load(directory.path()).unwrap().serving.is_some());
        // A renewal that was cut short leaves no pair of two halves.
        std::fs::remove_file(directory.path().join("client.crt")).unwrap();
        assert!(load(directory.path()).is_none());
    }

    #[test]
    fn tokens_parse_whole_or_not_at_all() {
        let text = format!("coracle1.{}.abcdef.0123456789abcdef", "a1".repeat(32));
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.to_string(), text);
        assert_eq!(token.bearer(), "abcdef.0123456789abcdef");
        for bad in [
            "",
            "coracle1",
            "abcdef.0123456789abcdef",
            &text[..text.len() - 1],
            &text.replace("abcdef.", "ABCDEF."),
        ] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
