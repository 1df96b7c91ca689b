//! Whether a node is heard of, and what its conditions say when it is not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub const READY: &str = "Ready";

/// A node that never reported may take this long; upstream's default.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// Conditions that a silent node's kubelet would report.
const OBSERVED: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The signs of life last seen, and when, on this process's clock: a node's own clock may be off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub lease: Option<Timestamp>,
    pub heartbeat: Option<Timestamp>,
    pub at: Timestamp,
}

impl Heard {
    /// Takes in the newest signs; time counts anew when one of them moved: a node whose clock was set back is alive too.
    /// So it does when this process's own clock was set back.
    pub fn update(before: Option<Self>, node: &Node, lease: Option<Timestamp>, now: Timestamp) -> Self {
        let heartbeat = condition(node, READY).and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        match before {
            Some(before) if before.lease == lease && before.heartbeat == heartbeat && before.at <= now => {
                before
            }
            Some(_) => Self { lease, heartbeat, at: now },
            // A node never heard of by this process: it may have been silent since it was made.
            None if lease.is_none() && heartbeat.is_none() => {
                let created = node.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
                Self { lease, heartbeat, at: created }
            }
            None => Self { lease, heartbeat, at: now },
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

pub fn judge(node: &Node, heard: &Heard, grace: Duration, now: Timestamp) -> Verdict {
    let never_reported = condition(node, READY).is_none();
    let grace = if never_reported { grace.max(STARTUP_GRACE) } else { grace };
    let silent = now.duration_since(heard.at);
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    if silent <= grace {
        let left = Duration::try_from(grace.saturating_sub(silent)).unwrap_or(Duration::ZERO);
        return Verdict::Heard(left + Duration::from_millis(1));
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
                present.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some(reason.into()),
                    message: Some(message.into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
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
    fn silence_is_judged_by_our_clock() {
        let grace = Duration::from_secs(50);
        let first = Heard::update(None, &node(true), Some(at(-500)), at(0));
        assert_eq!(first.at, at(0), "however old the lease says it is");
        assert!(matches!(judge(&node(true), &first, grace, at(50)), Verdict::Heard(_)));
        let Verdict::Lost(Some(conditions)) = judge(&node(true), &first, grace, at(51)) else { panic!() };
        let reasons: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.reason.as_deref())).collect();
        assert_eq!(reasons[0], ("Ready", Some("NodeStatusUnknown")));
        assert_eq!(reasons[3], ("PIDPressure", Some("NodeStatusNeverUpdated")));
        let mut lost = node(true);
        lost.status.get_or_insert_default().conditions = Some(conditions);
        assert_eq!(judge(&lost, &first, grace, at(60)), Verdict::Lost(None), "written once");

        let renewed = Heard::update(Some(first.clone()), &node(true), Some(at(-490)), at(45));
        assert_eq!(renewed.at, at(45));
        assert_eq!(
            judge(&node(true), &renewed, grace, at(60)),
            Verdict::Heard(Duration::from_millis(35_001))
        );
        assert_eq!(Heard::update(Some(renewed.clone()), &node(true), Some(at(-490)), at(99)), renewed);

        // Clocks that are set back: the node's, then ours.
        let set_back = Heard::update(Some(renewed.clone()), &node(true), Some(at(-7000)), at(99));
        assert_eq!(set_back.at, at(99));
        assert_eq!(Heard::update(Some(renewed), &node(true), Some(at(-490)), at(-7000)).at, at(-7000));

        let never = Heard::update(None, &node(false), None, at(55));
        assert!(matches!(judge(&node(false), &never, grace, at(55)), Verdict::Heard(_)), "startup grace");
        assert!(matches!(judge(&node(false), &never, grace, at(61)), Verdict::Lost(Some(_))));
    }
}
