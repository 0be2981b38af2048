//! What is kept of one client and one database.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::client::cut;

/// Refused documents that an entry names.
pub const REFUSED: usize = 10;
/// Checkpoints of its own database that an entry keeps.
pub const CHECKPOINTS: usize = 16;
/// Bytes that are kept of a checkpoint's id.
const ID: usize = 64;
/// Hours of which an entry keeps sums.
pub const HOURS: usize = 24;
/// Milliseconds of an hour.
pub const HOUR: u64 = 3_600_000;

/// A document that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub id: String,
    pub error: String,
    pub reason: String,
    pub at: u64,
    /// How often it was sent and refused.
    pub count: u64,
}

/// A request that was answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub at: u64,
    pub status: u16,
    pub reason: String,
}

/// A checkpoint that the client has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint<Sequence> {
    pub sequence: Sequence,
    pub at: u64,
    /// The id of the `_local` document.
    pub id: String,
}

/// What happened at one moment, or within some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests for changes.
    pub pulls: u64,
    /// Pushes of documents.
    pub pushes: u64,
    pub documents_sent: u64,
    pub documents_received: u64,
    pub refused: u64,
    pub errors: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

impl Sums {
    /// Adds what happened.
    pub fn add(&mut self, other: Sums) {
        self.pulls += other.pulls;
        self.pushes += other.pushes;
        self.documents_sent += other.documents_sent;
        self.documents_received += other.documents_received;
        self.refused += other.refused;
        self.errors += other.errors;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
    }
}

/// The progress of one client with one database. Times are milliseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub address: Option<IpAddr>,
    /// The name that the client gives its device.
    pub device_name: Option<String>,
    /// Its `User-Agent`.
    pub agent: String,
    pub first_seen: u64,
    pub last_seen: u64,
    pub pulled_at: Option<u64>,
    pub pushed_at: Option<u64>,
    /// The sequence after which it last asked for changes.
    pub since: Option<u64>,
    /// The last sequence that an open feed has sent.
    pub sent: Option<u64>,
    /// Sequences of this database, newest first: the client has everything up to each. A client that replicates with
    /// several databases of its own, as several devices that the server cannot tell apart, has one for each.
    pub checkpoints: VecDeque<Checkpoint<u64>>,
    /// A sequence of the client's own database: the server has everything up to it.
    pub push_checkpoint: Option<Checkpoint<String>>,
    /// All sums since the first request.
    pub total: Sums,
    /// Sums of the last hours: the number of the hour since 1970, and what happened in it.
    pub hours: VecDeque<(u64, Sums)>,
    pub last_error: Option<Failed>,
    pub refused: VecDeque<Refused>,
}

impl Record {
    /// Adds what happened at `now`.
    pub fn count(&mut self, now: u64, sums: Sums) {
        self.total.add(sums);
        let hour = now / HOUR;
        match self.hours.back_mut() {
            Some((last, of_hour)) if *last >= hour => of_hour.add(sums),
            _ => self.hours.push_back((hour, sums)),
        }
        while self.hours.front().is_some_and(|(first, _)| *first + HOURS as u64 <= hour) {
            self.hours.pop_front();
        }
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Option<&Checkpoint<u64>> {
        self.checkpoints.front()
    }

    /// Notes a checkpoint, in place of the earlier one of the same replication.
    pub fn pulled_up_to(&mut self, sequence: u64, id: &str, at: u64) {
        let id = &id[..id.floor_char_boundary(ID)];
        self.checkpoints.retain(|known| known.id != id);
        self.checkpoints.truncate(CHECKPOINTS - 1);
        self.checkpoints.push_front(Checkpoint { sequence, at, id: id.to_owned() });
    }

    /// Notes a refused document.
    pub fn refuse(&mut self, id: &str, error: &str, reason: &str, at: u64) {
        let [id, error, reason] = [id, error, reason].map(|text| cut(text).to_owned());
        let before = self.refused.iter().position(|known| known.id == id);
        let count = before.and_then(|at| self.refused.remove(at)).map_or(0, |known| known.count);
        self.refused.truncate(REFUSED - 1);
        self.refused.push_front(Refused { id, error, reason, at, count: count + 1 });
    }
}
