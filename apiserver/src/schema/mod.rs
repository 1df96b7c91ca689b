//! What the types of the API look like: fields and shapes from `k8s-openapi`, list types and patch strategies from a
//! table. Strategic merge patch, protobuf decoding and OpenAPI read the same.

pub mod facts;
mod lines;
pub mod nulls;
mod shapes;

pub use lines::Lines;
pub use shapes::{Field, Object, Shape, Types, documents, types};
