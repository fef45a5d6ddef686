//! A disk in memory that forgets as a real one may: when the power goes, what was not synced is kept, lost or torn,
//! sector by sector and in any order, as a seed decides. It can also be full, or fail a named operation.
//!
//! For tests and simulations. Stricter than common file systems (a synced file whose directory was not synced may
//! be gone), but a rename happens wholly or not at all, as they all promise. It knows nothing of the store's files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cipher::Random;
use crate::disk::{Disk, DiskFile, DiskLock, LockError};

const SECTOR: usize = 512;

/// A kind of change to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creating or emptying a file.
    Create,
    /// Writing into a file.
    Write,
    /// Changing its length.
    SetLength,
    /// Making it durable.
    Sync,
    /// Renaming it.
    Rename,
    /// Removing it.
    Remove,
    /// Making the directory durable.
    SyncDirectory,
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes to names since the directory was last synced.
    pending: Vec<NameChange>,
    next_file: u64,
    chance: Chance,
    off: bool,
    locked: bool,
    operations_left: Option<u64>,
    operations: u64,
    capacity: Option<u64>,
    faults: Vec<(Operation, io::ErrorKind)>,
}

enum NameChange {
    Set(String, u64),
    Move { from: String, to: String, file: u64 },
    Remove(String),
}

#[derive(Clone, Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors in which the two may differ.
    dirty: BTreeSet<usize>,
    /// Sectors that a failed sync left behind. As on Linux, a later sync does not write them but succeeds.
    forgotten: BTreeSet<usize>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::holding(seed, BTreeMap::new())
    }

    /// A disk that durably holds these files.
    pub fn holding(seed: u64, files: BTreeMap<String, Vec<u8>>) -> SimDisk {
        let mut state = State::empty(Chance(seed));
        for (name, bytes) in files {
            let id =
                state.new_file(Contents { current: bytes.clone(), durable: bytes, ..Contents::default() });
            state.names.insert(name, id);
        }
        state.durable_names = state.names.clone();
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The files as a program sees them now.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, id)| (name.clone(), state.files[id].current.clone())).collect()
    }

    /// Cuts the power: whoever uses this disk gets errors from now on. Returns it as it comes up again.
    pub fn lose_power(&self) -> SimDisk {
        let mut state = self.state();
        state.off = true;
        let mut names = state.durable_names.clone();
        for change in std::mem::take(&mut state.pending) {
            if state.chance.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for (name, id) in names {
            let State { files: all, chance, .. } = &mut *state;
            files.insert(name, all[&id].survive(chance));
        }
        SimDisk { state: Arc::new(Mutex::new(state.successor(files))) }
    }

    /// Kills whoever uses this disk: errors from now on, but the system has all that was written.
    pub fn kill(&self) -> SimDisk {
        let mut state = self.state();
        state.off = true;
        let mut next = State::empty(Chance(state.chance.next()));
        next.files = state.files.clone();
        next.names = state.names.clone();
        next.durable_names = state.durable_names.clone();
        next.pending = std::mem::take(&mut state.pending);
        next.next_file = state.next_file;
        next.capacity = state.capacity;
        SimDisk { state: Arc::new(Mutex::new(next)) }
    }

    /// The power will go in the middle of the change after so many more; [`lose_power`](SimDisk::lose_power) then
    /// brings it back.
    pub fn cut_power_after(&self, operations: u64) {
        self.state().operations_left = Some(operations);
    }

    /// How many changes there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many bytes fit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// How many bytes the files hold.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// The next change of this kind fails so; a failing write is half done.
    pub fn fail_next(&self, operation: Operation, kind: io::ErrorKind) {
        self.state().faults.push((operation, kind));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a seed decides, for [`Options::random`](crate::Options). Never for a real store.
pub fn seeded_random(seed: u64) -> Random {
    let chance = Mutex::new(Chance(seed ^ 0x5eed));
    Arc::new(move |buffer: &mut [u8]| {
        let mut chance = chance.lock().unwrap_or_else(PoisonError::into_inner);
        chance.fill(buffer);
        Ok(())
    })
}

impl State {
    fn empty(chance: Chance) -> State {
        State {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            next_file: 0,
            chance,
            off: false,
            locked: false,
            operations_left: None,
            operations: 0,
            capacity: None,
            faults: Vec::new(),
        }
    }

    /// The disk after a restart, which holds these files and owes nothing.
    fn successor(&mut self, files: BTreeMap<String, Vec<u8>>) -> State {
        let disk = SimDisk::holding(self.chance.next(), files);
        let mut state = disk.state();
        state.capacity = self.capacity;
        std::mem::replace(&mut *state, State::empty(Chance(0)))
    }

    fn new_file(&mut self, contents: Contents) -> u64 {
        self.next_file += 1;
        self.files.insert(self.next_file, contents);
        self.next_file
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].current.len() as u64).sum()
    }

    fn alive(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts a change, and fails it if its time has come.
    fn step(&mut self, operation: Operation) -> io::Result<()> {
        self.alive()?;
        self.operations += 1;
        if let Some(left) = &mut self.operations_left {
            if *left == 0 {
                self.off = true;
                return self.alive();
            }
            *left -= 1;
        }
        match self.faults.iter().position(|(planned, _)| *planned == operation) {
            Some(position) => Err(io::Error::new(self.faults.remove(position).1, "simulated")),
            None => Ok(()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn file(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    fn contents(&mut self, id: u64) -> &mut Contents {
        self.files.entry(id).or_default()
    }

    fn write(&mut self, id: u64, bytes: &[u8], offset: usize) -> io::Result<()> {
        if let Err(error) = self.step(Operation::Write) {
            let half = usize::try_from(self.chance.below(bytes.len() as u64 + 1)).unwrap_or(0);
            self.contents(id).write(&bytes[..half], offset);
            return Err(error);
        }
        let length = self.contents(id).current.len();
        let free = self.capacity.map_or(usize::MAX, |capacity| {
            usize::try_from(capacity.saturating_sub(self.used())).unwrap_or(usize::MAX)
        });
        let fits = length.saturating_add(free).saturating_sub(offset).min(bytes.len());
        self.contents(id).write(&bytes[..fits], offset);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Move { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.resize(end);
        }
        self.current[offset..end].copy_from_slice(bytes);
        self.touch(offset / SECTOR..(end - 1) / SECTOR + 1);
    }

    fn resize(&mut self, length: usize) {
        let touched = self.current.len().min(length)..self.current.len().max(length);
        self.current.resize(length, 0);
        self.touch(touched.start / SECTOR..touched.end.div_ceil(SECTOR));
    }

    fn touch(&mut self, sectors: std::ops::Range<usize>) {
        for sector in sectors {
            self.forgotten.remove(&sector);
            self.dirty.insert(sector);
        }
    }

    fn fail_to_sync(&mut self) {
        self.forgotten.append(&mut self.dirty);
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector_range(sector, self.current.len());
            self.durable[range.clone()].copy_from_slice(&self.current[range]);
        }
    }

    /// What is left after the power went.
    fn survive(&self, chance: &mut Chance) -> Vec<u8> {
        let lengths = [self.durable.len(), self.current.len()];
        let mut bytes = self.durable.clone();
        bytes.resize(lengths[usize::from(chance.below(2) == 0)], 0);
        // Now and then nothing of a file got through, or all of it.
        let mood = chance.below(4);
        for sector in self.dirty.union(&self.forgotten) {
            let range = sector_range(*sector, bytes.len().min(self.current.len()));
            let fate = match mood {
                0 => 0,
                1 => 1,
                _ => chance.below(4),
            };
            match fate {
                0 => {}
                1 | 2 => bytes[range.clone()].copy_from_slice(&self.current[range]),
                _ => {
                    let torn = usize::try_from(chance.below(range.len() as u64 + 1)).unwrap_or(0);
                    let (start, end) = (range.start, range.end);
                    bytes[start..start + torn].copy_from_slice(&self.current[start..start + torn]);
                    if chance.below(4) == 0 {
                        chance.fill(&mut bytes[start + torn..end]);
                    }
                }
            }
        }
        bytes
    }
}

fn sector_range(sector: usize, length: usize) -> std::ops::Range<usize> {
    let start = (sector * SECTOR).min(length);
    start..(start + SECTOR).min(length)
}

impl Disk for SimDisk {
    fn describe(&self, name: &str) -> String {
        format!("simulated/{name}")
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state();
        state.alive().map_err(LockError::Io)?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held(String::new()));
        }
        Ok(Box::new(SimLock { disk: self.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.alive()?;
        Ok(Box::new(SimFile { disk: self.clone(), id: state.file(name)? }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.step(Operation::Create)?;
        let id = match state.names.get(name) {
            Some(id) => *id,
            None => {
                let id = state.new_file(Contents::default());
                state.change_name(NameChange::Set(name.to_owned(), id));
                id
            }
        };
        state.contents(id).resize(0);
        Ok(Box::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::Rename)?;
        let file = state.file(from)?;
        state.change_name(NameChange::Move { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::Remove)?;
        state.file(name)?;
        state.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::SyncDirectory)?;
        state.durable_names = state.names.clone();
        state.pending.clear();
        // Files without a name are gone for good; whoever still has one open only gets an empty one.
        let State { files, names, .. } = &mut *state;
        let named: BTreeSet<u64> = names.values().copied().collect();
        files.retain(|id, _| named.contains(id));
        Ok(())
    }
}

struct SimLock {
    disk: SimDisk,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive()?;
        Ok(state.contents(self.id).current.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive()?;
        let begin = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state
            .contents(self.id)
            .current
            .get(begin..begin.saturating_add(buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.state().write(self.id, bytes, offset)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut state = self.disk.state();
        state.step(Operation::SetLength)?;
        state.contents(self.id).resize(length);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let stepped = state.step(Operation::Sync);
        let contents = state.contents(self.id);
        if stepped.is_ok() {
            contents.sync()
        } else {
            contents.fail_to_sync()
        }
        stepped
    }
}

/// A small generator of our own, so that a seed means the same in every version (splitmix64).
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_is_sure_to_survive() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let disk = SimDisk::new(seed);
            let mut file = disk.create("a").expect("created");
            file.write_all_at(&[1; 2048], 0).expect("written");
            file.sync().expect("synced");
            disk.sync_directory().expect("synced");
            file.write_all_at(&[2; 1024], 512).expect("written");
            disk.create("b").expect("created");
            let after = disk.lose_power();
            assert!(file.sync().is_err() && disk.list().is_err(), "the power is off");
            let bytes = &after.files()["a"];
            assert_eq!((&bytes[..512], &bytes[1536..]), (&[1; 512][..], &[1; 512][..]));
            match &bytes[512..1536] {
                all if all == [2; 1024] => kept += 1,
                none if none == [1; 1024] => lost += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 20 && lost > 20 && torn > 20, "{kept} kept, {lost} lost, {torn} torn");
    }

    #[test]
    fn names_are_durable_after_the_directory_is() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            let mut file = disk.create("a.tmp").expect("created");
            file.write_all_at(b"x", 0).expect("written");
            file.sync().expect("synced");
            disk.sync_directory().expect("synced");
            disk.rename("a.tmp", "a").expect("renamed");
            let names: Vec<String> = disk.lose_power().files().into_keys().collect();
            outcomes.insert(names);
        }
        assert_eq!(outcomes, BTreeSet::from([vec!["a".to_owned()], vec!["a.tmp".to_owned()]]));
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_overwrites_for_free() {
        let disk = SimDisk::new(1);
        disk.set_capacity(Some(1000));
        let mut file = disk.create("a").expect("created");
        let error = file.write_all_at(&[1; 1500], 0).expect_err("full");
        assert_eq!((error.kind(), disk.used()), (io::ErrorKind::StorageFull, 1000));
        file.write_all_at(&[2; 1000], 0).expect("overwritten");
    }

    #[test]
    fn a_killed_program_leaves_everything_to_the_system() {
        let disk = SimDisk::new(1);
        disk.create("a").expect("created").write_all_at(b"unsynced", 0).expect("written");
        let after = disk.kill();
        assert!(disk.list().is_err());
        assert_eq!(after.files()["a"], b"unsynced");
    }
}
