//! Which node each pod runs on: a queue of pods, a picture of the nodes, one cycle per pod, and a binding.

mod binder;
pub mod cache;
pub mod cycle;
mod events;
pub mod framework;
mod metrics;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod resources;
mod run;
mod spread;
mod volume_writes;
pub mod volumes;
#[cfg(test)]
mod testing;

pub use run::{Error, Options, run};
