//! Field ownership: `metadata.managedFields` on every write, and server-side apply.
//!
//! Works on JSON values and a [`Schema`], which says how lists and maps merge: that of a built-in kind
//! ([`Schema::built_in`]), one made from a custom resource's OpenAPI schema ([`Schema::custom`]), or none
//! ([`Schema::deduced`]). [`Write::update`] tells who owns what after a create, update or patch, [`Write::apply`]
//! carries out an apply. As upstream's structured-merge-diff and managedfields. Pure.

mod check;
mod compare;
mod custom;
mod element;
mod fill;
mod items;
mod managers;
mod merge;
mod owned;
mod remove;
mod rules;
mod scale;
mod set;
#[cfg(test)]
mod tests;
mod tracking;
mod types;

pub use check::{Fault, check};
pub use compare::{Changes, compare};
pub use element::{Element, same};
pub use fill::{drop_empty, fill};
pub use managers::{Manager, Managers, ManagersError, Operation, Who, is_reset, same_but_times};
pub use merge::merge;
pub use owned::owned;
pub use rules::Rules;
pub use scale::{from_scale, to_scale};
pub use set::{Place, Set};
pub use tracking::{Applied, ApplyError, Conflict, OneVersion, Versions, Write};
pub use types::Schema;
