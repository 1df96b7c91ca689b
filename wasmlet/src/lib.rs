//! The node agent: runs the pods that the scheduler bound to this node and reports what became of them.

pub mod images;
pub mod logs;
pub mod network;
pub mod pods;
pub mod probes;
pub mod runtime;
pub mod volumes;
