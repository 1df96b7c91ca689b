//! Streams over real TLS against a node whose runtime is the fake one.
