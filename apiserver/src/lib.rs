//! The Kubernetes API: HTTP chain, generic verbs over a table of kinds, watch cache, and the store behind it.

pub mod authn;
pub mod authz;
pub mod decode;
pub mod field_error;
pub mod kinds;
pub mod object;
pub mod patch;
pub mod pki;
pub mod storage;
pub mod table;
pub mod validation;
pub mod chain;
pub mod request_info;
pub mod server;
