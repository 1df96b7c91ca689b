//! A DaemonSet's status, from the nodes and the daemons on them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::daemon::Daemon;
use super::nodes::{Fit, Node};
use super::plan::by_node;

/// `observed`: this sync did what the spec asks for. `hash`: of the wanted template.
pub fn status(
    set: &DaemonSet,
    hash: &str,
    nodes: &[(Arc<Node>, Fit)],
    daemons: &[Daemon],
    collisions: i32,
    observed: bool,
    now: Timestamp,
) -> DaemonSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let by_node = by_node(daemons);
    let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for (node, fit) in nodes {
        // The oldest of a node speaks for it.
        let first = by_node.get(&*node.name).and_then(|daemons| daemons.first());
        match first {
            Some(_) if !fit.run => misscheduled += 1,
            None if fit.run => desired += 1,
            None => {}
            Some(daemon) => {
                desired += 1;
                current += 1;
                ready += i32::from(daemon.pod.ready());
                available += i32::from(daemon.pod.available(min_ready, now));
                updated += i32::from(daemon.updated(set, hash));
            }
        }
    }
    let positive = |count: i32| Some(count).filter(|c| *c > 0);
    DaemonSetStatus {
        current_number_scheduled: current,
        desired_number_scheduled: desired,
        number_misscheduled: misscheduled,
        number_ready: ready,
        number_available: positive(available),
        number_unavailable: positive(desired - available),
        updated_number_scheduled: positive(updated),
        observed_generation: if observed { set.metadata.generation } else { old.observed_generation },
        collision_count: if collisions > 0 { Some(collisions) } else { old.collision_count },
        conditions: old.conditions,
    }
}
