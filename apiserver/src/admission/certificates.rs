//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who decides about requests for
//! certificates, and what nobody gets by one.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, ClusterTrustBundle};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Attributes, Operation, Plugin};
use crate::authn::MASTERS_GROUP;
use crate::authz;
use crate::object::ApiObject;
use crate::verbs::Call;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Whether the sender may `approve` or `sign` for a signer, by its name or for all signers of its domain.
async fn may(call: &Call, verb: &str, signer: &str) -> bool {
    let Some(authorizers) = &call.api.options.authorizer else { return true };
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let wanted = authz::Attributes {
            verb: verb.into(),
            group: "certificates.k8s.io".into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..authz::Attributes::default()
        };
        if authorizers.decide(&call.identity, &wanted).await.is_allowed() {
            return true;
        }
    }
    false
}

async fn require(call: &Call, verb: &str, signer: &str) -> Result<(), ApiError> {
    if may(call, verb, signer).await {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(ApiError::forbidden(call.kind.resource(), call.name(), why))
}

/// For the `approval` subresource, which asks itself.
pub async fn approval(call: &Call) -> Result<(), ApiError> {
    let object = call.current().await?;
    require(call, "approve", object.head.field("spec.signerName").unwrap_or_default()).await
}

pub struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        if attributes.operation != Operation::Update || call.subresource.as_deref() != Some("status") {
            return Ok(());
        }
        let request = |o: &dyn ApiObject| o.as_any().downcast_ref::<CertificateSigningRequest>().cloned();
        let (Some(new), Some(old)) = (object.and_then(request), attributes.old.and_then(request)) else {
            return Ok(());
        };
        let (new_status, old_status) = (new.status.unwrap_or_default(), old.status.unwrap_or_default());
        if new_status.certificate == old_status.certificate && new_status.conditions == old_status.conditions
        {
            return Ok(());
        }
        require(call, "sign", &old.spec.signer_name).await
    }
}

/// Who publishes a signer's certificates may `attest` for it.
pub struct ClusterTrustBundleAttest;

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let bundle = |o: &dyn ApiObject| o.as_any().downcast_ref::<ClusterTrustBundle>().cloned();
        let Some(new) = object.and_then(bundle) else { return Ok(()) };
        // As upstream: the garbage collector may take finalizers and owners off without being asked about signers.
        if attributes.old.and_then(bundle).is_some_and(|old| old.spec == new.spec) {
            return Ok(());
        }
        let signer = new.spec.signer_name.as_deref().unwrap_or_default();
        if signer.is_empty() || may(call, "attest", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to attest for signerName {signer:?}");
        Err(ApiError::forbidden(call.kind.resource(), call.name(), why))
    }
}

pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let request = object.and_then(|o| o.as_any().downcast_ref::<CertificateSigningRequest>());
        let Some(request) = request.filter(|_| attributes.operation == Operation::Create) else {
            return Ok(());
        };
        if request.spec.signer_name != CLIENT_SIGNER || !for_masters(&request.spec.request.0) {
            return Ok(());
        }
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS_GROUP} group is not allowed");
        Err(ApiError::forbidden(call.kind.resource(), call.name(), why))
    }
}

fn for_masters(pem: &[u8]) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem) else { return false };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else { return false };
    let subject = request.certification_request_info.subject;
    subject.iter_organization().any(|o| o.as_str().is_ok_and(|o| o == MASTERS_GROUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_would_make_a_master_is_seen() {
        let pem = |organization: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
            let key = rcgen::KeyPair::generate().unwrap();
            params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
        };
        assert!(for_masters(&pem("system:masters")));
        assert!(!for_masters(&pem("devs")));
        assert!(!for_masters(b"x"));
    }
}
