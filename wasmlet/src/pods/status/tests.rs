//! Phases, conditions and container states as tables.
