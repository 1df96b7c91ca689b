//! Which images go when the disk fills up. Pure.

use std::time::{Duration, Instant};

/// The kubelet's rule, and its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// At this share of the disk, images that no pod uses are removed…
    pub high_percent: u8,
    /// …until no more than this is taken.
    pub low_percent: u8,
    /// Younger images stay.
    pub age_least: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { high_percent: 85, low_percent: 80, age_least: Duration::from_secs(120) }
    }
}

/// What is on the node, once however many names it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub references: Vec<String>,
    pub size_bytes: u64,
    /// It was imported: nobody could pull it again.
    pub pinned: bool,
    pub in_use: bool,
    pub first_seen: Instant,
    /// None: not since this process runs.
    pub last_used: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

impl Disk {
    /// How much is to be freed; 0 below the high watermark.
    fn wanted_bytes(self, policy: Policy) -> u64 {
        if self.total_bytes == 0 || policy.high_percent >= 100 {
            return 0;
        }
        let share = |percent: u8| self.total_bytes / 100 * u64::from(100 - percent.min(100));
        let used_percent = 100 - (self.available_bytes / (self.total_bytes / 100).max(1)).min(100);
        if used_percent < u64::from(policy.high_percent) {
            return 0;
        }
        share(policy.low_percent).saturating_sub(self.available_bytes)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// In the order in which they go: those that were not used for longest first.
    pub remove: Vec<&'a Candidate>,
    pub wanted_bytes: u64,
    pub found_bytes: u64,
}

/// `pressed`: the node is short of disk, and all that is not used goes.
pub fn plan(candidates: &[Candidate], disk: Disk, policy: Policy, pressed: bool, now: Instant) -> Plan<'_> {
    let wanted_bytes = if pressed { u64::MAX } else { disk.wanted_bytes(policy) };
    let mut free: Vec<_> = candidates
        .iter()
        .filter(|image| !image.pinned && !image.in_use)
        .filter(|image| pressed || now.saturating_duration_since(image.first_seen) >= policy.age_least)
        .collect();
    free.sort_by_key(|image| (image.last_used, image.first_seen));
    let mut plan = Plan { remove: Vec::new(), wanted_bytes, found_bytes: 0 };
    for image in free {
        if plan.found_bytes >= wanted_bytes {
            break;
        }
        plan.found_bytes = plan.found_bytes.saturating_add(image.size_bytes);
        plan.remove.push(image);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_was_not_used_for_longest_goes_first_until_enough_is_free() {
        let start = Instant::now();
        let now = start + Duration::from_secs(1000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let image = |name: &str, first: u64, last: Option<u64>| Candidate {
            references: vec![name.to_owned()],
            size_bytes: 30 * MIB,
            pinned: false,
            in_use: false,
            first_seen: at(first),
            last_used: last.map(at),
        };
        let images = [
            image("recent", 0, Some(900)),
            image("old", 0, Some(10)),
            image("never", 5, None),
            image("young", 900, None),
            Candidate { in_use: true, ..image("in use", 0, Some(1000)) },
            Candidate { pinned: true, ..image("imported", 0, None) },
        ];
        let all = ["never", "young", "old", "recent"];
        for (available, pressed, want, wanted) in [
            (160, false, &[][..], 0),
            (150, false, &["never", "old"][..], 50 * MIB),
            (190, false, &[][..], 0),
            (140, false, &["never", "old"][..], 60 * MIB),
            (100, false, &["never", "old", "recent"][..], 100 * MIB),
            (0, false, &["never", "old", "recent"][..], 200 * MIB),
            (900, true, &all[..], u64::MAX),
        ] {
            let disk = Disk { total_bytes: 1000 * MIB, available_bytes: available * MIB };
            let plan = plan(&images, disk, Policy::default(), pressed, now);
            let names: Vec<_> = plan.remove.iter().map(|image| image.references[0].as_str()).collect();
            assert_eq!((names.as_slice(), plan.wanted_bytes), (want, wanted), "{available} MiB free");
            assert_eq!(plan.found_bytes, 30 * MIB * names.len() as u64);
        }
    }

    #[test]
    fn a_disk_that_says_nothing_asks_for_nothing() {
        let disk = Disk { total_bytes: 0, available_bytes: 0 };
        assert_eq!(disk.wanted_bytes(Policy::default()), 0);
        let always = Policy { high_percent: 0, low_percent: 0, ..Policy::default() };
        assert_eq!(Disk { total_bytes: 100, available_bytes: 100 }.wanted_bytes(always), 0);
        assert_eq!(Disk { total_bytes: 100, available_bytes: 40 }.wanted_bytes(always), 60);
    }
}
