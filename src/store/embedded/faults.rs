//! An in-memory engine for tests that fails on demand: at the nth write or read, with an error, a full disk,
//! a write that reports failure but takes effect, or flipped bits. It runs under the same committer as the
//! real engines.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::backend::{Backend, Reclaiming, Visit, VisitIndexed, Writes};
use super::committer::Committer;
use super::frame::{self, Frames};
use super::tally::Tally;
use crate::store::range::{KeyRange, is_empty};
use crate::store::reserved_keys::TOTALS;
use crate::store::{Direction, PageLimit, Result, Store, StoreError};

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing is written, and the engine must be reopened.
    Io,
    /// As `Io`, with a full disk as the cause.
    Full,
    /// The write reports an error, but takes effect after a reopen: the caller cannot know that.
    Unknown,
    /// The engine panics.
    Panic,
}

/// Plans failures and counts calls. Clones share one plan.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The content after a reopen, if it differs.
    after_reopen: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    writes: u64,
    reads: u64,
    write_fault: Option<(u64, WriteFault)>,
    /// The numbers of the reads that fail.
    read_fault: std::ops::Range<u64>,
    /// Whether the next failing read reports a full disk.
    read_is_full: bool,
    read_panic: Option<u64>,
    /// How many further attempts to reopen will fail.
    closed_for: u32,
    broken: bool,
    reopened: u32,
    /// Free bytes within the engine's files, and the number of the reopen that finds them.
    spare: Option<(u64, u32)>,
    /// Bytes on the disk that a reopen needs.
    to_reopen: u64,
}

impl Faults {
    /// Returns an in-memory store and the handle that makes it fail.
    pub fn store() -> (Arc<dyn Store>, Faults) {
        Faults::framed(Frames::default())
    }

    pub(crate) fn framed(frames: Frames) -> (Arc<dyn Store>, Faults) {
        let faults = Faults::default();
        (Arc::new(Committer::eager(faults.clone(), frames)), faults)
    }

    /// Makes the `nth` write from now on (0: the next) fail.
    pub fn fail_write(&self, nth: u64, fault: WriteFault) {
        let mut state = self.0.lock();
        state.write_fault = Some((state.writes + nth, fault));
    }

    /// Makes the `nth` read call from now on (0: the next) fail, and its repetition after the engine was reopened.
    pub fn fail_read(&self, nth: u64) {
        self.fail_reads(nth, 2);
    }

    /// Makes the `nth` read call from now on (0: the next) fail.
    pub fn fail_read_once(&self, nth: u64) {
        self.fail_reads(nth, 1);
    }

    /// As [`Faults::fail_read_once`], with a full disk as the cause, as if the engine had to write during the read.
    pub fn fill_disk_before_read(&self) {
        self.fail_reads(0, 1);
        self.0.lock().read_is_full = true;
    }

    fn fail_reads(&self, nth: u64, count: u64) {
        let mut state = self.0.lock();
        let first = state.reads + nth;
        state.read_fault = first..first + count;
    }

    /// Makes the engine panic at the `nth` read call from now on (0: the next).
    pub fn panic_at_read(&self, nth: u64) {
        let mut state = self.0.lock();
        state.read_panic = Some(state.reads + nth);
    }

    /// Discards all later writes when the engine is reopened.
    pub fn forget_what_comes(&self) {
        let mut state = self.0.lock();
        state.after_reopen = Some(state.entries.clone());
    }

    /// Removes an entry without the engine noticing.
    pub fn lose(&self, key: &[u8]) {
        self.0.lock().entries.remove(key);
    }

    /// Makes the next `times` attempts to reopen fail.
    pub fn stay_closed(&self, times: u32) {
        self.0.lock().closed_for = times;
    }

    /// Flips a bit of the stored value of `key`. Returns whether there was a value.
    pub fn damage(&self, key: &[u8]) -> bool {
        let mut state = self.0.lock();
        let last = state.entries.get_mut(key).and_then(|value| value.last_mut());
        last.map(|byte| *byte ^= 1).is_some()
    }

    /// Copies the stored value of `from` to `to` with a matching checksum, as an attacker with access to the
    /// disk could.
    pub(crate) fn swap(&self, from: &[u8], to: &[u8]) {
        let mut state = self.0.lock();
        if let Some(value) = state.entries.get(from).map(|framed| frame::retarget(to, framed)) {
            state.entries.insert(to.to_vec(), value);
        }
    }

    /// The number of writes and reads so far. A test that makes each of them fail in turn loops up to it.
    pub fn calls(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.writes, state.reads)
    }

    /// How often the engine was reopened.
    pub fn reopened(&self) -> u32 {
        self.0.lock().reopened
    }

    /// Lets the `nth` reopen from now on (0: the next) and all later ones find free space within the engine's files.
    pub fn find_spare(&self, bytes: u64, nth: u32) {
        let mut state = self.0.lock();
        state.spare = Some((bytes, state.reopened + nth + 1));
    }

    /// Makes a reopen need this many bytes on the disk.
    pub fn need_to_reopen(&self, bytes: u64) {
        self.0.lock().to_reopen = bytes;
    }

    fn read<T>(&self, act: impl FnOnce(&BTreeMap<Vec<u8>, Vec<u8>>) -> T) -> Result<T> {
        let mut state = self.0.lock();
        let now = state.reads;
        state.reads += 1;
        if state.read_panic.take_if(|at| *at == now).is_some() {
            panic!("an engine made to panic at a read");
        }
        if state.read_fault.contains(&now) {
            return Err(match std::mem::take(&mut state.read_is_full) {
                true => StoreError::Full,
                false => StoreError::Unavailable("a read made to fail".into()),
            });
        }
        Ok(act(&state.entries))
    }
}

fn write(entries: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: &Writes) {
    for (key, value) in writes {
        match value {
            Some(value) => entries.insert(key.clone(), value.clone()),
            None => entries.remove(key),
        };
    }
}

impl Backend for Faults {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()> {
        self.read(|entries| {
            for (index, key) in keys.iter().enumerate() {
                visit(index, Ok(entries.get(key).map(Vec::as_slice)));
            }
        })
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit, visit: Visit<'_>) -> Result<()> {
        self.read(|entries| {
            let mut found = entries.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()));
            let (mut count, mut bytes) = (0, 0);
            while count < limit.entries && bytes < limit.bytes.max(1) {
                let next = match direction {
                    Direction::Forward => found.next(),
                    Direction::Backward => found.next_back(),
                };
                let Some((key, value)) = next else { break };
                count += 1;
                bytes += key.len() + frame::length(value);
                visit(key, Ok(value));
            }
        })
    }

    fn keys(&self, range: &KeyRange, entries: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.read(|map| {
            if !is_empty(range) {
                let found = map.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()));
                found.take(entries).for_each(|(key, _)| visit(key));
            }
        })
    }

    fn apply(&self, writes: &Writes, _sync: bool, tally: &mut Tally<'_>) -> Result<()> {
        let mut state = self.0.lock();
        assert!(!state.broken, "an engine that has failed is not written to");
        for (key, value) in writes {
            tally.replaces(key, state.entries.get(key).map(Vec::as_slice), value.as_deref());
        }
        let mut writes = writes.clone();
        writes.insert(TOTALS.to_vec(), Some(tally.record()));
        let writes = &writes;
        let now = state.writes;
        state.writes += 1;
        let fault = state.write_fault.take_if(|(at, _)| *at == now);
        let Some((_, fault)) = fault else {
            write(&mut state.entries, writes);
            return Ok(());
        };
        state.broken = true;
        match fault {
            WriteFault::Io => Err(StoreError::Unavailable("a write made to fail".into())),
            WriteFault::Full => Err(StoreError::Full),
            WriteFault::Unknown => {
                let mut after = state.entries.clone();
                write(&mut after, writes);
                state.after_reopen = Some(after);
                Err(StoreError::Unavailable("a write made to seem to fail".into()))
            }
            WriteFault::Panic => panic!("an engine made to panic"),
        }
    }

    fn reopen(&self) -> Result<()> {
        let mut state = self.0.lock();
        if state.closed_for > 0 {
            state.closed_for -= 1;
            return Err(StoreError::Unavailable("an engine made to stay closed".into()));
        }
        if let Some(after) = state.after_reopen.take() {
            state.entries = after;
        }
        state.broken = false;
        state.reopened += 1;
        Ok(())
    }

    fn spare_bytes(&self) -> Result<u64> {
        let state = self.0.lock();
        Ok(state.spare.filter(|(_, from)| state.reopened >= *from).map_or(0, |(bytes, _)| bytes))
    }

    fn bytes_to_reopen(&self) -> u64 {
        self.0.lock().to_reopen
    }

    fn reclaiming(&self) -> Reclaiming {
        if self.0.lock().spare.is_some() { Reclaiming::Reopening } else { Reclaiming::Unneeded }
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
