//! How fast the nodes of a zone may be given up: slower the more of them are lost, as then it is rather the network.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

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

/// Nodes per second of this zone that may be given up.
pub fn rate(zone: &str, zones: &HashMap<String, Zone>, normal: f64) -> f64 {
    let Some(this) = zones.get(zone) else { return normal };
    if zones.values().all(|z| z.wholly_lost()) {
        // Nothing is left to move pods to: more likely we are the ones cut off.
        return 0.0;
    }
    if this.wholly_lost() || !this.partly_lost() {
        return normal;
    }
    if this.ready + this.lost > LARGE { SECONDARY_RATE } else { 0.0 }
}

/// One token bucket per zone, of size one. Bounded by the zones.
#[derive(Default)]
pub struct Ration {
    last: HashMap<String, Timestamp>,
}

impl Ration {
    /// Ok: go on. Err: ask again after this long.
    pub fn take(&mut self, zone: &str, rate: f64, now: Timestamp) -> Result<(), Duration> {
        if rate <= 0.0 {
            return Err(Duration::from_secs(10));
        }
        let interval = Duration::from_secs_f64(1.0 / rate);
        let since =
            self.last.get(zone).map(|last| Duration::try_from(now.duration_since(*last)).unwrap_or_default());
        match since {
            Some(since) if since < interval => Err(interval - since),
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
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut ration = Ration::default();
        assert_eq!(ration.take("a", 0.1, at(100)), Ok(()));
        assert_eq!(ration.take("b", 0.1, at(100)), Ok(()));
        assert_eq!(ration.take("a", 0.1, at(104)), Err(Duration::from_secs(6)));
        assert_eq!(ration.take("a", 0.1, at(110)), Ok(()));
        assert!(ration.take("a", 0.0, at(999)).is_err());
    }
}
