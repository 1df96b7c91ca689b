//! Records Events about objects: repeated ones are counted on one Event, floods are shed.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::client::{Client, Kind};
use crate::request::PatchType;

/// Events waiting to be written; more are dropped, as events are best effort.
const QUEUE: usize = 1000;
/// Distinct events remembered for counting.
const REMEMBERED: usize = 4096;
/// Per object and source: a burst, then one in five minutes, as client-go's spam filter.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

/// Writes events in the background. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Recorded>,
}

struct Recorded {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// A reference to an object for events about it.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = Metadata::metadata(object);
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl EventRecorder {
    /// `component` is the events' source, e.g. `deployment-controller`; `host` the node for node components.
    /// The background task ends when every clone is dropped.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let source = EventSource { component: Some(component.into()), host: host.map(str::to_owned) };
        tokio::spawn(
            Writer {
                client,
                source,
                hasher: RandomState::new(),
                written: HashMap::new(),
                order: VecDeque::new(),
                budgets: HashMap::new(),
            }
            .run(receiver),
        );
        Self { sender }
    }

    pub fn event<K: Kind>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.event_for(reference(object), kind, reason, message);
    }

    pub fn event_for(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let recorded =
            Recorded { about, kind, reason: reason.into(), message: message.into(), at: Timestamp::now() };
        if self.sender.try_send(recorded).is_err() {
            debug!("event queue full, event dropped");
        }
    }
}

/// What makes two events one that is counted, as a hash: thousands are remembered, and a hit is only ever a hint
/// whose cost, once in 2^64, is a count on the wrong event.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Same(u64);

struct Writer {
    client: Client,
    source: EventSource,
    hasher: RandomState,
    /// The written events' names and counts.
    written: HashMap<Same, (Box<str>, i32)>,
    order: VecDeque<Same>,
    /// By the hash of the object.
    budgets: HashMap<u64, (f64, Instant)>,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Recorded>) {
        while let Some(recorded) = receiver.recv().await {
            if self.admit(&recorded) {
                self.write(recorded).await;
            }
        }
    }

    fn admit(&mut self, recorded: &Recorded) -> bool {
        if self.budgets.len() > REMEMBERED {
            self.budgets.retain(|_, (tokens, since)| *tokens + refilled(*since) < BURST);
        }
        let now = Instant::now();
        let about = self.hasher.hash_one((&recorded.about.uid, &recorded.about.name));
        let (tokens, since) = self.budgets.entry(about).or_insert((BURST, now));
        *tokens = (*tokens + refilled(*since)).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    async fn write(&mut self, recorded: Recorded) {
        let about = &recorded.about;
        let object = (&about.uid, &about.namespace, &about.name, &about.field_path);
        let same = Same(self.hasher.hash_one((object, recorded.kind, &recorded.reason, &recorded.message)));
        // Events about cluster-scoped objects live in `default`, as upstream's.
        let namespace = recorded.about.namespace.clone().unwrap_or_else(|| "default".into());
        if let Some((name, count)) = self.written.get_mut(&same) {
            let next = *count + 1;
            let patch = serde_json::json!({"count": next, "lastTimestamp": Time(recorded.at)});
            match self.client.patch::<Event>(&namespace, name, None, PatchType::Merge, &patch).await {
                Ok(_) => {
                    *count = next;
                    return;
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    debug!(%error, "counting an event failed");
                    return;
                }
            }
        }
        let name = format!(
            "{}.{:x}",
            recorded.about.name.as_deref().unwrap_or_default(),
            recorded.at.as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: recorded.about,
            reason: Some(recorded.reason),
            message: Some(recorded.message),
            type_: Some(match recorded.kind {
                EventType::Normal => "Normal".into(),
                EventType::Warning => "Warning".into(),
            }),
            count: Some(1),
            first_timestamp: Some(Time(recorded.at)),
            last_timestamp: Some(Time(recorded.at)),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            ..Event::default()
        };
        match self.client.create(&event).await {
            Ok(_) => self.remember(same, name.into()),
            Err(error) => debug!(%error, "writing an event failed"),
        }
    }

    fn remember(&mut self, same: Same, name: Box<str>) {
        if self.written.insert(same, (name, 1)).is_none() {
            self.order.push_back(same);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.written.remove(&oldest);
        }
    }
}

fn refilled(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() / REFILL.as_secs_f64()
}
