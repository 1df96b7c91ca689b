//! What the types of the API look like: fields and shapes from `k8s-openapi`, list types and patch strategies from a
//! table. Strategic merge patch, protobuf decoding and OpenAPI read the same.

mod shapes;
mod strategies;

pub use shapes::{Field, Object, Shape, Types, documents, types};
pub use strategies::{List, Patch, Strategy, strategy};
