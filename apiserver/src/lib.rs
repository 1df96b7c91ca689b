//! The Kubernetes API: HTTP chain, generic verbs over a table of kinds, watch cache, and the store behind it.

// A request's way in.
pub mod server;
pub mod chain;
pub mod request_info;
pub mod authn;
pub mod impersonation;
pub mod authz;
pub mod routes;
pub mod lookup;

// What it asks for, and what it gets.
pub mod api;
pub mod served;
pub mod runtime_config;
pub mod verbs;
pub mod subresources;
pub mod admission;
pub mod negotiation;
pub mod response;
pub mod pretty;
pub mod gzip;
pub mod shape;

// What the API knows of its kinds.
pub mod kinds;
pub mod crd;
pub mod object;
pub mod field_error;
pub mod validation;
pub mod table;
pub mod go_duration;
pub mod schema;
pub mod ownership;
pub mod decode;
pub mod encode;
pub mod protobuf;
pub mod patch;
pub mod cel;

// Where objects are.
pub mod watch_cache;
pub mod storage;

// What describes and watches over the server itself.
pub mod discovery;
pub mod openapi;
pub mod health;
pub mod component_health;
pub mod metrics;

// Ways to and from others in the cluster.
pub mod direct;
pub mod deferred;
pub mod upkeep;
pub mod node_connection;
pub mod pki;
