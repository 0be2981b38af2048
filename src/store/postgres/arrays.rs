//! The parameters of the server's function `commit`: the batches of one transaction as arrays, one for each column.
//!
//! A batch that changes a database expects one record, the database's counters, and writes it. Such a *move* is one
//! conditional update. All other expectations are locked and compared first.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use super::encode::Place;

/// A key and a value, or none.
pub(super) type Row = (Place, Option<Vec<u8>>);

/// A value to write; without one: a key to delete.
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
    pub bytes: usize,
}

/// The index takes a key of up to this length whatever is in it. A longer one fits only if the server can compress it.
const INDEXED: usize = 2600;

impl Encoded {
    /// Whether the server may refuse the batch because of the length of a key.
    pub fn may_be_refused(&self) -> bool {
        self.places().any(|(_, rest)| rest.len() > INDEXED)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.expect.iter().map(|(place, _)| place).chain(self.writes.iter().map(|write| &write.row.0))
    }

    /// The keys that belong to no database. Two batches of one group may have others in common only if they are of one
    /// database, and such are not in one group.
    pub fn shared_places(&self) -> impl Iterator<Item = &Place> {
        self.places().filter(|(number, _)| *number == 0)
    }

    /// The numbers of the databases whose keys it has.
    pub fn databases(&self) -> HashSet<i64> {
        self.places().map(|(number, _)| *number).filter(|number| *number != 0).collect()
    }
}

/// Rows as columns, in the order of the keys, so that transactions that write the same rows wait for each other and not in
/// a circle.
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
}

/// One of the lists.
type List = fn(&mut Arrays) -> &mut Columns;

/// How many parameters `commit` has: the slot and its number, and the columns of the five lists.
const PARAMETERS: usize = 2 + 5 + 4 + 4 + 4 + 3;

/// The placeholders of all parameters.
pub(super) fn placeholders() -> String {
    (1..=PARAMETERS).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

impl Arrays {
    pub fn of(batches: Vec<Encoded>) -> Arrays {
        let (mut moves, mut expect, mut new, mut puts, mut deletes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (at, mut batch) in batches.into_iter().enumerate() {
            let number = at as i32;
            let moved = batch.take_move();
            // Rows with other expectations are locked by making them.
            let may_be_new = moved.is_some();
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
        Arrays { moves: Columns::of(moves), moved, expect, new, puts, deletes }
    }

    /// Whether keys are written as new.
    pub fn has_new(&self) -> bool {
        !self.new.batch.is_empty()
    }

    /// Takes no key for new any more.
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
        each
    }

    /// The values of all parameters.
    pub fn values<'a>(&'a self, slot: &'a i64, number: &'a i64) -> Vec<&'a (dyn ToSql + Sync)> {
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
        values
    }
}

impl Encoded {
    /// If the batch expects one value, and puts another one in its place: takes both out of it.
    fn take_move(&mut self) -> Option<(Row, Vec<u8>)> {
        let [(place, Some(_))] = &self.expect[..] else { return None };
        let at = self.writes.iter().position(|write| write.row.0 == *place)?;
        self.writes[at].row.1.as_ref()?;
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
