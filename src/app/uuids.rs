//! Generates ids for new documents with CouchDB's algorithms (`couch_uuids.erl`).

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::settings::{UuidAlgorithm, Uuids as Settings};
use crate::hex::hex;

/// An id generator.
pub struct Uuids {
    clock: Clock,
    /// State of the `sequential` algorithm: a random prefix of 13 bytes and a counter of 3 bytes.
    sequential: Mutex<([u8; 13], u32)>,
    /// The last timestamp used, in microseconds since the epoch. No timestamp is used twice.
    micros: AtomicU64,
    /// On a shared store: digits that distinguish this process from others that use the same timestamps.
    process: String,
}

/// The largest step of the counter; each step is random, at least 1.
const STEP: u32 = 0xFFE;
/// When the counter reaches this value, a new prefix is generated.
const FULL: u32 = 0xFF_F000;

impl Uuids {
    /// Creates a generator that takes time and randomness from `clock`. `is_shared`: other processes make ids for
    /// the same databases.
    pub fn new(clock: Clock, is_shared: bool) -> Uuids {
        let start = (prefix(&clock), step(&clock));
        let process = if is_shared { hex(&clock.random_16()[..3]) } else { String::new() };
        Uuids { clock, sequential: Mutex::new(start), micros: AtomicU64::new(0), process }
    }

    /// Returns a new id: 32 hex digits; for `utc_id`, 14 hex digits and the configured suffix, and on a shared store
    /// 6 more digits that are those of the process.
    pub fn make(&self, settings: &Settings) -> String {
        match settings.algorithm {
            UuidAlgorithm::Random => self.clock.uuid(),
            UuidAlgorithm::UtcRandom => format!("{}{}", self.micros(), hex(&self.clock.random_16()[..9])),
            UuidAlgorithm::UtcId => format!("{}{}{}", self.micros(), settings.utc_id_suffix, self.process),
            UuidAlgorithm::Sequential => {
                let mut state = self.sequential.lock();
                let id = format!("{}{:06x}", hex(&state.0), state.1);
                state.1 += step(&self.clock);
                if state.1 >= FULL {
                    *state = (prefix(&self.clock), step(&self.clock));
                }
                id
            }
        }
    }

    fn micros(&self) -> String {
        let now = self.clock.since_epoch().as_micros() as u64;
        let later = |last: u64| Some(now.max(last + 1));
        let last = self.micros.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).unwrap_or_else(|last| last);
        format!("{:014x}", now.max(last + 1) & 0xFF_FFFF_FFFF_FFFF)
    }
}

fn prefix(clock: &Clock) -> [u8; 13] {
    let mut prefix = [0; 13];
    clock.fill_random(&mut prefix);
    prefix
}

fn step(clock: &Clock) -> u32 {
    let mut bytes = [0; 4];
    clock.fill_random(&mut bytes);
    1 + u32::from_be_bytes(bytes) % STEP
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn sequential_ids_increase_and_stay_unique_across_prefix_changes() {
        let uuids = Uuids::new(Clock::fixed(Duration::from_secs(1)), false);
        let settings = crate::config::Settings::default().uuids;
        let made: Vec<String> = (0..20_000).map(|_| uuids.make(&settings)).collect();
        assert!(made.iter().all(|id| id.len() == 32));
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len());
        let renewals = made.windows(2).filter(|pair| pair[0][..26] != pair[1][..26]).count();
        assert!(made.windows(2).all(|pair| pair[0][..26] != pair[1][..26] || pair[0] < pair[1]));
        assert!((1..=5).contains(&renewals), "{renewals}");
    }

    #[test]
    fn every_algorithm_returns_ids_of_its_length() {
        let uuids = Uuids::new(Clock::fixed(Duration::from_secs(1)), false);
        for (algorithm, length) in
            [(UuidAlgorithm::Random, 32), (UuidAlgorithm::UtcRandom, 32), (UuidAlgorithm::UtcId, 14 + 3)]
        {
            let settings = Settings { algorithm, max_count: 1, utc_id_suffix: "-xy".into() };
            assert_eq!(uuids.make(&settings).len(), length, "{algorithm:?}");
        }
    }

    #[test]
    fn two_nodes_of_a_shared_store_make_different_ids_in_the_same_microsecond() {
        let clock = Clock::fixed(Duration::from_secs(1));
        let nodes = [(); 2].map(|()| Uuids::new(clock.clone(), true));
        for algorithm in
            [UuidAlgorithm::Random, UuidAlgorithm::UtcRandom, UuidAlgorithm::UtcId, UuidAlgorithm::Sequential]
        {
            let settings = Settings { algorithm, max_count: 1, utc_id_suffix: "-xy".into() };
            let made: HashSet<String> =
                nodes.iter().flat_map(|uuids| (0..1000).map(|_| uuids.make(&settings))).collect();
            assert_eq!(made.len(), 2000, "{algorithm:?}");
        }
    }
}
