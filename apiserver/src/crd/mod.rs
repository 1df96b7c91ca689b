//! Custom resources: what definitions say, made into kinds that the generic verbs serve.

// What a definition may say.
pub mod definition;
pub mod schema;
mod open_api_schema;
mod structural;
mod formats;

// What a schema does to documents.
pub mod document;
mod structure;
mod values;
mod list_types;
mod resources;
mod rules;
mod json_path;

// A definition in service.
pub mod conditions;
mod conversion;
mod kind;
mod manager;
mod names;
mod openapi;
mod service;
mod version;
mod webhook;

pub use conditions::FINALIZER;
pub use kind::{ScalePaths, pointer};
pub use manager::Manager;
pub use service::kinds;
pub use version::Version;
