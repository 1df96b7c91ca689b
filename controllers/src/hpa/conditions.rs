//! The conditions of an autoscaler.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub const ABLE: &str = "AbleToScale";
pub const ACTIVE: &str = "ScalingActive";
pub const LIMITED: &str = "ScalingLimited";

/// The time changes with the condition's status only.
pub fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    on: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let value = if on { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    if !conditions.iter().any(|c| c.type_ == kind) {
        conditions.push(HorizontalPodAutoscalerCondition { type_: kind.into(), ..Default::default() });
    }
    for condition in conditions.iter_mut().filter(|c| c.type_ == kind) {
        if condition.status != value {
            condition.status = value.into();
            condition.last_transition_time = Some(time(now));
        }
        condition.reason = Some(reason.into());
        condition.message = Some(message.into());
    }
}

/// What the API keeps of a time: whole seconds.
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
