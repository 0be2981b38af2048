//! Reads. Each is in one statement, and so sees one state of the store.

use std::sync::Arc;

use super::connections::{Connections, Parameters};
use super::encode::{Rows, key, place};
use super::lookups::Lookups;
use super::runtime::{Answer, Threads, received};
use crate::store::embedded::frame::Frames;
use crate::store::range::{KeyRange, is_empty};
use crate::store::reserved_keys::clamp;
use crate::store::{Direction, Entry, Later, PageLimit, Result, StoreError};

/// The most entries of a page: the whole answer of the server is in memory at once.
const MOST: usize = 10_000;
/// The most bytes of a page, whatever limit the caller sets.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that a stored value has in addition to the value, with encryption.
const SEALED_HEAD: i32 = 45;
/// The same without encryption.
const PLAIN_HEAD: i32 = 5;

pub(super) struct Reads {
    connections: Connections,
    frames: Frames,
    head: i32,
    lookups: Arc<Lookups>,
    pages: [String; 2],
    mixed_pages: [String; 2],
}

impl Reads {
    pub fn new(connections: Connections, frames: Frames, sealed: bool) -> Reads {
        let kv = format!("{}.kv", connections.address.schema);
        let order = ["", " desc"];
        Reads {
            lookups: Lookups::new(connections.clone()),
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
        value(&self.frames, key, framed)
    }

    /// The values of `keys`, in their order. The inner error is that of one value.
    pub fn get_each(&self, threads: &Threads, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, stored) = Answer::to_thread();
        self.lookups.get(threads, keys.iter().map(|key| place(key)).collect(), answer);
        Ok(values(&self.frames, keys, received(&stored)?))
    }

    /// As [`Reads::get_each`], without waiting.
    pub fn begin_get_each(&self, threads: &Threads, keys: Vec<Vec<u8>>) -> Later<Vec<Result<Option<Vec<u8>>>>> {
        if keys.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let (answer, stored) = Answer::to_task();
        self.lookups.get(threads, keys.iter().map(|key| place(key)).collect(), answer);
        let frames = self.frames.clone();
        Box::pin(async move { Ok(values(&frames, &keys, stored.await?)) })
    }

    /// A page of entries. It ends before a damaged entry; if the first entry is damaged, returns the error.
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

fn value(frames: &Frames, key: &[u8], framed: &[u8]) -> Result<Vec<u8>> {
    frames.unseal(key, framed).map(std::borrow::Cow::into_owned)
}

/// The values of `keys` as they are `stored`.
fn values(frames: &Frames, keys: &[Vec<u8>], stored: Vec<Option<Vec<u8>>>) -> Vec<Result<Option<Vec<u8>>>> {
    let pairs = keys.iter().zip(stored);
    pairs.map(|(key, framed)| framed.map(|framed| value(frames, key, &framed)).transpose()).collect()
}

/// The statement for a page: the rows of `range` up to a number of entries and a number of bytes. `at` is the number of
/// the first parameter after those of the range.
fn page(kv: &str, range: &str, order: &str, at: usize) -> String {
    let (entries, bytes, head) = (at, at + 1, at + 2);
    format!(
        "select db, k, v from (select db, k, v, sum(octet_length(k) + octet_length(v) - ${head}::int8 + case when db > 0 \
         then 9 else 0 end) over (order by db{order}, k{order} rows between unbounded preceding and 1 preceding) as before \
         from {kv} where {range} order by db{order}, k{order} limit ${entries}::int8) page \
         where coalesce(before, 0) < ${bytes}::int8"
    )
}
