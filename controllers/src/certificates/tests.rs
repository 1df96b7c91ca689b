//! Requests from asking to signing, and what is refused.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::Request;
use super::rules::{self, Addresses, Approval};
use super::signer::Signer;
use super::{KUBELET_CLIENT, KUBELET_SERVING, find};
use crate::Options;
use crate::testing::{Cluster, from};

fn signer() -> Signer {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Signer::new(&certificate.pem(), &key.serialize_pem()).unwrap()
}

fn pem(organization: &str, name: &str, dns: &[&str], addresses: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = dns.iter().map(|d| SanType::DnsName((*d).try_into().unwrap())).collect();
    let addresses = addresses.iter().map(|a| SanType::IpAddress(a.parse::<IpAddr>().unwrap()));
    params.subject_alt_names.extend(addresses);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap().into_bytes()
}

fn spec(signer: &str, user: &str, groups: &[&str], request: Vec<u8>) -> CertificateSigningRequestSpec {
    let auth = if signer == KUBELET_SERVING { "server auth" } else { "client auth" };
    CertificateSigningRequestSpec {
        signer_name: signer.into(),
        username: Some(user.into()),
        groups: Some(groups.iter().map(|g| (*g).to_owned()).collect()),
        usages: Some(vec!["digital signature".into(), auth.into()]),
        request: ByteString(request),
        ..CertificateSigningRequestSpec::default()
    }
}

#[test]
fn who_is_approved() {
    let node = "system:node:n1";
    let nodes: &[&str] = &["system:nodes"];
    let addresses = |own: &[&str], others: &[&str]| Addresses {
        own: own.iter().map(|a| (*a).to_owned()).collect(),
        others: others.iter().map(|a| (*a).to_owned()).collect(),
        services: ["10.96.0.1".to_owned()].into(),
    };
    let known = addresses(&["10.0.0.1", "n1.lan"], &["10.0.0.2"]);
    let unknown = addresses(&[], &["10.0.0.2"]);
    // What a node says of itself is not all true.
    let lying = addresses(&["10.96.0.1", "kubernetes.default.svc"], &[]);
    let csr = |dns: &[&str], ips: &[&str]| pem("system:nodes", node, dns, ips);
    for (signer, user, groups, request, addresses, want) in [
        (KUBELET_CLIENT, "system:bootstrap:x", &["system:bootstrappers"][..], csr(&[], &[]), &known, true),
        (KUBELET_CLIENT, node, nodes, csr(&[], &[]), &known, true),
        (KUBELET_CLIENT, "system:node:n2", nodes, csr(&[], &[]), &known, false),
        (KUBELET_CLIENT, "alice", &[], csr(&[], &[]), &known, false),
        (KUBELET_SERVING, node, nodes, csr(&["n1"], &["10.0.0.1"]), &known, true),
        (KUBELET_SERVING, node, nodes, csr(&["n1.lan"], &["10.0.0.1", "127.0.0.1"]), &known, true),
        (KUBELET_SERVING, node, nodes, csr(&["n1"], &["10.0.0.9"]), &known, false),
        (KUBELET_SERVING, node, nodes, csr(&["kubernetes.default"], &[]), &known, false),
        (KUBELET_SERVING, "system:node:n2", nodes, csr(&["n1"], &["10.0.0.1"]), &known, false),
        (KUBELET_SERVING, "system:bootstrap:x", &["system:bootstrappers"], csr(&["n1"], &[]), &known, false),
        (KUBELET_SERVING, node, nodes, csr(&["n1"], &["10.0.0.9"]), &unknown, true),
        (KUBELET_SERVING, node, nodes, csr(&["n1"], &["10.0.0.2"]), &unknown, false),
        (KUBELET_SERVING, node, nodes, csr(&["n1"], &["10.96.0.1"]), &unknown, false),
        (KUBELET_SERVING, node, nodes, csr(&["n1"], &["10.96.0.1"]), &lying, false),
        (KUBELET_SERVING, node, nodes, csr(&["Kubernetes.default.svc"], &[]), &lying, false),
        (KUBELET_SERVING, node, nodes, csr(&["kubernetes.default.svc"], &[]), &lying, false),
    ] {
        let parsed = Request::parse(&request).unwrap();
        let spec = spec(signer, user, groups, request);
        assert_eq!(rules::validate(&spec, &parsed), Ok(()));
        let got = matches!(rules::approve(&spec, &parsed, addresses), Approval::Yes(_));
        assert_eq!(got, want, "{signer} {user} {:?} {:?}", parsed.dns, parsed.addresses);
    }
}

#[test]
fn what_a_signer_refuses() {
    for (signer, request, want) in [
        (KUBELET_CLIENT, pem("other", "system:node:n", &[], &[]), "subject organization is not system:nodes"),
        (
            KUBELET_CLIENT,
            pem("system:nodes", "n", &[], &[]),
            "subject common name does not begin with system:node:",
        ),
        (
            KUBELET_CLIENT,
            pem("system:nodes", "system:node:n", &["n"], &[]),
            "DNS subjectAltNames are not allowed",
        ),
        (
            KUBELET_SERVING,
            pem("system:nodes", "system:node:n", &[], &[]),
            "DNS or IP subjectAltName is required",
        ),
    ] {
        let parsed = Request::parse(&request).unwrap();
        assert_eq!(rules::validate(&spec(signer, "u", &[], request), &parsed), Err(want));
    }
    let request = pem("system:nodes", "system:node:n", &["n"], &[]);
    let parsed = Request::parse(&request).unwrap();
    let mut client = spec(KUBELET_SERVING, "u", &[], request);
    client.usages = Some(vec!["client auth".into()]);
    assert!(rules::validate(&client, &parsed).is_err());
    assert!(Request::parse(b"nonsense").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_node_asks_and_gets_its_certificate() {
    let options = Options { signer: Some(signer()), ..Options::default() };
    let cluster = Cluster::with(options);
    cluster.start(|c| Box::pin(super::approver::run(c)));
    cluster.start(|c| Box::pin(super::signer::run(c)));
    cluster.start(|c| Box::pin(super::cleaner::run(c)));
    let mut csr: CertificateSigningRequest =
        from(json!({"metadata": {"name": "csr-1"}, "spec": {"request": "", "signerName": ""}}));
    csr.spec = spec(
        KUBELET_CLIENT,
        "system:bootstrap:x",
        &["system:bootstrappers"],
        pem("system:nodes", "system:node:n1", &[], &[]),
    );
    csr.spec.expiration_seconds = Some(7200);
    cluster.context.client.create(&csr).await.unwrap();
    let get = |name: &'static str| {
        move |f: &coracle_client::fake::Fake| {
            f.get::<CertificateSigningRequest>("", name).and_then(|c| c.status?.certificate).map(|c| c.0)
        }
    };
    cluster.until("a certificate", |f| get("csr-1")(f).is_some()).await;
    let bytes = get("csr-1")(&cluster.fake).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(&bytes).unwrap();
    let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
    assert_eq!(certificate.issuer().iter_common_name().next().unwrap().as_str().unwrap(), "test-ca");
    assert_eq!(certificate.subject().iter_common_name().next().unwrap().as_str().unwrap(), "system:node:n1");
    let usage = certificate.extended_key_usage().unwrap().unwrap();
    assert!(usage.value.client_auth && !usage.value.server_auth);
    assert!(!certificate.is_ca());
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(life, 7200 + 300);

    // Approved by a person, but not what its signer signs.
    csr.metadata.name = Some("csr-2".into());
    csr.spec.request = ByteString(pem("people", "alice", &[], &[]));
    csr.status = Some(from(json!({"conditions": [{"type": "Approved", "status": "True"}]})));
    cluster.fake.put(&csr).unwrap();
    cluster
        .until("it failed", |f| {
            f.get::<CertificateSigningRequest>("", "csr-2").is_some_and(|c| {
                find(&c, "Failed").is_some_and(|c| c.reason.as_deref() == Some("SignerValidationFailure"))
            })
        })
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(cluster.fake.list::<CertificateSigningRequest>("").len(), 2, "neither is old yet");
}

#[test]
fn requests_expire_by_their_state() {
    let at = |csr: serde_json::Value| super::cleaner::expires(&from(csr)).to_string();
    let meta = json!({"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"});
    let spec = json!({"request": "", "signerName": "x"});
    let when =
        |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T05:00:00Z"}]);
    for (status, want) in [
        (json!({}), "2026-01-02T00:00:00Z"),
        (json!({"conditions": when("Denied")}), "2026-01-01T06:00:00Z"),
        (json!({"conditions": when("Failed")}), "2026-01-01T06:00:00Z"),
        (json!({"conditions": when("Approved")}), "2026-01-02T00:00:00Z"),
        (json!({"conditions": when("Approved"), "certificate": "eA=="}), "2026-01-01T06:00:00Z"),
    ] {
        assert_eq!(at(json!({"metadata": meta, "spec": spec, "status": status})), want, "{status}");
    }
}
