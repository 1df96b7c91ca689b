//! Deletes requests that nobody waits for any more.

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::{find, issued};
use crate::context::Context;

/// Upstream's figures.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub async fn run(context: Context) {
    if !context.serves::<CertificateSigningRequest>().await {
        return;
    }
    let controller =
        Controller { client: context.client.clone(), requests: context.of::<CertificateSigningRequest>() };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.requests.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    context.work_with(controller, queue, 1).await;
}

/// When the request may go.
pub(super) fn expires(csr: &CertificateSigningRequest) -> Timestamp {
    let created = csr.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    let decided = |kind: &str| {
        let at = |c: &CertificateSigningRequestCondition| {
            c.last_update_time.as_ref().or(c.last_transition_time.as_ref()).map_or(created, |t| t.0)
        };
        find(csr, kind).map(at)
    };
    let refused = decided("Denied").or_else(|| decided("Failed"));
    let (from, life) = match (refused, decided("Approved")) {
        (Some(at), _) => (at, DECIDED),
        (None, Some(at)) if issued(csr) => (at, DECIDED),
        _ => (created, PENDING),
    };
    let deadline = from.saturating_add(life).unwrap_or(Timestamp::MAX);
    // What was issued is of no use once it is over.
    ends(csr).map_or(deadline, |end| end.min(deadline))
}

/// The end of the issued certificate.
fn ends(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let pem = csr.status.as_ref()?.certificate.as_ref()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem.0).ok()?;
    Timestamp::from_second(block.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

struct Controller {
    client: Client,
    requests: Informer,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.requests.get_key(key) else { return Ok(Outcome::Done) };
        let left = expires(&object.decode()?).duration_since(Timestamp::now());
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            return Ok(Outcome::After(left));
        }
        let options = DeleteOptions::default().uid(&object.head.uid);
        match self.client.delete::<CertificateSigningRequest>("", &key.name, options).await {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}
