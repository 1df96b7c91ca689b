//! CertificateRequester: who asks for a certificate is who sent the request, whatever the body says.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{Attributes, Operation, Plugin};
use crate::kinds::set_requester;
use crate::object::ApiObject;

pub struct CertificateRequester;

#[async_trait]
impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.operation == Operation::Create
            && let Some(request) =
                object.and_then(|o| o.as_any_mut().downcast_mut::<CertificateSigningRequest>())
        {
            let who = &attributes.call.identity;
            set_requester(request, &who.name, who.uid.as_deref(), &who.groups, &who.extra);
        }
        Ok(())
    }
}
