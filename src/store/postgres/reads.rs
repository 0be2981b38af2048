//! Reads. Each is one statement, and so sees one state of the store.

use super::connections::{Connections, Parameters};
use super::encode::{Rows, key, place};
use super::runtime::Threads;
use crate::store::embedded::frame::Frames;
use crate::store::range::{KeyRange, is_empty};
use crate::store::reserved_keys::clamp;
use crate::store::{Direction, Entry, PageLimit, Result, StoreError};

/// The most entries of a page: what the server sends is in memory at once.
const MOST: usize = 10_000;
/// Bytes of a page over all, if the caller sets no limit.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that a stored value has in addition to the value, with encryption.
const SEALED_HEAD: i32 = 45;
/// The same without encryption.
const PLAIN_HEAD: i32 = 5;

pub(super) struct Reads {
    connections: Connections,
    frames: Frames,
    head: i32,
    one: String,
    some: String,
    mixed: String,
    pages: [String; 2],
    mixed_pages: [String; 2],
}

impl Reads {
    pub fn new(connections: Connections, frames: Frames, sealed: bool) -> Reads {
        let kv = format!("{}.kv", connections.address.schema);
        let order = ["", " desc"];
        Reads {
            one: format!("select v from {kv} where db = $1 and k = $2"),
            some: some(&kv),
            mixed: mixed(&kv),
            pages: order.map(|order| page(&kv, "db = $1 and k >= $2 and k < $3", order, 4)),
            mixed_pages: order.map(|order| {
                let plain = page(&kv, "db = 0 and k >= $1 and k < $2", order, 7);
                let numbered = "db > 0 and (db, k) >= ($3, $4) and (db, k) < ($5, $6)";
                format!("({plain}) union all ({})", page(&kv, numbered, order, 7))
            }),
            connections,
            frames,
            head: if sealed { SEALED_HEAD } else { PLAIN_HEAD },
        }
    }

    fn value(&self, key: &[u8], framed: &[u8]) -> Result<Vec<u8>> {
        self.frames.unseal(key, framed).map(std::borrow::Cow::into_owned)
    }

    /// The values of `keys`, in their order. The inner error is that of one value.
    pub fn get_each(&self, threads: &Threads, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        let mut found: Vec<Result<Option<Vec<u8>>>> = vec![Ok(None); keys.len()];
        match keys {
            [] => {}
            [only] => {
                let (number, rest) = place(only);
                let rows = self.rows(threads, &self.one, vec![Box::new(number), Box::new(rest)])?;
                if let Some(row) = rows.first() {
                    found[0] = self.value(only, row.get(0)).map(Some);
                }
            }
            keys => self.get_some(threads, keys, &mut found)?,
        }
        Ok(found)
    }

    fn get_some(&self, threads: &Threads, keys: &[Vec<u8>], found: &mut [Result<Option<Vec<u8>>>]) -> Result<()> {
        let (numbers, rests): (Vec<i64>, Vec<Vec<u8>>) = keys.iter().map(|key| place(key)).unzip();
        let rows = match numbers.iter().all(|number| *number == numbers[0]) {
            true => self.rows(threads, &self.some, vec![Box::new(numbers[0]), Box::new(rests)])?,
            false => self.rows(threads, &self.mixed, vec![Box::new(numbers), Box::new(rests)])?,
        };
        for row in rows {
            let at = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(0);
            found[at] = self.value(&keys[at], row.get(1)).map(Some);
        }
        Ok(())
    }

    /// A page of entries. The error of a damaged entry ends it.
    pub fn scan(&self, threads: &Threads, range: &KeyRange, way: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let mut page = Vec::new();
        for (key, framed) in self.framed(threads, range, way, limit)? {
            match self.value(&key, &framed) {
                Ok(value) => page.push((key, value)),
                Err(StoreError::Damaged(_)) if !page.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    /// A page of keys and stored values, which may be damaged.
    pub fn framed(&self, threads: &Threads, range: &KeyRange, way: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let range = &clamp(range);
        if is_empty(range) || limit.entries == 0 {
            return Ok(Vec::new());
        }
        let back = usize::from(way == Direction::Backward);
        let bytes = limit.bytes.clamp(1, MOST_BYTES);
        let (most, most_bytes) = (limit.entries.min(MOST) as i64, bytes as i64);
        let (sql, mut parameters): (&str, Parameters) = match super::encode::rows(range) {
            Rows::One(number, from, to) => (&self.pages[back], vec![Box::new(number), Box::new(from), Box::new(to)]),
            Rows::Mixed { plain: (from, to), numbered: ((low, above), (high, below)) } => (
                &self.mixed_pages[back],
                vec![Box::new(from), Box::new(to), Box::new(low), Box::new(above), Box::new(high), Box::new(below)],
            ),
        };
        parameters.extend::<Parameters>(vec![Box::new(most), Box::new(most_bytes), Box::new(i64::from(self.head))]);
        let rows = self.rows(threads, sql, parameters)?;
        let mut found: Vec<Entry> = rows.iter().map(|row| (key(row.get(0), row.get(1)), row.get(2))).collect();
        found.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        if back == 1 {
            found.reverse();
        }
        found.truncate(limit.entries);
        let (mut length, head) = (0, self.head as usize);
        let full = found.iter().position(|(key, framed)| {
            let full = length >= bytes;
            length += key.len() + framed.len().saturating_sub(head);
            full
        });
        found.truncate(full.unwrap_or(found.len()));
        Ok(found)
    }

    fn rows(&self, threads: &Threads, sql: &str, parameters: Parameters) -> Result<Vec<tokio_postgres::Row>> {
        let (connections, sql) = (self.connections.clone(), sql.to_owned());
        threads.wait(async move { connections.rows(&sql, parameters).await })
    }
}

/// The statement for several keys of one database. It returns the place of each key that is there, and its value.
///
/// PostgreSQL may keep the plan that it made while the table was small, or that suits small databases. With `k = any(...)`,
/// such a plan reads the whole database. One search of the index for each key is the only plan for this statement.
pub(super) fn some(kv: &str) -> String {
    format!(
        "select asked.n, found.v from unnest($2::bytea[]) with ordinality asked(k, n) \
         cross join lateral (select v from {kv} kv where kv.db = $1 and kv.k = asked.k offset 0) found"
    )
}

/// As [`some`], for keys of several databases.
pub(super) fn mixed(kv: &str) -> String {
    format!(
        "select asked.n, found.v from unnest($1::int8[], $2::bytea[]) with ordinality asked(db, k, n) \
         cross join lateral (select v from {kv} kv where kv.db = asked.db and kv.k = asked.k offset 0) found"
    )
}

/// The statement for a page: the rows of `range` up to a number of entries and a number of bytes. `at` is the number of
/// its first parameter behind those of the range.
fn page(kv: &str, range: &str, order: &str, at: usize) -> String {
    let (entries, bytes, head) = (at, at + 1, at + 2);
    format!(
        "select db, k, v from (select db, k, v, sum(octet_length(k) + octet_length(v) - ${head}::int8 + case when db > 0 \
         then 9 else 0 end) over (order by db{order}, k{order} rows between unbounded preceding and 1 preceding) as before \
         from {kv} where {range} order by db{order}, k{order} limit ${entries}::int8) page \
         where coalesce(before, 0) < ${bytes}::int8"
    )
}
