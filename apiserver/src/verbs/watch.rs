//! GET of a collection's changes: where a watch starts, its bookmarks, and when it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{ApiError, WatchOptions};
use futures::Stream;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::list::{filter, version_of_one};
use super::options::{self, Query};
use crate::api::{Api, Served};
use crate::crd::Version;
use crate::field_error::Errors;
use crate::watch_cache::{Delivery, From, Subscription, TooOld};

/// How often a watcher that wants to know hears how far the store is.
const BOOKMARK: Duration = Duration::from_secs(60);
/// A watch that says nothing of its end lasts this long and up to twice as long, as upstream.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);

/// What a watcher gets.
#[derive(Debug)]
pub enum Signal {
    Event(Delivery),
    Bookmark {
        revision: u64,
        initial_events_end: bool,
    },
    /// The watch ends with it.
    Failed(ApiError),
}

/// The options of a watch as a query has them.
pub fn options(query: &Query) -> Result<WatchOptions, ApiError> {
    let text = |key| query.get(key).map(str::to_owned);
    let rule = query.get("resourceVersionMatch").unwrap_or_default();
    let initial = query.contains("sendInitialEvents");
    let mut errors = Errors::default();
    if initial && rule != "NotOlderThan" {
        errors.forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    if !rule.is_empty() {
        if !initial {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if rule != "NotOlderThan" {
            errors.not_supported("resourceVersionMatch", rule, &["NotOlderThan"]);
        }
    }
    if query.get("continue").is_some() {
        errors
            .forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    }
    if !errors.is_empty() {
        return Err(options::invalid("ListOptions", errors.into_causes()));
    }
    let asked = query.number::<i64>("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let timeout = asked.map_or_else(|| TIMEOUT_MIN.mul_f64(1.0 + rand::random::<f64>()), Duration::from_secs);
    Ok(WatchOptions {
        label_selector: text("labelSelector"),
        field_selector: text("fieldSelector"),
        resource_version: text("resourceVersion"),
        allow_bookmarks: query.flag("allowWatchBookmarks"),
        send_initial_events: query.flag("sendInitialEvents"),
        timeout: Some(timeout),
    })
}

/// Opens a watch; the error is known before anything is sent.
pub async fn watch(
    api: &Arc<Api>,
    kind: &Served,
    namespace: Option<&str>,
    options: WatchOptions,
) -> Result<impl Stream<Item = Signal> + Send + use<>, ApiError> {
    if kind.def.computed {
        return Err(ApiError::wrong_method());
    }
    let filter =
        filter(kind, namespace, options.label_selector.as_deref(), options.field_selector.as_deref())?;
    let version = version_of_one(options.resource_version.as_deref())?;
    let from = match version {
        None => {
            api.cache.catch_up(&*api.store).await?;
            From::Now
        }
        Some(revision) if options.send_initial_events => {
            api.cache.wait_for(revision).await?;
            From::Now
        }
        Some(0) => From::Now,
        Some(revision) => From::After(revision),
    };
    let mut subscription =
        kind.cache.watch(filter, from, api.cache.revision()).map_err(|TooOld { oldest }| {
            ApiError::expired(format!("too old resource version: {} ({oldest})", version.unwrap_or(0)))
        })?;
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK, BOOKMARK);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let open = Open {
        api: api.clone(),
        version: kind.custom.clone().filter(|version| !version.shows_stored()),
        initial: std::mem::take(&mut subscription.initial).into(),
        initial_end: options.send_initial_events && options.allow_bookmarks,
        subscription,
        allow_bookmarks: options.allow_bookmarks,
        bookmarks,
        bookmark_due: None,
        // What lies beyond the clock never comes.
        deadline: options.timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        last: false,
    };
    Ok(futures::stream::unfold(Some(open), |open| async move {
        let mut open = open?;
        match open.signal().await? {
            Signal::Failed(error) => Some((Signal::Failed(error), None)),
            signal => Some((signal, Some(open))),
        }
    }))
}

struct Open {
    api: Arc<Api>,
    /// Events are converted to it.
    version: Option<Arc<Version>>,
    subscription: Subscription,
    initial: VecDeque<Delivery>,
    /// The bookmark after the initial events is still to come.
    initial_end: bool,
    allow_bookmarks: bool,
    bookmarks: Interval,
    /// To be sent once everything before it has been.
    bookmark_due: Option<u64>,
    deadline: Option<Instant>,
    /// Nothing comes after the bookmark that is due.
    last: bool,
}

impl Open {
    /// What comes next, in the version that the client speaks.
    async fn signal(&mut self) -> Option<Signal> {
        let signal = self.next().await?;
        let (Some(version), Signal::Event(delivery)) = (&self.version, &signal) else { return Some(signal) };
        Some(match version.present_one(delivery.object.clone()).await {
            Ok(object) => Signal::Event(Delivery { kind: delivery.kind, object, frame: None, binary: None }),
            Err(error) => Signal::Failed(error),
        })
    }

    async fn next(&mut self) -> Option<Signal> {
        loop {
            if let Some(delivery) = self.initial.pop_front() {
                return Some(Signal::Event(delivery));
            }
            if std::mem::take(&mut self.initial_end) {
                return Some(Signal::Bookmark {
                    revision: self.subscription.revision,
                    initial_events_end: true,
                });
            }
            if let Some(revision) = self.bookmark_due {
                // The revision was read before this look, so an empty queue means that all before it is delivered.
                match self.subscription.receiver.try_recv() {
                    Ok(delivery) => return Some(Signal::Event(delivery)),
                    Err(TryRecvError::Disconnected) => return None,
                    Err(TryRecvError::Empty) => {
                        self.bookmark_due = None;
                        return Some(Signal::Bookmark { revision, initial_events_end: false });
                    }
                }
            }
            if self.last {
                return None;
            }
            tokio::select! {
                biased;
                delivery = self.subscription.receiver.recv() => return delivery.map(Signal::Event),
                () = until(self.deadline) => {
                    self.last = true;
                    if self.allow_bookmarks {
                        self.bookmark_due = Some(self.reached());
                    }
                }
                _ = self.bookmarks.tick(), if self.allow_bookmarks => {
                    self.bookmark_due = Some(self.reached());
                }
                () = self.api.shutdown.cancelled() => return None,
            }
        }
    }

    /// A watch that starts in the future must not be told to begin earlier.
    fn reached(&self) -> u64 {
        self.api.cache.revision().max(self.subscription.revision)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
