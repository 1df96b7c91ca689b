//! Holds a wanted number of replicas within the limits of an autoscaler, and keeps it from changing too fast.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

/// Events and recommendations kept of one autoscaler.
const KEPT_MAX: usize = 1000;
/// The longest that a window or period may be.
const LONGEST: Duration = Duration::from_secs(3600);

/// What an autoscaler did and wanted lately, by a clock that nobody sets.
#[derive(Clone, Debug, Default)]
pub struct Past {
    recommendations: VecDeque<(Instant, i32)>,
    ups: VecDeque<(Instant, i32)>,
    downs: VecDeque<(Instant, i32)>,
}

fn keep(list: &mut VecDeque<(Instant, i32)>, entry: (Instant, i32)) {
    list.retain(|(at, _)| entry.0.saturating_duration_since(*at) <= LONGEST);
    if list.len() >= KEPT_MAX {
        list.pop_front();
    }
    list.push_back(entry);
}

impl Past {
    /// The first thing known counts as wanted, so that a new process does not shrink what it finds.
    pub fn begin(&mut self, replicas: i32, now: Instant) {
        if self.recommendations.is_empty() {
            keep(&mut self.recommendations, (now, replicas));
        }
    }

    pub fn scaled(&mut self, from: i32, to: i32, now: Instant) {
        if to > from {
            keep(&mut self.ups, (now, to - from));
        } else if to < from {
            keep(&mut self.downs, (now, from - to));
        }
    }

    fn sum(list: &VecDeque<(Instant, i32)>, period: Duration, now: Instant) -> i32 {
        list.iter()
            .filter(|(at, _)| now.saturating_duration_since(*at) < period)
            .map(|(_, change)| change)
            .sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub min: i32,
    pub max: i32,
    /// How long a higher recommendation holds a lower one back, where nothing is said.
    pub down_window: Duration,
}

/// What becomes of a wish, and what the conditions AbleToScale and ScalingLimited say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub replicas: i32,
    pub able: (&'static str, &'static str),
    pub limited: Option<(&'static str, &'static str)>,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const HELD_DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const HELD_UP: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

pub fn hold(
    past: &mut Past,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    bounds: Bounds,
    current: i32,
    desired: i32,
    now: Instant,
) -> Outcome {
    let rules = |rules: Option<&HPAScalingRules>| rules.cloned().unwrap_or_default();
    let up = rules(behavior.and_then(|b| b.scale_up.as_ref()));
    let down = rules(behavior.and_then(|b| b.scale_down.as_ref()));
    let (replicas, able) =
        stabilize(past, behavior.is_some(), &up, &down, bounds.down_window, (current, desired), now);
    let (replicas, limited) = match behavior {
        Some(_) => limit(past, &up, &down, bounds, current, replicas, now),
        None => plain_limit(bounds, current, replicas),
    };
    Outcome { replicas, able, limited }
}

fn seconds(value: Option<i32>, default: Duration) -> Duration {
    value.map_or(default, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Goes no further than every recommendation of the window allows.
fn stabilize(
    past: &mut Past,
    has_behavior: bool,
    up: &HPAScalingRules,
    down: &HPAScalingRules,
    down_window: Duration,
    (current, desired): (i32, i32),
    now: Instant,
) -> (i32, (&'static str, &'static str)) {
    let up_window = seconds(up.stabilization_window_seconds, Duration::ZERO);
    let down_window = seconds(down.stabilization_window_seconds, down_window);
    let within = |window: Duration| {
        past.recommendations
            .iter()
            .filter(move |(at, _)| now.saturating_duration_since(*at) < window)
            .map(|(_, n)| *n)
    };
    let highest = within(down_window).max().map_or(desired, |highest| highest.max(desired));
    let lowest = within(up_window).min().map_or(desired, |lowest| lowest.min(desired));
    keep(&mut past.recommendations, (now, desired));
    let held = if has_behavior { current.max(lowest).min(highest) } else { highest };
    let able = match held.cmp(&desired) {
        std::cmp::Ordering::Equal => READY,
        std::cmp::Ordering::Greater => HELD_DOWN,
        std::cmp::Ordering::Less => HELD_UP,
    };
    (held, able)
}

/// Without behaviours: twice as many at most, or four.
fn plain_limit(bounds: Bounds, current: i32, desired: i32) -> (i32, Option<(&'static str, &'static str)>) {
    let fast = current.saturating_mul(2).max(4);
    if desired < bounds.min {
        (bounds.min, Some(TOO_FEW))
    } else if desired > bounds.max.min(fast) {
        let reason = if bounds.max > fast { UP_LIMIT } else { TOO_MANY };
        (bounds.max.min(fast), Some(reason))
    } else {
        (desired, None)
    }
}

fn limit(
    past: &Past,
    up: &HPAScalingRules,
    down: &HPAScalingRules,
    bounds: Bounds,
    current: i32,
    desired: i32,
    now: Instant,
) -> (i32, Option<(&'static str, &'static str)>) {
    if desired > current {
        // What was added lately may already be more than the rules would add now.
        let fast = rate(past, up, current, now, Direction::Up).max(current);
        let (most, reason) = if bounds.max > fast { (fast, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
        if desired > most {
            return (most, Some(reason));
        }
    } else if desired < current {
        let fast = rate(past, down, current, now, Direction::Down).min(current);
        let (least, reason) = if bounds.min < fast { (fast, DOWN_LIMIT) } else { (bounds.min, TOO_FEW) };
        if desired < least {
            return (least, Some(reason));
        }
    }
    (desired, None)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// As far as the policies let it go now.
fn rate(past: &Past, rules: &HPAScalingRules, current: i32, now: Instant, direction: Direction) -> i32 {
    let select = rules.select_policy.as_deref();
    if select == Some("Disabled") {
        return current;
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let ends = policies.iter().map(|policy| reach(past, policy, current, now, direction));
    let furthest = select != Some("Min");
    let end = if furthest == (direction == Direction::Up) { ends.max() } else { ends.min() };
    end.unwrap_or(current)
}

fn reach(past: &Past, policy: &HPAScalingPolicy, current: i32, now: Instant, direction: Direction) -> i32 {
    let period = seconds(Some(policy.period_seconds), Duration::ZERO);
    let start = current - Past::sum(&past.ups, period, now) + Past::sum(&past.downs, period, now);
    let percent = f64::from(policy.value) / 100.0;
    #[allow(clippy::cast_possible_truncation)]
    match (policy.type_.as_str(), direction) {
        ("Pods", Direction::Up) => start.saturating_add(policy.value),
        ("Pods", Direction::Down) => start.saturating_sub(policy.value),
        (_, Direction::Up) => (f64::from(start) * (1.0 + percent)).ceil() as i32,
        (_, Direction::Down) => (f64::from(start) * (1.0 - percent)) as i32,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: u64) -> Instant {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        *BEGIN + Duration::from_secs(seconds)
    }

    fn rules(value: Value) -> HPAScalingRules {
        serde_json::from_value(value).unwrap()
    }

    fn behavior(up: Value, down: Value) -> HorizontalPodAutoscalerBehavior {
        HorizontalPodAutoscalerBehavior { scale_up: Some(rules(up)), scale_down: Some(rules(down)) }
    }

    const BOUNDS: Bounds = Bounds { min: 2, max: 50, down_window: Duration::from_secs(300) };

    #[test]
    fn without_behaviours() {
        for (current, desired, replicas, reason) in [
            (3, 5, 5, None),
            (3, 6, 6, None),
            (3, 7, 6, Some("ScaleUpLimit")),
            (1, 9, 4, Some("ScaleUpLimit")),
            (40, 90, 50, Some("TooManyReplicas")),
            (3, 1, 2, Some("TooFewReplicas")),
        ] {
            let outcome = hold(&mut Past::default(), None, BOUNDS, current, desired, at(0));
            assert_eq!(
                (outcome.replicas, outcome.limited.map(|l| l.0)),
                (replicas, reason),
                "{current} {desired}"
            );
        }
        let mut past = Past::default();
        past.begin(10, at(0));
        let held = hold(&mut past, None, BOUNDS, 10, 4, at(60));
        assert_eq!((held.replicas, held.able.0), (10, "ScaleDownStabilized"));
        let later = hold(&mut past, None, BOUNDS, 10, 4, at(301));
        assert_eq!((later.replicas, later.able.0), (4, "ReadyForNewScale"));
    }

    #[test]
    fn policies_limit_the_rate() {
        let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
        let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
        let up = |list: Value, select: &str| json!({"policies": list, "selectPolicy": select});
        let down = |list: Value, select: &str| json!({"policies": list, "selectPolicy": select, "stabilizationWindowSeconds": 0});
        for (up_rules, down_rules, current, desired, replicas, reason) in [
            (up(json!([pods(4), percent(100)]), "Max"), json!({}), 10, 40, 20, Some("ScaleUpLimit")),
            (up(json!([pods(4), percent(100)]), "Min"), json!({}), 10, 40, 14, Some("ScaleUpLimit")),
            (up(json!([pods(4)]), "Max"), json!({}), 10, 14, 14, None),
            (up(json!([percent(1)]), "Max"), json!({}), 3, 40, 4, Some("ScaleUpLimit")),
            (up(json!([pods(4)]), "Disabled"), json!({}), 10, 40, 10, Some("ScaleUpLimit")),
            (up(json!([pods(99)]), "Max"), json!({}), 10, 60, 50, Some("TooManyReplicas")),
            (json!({}), down(json!([pods(3)]), "Max"), 10, 2, 7, Some("ScaleDownLimit")),
            (json!({}), down(json!([percent(50), pods(3)]), "Max"), 10, 2, 5, Some("ScaleDownLimit")),
            (json!({}), down(json!([percent(50), pods(3)]), "Min"), 10, 2, 7, Some("ScaleDownLimit")),
            (json!({}), down(json!([pods(3)]), "Disabled"), 10, 2, 10, Some("ScaleDownLimit")),
            (json!({}), down(json!([percent(100)]), "Max"), 10, 1, 2, Some("TooFewReplicas")),
        ] {
            let behavior = behavior(up_rules.clone(), down_rules.clone());
            let outcome = hold(&mut Past::default(), Some(&behavior), BOUNDS, current, desired, at(0));
            let found = (outcome.replicas, outcome.limited.map(|l| l.0));
            assert_eq!(found, (replicas, reason), "{up_rules} {down_rules} {current} {desired}");
        }
    }

    #[test]
    fn what_was_done_in_the_period_counts() {
        let behavior = behavior(
            json!({"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}], "selectPolicy": "Max"}),
            json!({"policies": [{"type": "Pods", "value": 3, "periodSeconds": 60}], "selectPolicy": "Max",
                "stabilizationWindowSeconds": 0}),
        );
        let mut past = Past::default();
        past.scaled(10, 13, at(0));
        let soon = hold(&mut past, Some(&behavior), BOUNDS, 13, 40, at(30));
        assert_eq!(soon.replicas, 14, "10 + 4");
        let later = hold(&mut past, Some(&behavior), BOUNDS, 13, 40, at(61));
        assert_eq!(later.replicas, 17);
        let mut past = Past::default();
        past.scaled(20, 17, at(0));
        assert_eq!(hold(&mut past, Some(&behavior), BOUNDS, 17, 5, at(30)).replicas, 17);
        assert_eq!(hold(&mut past, Some(&behavior), BOUNDS, 17, 5, at(90)).replicas, 14);
    }

    #[test]
    fn windows_hold_back() {
        let quick = json!({"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}], "selectPolicy": "Max"});
        let with = |seconds: i32| {
            let mut rules = quick.clone();
            rules["stabilizationWindowSeconds"] = json!(seconds);
            rules
        };
        let behavior = behavior(with(60), with(120));
        let mut past = Past::default();
        past.begin(10, at(0));
        let up = hold(&mut past, Some(&behavior), BOUNDS, 10, 14, at(30));
        assert_eq!((up.replicas, up.able.0), (10, "ScaleUpStabilized"));
        let up = hold(&mut past, Some(&behavior), BOUNDS, 10, 14, at(61));
        assert_eq!((up.replicas, up.able.0), (14, "ReadyForNewScale"));
        let down = hold(&mut past, Some(&behavior), BOUNDS, 14, 6, at(100));
        assert_eq!((down.replicas, down.able.0), (14, "ScaleDownStabilized"));
        let down = hold(&mut past, Some(&behavior), BOUNDS, 14, 6, at(182));
        assert_eq!(down.replicas, 6);
    }
}
