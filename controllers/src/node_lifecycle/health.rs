//! Whether a node is heard of, and what its conditions say when it is not.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use crate::steady::Now;

pub const READY: &str = "Ready";

/// A node that never reported may take this long; upstream's default.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// Conditions that a silent node's kubelet would report.
const OBSERVED: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The signs of life last seen, and when this process saw them change: the node's own clock may be off, and this
/// machine's may be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub lease: Option<Timestamp>,
    pub heartbeat: Option<Timestamp>,
    pub at: Instant,
}

impl Heard {
    /// Takes in the newest signs; time counts anew when one of them moved: a node whose clock was set back is alive too.
    pub fn update(before: Option<Self>, node: &Node, lease: Option<Timestamp>, now: Now) -> Self {
        let heartbeat = condition(node, READY).and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        match before {
            Some(before) if before.lease == lease && before.heartbeat == heartbeat => before,
            Some(_) => Self { lease, heartbeat, at: now.steady },
            // A node never heard of by this process: it may have been silent since it was made.
            None if lease.is_none() && heartbeat.is_none() => {
                let created = node.metadata.creation_timestamp.as_ref().map_or(now.wall, |t| t.0);
                Self { lease, heartbeat, at: now.moment(created) }
            }
            None => Self { lease, heartbeat, at: now.steady },
        }
    }
}

pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Silent for too long: the conditions it gets, None where it has them already.
    Lost(Option<Vec<NodeCondition>>),
    /// To be looked at again after this long.
    Heard(Duration),
}

pub fn judge(node: &Node, heard: &Heard, grace: Duration, now: Now) -> Verdict {
    let never_reported = condition(node, READY).is_none();
    let grace = if never_reported { grace.max(STARTUP_GRACE) } else { grace };
    let silent = now.steady.saturating_duration_since(heard.at);
    if silent <= grace {
        return Verdict::Heard(grace - silent + Duration::from_millis(1));
    }
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for kind in OBSERVED {
        let (reason, message) = match conditions.iter().any(|c| c.type_ == kind) {
            true => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            false => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(present) if present.status == "Unknown" => {}
            Some(present) => {
                present.status = "Unknown".into();
                present.reason = Some(reason.into());
                present.message = Some(message.into());
                present.last_transition_time = Some(Time(now.wall));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some(reason.into()),
                    message: Some(message.into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now.wall)),
                });
                changed = true;
            }
        }
    }
    Verdict::Lost(changed.then_some(conditions))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn node(reported: bool) -> Node {
        let conditions = if reported {
            json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": at(0)}])
        } else {
            json!([])
        };
        from(
            json!({"metadata": {"name": "n", "creationTimestamp": at(0)}, "status": {"conditions": conditions}}),
        )
    }

    #[test]
    fn silence_is_judged_by_a_clock_that_nobody_sets() {
        let begin = Instant::now() + Duration::from_secs(100_000);
        // So many seconds after the beginning, with the wall clock set by so many.
        let after = |seconds: u64, set: i64| Now {
            wall: at(i64::try_from(seconds).unwrap() + set),
            steady: begin + Duration::from_secs(seconds),
        };
        let grace = Duration::from_secs(50);
        let first = Heard::update(None, &node(true), Some(at(-500)), after(0, 0));
        assert_eq!(first.at, begin, "however old the lease says it is");
        assert!(matches!(judge(&node(true), &first, grace, after(50, 0)), Verdict::Heard(_)));
        for set in [-7000, 0, 7000] {
            assert!(matches!(judge(&node(true), &first, grace, after(50, set)), Verdict::Heard(_)), "{set}");
            assert!(matches!(judge(&node(true), &first, grace, after(51, set)), Verdict::Lost(_)), "{set}");
        }
        let Verdict::Lost(Some(conditions)) = judge(&node(true), &first, grace, after(51, 0)) else {
            panic!()
        };
        let reasons: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.reason.as_deref())).collect();
        assert_eq!(reasons[0], ("Ready", Some("NodeStatusUnknown")));
        assert_eq!(reasons[3], ("PIDPressure", Some("NodeStatusNeverUpdated")));
        assert_eq!(conditions[0].last_transition_time.as_ref().map(|t| t.0), Some(at(51)));
        let mut lost = node(true);
        lost.status.get_or_insert_default().conditions = Some(conditions);
        assert_eq!(judge(&lost, &first, grace, after(60, 0)), Verdict::Lost(None), "written once");

        let renewed = Heard::update(Some(first.clone()), &node(true), Some(at(-490)), after(45, 0));
        assert_eq!(renewed.at, after(45, 0).steady);
        assert_eq!(
            judge(&node(true), &renewed, grace, after(60, 0)),
            Verdict::Heard(Duration::from_millis(35_001))
        );
        assert_eq!(Heard::update(Some(renewed.clone()), &node(true), Some(at(-490)), after(99, 0)), renewed);

        // The node's clock was set back: it renews its lease all the same.
        let set_back = Heard::update(Some(renewed), &node(true), Some(at(-7000)), after(99, 0));
        assert_eq!(set_back.at, after(99, 0).steady);

        let never = Heard::update(None, &node(false), None, after(55, 0));
        let verdict = |seconds| judge(&node(false), &never, grace, after(seconds, 0));
        assert!(matches!(verdict(55), Verdict::Heard(_)), "startup grace");
        assert!(matches!(verdict(61), Verdict::Lost(Some(_))));
    }
}
