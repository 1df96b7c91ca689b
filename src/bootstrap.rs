//! What every cluster has before its first user comes: namespaces, the `kubernetes` Service, a join token.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use coracle_apiserver::authz::policy::Policy;
use coracle_apiserver::pki::{Pki, write_private};
use coracle_client::{ApiError, Client, PatchType};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tracing::warn;

use crate::join::Token;

pub const KUBERNETES: &str = "kubernetes";

/// Creates what is missing and corrects what has moved (the API's own address).
pub async fn ensure(
    client: &Client,
    service_address: IpAddr,
    dns_address: IpAddr,
    api_address: SocketAddr,
) -> anyhow::Result<()> {
    coracle_controllers::ensure_default_namespaces(client)
        .await
        .context("creating the default namespaces")?;
    Policy::default_policy().ensure(client).await.context("the default roles and their bindings")?;
    ensure_service(client, service_address, api_address.port()).await.context("the kubernetes Service")?;
    ensure_dns_service(client, dns_address).await;
    Ok(())
}

/// By which containers and tools find cluster DNS. It selects no pods: every node answers at the address itself.
async fn ensure_dns_service(client: &Client, address: IpAddr) {
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.into()),
        port: 53,
        protocol: Some(protocol.into()),
        target_port: Some(IntOrString::Int(53)),
        ..ServicePort::default()
    };
    let labels = [
        ("k8s-app", "kube-dns"),
        ("kubernetes.io/cluster-service", "true"),
        ("kubernetes.io/name", "CoreDNS"),
    ];
    let service = Service {
        metadata: ObjectMeta {
            name: Some("kube-dns".into()),
            namespace: Some("kube-system".into()),
            ..meta(&labels)
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            cluster_ips: Some(vec![address.to_string()]),
            type_: Some("ClusterIP".into()),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    if client.find::<Service>("kube-system", "kube-dns").await.is_ok_and(|found| found.is_some()) {
        return;
    }
    // Names resolve without it; a cluster whose other Services took the address first still starts.
    if let Err(error) = created(client.create(&service).await.map(drop)) {
        warn!(%error, "the Service kube-system/kube-dns could not be created");
    }
}

pub fn meta(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ObjectMeta {
        name: Some(KUBERNETES.into()),
        namespace: Some("default".into()),
        labels: (!labels.is_empty()).then_some(labels),
        ..ObjectMeta::default()
    }
}

async fn ensure_service(client: &Client, address: IpAddr, api_port: u16) -> Result<(), ApiError> {
    let ports = Some(vec![ServicePort {
        name: Some("https".into()),
        port: 443,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(api_port.into())),
        ..ServicePort::default()
    }]);
    match client.find::<Service>("default", KUBERNETES).await? {
        None => {
            let service = Service {
                metadata: meta(&[("component", "apiserver"), ("provider", KUBERNETES)]),
                spec: Some(ServiceSpec {
                    cluster_ip: Some(address.to_string()),
                    cluster_ips: Some(vec![address.to_string()]),
                    type_: Some("ClusterIP".into()),
                    session_affinity: Some("None".into()),
                    ports,
                    ..ServiceSpec::default()
                }),
                status: None,
            };
            created(client.create(&service).await.map(drop))
        }
        Some(mut service) => {
            let current = service.spec.get_or_insert_default();
            let same = current.ports.as_ref().and_then(|p| p.first()).and_then(|p| p.target_port.clone())
                == Some(IntOrString::Int(api_port.into()));
            if same {
                return Ok(());
            }
            current.ports = ports;
            client.update(&service).await.map(drop)
        }
    }
}

/// Another server of the same cluster may have been quicker.
pub fn created(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other,
    }
}

/// The join token in `<data>/node-token`, made when there is none, and the Secret that makes it count.
pub async fn ensure_join_token(client: &Client, pki: &Pki, data: &Path) -> anyhow::Result<Token> {
    let path = data.join("node-token");
    let token = match std::fs::read_to_string(&path) {
        Ok(text) => Token::parse(&text).with_context(|| format!("{}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let token = Token { ca_hash: pki.ca_hash()?, id: random(6), secret: random(16) };
            write_private(&path, format!("{token}\n").as_bytes())
                .with_context(|| format!("writing {}", path.display()))?;
            token
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let text = |value: &str| ByteString(value.as_bytes().to_vec());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{}", token.id)),
            namespace: Some("kube-system".into()),
            ..ObjectMeta::default()
        },
        type_: Some("bootstrap.kubernetes.io/token".into()),
        data: Some(BTreeMap::from([
            ("token-id".to_owned(), text(&token.id)),
            ("token-secret".to_owned(), text(&token.secret)),
            ("usage-bootstrap-authentication".to_owned(), text("true")),
            ("usage-bootstrap-signing".to_owned(), text("true")),
            ("description".to_owned(), text("The token in node-token, with which nodes join.")),
        ])),
        ..Secret::default()
    };
    created(client.create(&secret).await.map(drop)).context("storing the join token")?;
    Ok(token)
}

/// What whoever has a token and nothing else may know of the cluster: kube-public/cluster-info, which the bootstrap
/// signer signs with every token.
pub async fn ensure_cluster_info(client: &Client, api: SocketAddr, ca: &str) -> anyhow::Result<()> {
    const NAME: &str = "cluster-info";
    let wanted = crate::kubeconfig::render_cluster(&format!("https://{api}"), ca)?;
    let failed = "the cluster's description in kube-public";
    match client.find::<ConfigMap>("kube-public", NAME).await.context(failed)? {
        None => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.into()),
                    namespace: Some("kube-public".into()),
                    ..ObjectMeta::default()
                },
                data: Some(BTreeMap::from([("kubeconfig".to_owned(), wanted)])),
                ..ConfigMap::default()
            };
            created(client.create(&map).await.map(drop)).context(failed)
        }
        Some(map) => {
            if map.data.is_some_and(|data| data.get("kubeconfig") == Some(&wanted)) {
                return Ok(());
            }
            // Another server's signer writes its signatures here meanwhile: no conflict with that.
            let patch = serde_json::json!({"data": {"kubeconfig": wanted}});
            let patched =
                client.patch::<ConfigMap>("kube-public", NAME, None, PatchType::Merge, &patch).await;
            patched.map(drop).context(failed)
        }
    }
}

/// Lower-case letters and digits from the system's generator.
fn random(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}
