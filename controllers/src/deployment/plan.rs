//! How a Deployment's ReplicaSets are scaled: rolling, recreating, proportionally.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::sets::{
    DESIRED_REPLICAS, MAX_REPLICAS, Sets, Wanted, actual, available, name, number, observed, replicas,
    staying,
};

/// A set's new size, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub set: String,
    pub to: i32,
}

fn scale(set: &ReplicaSet, to: i32) -> Scale {
    Scale { set: name(set).to_owned(), to }
}

/// The Deployment was scaled since its active sets were.
pub fn was_scaled(sets: &Sets, wanted: &Wanted) -> bool {
    sets.all()
        .filter(|set| replicas(set) > 0)
        .any(|set| number(set, DESIRED_REPLICAS).is_some_and(|desired| desired != wanted.replicas))
}

/// How many replicas the new set should have now, given all of them; `current` is what it has.
pub fn new_replicas(wanted: &Wanted, total: i32, current: i32) -> i32 {
    if !wanted.rolling {
        return wanted.replicas;
    }
    let room = wanted.replicas + wanted.max_surge - total;
    if room <= 0 {
        return current;
    }
    current + room.min(wanted.replicas - current)
}

/// A step of a rolling update for the new set.
pub fn roll_new(sets: &Sets, wanted: &Wanted) -> Option<Scale> {
    let new = sets.new.as_ref()?;
    let current = replicas(new);
    let to =
        if current > wanted.replicas { wanted.replicas } else { new_replicas(wanted, sets.total(), current) };
    (to != current).then(|| scale(new, to))
}

/// A step of a rolling update for the old sets: first what is not available anyway, then what can be spared.
pub fn roll_old(sets: &Sets, wanted: &Wanted) -> Vec<Scale> {
    if sets.old_total() == 0 {
        return Vec::new();
    }
    let minimum = wanted.replicas - wanted.max_unavailable;
    // What an older status calls available may have gone when the set was last made smaller, as by a rollback.
    let new_available = sets.new.as_ref().filter(|new| observed(new)).map_or(0, staying);
    let new_unavailable = sets.new.as_ref().map_or(0, replicas) - new_available;
    let most = sets.total() - minimum - new_unavailable;
    if most <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = sets.old.iter().map(replicas).collect();
    let mut left = most;
    for (set, size) in sets.old.iter().zip(&mut sizes) {
        let unhealthy = (*size - available(set)).max(0).min(left);
        *size -= unhealthy;
        left -= unhealthy;
    }
    let mut spare = new_available + sets.old.iter().map(staying).sum::<i32>() - minimum;
    for size in &mut sizes {
        let down = (*size).min(spare).max(0);
        *size -= down;
        spare -= down;
    }
    changed(&sets.old, &sizes)
}

/// Recreate: every old set goes to zero.
pub fn drop_old(sets: &Sets) -> Vec<Scale> {
    sets.old.iter().filter(|set| replicas(set) > 0).map(|set| scale(set, 0)).collect()
}

/// After a change of the Deployment's replicas (or while paused): one active set takes all; of several
/// each takes its share, so that a rollout under way keeps its proportions.
pub fn rescale(deployment: &Deployment, sets: &Sets, wanted: &Wanted) -> Vec<Scale> {
    if let Some(only) = sets.active_or_latest() {
        return vec![scale(only, wanted.replicas)];
    }
    let saturated = sets.new.as_ref().is_some_and(|new| {
        number(new, DESIRED_REPLICAS) == Some(wanted.replicas)
            && replicas(new) == wanted.replicas
            && available(new) == wanted.replicas
    });
    if saturated {
        return drop_old(sets);
    }
    if !wanted.rolling {
        return Vec::new();
    }
    let mut active: Vec<&ReplicaSet> = sets.all().filter(|set| replicas(set) > 0).collect();
    let total: i32 = active.iter().map(|set| replicas(set)).sum();
    let allowed = if wanted.replicas > 0 { wanted.replicas + wanted.max_surge } else { 0 };
    let to_add = allowed - total;
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|t| t.0);
    if to_add > 0 {
        active.sort_by_key(|set| (Reverse(replicas(set)), Reverse(created(set))));
    } else {
        active.sort_by_key(|set| (Reverse(replicas(set)), created(set)));
    }
    let mut added = 0;
    let mut sizes: Vec<i32> = active
        .iter()
        .map(|set| {
            let share = share(deployment, set, wanted, to_add, added);
            added += share;
            replicas(set) + share
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).map(|(set, to)| scale(set, to)).collect()
}

/// How many of the replicas to add (negative: to take) fall to this set.
fn share(deployment: &Deployment, set: &ReplicaSet, wanted: &Wanted, to_add: i32, added: i32) -> i32 {
    let current = replicas(set);
    if current == 0 || to_add == added {
        return 0;
    }
    let fraction = if wanted.replicas == 0 {
        -current
    } else {
        let before = number(set, MAX_REPLICAS)
            .filter(|max| *max > 0)
            .or_else(|| deployment.status.as_ref().and_then(|s| s.replicas))
            .filter(|n| *n > 0)
            .unwrap_or(current);
        let size = f64::from(current) * f64::from(wanted.replicas + wanted.max_surge) / f64::from(before);
        // Both are replica counts: far within i32.
        size.round() as i32 - current
    };
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

/// Old sets beyond the history limit, oldest revision first, that nothing runs in.
pub fn expired<'a>(deployment: &Deployment, old: &'a [ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let Some(limit) = deployment.spec.revision_history_limit.and_then(|l| usize::try_from(l).ok()) else {
        return Vec::new();
    };
    let mut alive: Vec<&ReplicaSet> =
        old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = alive.len().saturating_sub(limit);
    alive.sort_by_key(|set| super::sets::revision(set));
    alive.truncate(surplus);
    alive.retain(|set| {
        let observed = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        actual(set) == 0 && replicas(set) == 0 && set.metadata.generation.unwrap_or(0) <= observed
    });
    alive
}

fn changed(sets: &[ReplicaSet], sizes: &[i32]) -> Vec<Scale> {
    sets.iter()
        .zip(sizes)
        .filter(|(set, size)| replicas(set) != **size)
        .map(|(set, size)| scale(set, *size))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    /// (name, replicas, available, max-replicas annotation)
    fn set(name: &str, size: i32, available: i32, max: i32) -> ReplicaSet {
        from(json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len() % 10),
                "generation": 1,
                "annotations": {DESIRED_REPLICAS: max.to_string(), MAX_REPLICAS: max.to_string()}},
            "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available, "observedGeneration": 1},
        }))
    }

    fn wanted(replicas: i32, max_surge: i32, max_unavailable: i32) -> Wanted {
        Wanted { replicas, max_surge, max_unavailable, rolling: true }
    }

    fn named(scales: &[Scale]) -> Vec<(&str, i32)> {
        scales.iter().map(|s| (s.set.as_str(), s.to)).collect()
    }

    #[test]
    fn the_new_set_grows_within_the_surge() {
        for (new, old, w, want) in [
            (0, 10, wanted(10, 3, 2), Some(3)),
            (3, 10, wanted(10, 3, 2), None),
            (3, 8, wanted(10, 3, 2), Some(5)),
            (9, 0, wanted(10, 3, 2), Some(10)),
            (12, 0, wanted(10, 3, 2), Some(10)),
            (0, 10, wanted(10, 0, 2), None),
            (0, 0, wanted(0, 1, 0), None),
        ] {
            let sets = Sets { new: Some(set("new", new, 0, 10)), old: vec![set("old", old, old, 10)] };
            assert_eq!(roll_new(&sets, &w).map(|s| s.to), want, "{new} {old} {w:?}");
        }
    }

    #[test]
    fn old_sets_shrink_unhealthy_first_and_never_below_the_minimum() {
        for (new, olds, w, want) in [
            // (replicas, available)
            ((0, 0), vec![(10, 10)], wanted(10, 0, 2), vec![8]),
            ((3, 0), vec![(10, 10)], wanted(10, 3, 2), vec![8]),
            ((3, 0), vec![(8, 8)], wanted(10, 3, 2), vec![]),
            ((5, 5), vec![(8, 8)], wanted(10, 3, 2), vec![3]),
            // Unhealthy ones of any set go before healthy ones of the oldest.
            ((5, 0), vec![(5, 5), (5, 0)], wanted(10, 5, 5), vec![0]),
            ((10, 10), vec![(3, 3)], wanted(10, 3, 2), vec![0]),
            ((10, 0), vec![(10, 8)], wanted(10, 10, 0), vec![]),
            // The status of the old set still counts pods that its new size has given up.
            ((5, 3), vec![(2, 4)], wanted(5, 2, 1), vec![1]),
            ((5, 3), vec![(1, 4)], wanted(5, 2, 1), vec![]),
        ] {
            let olds: Vec<ReplicaSet> = olds
                .into_iter()
                .enumerate()
                .map(|(i, (size, available))| set(&"o".repeat(i + 1), size, available, 10))
                .collect();
            let sets = Sets { new: Some(set("new", new.0, new.1, 10)), old: olds };
            let got: Vec<i32> = roll_old(&sets, &w).iter().map(|s| s.to).collect();
            assert_eq!(got, want, "{sets:?} {w:?}");
        }
    }

    #[test]
    fn a_status_of_another_size_counts_for_nothing() {
        // Rolled back while the set was on its way to zero: its two pods may be gone.
        let mut new = set("new", 2, 2, 5);
        let old = vec![set("old", 5, 5, 5)];
        let known = Sets { new: Some(new.clone()), old: old.clone() };
        assert_eq!(named(&roll_old(&known, &wanted(5, 2, 1))), [("old", 2)]);
        new.metadata.generation = Some(2);
        let unknown = Sets { new: Some(new), old };
        assert_eq!(named(&roll_old(&unknown, &wanted(5, 2, 1))), [("old", 4)]);
    }

    #[test]
    fn scaling_during_a_rollout_keeps_proportions() {
        let deployment: Deployment =
            from(json!({"spec": {"selector": {}, "template": {}}, "status": {"replicas": 10}}));
        for (sizes, max_before, w, want) in [
            // One active set takes all.
            (vec![("a", 5)], 5, wanted(9, 2, 2), vec![("a", 9)]),
            (vec![("a", 0), ("bb", 0)], 0, wanted(9, 2, 2), vec![("a", 9)]),
            // 10 (+0) -> 20: doubled.
            (vec![("a", 5), ("bb", 5)], 10, wanted(20, 0, 1), vec![("bb", 10), ("a", 10)]),
            (vec![("a", 8), ("bb", 2)], 10, wanted(20, 0, 1), vec![("a", 16), ("bb", 4)]),
            (vec![("a", 8), ("bb", 2)], 10, wanted(5, 0, 1), vec![("a", 4), ("bb", 1)]),
            (vec![("a", 8), ("bb", 2)], 10, wanted(0, 0, 1), vec![("a", 0), ("bb", 0)]),
        ] {
            let mut sets: Vec<ReplicaSet> =
                sizes.iter().map(|(name, size)| set(name, *size, 0, max_before)).collect();
            let new = sets.remove(0);
            let sets = Sets { new: Some(new), old: sets };
            assert_eq!(named(&rescale(&deployment, &sets, &w)), want, "{sizes:?} {w:?}");
        }
        // A saturated new set ends the old ones.
        let sets = Sets { new: Some(set("new", 5, 5, 5)), old: vec![set("o", 2, 2, 5)] };
        assert_eq!(named(&rescale(&deployment, &sets, &wanted(5, 1, 1))), vec![("o", 0)]);
    }

    #[test]
    fn history_beyond_the_limit_is_cleaned_up() {
        let deployment: Deployment =
            from(json!({"spec": {"revisionHistoryLimit": 1, "selector": {}, "template": {}}}));
        let mut sets = vec![set("a", 0, 0, 1), set("bb", 0, 0, 1), set("ccc", 1, 1, 1)];
        for (i, set) in sets.iter_mut().enumerate() {
            set.metadata
                .annotations
                .get_or_insert_default()
                .insert(super::super::sets::REVISION.into(), (3 - i).to_string());
        }
        let got: Vec<_> = expired(&deployment, &sets).into_iter().map(name).collect();
        assert_eq!(got, ["bb"], "of the two oldest revisions one still runs something");
    }
}
