//! The API through its router, over an embedded store: what upstream's clients rely on.

mod first;
mod harness;
