//! The store over etcd (being written).
