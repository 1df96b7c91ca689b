//! The node agent: runs the pods that the scheduler bound to this node and reports what became of them.

mod agent;
pub mod images;
pub mod logs;
pub mod network;
pub mod node;
mod options;
pub mod pods;
pub mod probes;
pub mod runtime;
pub mod server;
pub mod virtual_nodes;
pub mod volumes;

pub use agent::{Error, Identity, Ready, images_directory, run};
pub use node::Heartbeat;
pub use options::{Options, RuntimeKind};
pub use server::ServingIdentity;
