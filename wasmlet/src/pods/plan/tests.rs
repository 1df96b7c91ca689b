//! Steps of the plan as tables: what the pod is, what happened, what must be done.
use super::*;
