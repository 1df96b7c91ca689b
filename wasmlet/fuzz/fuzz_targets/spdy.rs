//! The node's own sources, taken in by path: the crate around them has an engine to build.

#[path = "../../src/server/streaming/spdy/error.rs"]
mod error;
#[path = "../../src/server/streaming/spdy/frame.rs"]
pub mod frame;
#[path = "../../src/server/streaming/spdy/headers.rs"]
pub mod headers;

pub use error::SpdyError;
