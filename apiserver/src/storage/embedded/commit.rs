//! One group commit: compare every write, put what passes into one frame, sync it, and only then show and answer it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    super::{Change, Entry, Error, Expected, Operation, Outcome, Write},
    clean::{Cleaner, Moved},
    disk::Disk,
    expiry::{Clock, Expiry, left_ms},
    frame::{FrameBuilder, Identity, Record, RecordKind},
    log::{Failure, Log},
    recovery,
    state::{Slot, State},
    watchers::Watchers,
};

/// What readers and watchers see.
pub(super) struct Shared {
    pub state: RwLock<State>,
    pub watchers: Mutex<Watchers>,
    pub poisoned: OnceLock<Arc<str>>,
    pub closed: AtomicBool,
    pub disk_bytes: AtomicU64,
    pub queued_bytes: AtomicUsize,
    pub queued_writes: AtomicUsize,
}

impl Shared {
    pub(super) fn poison_error(&self) -> Option<Error> {
        self.poisoned.get().map(|reason| Error::Poisoned { reason: reason.clone() })
    }
}

/// The one writer's side of the store.
pub(super) struct Committer {
    log: Log,
    shared: Arc<Shared>,
    frame: FrameBuilder,
    expiry: Expiry,
    cleaner: Cleaner,
}

/// A write that passed its compare and is in the frame, not yet durable.
struct Passed {
    key: Arc<str>,
    revision: u64,
    /// With the record's offset in the frame.
    put: Option<(Bytes, u32)>,
    ttl_ms: u64,
}

/// What a write will be answered once the frame is durable.
enum Answer {
    Written(u64),
    Absent,
    /// The key's newest value is in this same frame.
    Pending(Entry),
    Stored(Arc<str>, Slot),
}

impl Committer {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        identity: Identity,
        clock: Clock,
    ) -> Result<Self, Error> {
        let mut state = State::default();
        let mut ttls: HashMap<Arc<str>, (u64, u64)> = HashMap::new();
        let log = recovery::open(disk, segment_bytes, identity, |record, segment, offset| {
            if record.kind == RecordKind::Delete {
                state.remove(record.key);
                ttls.remove(record.key);
                return;
            }
            let known = state.get(record.key).map(|(key, _)| key.clone());
            let key: Arc<str> = known.unwrap_or_else(|| record.key.into());
            if record.ttl_ms > 0 {
                let left = left_ms(record.written_at_ms, record.ttl_ms, clock.wall_ms);
                ttls.insert(key.clone(), (record.revision, left));
            } else {
                ttls.remove(&key);
            }
            let value_bytes = record.value.len() as u32;
            state.put(key, Slot { revision: record.revision, segment: segment.clone(), offset, value_bytes });
        })?;
        state.revision = log.revision;
        let mut expiry = Expiry::default();
        for (key, (revision, left)) in ttls {
            expiry.add(key, revision, left, clock.now);
        }
        let shared = Shared {
            watchers: Mutex::new(Watchers::new(log.revision)),
            state: RwLock::new(state),
            poisoned: OnceLock::new(),
            closed: AtomicBool::new(false),
            disk_bytes: AtomicU64::new(log.total_bytes()),
            queued_bytes: AtomicUsize::new(0),
            queued_writes: AtomicUsize::new(0),
        };
        Ok(Self {
            log,
            shared: Arc::new(shared),
            frame: FrameBuilder::default(),
            expiry,
            cleaner: Cleaner::default(),
        })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn next_expiry(&self) -> Option<std::time::Instant> {
        if self.shared.poisoned.get().is_some() { None } else { self.expiry.next() }
    }

    /// Makes the log's end exact and provable; for a clean close.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        match self.shared.poison_error() {
            Some(error) => Err(error),
            None => self.log.trim().and_then(|()| self.log.sync_mark()),
        }
    }

    /// Answers in the order of `writes`. Also deletes what has expired and cleans a bit of the log.
    pub(super) fn commit(&mut self, writes: Vec<Write>, clock: Clock) -> Vec<Result<Outcome, Error>> {
        if let Some(error) = self.shared.poison_error() {
            return writes.iter().map(|_| Err(error.clone())).collect();
        }
        self.frame.clear();
        let due = self.expiry.due(clock.now);
        let mut batch = Batch::default();
        let answers: Vec<Answer>;
        let (revision, live_bytes);
        {
            let state = self.shared.state.read();
            live_bytes = state.live_bytes;
            batch.revision = state.revision;
            answers = writes.into_iter().map(|w| batch.decide(w, &state, &mut self.frame, clock)).collect();
            for (key, put_revision) in &due {
                batch.expire(key, *put_revision, &state, &mut self.frame);
            }
            revision = batch.revision;
        }
        if batch.passed.is_empty() {
            self.expiry.done(due.len());
            return answers.into_iter().map(answer).collect();
        }
        let cleaner_before = self.cleaner.clone();
        let moved = match self.cleaner.advance(&self.log, &self.shared.state, &batch.newest, &mut self.frame)
        {
            Ok(moved) => moved,
            Err(error) => return self.fail(Failure::Fatal(error), answers, cleaner_before, clock),
        };
        let release = moved.release;
        match self.log.append(&mut self.frame, revision, release, live_bytes) {
            Ok(placed) => {
                self.expiry.done(due.len());
                self.show(batch, moved, revision, &placed, clock);
                if release {
                    self.log.release_oldest();
                }
                self.shared.disk_bytes.store(self.log.total_bytes(), Ordering::Relaxed);
                answers.into_iter().map(answer).collect()
            }
            Err(failure) => self.fail(failure, answers, cleaner_before, clock),
        }
    }

    fn fail(
        &mut self,
        failure: Failure,
        answers: Vec<Answer>,
        cleaner: Cleaner,
        clock: Clock,
    ) -> Vec<Result<Outcome, Error>> {
        self.cleaner = cleaner;
        self.expiry.hold(clock.now);
        let error = match failure {
            Failure::Refused(error) => error,
            Failure::Fatal(error) => {
                tracing::error!(%error, "store: refusing every further write");
                let _ = self.shared.poisoned.set(error.to_string().into());
                error
            }
        };
        let failed = |a| match a {
            Answer::Written(_) | Answer::Pending(_) => Err(error.clone()),
            other => answer(other),
        };
        answers.into_iter().map(failed).collect()
    }

    /// The frame is durable: readers and watchers see it from here on.
    fn show(&mut self, batch: Batch, moved: Moved, revision: u64, placed: &super::log::Placed, clock: Clock) {
        let slot = |revision, offset: u32, value_bytes| Slot {
            revision,
            segment: placed.segment.clone(),
            offset: (placed.offset + u64::from(offset)) as u32,
            value_bytes,
        };
        let mut changes = Vec::with_capacity(batch.passed.len());
        let mut state = self.shared.state.write();
        for passed in batch.passed {
            let Passed { key, revision, put, ttl_ms } = passed;
            let value = match put {
                Some((value, offset)) => {
                    state.put(key.clone(), slot(revision, offset, value.len() as u32));
                    if ttl_ms > 0 {
                        self.expiry.add(key.clone(), revision, ttl_ms, clock.now);
                    }
                    Some(value)
                }
                None => {
                    state.remove(&key);
                    None
                }
            };
            changes.push(Change { key, revision, value });
        }
        for (key, old, offset) in moved.records {
            state.put(key, slot(old.revision, offset, old.value_bytes));
        }
        state.revision = revision;
        // Under the state's lock: whoever reads a revision can watch from it.
        self.shared.watchers.lock().publish(changes, revision);
    }
}

fn answer(answer: Answer) -> Result<Outcome, Error> {
    Ok(match answer {
        Answer::Written(revision) => Outcome::Written { revision },
        Answer::Absent => Outcome::Conflict { current: None },
        Answer::Pending(entry) => Outcome::Conflict { current: Some(entry) },
        Answer::Stored(key, slot) => Outcome::Conflict { current: Some(slot.read(key)?) },
    })
}

#[derive(Default)]
pub(super) struct Batch {
    revision: u64,
    passed: Vec<Passed>,
    /// Index in `passed` of the newest write to a key.
    newest: BTreeMap<Arc<str>, usize>,
}

/// The key's state as the next write of the batch sees it.
enum Current {
    Absent,
    Pending(usize),
    Stored(Arc<str>, Slot),
}

impl Batch {
    fn current(&self, key: &str, state: &State) -> Current {
        match self.newest.get(key) {
            Some(index) if self.passed[*index].put.is_some() => Current::Pending(*index),
            Some(_) => Current::Absent,
            None => {
                state.get(key).map_or(Current::Absent, |(k, slot)| Current::Stored(k.clone(), slot.clone()))
            }
        }
    }

    fn decide(&mut self, write: Write, state: &State, frame: &mut FrameBuilder, clock: Clock) -> Answer {
        let current = self.current(&write.key, state);
        let revision = match &current {
            Current::Absent => None,
            Current::Pending(index) => Some(self.passed[*index].revision),
            Current::Stored(_, slot) => Some(slot.revision),
        };
        let met = match write.expected {
            // As in etcd, where the revision of an absent key is 0.
            Expected::Absent | Expected::Revision(0) => revision.is_none(),
            Expected::Revision(expected) => revision == Some(expected),
        };
        // There is nothing to delete when the key is absent, expected or not.
        if !met || (revision.is_none() && write.operation == Operation::Delete) {
            return self.conflict(current);
        }
        let key = match current {
            Current::Stored(key, _) => key,
            Current::Pending(index) => self.passed[index].key.clone(),
            Current::Absent => write.key.into(),
        };
        Answer::Written(self.pass(key, write.operation, frame, clock.wall_ms))
    }

    fn conflict(&self, current: Current) -> Answer {
        match current {
            Current::Absent => Answer::Absent,
            Current::Stored(key, slot) => Answer::Stored(key, slot),
            Current::Pending(index) => {
                let passed = &self.passed[index];
                passed.put.as_ref().map_or(Answer::Absent, |(value, _)| {
                    Answer::Pending(Entry {
                        key: passed.key.clone(),
                        value: value.clone(),
                        revision: passed.revision,
                    })
                })
            }
        }
    }

    fn expire(&mut self, key: &Arc<str>, put_revision: u64, state: &State, frame: &mut FrameBuilder) {
        let live = match self.current(key, state) {
            Current::Absent => false,
            Current::Pending(index) => self.passed[index].revision == put_revision,
            Current::Stored(_, slot) => slot.revision == put_revision,
        };
        if live {
            self.pass(key.clone(), Operation::Delete, frame, 0);
        }
    }

    fn pass(&mut self, key: Arc<str>, operation: Operation, frame: &mut FrameBuilder, wall_ms: u64) -> u64 {
        self.revision += 1;
        let revision = self.revision;
        let (value, ttl_ms) = match operation {
            // A time to live under a millisecond is still one.
            Operation::Put { value, ttl } => (Some(value), ttl.map_or(0, |t| (t.as_millis() as u64).max(1))),
            Operation::Delete => (None, 0),
        };
        let offset = frame.push(&Record {
            kind: if value.is_some() { RecordKind::Put } else { RecordKind::Delete },
            revision,
            written_at_ms: wall_ms,
            ttl_ms,
            key: &key,
            value: value.as_deref().unwrap_or_default(),
        });
        self.newest.insert(key.clone(), self.passed.len());
        self.passed.push(Passed { key, revision, put: value.map(|v| (v, offset)), ttl_ms });
        revision
    }
}
