//! How fast the nodes of a zone may be given up: slower the more of them are lost, as then it is rather the network.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Upstream's --unhealthy-zone-threshold, --large-cluster-size-threshold and --secondary-node-eviction-rate.
const UNHEALTHY: f64 = 0.55;
const LARGE: usize = 50;
const SECONDARY_RATE: f64 = 0.01;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    pub ready: usize,
    pub lost: usize,
}

impl Zone {
    fn wholly_lost(self) -> bool {
        self.ready == 0 && self.lost > 0
    }

    fn partly_lost(self) -> bool {
        // Both are node counts: exact in f64.
        self.lost > 2 && self.lost as f64 / (self.lost + self.ready) as f64 >= UNHEALTHY
    }
}

/// How a zone stands, as upstream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    PartialDisruption,
    FullDisruption,
}

impl Zone {
    fn state(self) -> State {
        match self {
            zone if zone.wholly_lost() => State::FullDisruption,
            zone if zone.partly_lost() => State::PartialDisruption,
            _ => State::Normal,
        }
    }
}

/// What a change of one node means for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    None,
    /// A zone is given up faster or slower than before.
    Rates,
    /// No zone is left: from now on nobody is given up.
    AllLost,
    /// Some zone is heard of again: how long the others were silent counts from now on.
    Back,
}

/// Whether every zone is lost.
pub fn all_lost(zones: &HashMap<String, Zone>) -> bool {
    !zones.is_empty() && zones.values().all(|zone| zone.wholly_lost())
}

/// What became of the zones.
pub fn news(before: &HashMap<String, Zone>, after: &HashMap<String, Zone>) -> News {
    let states = |zones: &HashMap<String, Zone>| -> HashMap<String, State> {
        zones.iter().map(|(name, zone)| (name.clone(), zone.state())).collect()
    };
    match (all_lost(before), all_lost(after)) {
        (false, true) => News::AllLost,
        (true, false) => News::Back,
        _ if states(before) != states(after) => News::Rates,
        _ => News::None,
    }
}

/// Nodes per second of this zone that may be given up.
pub fn rate(zone: &str, zones: &HashMap<String, Zone>, normal: f64) -> f64 {
    let Some(this) = zones.get(zone) else { return normal };
    if all_lost(zones) {
        // Nothing is left to move pods to: more likely we are the ones cut off.
        return 0.0;
    }
    if this.wholly_lost() || !this.partly_lost() {
        return normal;
    }
    if this.ready + this.lost > LARGE { SECONDARY_RATE } else { 0.0 }
}

/// One token bucket per zone, of size one. Bounded by the zones that there are.
#[derive(Default)]
pub struct Ration {
    last: HashMap<String, Instant>,
}

impl Ration {
    /// Zones that are gone are forgotten.
    pub fn keep(&mut self, zones: &HashMap<String, Zone>) {
        self.last.retain(|zone, _| zones.contains_key(zone));
    }

    /// Ok: go on. Err: ask again after this long, or when the rate has changed.
    pub fn take(&mut self, zone: &str, rate: f64, now: Instant) -> Result<(), Option<Duration>> {
        if rate <= 0.0 {
            return Err(None);
        }
        let interval = Duration::from_secs_f64(1.0 / rate);
        let since = self.last.get(zone).map(|last| now.saturating_duration_since(*last));
        match since {
            Some(since) if since < interval => Err(Some(interval - since)),
            _ => {
                self.last.insert(zone.to_owned(), now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_zones() {
        for (a, b, want) in [
            ((3, 0), (3, 0), 0.1),
            ((1, 1), (3, 0), 0.1),
            ((0, 3), (3, 0), 0.1),
            ((0, 3), (0, 3), 0.0),
            ((2, 8), (3, 0), 0.0),
            ((20, 80), (3, 0), 0.01),
            ((8, 2), (3, 0), 0.1),
        ] {
            let zone = |(ready, lost)| Zone { ready, lost };
            let zones = HashMap::from([("a".to_owned(), zone(a)), ("b".to_owned(), zone(b))]);
            assert_eq!(rate("a", &zones, 0.1), want, "{a:?} {b:?}");
        }
        let alone = HashMap::from([("a".to_owned(), Zone { ready: 0, lost: 1 })]);
        assert_eq!(rate("a", &alone, 0.1), 0.0, "the only node");
    }

    #[test]
    fn one_node_in_ten_seconds() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut ration = Ration::default();
        assert_eq!(ration.take("a", 0.1, at(100)), Ok(()));
        assert_eq!(ration.take("b", 0.1, at(100)), Ok(()));
        assert_eq!(ration.take("a", 0.1, at(104)), Err(Some(Duration::from_secs(6))));
        assert_eq!(ration.take("a", 0.1, at(110)), Ok(()));
        assert_eq!(ration.take("a", 0.0, at(999)), Err(None));
        ration.keep(&HashMap::from([("b".to_owned(), Zone::default())]));
        assert_eq!(ration.last.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn zones_are_told_when_they_change() {
        let zones = |list: &[(&str, usize, usize)]| -> HashMap<String, Zone> {
            list.iter()
                .map(|(name, ready, lost)| ((*name).to_owned(), Zone { ready: *ready, lost: *lost }))
                .collect()
        };
        for (before, after, want) in [
            (vec![], vec![("a", 1, 0)], News::Rates),
            (vec![("a", 1, 0)], vec![("a", 2, 0)], News::None),
            (vec![("a", 2, 0)], vec![("a", 1, 1)], News::None),
            (vec![("a", 1, 1), ("b", 1, 0)], vec![("a", 0, 2), ("b", 1, 0)], News::Rates),
            (vec![("a", 0, 2), ("b", 1, 0)], vec![("a", 0, 2), ("b", 0, 1)], News::AllLost),
            (vec![("a", 0, 2), ("b", 0, 1)], vec![("a", 0, 2), ("b", 1, 0)], News::Back),
            (vec![("a", 0, 2), ("b", 1, 0)], vec![("a", 0, 2)], News::AllLost),
            (vec![("a", 0, 1)], vec![], News::Back),
            (vec![("a", 3, 2)], vec![("a", 2, 3)], News::Rates),
        ] {
            assert_eq!(news(&zones(&before), &zones(&after)), want, "{before:?} {after:?}");
        }
    }
}
