//! How every component talks to the Kubernetes API: typed calls over encoded objects, informers, work queues,
//! leader election and events, over HTTPS or straight into the apiserver of the same process.

pub mod amounts;
pub mod client;
pub mod controller;
pub mod cron;
pub mod discovery;
pub mod election;
pub mod events;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod http;
pub mod informer;
pub mod metrics;
pub mod node_affinity;
pub mod object;
pub mod persistent_volumes;
pub mod quantity;
pub mod queue;
pub mod quota;
pub mod reflector;
pub mod request;
pub mod resource;
mod label_query;
pub mod selector;
pub mod status;
pub mod storage_versions;
pub mod token_key;
pub mod tolerations;
pub mod unverified_tls;

pub use client::{Client, Written};
pub use informer::{Change, Informer, Informers};
pub use object::{Head, Key, LabelPairs, Object, Owner, Uid};
pub use queue::WorkQueue;
pub use request::{
    DeleteOptions, List, ListOptions, PatchType, Propagation, Request, Transport, Verb, WatchEvent,
    WatchEventKind, WatchOptions, WatchStream, WriteOptions,
};
pub use resource::Resource;
pub use status::ApiError;

/// The version of Kubernetes whose API Coracle speaks.
pub const KUBERNETES_VERSION: &str = "v1.37.0";
