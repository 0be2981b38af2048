//! Which writes a full device still takes.
//!
//! A device is full when less than a margin is left of it. Writes that make room go on, down to a floor: deletions, purges,
//! compactions. What they free is free within the engine's files, which do not shrink by themselves:
//!
//! - sled uses its free segments again, but tells nobody how many it has until it is opened again.
//! - redb's file has holes, and free pages may be in them. Compacting it gives the device its room back.
//!
//! Either takes time, in which nothing is read or written. So it is done only when a write finds no room and something has
//! been freed since, and takes a twentieth of the time at most.

use std::time::{Duration, Instant};

use super::{Committer, Space, Waiting, Work, batch_bytes};
use crate::store::backend::{Backend, Reclaiming, Writes};
use crate::store::{Result, StoreError};

/// The pause between two looks: so many times what the last one took...
const SHARE: u32 = 20;
/// ...and at least this.
const PAUSE: Duration = Duration::from_secs(2);
/// Looks after the last write that freed something: engines free with a delay.
const LOOKS: u32 = 5;

/// What is known of the room within the engine.
pub(super) struct Room {
    /// Bytes that it may still write into what was free when it was last asked.
    spare: u64,
    /// Looks that may still be worth their while.
    looks: u32,
    /// Something was freed since the engine was opened.
    freed_since_open: bool,
    /// When the last look ended, and the earliest time for the next.
    again: Option<Instant>,
    /// The reserve file is there.
    pub reserved: bool,
}

impl Default for Room {
    fn default() -> Room {
        Room { spare: 0, looks: 1, freed_since_open: false, again: None, reserved: false }
    }
}

impl Room {
    /// Counts what a group has written. `freed`: some of it has freed something.
    pub fn written(&mut self, bytes: usize, freed: bool) {
        self.spare = self.spare.saturating_sub(2 * bytes as u64);
        if freed {
            (self.looks, self.freed_since_open) = (LOOKS, true);
        }
    }
}

impl<B: Backend> Committer<B> {
    /// Whether there is room for a group, on the device or within the engine.
    pub(super) fn room_for(&self, work: &mut Work, group: &[Waiting]) -> Result<()> {
        let (Some(space), more @ 1..) = (&self.space, 2 * bytes_of(group.iter())) else { return Ok(()) };
        if space.missing(more) == 0 {
            if !work.room.reserved {
                // It was given up when there was no room.
                work.room.reserved = space.keep_reserve();
            }
            return Ok(());
        }
        if space.missing(more) > work.room.spare {
            self.reclaim(work, space, more);
        }
        if space.missing(more) <= work.room.spare { Ok(()) } else { Err(StoreError::Full) }
    }

    /// The same for those that make room.
    pub(super) fn room_to_free<'a>(&self, work: &Work, these: impl Iterator<Item = &'a Waiting>) -> Result<()> {
        let Some(space) = &self.space else { return Ok(()) };
        let more = 2 * bytes_of(these);
        let fits = || space.missing_to_free(more) <= work.room.spare;
        // What makes room is what the reserve is for; it is made again when there is some.
        if fits() || (space.release_reserve() && fits()) { Ok(()) } else { Err(StoreError::Full) }
    }

    /// Finds out what room the engine has of its own, and gets more of it, unless that was tried just now or nothing has been
    /// freed since.
    fn reclaim(&self, work: &mut Work, space: &Space, more: u64) {
        let now = Instant::now();
        if work.failure.is_some() || work.room.looks == 0 || work.room.again.is_some_and(|again| now < again) {
            return;
        }
        work.room.looks -= 1;
        let reclaimed = self.reclaimed(work, space, more);
        let took = now.elapsed();
        work.room.again = Some(now + took + (took * SHARE).max(PAUSE));
        match reclaimed {
            Ok(()) => tracing::info!(
                lacks = space.missing(more).saturating_sub(work.room.spare),
                spare = work.room.spare,
                took = ?took,
                "the device is full: the store was asked for room of its own"
            ),
            Err(error) => tracing::warn!("the device is full, and the store could not be asked for room: {error}"),
        }
    }

    fn reclaimed(&self, work: &mut Work, space: &Space, more: u64) -> Result<()> {
        work.room.spare = self.backend.spare_bytes()?;
        if space.missing(more) <= work.room.spare {
            return Ok(());
        }
        let done = match self.backend.reclaiming() {
            Reclaiming::Compacting => self.backend.compact(),
            Reclaiming::Reopening if work.room.freed_since_open => self.reopen_synced(work),
            // Nothing is synced by this, so nothing is noted.
            Reclaiming::Reopening | Reclaiming::Unneeded => return Ok(()),
        };
        if let Err(error) = done {
            self.fail(work, &error);
            return Err(error);
        }
        // The engine's files have changed: the mark must not speak of those before.
        self.note(work, 0);
        work.room.spare = self.backend.spare_bytes()?;
        Ok(())
    }

    /// Opens the engine again, after everything that was not synced has been.
    fn reopen_synced(&self, work: &mut Work) -> Result<()> {
        self.apply(work, &Writes::new(), true)?;
        work.unsynced = 0;
        self.note(work, 0);
        self.reopen(work)
    }
}

fn bytes_of<'a>(group: impl Iterator<Item = &'a Waiting>) -> u64 {
    group.map(|waiting| batch_bytes(&waiting.batch) as u64).sum()
}
