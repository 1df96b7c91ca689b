//! The `coracle` binary: one subcommand per shape of the cluster.
fn main() {}
