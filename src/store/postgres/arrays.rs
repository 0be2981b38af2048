//! The parameters of the server's function `commit`: the batches of one transaction as arrays, one for each column.
//!
//! A batch that changes a database expects one record, the database's counters, and writes it. Such a *move* is one
//! conditional update, but only if all batches of the transaction are moves: all expected rows must be locked in one
//! pass over the keys, or two transactions could deadlock.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use super::encode::Place;

/// A key and a value, or none.
pub(super) type Row = (Place, Option<Vec<u8>>);

/// A key with the value to write, or without one to delete the key.
pub(super) struct Write {
    pub row: Row,
    /// The key is absent if the batch's expectations hold.
    pub is_new: bool,
}

/// A batch as rows.
pub(super) struct Encoded {
    /// Expected values; `None`: absent.
    pub expect: Vec<Row>,
    pub writes: Vec<Write>,
    /// The database that the batch changes, and its last sequence, if `_db_updates` is to name it.
    pub mark: Option<(i64, u64)>,
    pub bytes: usize,
}

/// The index accepts every key of up to this length. A longer one fits only if the server can compress it.
const INDEXED: usize = 2600;

impl Encoded {
    /// Whether the server may refuse the batch because of the length of a key.
    pub fn may_be_refused(&self) -> bool {
        self.places().any(|(_, rest)| rest.len() > INDEXED)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.expect.iter().map(|(place, _)| place).chain(self.writes.iter().map(|write| &write.row.0))
    }

    /// The keys that belong to no database. Only these can be in two batches of one group, because a group has at most
    /// one batch for each database.
    pub fn shared_places(&self) -> impl Iterator<Item = &Place> {
        self.places().filter(|(number, _)| *number == 0)
    }

    /// The numbers of the databases whose keys it has.
    pub fn databases(&self) -> HashSet<i64> {
        self.places().map(|(number, _)| *number).filter(|number| *number != 0).collect()
    }
}

/// Rows as columns, in the order of the keys, so that transactions cannot deadlock over the rows of one list. Between
/// the lists there is no order. If two transactions deadlock over rows of two lists, the server rolls one of them back,
/// and it is sent again.
#[derive(Default)]
struct Columns {
    batch: Vec<i32>,
    number: Vec<i64>,
    rest: Vec<Vec<u8>>,
    value: Vec<Option<Vec<u8>>>,
}

/// The parameters. The lists are those of `commit` in `schema.rs`.
#[derive(Default)]
pub(super) struct Arrays {
    moves: Columns,
    /// The values after the moves; those in `moves` are the ones before.
    moved: Vec<Vec<u8>>,
    expect: Columns,
    new: Columns,
    puts: Columns,
    deletes: Columns,
    /// The batches' marks: batch, database, sequence. Not a parameter: the slot has more of them.
    pub marks: Vec<(i32, i64, u64)>,
}

/// One of the lists.
type List = fn(&mut Arrays) -> &mut Columns;

/// How many parameters `commit` has: the slot and its number, the columns of the five lists, and the marks.
const PARAMETERS: usize = 2 + 5 + 4 + 4 + 4 + 3 + 1;

/// The placeholders of all parameters.
pub(super) fn placeholders() -> String {
    (1..=PARAMETERS).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

impl Arrays {
    pub fn of(batches: Vec<Encoded>) -> Arrays {
        let (mut moves, mut expect, mut new, mut puts, mut deletes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let all_move = batches.iter().all(|batch| batch.moves().is_some());
        let mut marks = Vec::new();
        for (at, mut batch) in batches.into_iter().enumerate() {
            let number = at as i32;
            marks.extend(batch.mark.map(|(database, sequence)| (number, database, sequence)));
            // A row that must be absent is locked by inserting it, so it cannot be inserted again as new.
            let may_be_new = batch.moves().is_some();
            let moved = if all_move { batch.take_move() } else { None };
            moves.extend(moved.map(|(row, value)| (number, row, value)));
            expect.extend(batch.expect.into_iter().map(|row| (number, row)));
            for write in batch.writes {
                let list = match (&write.row.1, write.is_new && may_be_new) {
                    (None, _) => &mut deletes,
                    (Some(_), true) => &mut new,
                    (Some(_), false) => &mut puts,
                };
                list.push((number, write.row));
            }
        }
        moves.sort_unstable_by(|(_, (left, _), _), (_, (right, _), _)| left.cmp(right));
        let (moves, moved) = moves.into_iter().map(|(number, row, value)| ((number, row), value)).unzip();
        let [expect, new, puts, deletes] = [expect, new, puts, deletes].map(Columns::sorted);
        Arrays { moves: Columns::of(moves), moved, expect, new, puts, deletes, marks }
    }

    /// Whether keys are written as new.
    pub fn has_new(&self) -> bool {
        !self.new.batch.is_empty()
    }

    /// Treats no key as new any more.
    pub fn overwrite(&mut self) {
        let (new, puts) = (std::mem::take(&mut self.new), std::mem::take(&mut self.puts));
        self.puts = Columns::sorted(new.rows().chain(puts.rows()).collect());
    }

    /// The parameters of each batch alone, which keeps its number.
    pub fn split(self, batches: usize) -> Vec<Arrays> {
        let mut each: Vec<Arrays> = (0..batches).map(|_| Arrays::default()).collect();
        let moves = self.moves.rows().zip(self.moved);
        for ((batch, row), value) in moves {
            let own = &mut each[batch as usize];
            own.moves.push(batch, row);
            own.moved.push(value);
        }
        let lists: [(Columns, List); 4] = [
            (self.expect, |own| &mut own.expect),
            (self.new, |own| &mut own.new),
            (self.puts, |own| &mut own.puts),
            (self.deletes, |own| &mut own.deletes),
        ];
        for (list, of) in lists {
            list.rows().for_each(|(batch, row)| of(&mut each[batch as usize]).push(batch, row));
        }
        self.marks.into_iter().for_each(|mark| each[mark.0 as usize].marks.push(mark));
        each
    }

    /// The values of all parameters. `marks`: those of the slot.
    pub fn values<'a>(&'a self, slot: &'a i64, number: &'a i64, marks: &'a Vec<i64>) -> Vec<&'a (dyn ToSql + Sync)> {
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![slot, number];
        let mut add = |columns: &'a Columns, values_of: &[&'a (dyn ToSql + Sync)]| {
            values.extend([&columns.batch as &(dyn ToSql + Sync), &columns.number, &columns.rest]);
            values.extend(values_of);
        };
        add(&self.moves, &[&self.moves.value, &self.moved]);
        add(&self.expect, &[&self.expect.value]);
        add(&self.new, &[&self.new.value]);
        add(&self.puts, &[&self.puts.value]);
        add(&self.deletes, &[]);
        values.push(marks);
        values
    }
}

impl Encoded {
    /// The index of the write that replaces the expected value, if the batch expects exactly one value.
    fn moves(&self) -> Option<usize> {
        let [(place, Some(_))] = &self.expect[..] else { return None };
        self.writes.iter().position(|write| write.row.0 == *place && write.row.1.is_some())
    }

    /// As [`Encoded::moves`], and removes the expectation and the write from the batch.
    fn take_move(&mut self) -> Option<(Row, Vec<u8>)> {
        let at = self.moves()?;
        let value = self.writes.swap_remove(at).row.1?;
        Some((self.expect.pop()?, value))
    }
}

impl Columns {
    fn sorted(mut rows: Vec<(i32, Row)>) -> Columns {
        rows.sort_unstable_by(|(_, (left, _)), (_, (right, _))| left.cmp(right));
        Columns::of(rows)
    }

    fn of(rows: Vec<(i32, Row)>) -> Columns {
        let mut columns = Columns::default();
        rows.into_iter().for_each(|(batch, row)| columns.push(batch, row));
        columns
    }

    fn push(&mut self, batch: i32, ((number, rest), value): Row) {
        self.batch.push(batch);
        self.number.push(number);
        self.rest.push(rest);
        self.value.push(value);
    }

    fn rows(self) -> impl Iterator<Item = (i32, Row)> {
        let places = self.number.into_iter().zip(self.rest);
        self.batch.into_iter().zip(places.zip(self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(expect: &[(i64, &str, Option<&str>)], writes: &[(i64, &str, Option<&str>)], new: &str) -> Encoded {
        let row = |(number, rest, value): &(i64, &str, Option<&str>)| {
            ((*number, rest.as_bytes().to_vec()), value.map(|value| value.as_bytes().to_vec()))
        };
        let write = |write| Write { row: row(write), is_new: write.1 == new };
        let (expect, writes) = (expect.iter().map(row).collect(), writes.iter().map(write).collect());
        Encoded { expect, writes, mark: None, bytes: 0 }
    }

    /// A write of a document.
    fn document(number: i64) -> Encoded {
        let writes = [(number, "i", Some("2")), (number, "q1", Some("x")), (number, "q0", None)];
        Encoded { mark: Some((number, 1)), ..batch(&[(number, "i", Some("1"))], &writes, "q1") }
    }

    fn listed(columns: &Columns) -> Vec<(i32, i64, &str)> {
        let keys = columns.rest.iter().map(|rest| std::str::from_utf8(rest).unwrap());
        columns
            .batch
            .iter()
            .zip(&columns.number)
            .zip(keys)
            .map(|((batch, number), rest)| (*batch, *number, rest))
            .collect()
    }

    #[test]
    fn all_batches_move_or_none_does() {
        let arrays = Arrays::of(vec![document(9), document(5)]);
        assert_eq!(listed(&arrays.moves), [(1, 5, "i"), (0, 9, "i")]);
        assert_eq!(arrays.moved, [b"2", b"2"]);
        assert_eq!(listed(&arrays.expect), []);
        assert_eq!(listed(&arrays.new), [(1, 5, "q1"), (0, 9, "q1")]);
        assert_eq!(listed(&arrays.puts), []);
        let named =
            batch(&[(0, "name", None), (0, "last", Some("4"))], &[(0, "name", Some("n")), (7, "i", Some("1"))], "name");
        let arrays = Arrays::of(vec![document(9), named, document(5)]);
        assert_eq!((listed(&arrays.moves), arrays.moved.len()), (vec![], 0));
        let expected = [(1, 0, "last"), (1, 0, "name"), (2, 5, "i"), (0, 9, "i")];
        assert_eq!(listed(&arrays.expect), expected);
        assert_eq!(arrays.expect.value.iter().filter(|value| value.is_none()).count(), 1);
        assert_eq!(listed(&arrays.new), [(2, 5, "q1"), (0, 9, "q1")], "but not what is expected to be absent");
        assert_eq!(listed(&arrays.puts), [(1, 0, "name"), (2, 5, "i"), (1, 7, "i"), (0, 9, "i")]);
        assert_eq!(listed(&arrays.deletes), [(2, 5, "q0"), (0, 9, "q0")]);
    }

    #[test]
    fn a_transaction_is_split_into_its_batches() {
        let named = || batch(&[(0, "name", None)], &[(0, "name", Some("n"))], "");
        for batches in [vec![document(9), document(5)], vec![document(9), named(), document(5)]] {
            let count = batches.len();
            let whole = Arrays::of(batches);
            let lists: [List; 5] = [
                |own| &mut own.moves,
                |own| &mut own.expect,
                |own| &mut own.new,
                |own| &mut own.puts,
                |own| &mut own.deletes,
            ];
            let [mut all, mut parts] = [Vec::new(), Vec::new()];
            let mut marks = Vec::new();
            let of = |own: &mut Arrays, at: usize| {
                let columns = lists[at](own);
                let rows =
                    listed(columns).into_iter().map(|(batch, number, rest)| (at, batch, number, rest.to_owned()));
                rows.zip(columns.value.clone()).collect::<Vec<_>>()
            };
            let mut again = whole;
            (0..5).for_each(|at| all.extend(of(&mut again, at)));
            for (batch, mut part) in again.split(count).into_iter().enumerate() {
                for at in 0..5 {
                    let rows = of(&mut part, at);
                    assert!(rows.iter().all(|((_, own, ..), _)| *own == batch as i32));
                    parts.extend(rows);
                }
                assert_eq!(part.moved.len(), part.moves.batch.len());
                assert!(part.marks.iter().all(|(own, ..)| *own == batch as i32));
                marks.extend(part.marks);
            }
            assert_eq!(marks, [(0, 9, 1), (count as i32 - 1, 5, 1)]);
            all.sort_unstable();
            parts.sort_unstable();
            assert_eq!(all, parts);
        }
    }
}
