//! Runs of the committer on a simulated disk, by seed: power loss at any operation, failed syncs, full disks, damage.

mod disk;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::disk::{Faults, Random, SECTOR, SimulatedDisk};
use super::{
    super::{Entry, Error, Expected, Operation, Outcome, Write},
    commit::Committer,
    expiry::Clock,
    frame::Identity,
    state::Slot,
};

/// Runs of the main test, each with six power losses: some hundreds, in a few seconds.
const SEEDS: u64 = 100;

const SEGMENT_BYTES: u64 = 32 * 1024;

fn open(disk: &SimulatedDisk) -> Result<Committer, Error> {
    let clock = Clock { now: Instant::now(), wall_ms: 1_000_000 };
    Committer::open(disk.arc(), SEGMENT_BYTES, Identity([3; 16]), clock)
}

type Contents = BTreeMap<String, (u64, Bytes)>;

/// What a correct store holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    revision: u64,
    contents: Contents,
}

impl Model {
    fn of(committer: &Committer) -> Result<Self, Error> {
        let shared = committer.shared();
        let state = shared.state.read();
        let mut contents = Contents::new();
        for (key, slot) in state.under("") {
            let entry = slot.read(key)?;
            contents.insert(entry.key.to_string(), (entry.revision, entry.value));
        }
        Ok(Self { revision: state.revision, contents })
    }

    fn apply(&mut self, write: &Write) -> bool {
        let current = self.contents.get(&write.key).map(|c| c.0);
        let met = match write.expected {
            Expected::Absent => current.is_none(),
            Expected::Revision(revision) => current == Some(revision),
        };
        if !met || (current.is_none() && write.operation == Operation::Delete) {
            return false;
        }
        self.revision += 1;
        match &write.operation {
            Operation::Put { value, .. } => {
                self.contents.insert(write.key.clone(), (self.revision, value.clone()));
            }
            Operation::Delete => {
                self.contents.remove(&write.key);
            }
        }
        true
    }
}

fn random_write(model: &Model, random: &mut Random) -> Write {
    let key = format!("/registry/pods/ns/{}", random.below(24));
    let expected = match model.contents.get(&key) {
        Some(_) if random.chance(10) => Expected::Revision(1),
        Some((revision, _)) => Expected::Revision(*revision),
        None => Expected::Absent,
    };
    let operation = if random.chance(20) {
        Operation::Delete
    } else {
        let longest = if random.chance(10) { 6_000 } else { 600 };
        let value = Bytes::from(vec![random.below(256) as u8; random.below(longest)]);
        Operation::Put { value, ttl: random.chance(10).then_some(Duration::from_secs(3600)) }
    };
    Write { key, expected, operation }
}

/// One group commit on both; what the store would hold afterwards, and whether it says it does.
fn step(committer: &mut Committer, model: &Model, random: &mut Random) -> (Model, bool) {
    let mut after = model.clone();
    let mut writes = Vec::new();
    let mut expected = Vec::new();
    for _ in 0..=random.below(6) {
        let write = random_write(&after, random);
        expected.push(after.apply(&write).then_some(after.revision));
        writes.push(write);
    }
    let outcomes = committer.commit(writes, Clock { now: Instant::now(), wall_ms: 1_000_000 });
    assert_eq!(outcomes.len(), expected.len());
    let mut acknowledged = true;
    for (outcome, expected) in outcomes.into_iter().zip(expected) {
        match (outcome, expected) {
            (Ok(Outcome::Written { revision }), Some(expected)) => assert_eq!(revision, expected),
            (Ok(Outcome::Conflict { .. }), None) => {}
            (Err(_), _) => acknowledged = false,
            other => panic!("{other:?}"),
        }
    }
    (after, acknowledged)
}

#[test]
fn power_loss_keeps_every_acknowledged_write_and_nothing_half() {
    let mut losses = 0;
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut disk = SimulatedDisk::default();
        let mut model = Model { revision: 1, contents: Contents::new() };
        let mut in_flight = model.clone();
        for round in 0..6 {
            // Recovery loses power as well, and has to be repeatable.
            let longest = if random.chance(30) { 8 } else { 300 };
            let power_lost_at = Some(1 + random.below(longest));
            disk.set(Faults { power_lost_at, ..Faults::default() });
            if let Ok(mut committer) = open(&disk) {
                let found = Model::of(&committer);
                if let Ok(found) = found {
                    assert!(found == model || found == in_flight, "seed {seed} round {round}");
                    model = found;
                }
                while !disk.dead() {
                    let (after, acknowledged) = step(&mut committer, &model, &mut random);
                    in_flight = after.clone();
                    if acknowledged {
                        model = after;
                    }
                }
            }
            losses += 1;
            let died = disk;
            // Some die of a kill first, some lose power at once.
            disk = if random.chance(20) { died.after_kill() } else { died.after_power_loss(&mut random) };
            let committer =
                open(&disk).unwrap_or_else(|e| panic!("seed {seed} round {round}: does not open: {e}"));
            let found = Model::of(&committer).unwrap();
            assert!(
                found == model || found == in_flight,
                "seed {seed} round {round}: revision {} of {} or {}",
                found.revision,
                model.revision,
                in_flight.revision
            );
            (model, in_flight) = (found.clone(), found);
        }
    }
    assert_eq!(losses, SEEDS * 6);
}

#[test]
fn the_log_stays_short_and_whole_through_cleaning() {
    let mut random = Random::new(11);
    let disk = SimulatedDisk::default();
    let mut model = Model { revision: 1, contents: Contents::new() };
    let mut committer = open(&disk).unwrap();
    let mut longest = 0;
    let mut reader = (Vec::new(), Contents::new());
    for round in 0..3_000 {
        // A reader that is slow: what it is at stays readable, though its segments are released meanwhile.
        if round % 100 == 0 {
            for (key, slot) in reader.0 {
                let entry: Entry = Slot::read(&slot, key).unwrap();
                assert_eq!(reader.1[&*entry.key], (entry.revision, entry.value));
            }
            reader = (committer.shared().state.read().under(""), model.contents.clone());
        }
        let (after, acknowledged) = step(&mut committer, &model, &mut random);
        assert!(acknowledged);
        model = after;
        longest = longest.max(disk.files().iter().map(|f| f.1).sum::<usize>());
    }
    assert_eq!(Model::of(&committer).unwrap(), model);
    assert!(longest < 300 * 1024, "{longest} bytes for at most 24 values of 6,000");
    drop(committer);
    assert_eq!(Model::of(&open(&disk).unwrap()).unwrap(), model);
}

#[test]
fn cleaning_keeps_up_with_the_largest_batches() {
    let disk = SimulatedDisk::default();
    let mut committer = open(&disk).unwrap();
    let (keys, value) = (500, Bytes::from(vec![7; 12_000]));
    let mut revisions = vec![0; keys];
    let mut longest = 0;
    for round in 0..25 {
        for half in [0, keys / 2] {
            // Every other round writes a part only, so that live and dead records lie mixed.
            let some = (half..half + keys / 2).filter(|key| round % 2 == 0 || key % 3 == 0);
            let write = |key: usize| Write {
                key: format!("/k/{key}"),
                expected: Expected::Revision(revisions[key]),
                operation: Operation::Put { value: value.clone(), ttl: None },
            };
            let keys: Vec<usize> = some.collect();
            let outcomes = committer.commit(keys.iter().map(|k| write(*k)).collect(), Clock::read());
            for (key, outcome) in keys.into_iter().zip(outcomes) {
                let Ok(Outcome::Written { revision }) = outcome else { panic!("{outcome:?}") };
                revisions[key] = revision;
            }
            longest = longest.max(disk.files().iter().map(|f| f.1).sum::<usize>());
        }
    }
    let live = keys * value.len();
    assert!(longest < 4 * live, "{longest} bytes for {live} live");
}

#[test]
fn a_failed_sync_poisons_and_what_is_served_after_the_restart_stays() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::default();
        let mut model = Model { revision: 1, contents: Contents::new() };
        let mut committer = open(&disk).unwrap();
        for _ in 0..random.below(20) {
            model = step(&mut committer, &model, &mut random).0;
        }
        // Whichever sync comes next: of a frame, of a new segment, of the mark.
        let mut in_flight = model.clone();
        let mut acknowledged = true;
        for _ in 0..2_000 {
            disk.set(Faults { sync_fails_at: Some(1 + random.below(8)), ..Faults::default() });
            let (after, good) = step(&mut committer, &model, &mut random);
            in_flight = after.clone();
            if !good {
                acknowledged = false;
                break;
            }
            model = after;
        }
        assert!(!acknowledged, "seed {seed}: no sync failed");
        disk.set(Faults::default());
        let write = Write {
            key: "/later".into(),
            expected: Expected::Absent,
            operation: Operation::Put { value: Bytes::new(), ttl: None },
        };
        let refused = committer.commit(vec![write], Clock::read()).remove(0);
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "seed {seed}: {refused:?}");
        drop(committer);
        // The machine did not restart: the page cache shows what the disk never got.
        let disk = disk.after_kill();
        let mut committer = open(&disk).unwrap();
        let served = Model::of(&committer).unwrap();
        assert!(served == model || served == in_flight, "seed {seed}");
        let (after, good) = step(&mut committer, &served, &mut random);
        assert!(good);
        drop(committer);
        let found = Model::of(&open(&disk.after_power_loss(&mut random)).unwrap()).unwrap();
        assert_eq!(found, after, "seed {seed}");
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_when_there_is_room() {
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::default();
        let mut model = Model { revision: 1, contents: Contents::new() };
        let mut committer = open(&disk).unwrap();
        for _ in 0..5 {
            disk.set(Faults { space: Some(random.below(30_000)), ..Faults::default() });
            for _ in 0..30 {
                let (after, good) = step(&mut committer, &model, &mut random);
                if good {
                    model = after;
                }
            }
            disk.set(Faults::default());
            assert!(committer.shared().poison_error().is_none(), "seed {seed}");
            assert_eq!(Model::of(&committer).unwrap(), model, "seed {seed}");
            let (after, good) = step(&mut committer, &model, &mut random);
            assert!(good, "seed {seed}");
            model = after;
        }
        drop(committer);
        assert_eq!(
            Model::of(&open(&disk.after_power_loss(&mut random)).unwrap()).unwrap(),
            model,
            "seed {seed}"
        );
    }
}

/// A store of several segments with all that was acknowledged in it; `marked`: its mark reached the disk.
fn filled(seed: u64, marked: bool) -> (SimulatedDisk, Model) {
    let mut random = Random::new(seed);
    let disk = SimulatedDisk::default();
    let mut model = Model { revision: 1, contents: Contents::new() };
    let mut committer = open(&disk).unwrap();
    for _ in 0..60 {
        model = step(&mut committer, &model, &mut random).0;
    }
    if marked {
        committer.finish().unwrap();
    }
    (disk.after_kill(), model)
}

/// Opens a damaged store: it must say so and name a file, or still hold everything.
fn must_notice(disk: &SimulatedDisk, model: &Model, what: &str) -> bool {
    match open(disk) {
        Err(Error::Corrupt { path, what: said }) => {
            assert!(path.starts_with("/simulated") && !said.is_empty(), "{what}");
            true
        }
        Err(other) => panic!("{what}: {other}"),
        Ok(committer) => {
            assert_eq!(
                &Model::of(&committer).unwrap(),
                model,
                "{what}: acknowledged data is gone without a word"
            );
            false
        }
    }
}

#[test]
fn any_damage_to_acknowledged_data_is_noticed() {
    let (disk, model) = filled(5, true);
    let logs: Vec<_> = disk.files().into_iter().filter(|(name, _)| name.ends_with(".log")).collect();
    assert!(logs.len() >= 3, "{logs:?}");
    let mut noticed = 0;
    for (name, length) in &logs {
        for unit in [SECTOR, 4096] {
            for start in (0..*length).step_by(unit) {
                let damaged = disk.after_kill();
                damaged.damage(name, |bytes| {
                    let end = bytes.len().min(start + unit);
                    bytes[start..end].fill(0);
                });
                noticed += usize::from(must_notice(&damaged, &model, &format!("{name} zeroed at {start}")));
            }
        }
        for bit in (0..length * 8).step_by(4_999) {
            let damaged = disk.after_kill();
            damaged.damage(name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            noticed += usize::from(must_notice(&damaged, &model, &format!("{name} bit {bit}")));
        }
        for length in (0..*length).step_by(397) {
            let damaged = disk.after_kill();
            damaged.damage(name, |bytes| bytes.truncate(length));
            noticed += usize::from(must_notice(&damaged, &model, &format!("{name} cut to {length}")));
        }
        let damaged = disk.after_kill();
        damaged.lose_file(name);
        assert!(must_notice(&damaged, &model, &format!("{name} lost")));
    }
    assert!(noticed > 300, "{noticed}");
}

#[test]
fn damage_before_the_last_write_is_noticed_without_the_mark() {
    let (disk, model) = filled(6, true);
    let mut logs: Vec<_> = disk.files().into_iter().filter(|(name, _)| name.ends_with(".log")).collect();
    logs.pop();
    disk.lose_file("mark");
    for (name, length) in logs {
        for start in (0..length).step_by(SECTOR) {
            let damaged = disk.after_kill();
            damaged.damage(&name, |bytes| {
                let end = bytes.len().min(start + SECTOR);
                bytes[start..end].fill(0xff);
            });
            must_notice(&damaged, &model, &format!("{name} at {start}"));
        }
    }
    // In the last segment everything but the last frame is covered by its successors.
    let disk = SimulatedDisk::default();
    let clock = Clock { now: Instant::now(), wall_ms: 1_000_000 };
    let mut committer = Committer::open(disk.arc(), 1 << 20, Identity([3; 16]), clock).unwrap();
    let mut model = Model { revision: 1, contents: Contents::new() };
    let mut random = Random::new(8);
    let (mut last_frame, mut noticed) = (0, 0);
    for _ in 0..20 {
        last_frame = disk.files()[0].1;
        model = step(&mut committer, &model, &mut random).0;
    }
    disk.lose_file("mark");
    for start in (0..last_frame).step_by(SECTOR) {
        let damaged = disk.after_kill();
        damaged.damage("00000000000000000001.log", |bytes| {
            bytes[start..last_frame.min(start + SECTOR)].fill(0);
        });
        noticed += usize::from(must_notice(&damaged, &model, &format!("a covered frame at {start}")));
    }
    assert!(noticed >= 20, "{noticed}");
}

#[test]
fn files_of_another_store_are_refused() {
    let (disk, model) = filled(7, true);
    let foreign = SimulatedDisk::default();
    let clock = Clock { now: Instant::now(), wall_ms: 1 };
    let mut other = Committer::open(foreign.arc(), SEGMENT_BYTES, Identity([9; 16]), clock).unwrap();
    let mut random = Random::new(1);
    step(&mut other, &Model { revision: 1, contents: Contents::new() }, &mut random);
    let mut mark = Vec::new();
    foreign.damage("mark", |bytes| mark = bytes.clone());
    let mixed = disk.after_kill();
    mixed.damage("mark", |bytes| *bytes = mark.clone());
    assert!(must_notice(&mixed, &model, "another store's mark"));
    let mut segment = Vec::new();
    foreign.damage("00000000000000000001.log", |bytes| segment = bytes.clone());
    let (name, _) = disk.files().into_iter().rfind(|(n, _)| n.ends_with(".log")).unwrap();
    disk.damage(&name, |bytes| *bytes = segment);
    assert!(must_notice(&disk, &model, "another store's segment"));
}
