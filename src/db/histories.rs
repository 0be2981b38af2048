//! The histories of a database on a shared store.
//!
//! A failover may lose the last commits of a PostgreSQL without a synchronous standby. The database then continues from
//! an earlier sequence, and assigns the sequences after it a second time. A client that has read up to sequence 10 of
//! the old history would miss 9 and 10 of the new one:
//!
//! ```text
//! epoch 1   1 2 3 4 5 6 7 8 [9 10]    lost, and a client knows 10
//! epoch 2                  8  9 10 11    begins after 8: the client continues from 8
//! ```
//!
//! The store counts its failovers (`Store::epoch`). The first commit to a database in a new epoch records the epoch and
//! the sequence after which it begins. A sequence on the wire names the epoch in which it was read.

use super::codec::{Reader, Writer};

/// Maximum number of histories. Older ones are merged: a client that last read in one may see changes twice.
const MOST: usize = 50;

/// The histories, the oldest first. Empty on an embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histories(Vec<History>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct History {
    epoch: u64,
    /// It begins after this sequence.
    after: u64,
}

impl Histories {
    /// Notes that a commit in `epoch` follows the sequence `after`. An epoch of 0 is unknown.
    pub(super) fn commit(&mut self, epoch: u64, after: u64) {
        if epoch > self.last() {
            self.0.push(History { epoch, after });
            if self.0.len() > MOST {
                let oldest = self.0[0];
                self.0.remove(0);
                self.0[0].after = oldest.after;
            }
        }
    }

    /// The epoch of the last history; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.0.last().map_or(0, |last| last.epoch)
    }

    /// The epoch that follows the instance in a sequence on the wire; `None` before the first failover, the usual case.
    pub fn mark(&self) -> Option<u64> {
        self.0.get(1..)?.last().map(|last| last.epoch)
    }

    /// The sequence after which a client continues that has read up to `sequence` with this mark.
    pub(super) fn position(&self, sequence: u64, mark: Option<u64>) -> u64 {
        // Without a mark it was read in the first epoch, which a full list may no longer have.
        let first = if self.0.len() == MOST { 0 } else { self.0.first().map_or(0, |first| first.epoch) };
        let read_in = mark.unwrap_or(first);
        let next = self.0.iter().find(|history| history.epoch > read_in);
        next.map_or(sequence, |next| sequence.min(next.after))
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.number(self.0.len() as u64);
        for history in &self.0 {
            out.number(history.epoch);
            out.number(history.after);
        }
    }

    pub(super) fn decode(fields: &mut Reader) -> Option<Histories> {
        let count = fields.number()?;
        let one = |_| Some(History { epoch: fields.number()?, after: fields.number()? });
        (count <= MOST as u64).then(|| (0..count).map(one).collect::<Option<Vec<_>>>())?.map(Histories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_an_older_history_goes_on_where_the_next_one_began() {
        let mut histories = Histories::default();
        assert_eq!((histories.mark(), histories.position(7, None)), (None, 7));
        histories.commit(3, 0);
        histories.commit(3, 5);
        histories.commit(0, 6);
        assert_eq!((histories.mark(), histories.position(10, None)), (None, 10), "nothing was lost yet");
        histories.commit(4, 8);
        assert_eq!(histories.mark(), Some(4));
        for (sequence, mark, on) in [(10, None, 8), (7, None, 7), (10, Some(4), 10), (10, Some(3), 8), (9, Some(9), 9)]
        {
            assert_eq!(histories.position(sequence, mark), on, "{sequence} {mark:?}");
        }
        histories.commit(6, 20);
        for (sequence, mark, on) in [(30, None, 8), (30, Some(4), 20), (30, Some(5), 20), (30, Some(6), 30)] {
            assert_eq!(histories.position(sequence, mark), on, "{sequence} {mark:?}");
        }
        let mut out = Writer::version(1);
        histories.encode(&mut out);
        let mut fields = Reader::version(&out.0, 1).unwrap();
        assert_eq!(Histories::decode(&mut fields), Some(histories));
    }

    #[test]
    fn many_failovers_keep_a_bounded_list_and_no_client_misses_a_change() {
        let mut histories = Histories::default();
        for epoch in 1..=200 {
            histories.commit(epoch, epoch * 10);
        }
        assert_eq!(histories.0.len(), MOST);
        // The client read up to 39 in the third epoch; the fourth began after 40, and was merged with others.
        assert!(histories.position(39, Some(3)) <= 39);
        assert!(histories.position(20, None) <= 20);
        assert_eq!(histories.position(5000, Some(200)), 5000);
        assert_eq!(histories.position(5000, Some(160)), 1610);
    }
}
