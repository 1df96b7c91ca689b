//! Sequences of writes by several managers.
