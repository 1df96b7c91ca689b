//! Compaction of etcd, once for all the apiservers that share it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use tokio_util::sync::CancellationToken;

use super::{super::Error, REQUEST_TIMEOUT, revision_of, within};

/// Upstream's key: kube-apiservers and ours can share an etcd.
const COMPACTION_KEY: &str = "compact_rev_key";

/// Upstream's compactor: every interval the first of all apiservers to raise the key's version compacts to the revision
/// it saw an interval ago.
pub(super) struct Compactor {
    pub(super) client: Client,
    pub(super) size: Arc<AtomicU64>,
    pub(super) version: i64,
    pub(super) revision: i64,
}

impl Compactor {
    pub(super) async fn run(mut self, interval: Duration, closed: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = closed.cancelled() => return,
            }
            if let Err(error) = self.compact().await {
                tracing::warn!(%error, "store: compaction");
            }
        }
    }

    pub(super) async fn compact(&mut self) -> Result<(), Error> {
        let transaction = Txn::new()
            .when([Compare::version(COMPACTION_KEY, CompareOp::Equal, self.version)])
            .and_then([TxnOp::put(COMPACTION_KEY, self.revision.to_string(), None)])
            .or_else([TxnOp::get(COMPACTION_KEY, None)]);
        let answer = within(REQUEST_TIMEOUT, "agree on compaction", self.client.txn(transaction)).await?;
        let seen = revision_of(answer.header())? as i64;
        let compact_to = std::mem::replace(&mut self.revision, seen);
        if !answer.succeeded() {
            let found = answer.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
                _ => None,
            });
            self.version = found.map_or(0, |pair| pair.version());
            return Ok(());
        }
        self.version += 1;
        if compact_to > 0 {
            match within(REQUEST_TIMEOUT, "compact etcd", self.client.compact(compact_to, None)).await {
                // Somebody else was there first.
                Ok(_) | Err(Error::Compacted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let status = within(REQUEST_TIMEOUT, "ask etcd for its status", self.client.status()).await?;
        self.size.store(status.db_size() as u64, Ordering::Relaxed);
        Ok(())
    }
}
