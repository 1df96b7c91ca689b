//! The server with real TLS: who may enter, and what it answers.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, user: &str, group: Option<&str>) -> ServingIdentity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        ServingIdentity { certificate, key: key.serialize_pem() }
    }

    fn client(&self, identity: Option<&ServingIdentity>) -> tokio_rustls::TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        Arc::new(config).into()
    }
}

async fn get(
    connector: &tokio_rustls::TlsConnector,
    address: SocketAddr,
    path: &str,
) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn only_the_apiserver_and_masters_enter_and_certificates_rotate() {
    let authority = Authority::new();
    let (sender, receiver) = watch::channel(authority.issue("system:node:n1", Some("system:nodes")));
    let node = crate::pods::testing::Node::start().await;
    node.apply(crate::pods::testing::pod(
        serde_json::json!({"fake.coracle.dev/log": "hello"}),
        serde_json::json!({}),
    ));
    node.until("ready", crate::pods::testing::is_ready).await;
    let site = Arc::new(Site {
        context: node.pods.context().clone(),
        pods: node.informer.clone(),
        rates: Default::default(),
        streams: Default::default(),
    });
    let listener = listen([127, 0, 0, 1].into(), 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let gate = Gate::new(Some(site.context.client.clone()), site.context.node.name.clone());
    let (routes, end) = (router(site), shutdown.clone());
    let serving = tokio::spawn(serve(listener, receiver, authority.pem.clone(), routes, gate, end));

    assert!(get(&authority.client(None), address, "/healthz").await.is_err(), "no certificate");
    let stranger = Authority::new().issue("x", Some("system:masters"));
    assert!(get(&authority.client(Some(&stranger)), address, "/healthz").await.is_err(), "another CA's");
    let nobody = authority.issue("alice", Some("developers"));
    let answer = get(&authority.client(Some(&nobody)), address, "/pods").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.ends_with("Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])"),
        "{answer}"
    );

    let apiserver =
        authority.client(Some(&authority.issue("kube-apiserver-kubelet-client", Some("system:masters"))));
    for (path, code, text) in [
        ("/healthz", 200, "ok"),
        ("/pods", 200, "\"kind\":\"PodList\""),
        ("/metrics", 200, "kubelet_running_pods 1"),
        ("/metrics", 200, "coracle_container_instances{namespace=\"ns\",pod=\"p\",container=\"c\"}"),
        (
            "/metrics/resource",
            200,
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"}",
        ),
        ("/metrics/cadvisor", 200, "namespace=\"ns\",pod=\"p\"}"),
        ("/stats/summary", 200, "\"podRef\":{\"name\":\"p\",\"namespace\":\"ns\""),
        ("/containerLogs/ns/p/c", 200, "hello\n"),
        ("/containerLogs/ns/p/c?tailLines=0", 200, ""),
        ("/containerLogs/ns/p/c?tailLines=x", 400, "invalid value"),
        (
            "/containerLogs/ns/p/c?previous=true",
            400,
            "previous terminated container \"c\" in pod \"p\" not found",
        ),
        ("/containerLogs/ns/p/nope", 400, "container nope is not valid for pod p"),
        ("/containerLogs/ns/nope/c", 404, "pod \"nope\" not found"),
        ("/exec/ns/p/c", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/ns/p/c?output=1", 400, "Upgrade request required"),
        ("/exec/ns/p/nope?output=1", 500, "container not found (\"nope\")"),
        ("/exec/ns/nope/c?output=1", 404, "pod does not exist"),
        ("/nowhere", 404, "404 page not found"),
    ] {
        let answer = get(&apiserver, address, path).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(text),
            "{path}: {answer}"
        );
    }
    let following = {
        let apiserver = apiserver.clone();
        tokio::spawn(async move { get(&apiserver, address, "/containerLogs/ns/p/c?follow=true").await })
    };
    node.fake
        .client("test")
        .delete::<k8s_openapi::api::core::v1::Pod>("ns", "p", coracle_client::DeleteOptions::grace(1))
        .await
        .unwrap();
    let answer = following.await.unwrap().unwrap();
    assert!(answer.contains("hello"), "following ends with the container: {answer}");

    let other = Authority::new();
    sender.send(other.issue("system:node:n1", None)).unwrap();
    let trusting_other = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(other.pem.as_bytes()).unwrap()).unwrap();
        let identity = authority.issue("kube-apiserver", None);
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
                )
                .unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while get(&trusting_other, address, "/healthz").await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is served");
    }
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}
