//! Which requests are sound for their signer, and which are approved without a person.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;

use super::request::Request;
use super::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};

const NODES: &str = "system:nodes";
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODE_PREFIX: &str = "system:node:";

/// Whether the signer may sign this, by upstream's rules for each signer; Err: why not.
pub fn validate(spec: &CertificateSigningRequestSpec, request: &Request) -> Result<(), &'static str> {
    let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let exactly = |wanted: [&str; 2]| {
        let mut without_encipherment = usages.clone();
        without_encipherment.remove("key encipherment");
        without_encipherment == BTreeSet::from(wanted)
    };
    match spec.signer_name.as_str() {
        KUBELET_CLIENT => {
            validate_node(request)?;
            if !request.dns.is_empty() {
                return Err("DNS subjectAltNames are not allowed");
            }
            if !request.addresses.is_empty() {
                return Err("IP subjectAltNames are not allowed");
            }
            if !exactly(["digital signature", "client auth"]) {
                return Err(
                    "usages did not match [client auth digital signature] or [client auth digital signature key encipherment]",
                );
            }
            Ok(())
        }
        KUBELET_SERVING => {
            validate_node(request)?;
            if request.dns.is_empty() && request.addresses.is_empty() {
                return Err("DNS or IP subjectAltName is required");
            }
            if !exactly(["digital signature", "server auth"]) {
                return Err(
                    "usages did not match [digital signature server auth] or [digital signature key encipherment server auth]",
                );
            }
            Ok(())
        }
        CLIENT => {
            let allowed = BTreeSet::from(["client auth", "digital signature", "key encipherment"]);
            if !usages.contains("client auth") || !usages.is_subset(&allowed) {
                return Err("usages did not match [client auth digital signature key encipherment]");
            }
            Ok(())
        }
        LEGACY => Ok(()),
        _ => Err("unknown signer"),
    }
}

fn validate_node(request: &Request) -> Result<(), &'static str> {
    if request.organizations() != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if !request.common_name().starts_with(NODE_PREFIX) {
        return Err("subject common name does not begin with system:node:");
    }
    if !request.emails.is_empty() {
        return Err("Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed");
    }
    Ok(())
}

/// The names and addresses of nodes, as far as the API knows them and the request asks for them.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Of the node that asks; empty until it has registered.
    pub own: BTreeSet<String>,
    /// Of other nodes. Several nodes of one machine may share one.
    pub others: BTreeSet<String>,
    /// Of services: never a node's, whatever its status says.
    pub services: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    Yes(&'static str),
    /// Someone else decides, or a change of the node will.
    NotOurs,
}

/// Whether to approve, for a request that is valid for its signer.
pub fn approve(spec: &CertificateSigningRequestSpec, request: &Request, addresses: &Addresses) -> Approval {
    let username = spec.username.as_deref().unwrap_or_default();
    let in_group = |group: &str| spec.groups.iter().flatten().any(|g| g == group);
    let own = username == request.common_name() && in_group(NODES);
    match spec.signer_name.as_str() {
        KUBELET_CLIENT if own => {
            Approval::Yes("Auto approving self kubelet client certificate after SubjectAccessReview.")
        }
        KUBELET_CLIENT if in_group(BOOTSTRAPPERS) => {
            Approval::Yes("Auto approving kubelet client certificate after SubjectAccessReview.")
        }
        KUBELET_SERVING if own && names_fit(request, addresses) => {
            Approval::Yes("Auto approving kubelet serving certificate: the names are the node's own.")
        }
        _ => Approval::NotOurs,
    }
}

/// The names under which guests know the API: a node that served them could take in credentials.
fn is_of_the_api(dns: &str) -> bool {
    let dns = dns.to_ascii_lowercase();
    dns == "kubernetes" || dns == "kubernetes.default" || dns.starts_with("kubernetes.default.")
}

/// A node's certificate names that node and nothing else. One that has not registered yet may name an address
/// that nobody else has: it needs the certificate before it registers.
fn names_fit(request: &Request, addresses: &Addresses) -> bool {
    let name = request.common_name().strip_prefix(NODE_PREFIX).unwrap_or_default();
    let dns =
        request.dns.iter().all(|dns| !is_of_the_api(dns) && (dns == name || addresses.own.contains(dns)));
    let fits = |address: &IpAddr| {
        let text = address.to_string();
        if addresses.services.contains(&text) {
            return false;
        }
        address.is_loopback()
            || addresses.own.contains(&text)
            || (addresses.own.is_empty() && !addresses.others.contains(&text))
    };
    dns && request.addresses.iter().all(fits)
}
