//! One suite of what every store promises, run over both engines.
