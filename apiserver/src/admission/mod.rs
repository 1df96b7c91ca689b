//! Admission: what may still change or refuse a write, one plug-in per file, in order.

mod certificate_requester;
pub mod certificates;
mod claim_resize;
mod default_tolerations;
mod defaults;
mod escalation;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
pub(crate) mod port_claims;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
pub mod service_addresses;
mod storage_in_use;
mod taint_nodes;

use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::client::Kind;
use coracle_client::{ApiError, Resource};

use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::verbs::Call;

/// Every built-in plug-in, in upstream's order.
pub fn all() -> Vec<Arc<dyn Plugin>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(default_tolerations::DefaultTolerationSeconds),
        Arc::new(priority::Priority),
        Arc::new(defaults::DefaultStorageClass),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(claim_resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(defaults::DefaultIngressClass),
        Arc::new(certificate_requester::CertificateRequester),
        Arc::new(certificates::CertificateSigning),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(certificates::ClusterTrustBundleAttest),
        // Last: it judges what the others have left.
        Arc::new(escalation::Escalation),
        // After all others: what is charged has passed them.
        Arc::new(resource_quota::ResourceQuota::default()),
    ]
}

/// All objects of a kind, as the cache has them.
fn listed<K: Kind>(call: &Call) -> Vec<K> {
    let Ok(kind) = call.api.kind(&Resource::of::<K>()) else { return Vec::new() };
    let page = kind.cache.list(&Default::default(), None, None, None, 0).unwrap_or_default();
    page.objects.iter().filter_map(|object| object.decode().ok()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// What a plug-in sees of a write. The call says who asks and about what.
pub struct Attributes<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    /// The state before; none on create.
    pub old: Option<&'a dyn ApiObject>,
}

/// A plug-in does nothing unless it says otherwise.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// May change the object.
    async fn admit(
        &self,
        _attributes: &Attributes<'_>,
        _object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Takes for the object, which is valid by now, what exists only once (addresses, ports), and writes it in. What
    /// the write does not confirm is given back when the reservation is dropped.
    async fn reserve(
        &self,
        _attributes: &Attributes<'_>,
        _object: &mut dyn ApiObject,
    ) -> Result<Option<Box<dyn Reserved>>, Errors> {
        Ok(None)
    }

    /// The object is gone from the store.
    async fn removed(&self, _attributes: &Attributes<'_>, _object: &dyn ApiObject) {}

    /// Runs when nothing changes the object any more.
    async fn validate(
        &self,
        _attributes: &Attributes<'_>,
        _object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Something taken for a write that is not yet done.
pub trait Reserved: Send {
    /// The write went through.
    fn confirm(self: Box<Self>);
}

/// What all plug-ins took for one write.
#[derive(Default)]
pub struct Reservations(Vec<Box<dyn Reserved>>);

impl Reservations {
    pub fn confirm(self) {
        self.0.into_iter().for_each(|taken| taken.confirm());
    }
}

pub async fn reserve(
    call: &Call,
    operation: Operation,
    object: &mut dyn ApiObject,
    old: Option<&dyn ApiObject>,
) -> Result<Reservations, Errors> {
    let attributes = Attributes { call, operation, old };
    let mut taken = Reservations::default();
    for plugin in &call.api.admission {
        taken.0.extend(plugin.reserve(&attributes, object).await?);
    }
    Ok(taken)
}

pub async fn removed(call: &Call, object: &dyn ApiObject) {
    let attributes = Attributes { call, operation: Operation::Delete, old: None };
    for plugin in &call.api.admission {
        plugin.removed(&attributes, object).await;
    }
}

pub async fn admit(
    call: &Call,
    operation: Operation,
    mut object: Option<&mut dyn ApiObject>,
    old: Option<&dyn ApiObject>,
) -> Result<(), ApiError> {
    let attributes = Attributes { call, operation, old };
    for plugin in &call.api.admission {
        let object: Option<&mut dyn ApiObject> = match &mut object {
            Some(object) => Some(&mut **object),
            None => None,
        };
        plugin.admit(&attributes, object).await?;
    }
    Ok(())
}

pub async fn validate(
    call: &Call,
    operation: Operation,
    object: Option<&dyn ApiObject>,
    old: Option<&dyn ApiObject>,
) -> Result<(), ApiError> {
    let attributes = Attributes { call, operation, old };
    for plugin in &call.api.admission {
        plugin.validate(&attributes, object).await?;
    }
    Ok(())
}
