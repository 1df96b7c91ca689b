//! From what was used until two moments to what is used between them.

use std::collections::HashMap;
use std::time::Duration;

use super::exposition::{Point, Sample};

/// What is used: CPU on average over the window that ended at `at`, memory at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In milliseconds since 1970.
    pub at: i64,
    pub window: Duration,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

/// Between `base` and `last`. Where there is no base, what started at least `youngest` and at most `oldest` before is
/// measured from its start on: it used nothing before.
pub fn between(base: Option<&Point>, last: &Point, youngest: Duration, oldest: Duration) -> Option<Usage> {
    let since = |from: i64| u64::try_from(last.at - from).ok().filter(|millis| *millis > 0);
    let continued = base.filter(|base| {
        base.cpu_nanos <= last.cpu_nanos && last.started.is_none_or(|started| started <= base.at)
    });
    let (millis, used) = match continued {
        Some(base) => (since(base.at)?, last.cpu_nanos - base.cpu_nanos),
        None => {
            let age = Duration::from_millis(since(last.started?)?);
            if age < youngest || age > oldest {
                return None;
            }
            (since(last.started?)?, last.cpu_nanos)
        }
    };
    let cpu_nanocores = u64::try_from(u128::from(used) * 1000 / u128::from(millis)).unwrap_or(u64::MAX);
    Some(Usage {
        at: last.at,
        window: Duration::from_millis(millis),
        cpu_nanocores,
        memory_bytes: last.memory_bytes,
    })
}

/// What a node and its containers use.
#[derive(Debug, Default)]
pub struct NodeUsage {
    pub node: Option<Usage>,
    /// By `namespace/name`; the containers by name. A pod of which a container cannot be told is not there.
    pub pods: HashMap<String, Vec<(String, Usage)>>,
}

pub fn of_node(base: Option<&Sample>, last: &Sample, youngest: Duration, oldest: Duration) -> NodeUsage {
    let node_base = base.and_then(|base| base.node.as_ref());
    let node = last.node.as_ref().and_then(|last| between(node_base, last, youngest, oldest));
    let mut pods = HashMap::with_capacity(last.pods.len());
    for (pod, containers) in &last.pods {
        let before = base.and_then(|base| base.pods.get(pod));
        let each = containers.iter().map(|(name, last)| {
            let base = before.and_then(|before| before.get(name));
            Some((name.clone(), between(base, last, youngest, oldest)?))
        });
        if let Some(mut all) = each.collect::<Option<Vec<_>>>() {
            all.sort_by(|(a, _), (b, _)| a.cmp(b));
            pods.insert(pod.clone(), all);
        }
    }
    NodeUsage { node, pods }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: i64, cpu_millis: u64, started: Option<i64>) -> Point {
        Point { at, cpu_nanos: cpu_millis * 1_000_000, memory_bytes: 9, started }
    }

    #[test]
    fn cpu_is_what_was_used_within_the_window() {
        let (youngest, oldest) = (Duration::from_secs(10), Duration::from_secs(60));
        for (what, base, last, want) in [
            ("half a core", Some(point(1000, 100, None)), point(3000, 1100, None), Some((2000, 500))),
            ("idle", Some(point(1000, 100, None)), point(3000, 100, None), Some((2000, 0))),
            ("old and alone", None, point(100_000, 5, Some(1)), None),
            ("a node alone", None, point(3000, 5, None), None),
            ("young enough", None, point(20_000, 10_000, Some(0)), Some((20_000, 500))),
            ("too young", None, point(9_999, 10_000, Some(0)), None),
            (
                "restarted",
                Some(point(1000, 9_000, Some(0))),
                point(31_000, 3_000, Some(1001)),
                Some((29_999, 100)),
            ),
            ("restarted just now", Some(point(1000, 1, Some(0))), point(9_000, 3_000, Some(1001)), None),
            ("a clock set back", Some(point(9000, 1, None)), point(3000, 2, None), None),
            ("the same reading", Some(point(3000, 2, None)), point(3000, 2, None), None),
            ("a counter that fell", Some(point(1000, 5, None)), point(3000, 2, None), None),
        ] {
            let usage = between(base.as_ref(), &last, youngest, oldest);
            let got = usage.map(|u| (u.window.as_millis(), u.cpu_nanocores / 1_000_000));
            assert_eq!(got, want.map(|(w, c): (u128, u64)| (w, c)), "{what}");
            assert!(usage.is_none_or(|u| u.at == last.at && u.memory_bytes == 9), "{what}");
        }
    }

    #[test]
    fn a_pod_shows_when_all_its_containers_do() {
        let sample = |at: i64, names: &[&str]| Sample {
            node: Some(point(at, 10, None)),
            pods: HashMap::from([(
                "ns/p".to_owned(),
                names.iter().map(|name| ((*name).to_owned(), point(at, 1, Some(0)))).collect(),
            )]),
        };
        let of = |base: &[&str], last: &[&str]| {
            let usage = of_node(
                Some(&sample(100_000, base)),
                &sample(115_000, last),
                Duration::from_secs(10),
                Duration::from_secs(60),
            );
            assert!(usage.node.is_some());
            usage.pods.get("ns/p").map(|all| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["b", "a"], &["a", "b"]), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(of(&["a"], &["a", "b"]), None);
        assert_eq!(of(&["a", "b"], &["a"]), Some(vec!["a".to_owned()]));
    }
}
