//! The API through its router, over an embedded store: what upstream's clients rely on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod addresses;
mod apply;
mod classes;
mod custom;
mod custom_webhook;
mod deletion;
mod encodings;
mod eviction;
mod first;
mod forms;
mod harness;
mod lists;
mod properties;
mod quota;
mod sequences;
mod subresources;
mod watches;
mod writes;
