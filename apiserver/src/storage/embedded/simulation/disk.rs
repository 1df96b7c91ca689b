//! A disk in memory that keeps apart what was written and what is durable, and can lose power, fail and fill up.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use super::super::disk::{Disk, DiskFile};

pub(super) const SECTOR: usize = 512;

/// xorshift64*: the same seed gives the same run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Default)]
struct Inode {
    /// What the process reads back.
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync, in order. A write that a failed sync dropped is seen, and not here.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Created(String, u64),
    Removed(String),
    /// From, to: as a whole or not at all.
    Renamed(String, String, u64),
}

#[derive(Clone, Default)]
struct Platter {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_pending: Vec<NameChange>,
    next_inode: u64,
    operations: usize,
    faults: Faults,
}

/// What goes wrong, and when, counted in operations that change something.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub power_lost_at: Option<usize>,
    pub sync_fails_at: Option<usize>,
    /// Bytes that still fit on the disk.
    pub space: Option<usize>,
}

#[derive(Clone, Default)]
pub(super) struct SimulatedDisk(Arc<Mutex<Platter>>);

fn lost() -> io::Error {
    io::Error::other("power lost")
}

impl Platter {
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.faults.power_lost_at {
            Some(at) if self.operations >= at => Err(lost()),
            _ => Ok(()),
        }
    }
}

impl SimulatedDisk {
    pub(super) fn arc(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    pub(super) fn set(&self, faults: Faults) {
        let mut platter = self.0.lock();
        platter.operations = 0;
        platter.faults = faults;
    }

    pub(super) fn dead(&self) -> bool {
        let platter = self.0.lock();
        platter.faults.power_lost_at.is_some_and(|at| platter.operations >= at)
    }

    /// What a machine finds when the power comes back: of the writes that were not synced any sectors in any state,
    /// of the names not synced any; a file that grew may end anywhere, with garbage in between.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> Self {
        let old = self.0.lock();
        let mut new = Platter { next_inode: old.next_inode, ..Platter::default() };
        let mut names = old.names_durable.clone();
        for change in old.names_pending.iter().filter(|_| random.chance(50)) {
            match change.clone() {
                NameChange::Created(name, inode) => drop(names.insert(name, inode)),
                NameChange::Removed(name) => drop(names.remove(&name)),
                NameChange::Renamed(from, to, inode) => {
                    names.remove(&from);
                    names.insert(to, inode);
                }
            }
        }
        for (name, inode) in names {
            new.inodes.insert(inode, lose(&old.inodes[&inode], random));
            new.names.insert(name, inode);
        }
        new.names_durable = new.names.clone();
        Self(Arc::new(Mutex::new(new)))
    }

    /// What the next process finds when only this one died: everything it wrote.
    pub(super) fn after_kill(&self) -> Self {
        let mut platter = self.0.lock().clone();
        platter.faults = Faults::default();
        Self(Arc::new(Mutex::new(platter)))
    }

    pub(super) fn files(&self) -> Vec<(String, usize)> {
        let platter = self.0.lock();
        platter.names.iter().map(|(name, inode)| (name.clone(), platter.inodes[inode].seen.len())).collect()
    }

    /// Damages a file behind the store's back.
    pub(super) fn damage(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut platter = self.0.lock();
        let inode = platter.names[name];
        let inode = platter.inodes.get_mut(&inode).unwrap();
        damage(&mut inode.seen);
        inode.durable = inode.seen.clone();
    }

    pub(super) fn lose_file(&self, name: &str) {
        let mut platter = self.0.lock();
        platter.names.remove(name);
        platter.names_durable.remove(name);
    }
}

fn lose(inode: &Inode, random: &mut Random) -> Inode {
    let mut bytes = inode.durable.clone();
    let longest = inode
        .pending
        .iter()
        .map(|(at, b)| at + b.len())
        .max()
        .unwrap_or(0)
        .max(inode.seen.len())
        .max(bytes.len());
    // The length itself is durable as of the last sync, or as of any moment since.
    let shortest = inode.durable.len().min(inode.seen.len());
    let length = shortest + random.below(longest - shortest + 1);
    let garbage = random.chance(30);
    while bytes.len() < longest {
        bytes.push(if garbage { random.below(256) as u8 } else { 0 });
    }
    for sector in 0..longest.div_ceil(SECTOR) {
        let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
        let touching: Vec<_> =
            inode.pending.iter().filter(|(at, b)| *at < to && at + b.len() > from).collect();
        let reached = random.below(touching.len() + 1);
        for (at, written) in &touching[..reached] {
            for (i, byte) in written.iter().enumerate().filter(|(i, _)| (from..to).contains(&(at + i))) {
                bytes[at + i] = *byte;
            }
        }
    }
    bytes.truncate(if inode.pending.is_empty() { inode.durable.len() } else { length });
    Inode { seen: bytes.clone(), durable: bytes, pending: Vec::new() }
}

struct SimulatedFile {
    platter: Arc<Mutex<Platter>>,
    inode: u64,
}

impl SimulatedFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut platter = self.platter.lock();
        if platter.faults.power_lost_at.is_some_and(|at| platter.operations >= at) {
            return Err(lost());
        }
        platter.inodes.get_mut(&self.inode).map(act).ok_or_else(lost)
    }
}

impl Disk for SimulatedDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut platter = self.0.lock();
        platter.operation()?;
        if platter.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = platter.next_inode;
        platter.next_inode += 1;
        platter.inodes.insert(inode, Inode::default());
        platter.names.insert(name.into(), inode);
        platter.names_pending.push(NameChange::Created(name.into(), inode));
        Ok(Arc::new(SimulatedFile { platter: self.0.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = *self.0.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { platter: self.0.clone(), inode }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.operation()?;
        platter.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        platter.names_pending.push(NameChange::Removed(name.into()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.operation()?;
        let inode = platter.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        platter.names.insert(to.into(), inode);
        platter.names_pending.push(NameChange::Renamed(from.into(), to.into(), inode));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.operation()?;
        platter.names_durable = platter.names.clone();
        platter.names_pending.clear();
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn length(&self) -> io::Result<u64> {
        self.with(|inode| inode.seen.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        self.with(|inode| match inode.seen.get(start..start + buffer.len()) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })?
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut platter = self.platter.lock();
        // The power may go in the middle of a write: what is in flight counts as written, and not as synced.
        let alive = platter.operation();
        if alive.is_err() && platter.faults.power_lost_at != Some(platter.operations) {
            return alive;
        }
        let fits = match &mut platter.faults.space {
            Some(space) => {
                let fits = bytes.len().min(*space);
                *space -= fits;
                fits
            }
            None => bytes.len(),
        };
        let inode = platter.inodes.get_mut(&self.inode).ok_or_else(lost)?;
        let (start, written) = (offset as usize, &bytes[..fits]);
        inode.seen.resize(inode.seen.len().max(start + fits), 0);
        inode.seen[start..start + fits].copy_from_slice(written);
        inode.pending.push((start, written.to_vec()));
        alive?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operation()?;
        let inode = platter.inodes.get_mut(&self.inode).ok_or_else(lost)?;
        inode.seen.resize(length as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operation()?;
        let fails = platter.faults.sync_fails_at == Some(platter.operations);
        let inode = platter.inodes.get_mut(&self.inode).ok_or_else(lost)?;
        if fails {
            // As on Linux: the pages count as clean from here on, and were never written.
            inode.pending.clear();
            return Err(io::Error::other("input/output error"));
        }
        inode.durable.resize(inode.seen.len(), 0);
        for (start, bytes) in std::mem::take(&mut inode.pending) {
            // What a set_length cut off since is not brought back.
            let end = (start + bytes.len()).min(inode.durable.len());
            if let Some(place) = inode.durable.get_mut(start..end) {
                place.copy_from_slice(&bytes[..place.len()]);
            }
        }
        Ok(())
    }
}
