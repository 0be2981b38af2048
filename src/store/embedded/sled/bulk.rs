//! Writes the log of a fresh store directly, from entries in ascending order of their keys.
//!
//! sled itself cannot fill a store densely. It logs each insertion, and both halves of a leaf that it splits,
//! and the parent of that leaf. What is alive and what has been replaced are therefore mixed in all segments,
//! and sled cleans a segment only when half of it is dead: 1.9 to 2.4 bytes are on disk for each live one. In
//! the log that this file writes, each page occurs once:
//!
//! ```text
//! page 0   the meta page: the name of the tree and the page of its root       (written last)
//! page 1   the counter of ids
//! page N   leaves of 9 keys and inner nodes of 128 children, as sled has them after it has split them
//! ```
//!
//! Every node has the keys `lo` (inclusive) and `hi` (exclusive; empty: no bound) and the page of the node to
//! its right. Keys are stored without the prefix that `lo` and `hi` have in common. Between two leaves, `lo` of
//! the right one is the shortest prefix of its first key that is above the last key of the left one. A node
//! with fewer than 4 keys or 64 children would be merged at the next access, and one with more than 16 or 256
//! split.
//!
//! ```text
//! keys of readers, record of totals │ chunks of large values
//! leaf leaf leaf ... leaf           │ leaf leaf leaf ...        both rows grow at the same time
//! ```
//!
//! The caller must open the result and compare all its entries with the record of totals before the store is
//! used, so an error in this file cannot lose data. The messages of the log are those in `log`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::SEGMENT;
use super::log::{CAP, RED_ZONE, SEGMENT_HEADER};
use super::value::{CHUNK, CHUNKS, Head};
use crate::store::disk_space::{io_error, make_dir, sync_dir};
use crate::store::reserved_keys::TOTALS;
use crate::store::{Result, StoreError};

const COUNTER: u8 = 5;
const META: u8 = 6;
const NODE: u8 = 8;
const META_PAGE: u64 = 0;
const COUNTER_PAGE: u64 = 1;
const TREE: &[u8] = b"__sled__default";
/// Keys of a leaf, and children of an inner node.
const LEAF: usize = 9;
const INNER: usize = 128;
/// How many must follow before a node is complete, so that the last one of a row is not too small.
const LAST_LEAF: usize = 4;
const LAST_INNER: usize = 64;
/// `lo` of the first leaf with chunks.
const FIRST_CHUNK: [u8; 2] = [CHUNKS, 0];

/// The pages of a tree that is written once.
pub(crate) struct BulkWriter {
    log: LogWriter,
    next_page: u64,
    entries: Row,
    /// `None` until there is a chunk.
    chunks: Option<Row>,
    /// The leaves with chunks that are complete, which follow all others.
    chunk_leaves: Vec<(Vec<u8>, u64)>,
    levels: Vec<Level>,
    next_set: u64,
    last: Vec<u8>,
}

/// The leaf at the end of a row.
struct Row {
    page: u64,
    lo: Vec<u8>,
    /// Its entries, and the first ones of the next leaf.
    held: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The inner node at the end of a level.
struct Level {
    page: u64,
    lo: Vec<u8>,
    children: Vec<(Vec<u8>, u64)>,
    /// Whether the level has other nodes before it.
    begun: bool,
}

impl BulkWriter {
    /// Begins the log of a new store in `folder`, which must not have one.
    pub fn create(folder: &Path) -> Result<BulkWriter> {
        let log = make_dir(folder).and_then(|()| LogWriter::create(folder)).map_err(failed)?;
        let entries = Row { page: COUNTER_PAGE + 1, lo: Vec::new(), held: Vec::new() };
        let mut writer = BulkWriter {
            log,
            next_page: COUNTER_PAGE + 2,
            entries,
            chunks: None,
            chunk_leaves: Vec::new(),
            levels: Vec::new(),
            next_set: 0,
            last: Vec::new(),
        };
        writer.log.message(COUNTER, COUNTER_PAGE, &[0]).map_err(failed)?;
        Ok(writer)
    }

    /// Adds an entry, whose key must be above all others, with its framed value.
    pub fn put(&mut self, key: Vec<u8>, framed: Vec<u8>) -> Result<()> {
        assert!(key > self.last && key.first() < Some(&CHUNKS), "a store is filled in the order of its keys");
        self.last.clone_from(&key);
        if framed.len() <= CHUNK {
            return self.put_entry(key, framed);
        }
        let head = Head::new(self.next_set, framed.len());
        self.next_set += 1;
        for (chunk_key, chunk) in head.chunk_keys().zip(framed.chunks(CHUNK)) {
            self.put_chunk(chunk_key.to_vec(), chunk.to_vec())?;
        }
        let head = head.write(&key);
        self.put_entry(key, head)
    }

    /// Writes what is left, with the framed record of totals, and syncs the log.
    pub fn finish(mut self, record: Vec<u8>) -> Result<()> {
        self.put_entry(TOTALS.to_vec(), record)?;
        let chunks = self.chunks.take();
        let (hi, next) = match &chunks {
            Some(last) => (&FIRST_CHUNK[..], self.chunk_leaves.first().map_or(last.page, |(_, first)| *first)),
            None => (&[][..], 0),
        };
        let last = std::mem::replace(&mut self.entries, Row { page: 0, lo: Vec::new(), held: Vec::new() });
        self.log.leaf(last.page, next, &last.lo, hi, &last.held).map_err(failed)?;
        self.add_child(0, last.lo, last.page)?;
        for (lo, page) in std::mem::take(&mut self.chunk_leaves) {
            self.add_child(0, lo, page)?;
        }
        if let Some(last) = chunks {
            self.log.leaf(last.page, 0, &last.lo, &[], &last.held).map_err(failed)?;
            self.add_child(0, last.lo, last.page)?;
        }
        let root = self.close_levels()?;
        let mut meta = Vec::new();
        put_bytes(&mut meta, TREE);
        put_varint(&mut meta, root);
        self.log.message(META, META_PAGE, &meta).map_err(failed)?;
        self.log.finish().map_err(failed)
    }

    fn put_entry(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        if let Some((lo, page)) = self.entries.add(&mut self.log, &mut self.next_page, key, value).map_err(failed)? {
            self.add_child(0, lo, page)?;
        }
        Ok(())
    }

    fn put_chunk(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let next_page = &mut self.next_page;
        let chunks = self.chunks.get_or_insert_with(|| Row {
            page: take(next_page),
            lo: FIRST_CHUNK.to_vec(),
            held: Vec::new(),
        });
        let complete = chunks.add(&mut self.log, next_page, key, value).map_err(failed)?;
        self.chunk_leaves.extend(complete);
        Ok(())
    }

    /// Adds a child to the last node of a level, and writes that node if it is complete.
    fn add_child(&mut self, level: usize, lo: Vec<u8>, page: u64) -> Result<()> {
        if level == self.levels.len() {
            let page = take(&mut self.next_page);
            self.levels.push(Level { page, lo: Vec::new(), children: Vec::new(), begun: false });
        }
        let at = &mut self.levels[level];
        at.children.push((lo, page));
        if at.children.len() < INNER + LAST_INNER {
            return Ok(());
        }
        let rest = at.children.split_off(INNER);
        let children = std::mem::replace(&mut at.children, rest);
        let hi = at.children[0].0.clone();
        let lo = std::mem::replace(&mut at.lo, hi.clone());
        let next = take(&mut self.next_page);
        let page = std::mem::replace(&mut at.page, next);
        at.begun = true;
        self.log.inner(page, next, &lo, &hi, &children).map_err(failed)?;
        self.add_child(level + 1, lo, page)
    }

    /// Writes the last node of each level. Returns the page of the root.
    fn close_levels(&mut self) -> Result<u64> {
        let mut level = 0;
        loop {
            let at = &mut self.levels[level];
            let (page, begun) = (at.page, at.begun);
            let (lo, children) = (std::mem::take(&mut at.lo), std::mem::take(&mut at.children));
            self.log.inner(page, 0, &lo, &[], &children).map_err(failed)?;
            if !begun {
                return Ok(page);
            }
            level += 1;
            self.add_child(level, lo, page)?;
        }
    }
}

impl Row {
    /// Adds an entry. If the leaf before it is complete, writes that leaf and returns its `lo` and its page.
    fn add(
        &mut self,
        log: &mut LogWriter,
        next_page: &mut u64,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> io::Result<Option<(Vec<u8>, u64)>> {
        self.held.push((key, value));
        if self.held.len() < LEAF + LAST_LEAF {
            return Ok(None);
        }
        let rest = self.held.split_off(LEAF);
        let leaf = std::mem::replace(&mut self.held, rest);
        let (left, right) = (&leaf[LEAF - 1].0, &self.held[0].0);
        let hi = right[..common(left, right) + 1].to_vec();
        let lo = std::mem::replace(&mut self.lo, hi.clone());
        let next = take(next_page);
        let page = std::mem::replace(&mut self.page, next);
        log.leaf(page, next, &lo, &hi, &leaf)?;
        Ok(Some((lo, page)))
    }
}

fn take(next_page: &mut u64) -> u64 {
    *next_page += 1;
    *next_page - 1
}

fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn failed(error: io::Error) -> StoreError {
    io_error("writing the sled log", &error)
}

/// Appends messages to the log, segment by segment.
struct LogWriter {
    file: File,
    folder: PathBuf,
    /// The segment that is being filled.
    segment: Vec<u8>,
    number: u64,
    body: Vec<u8>,
}

impl LogWriter {
    fn create(folder: &Path) -> io::Result<LogWriter> {
        let file = File::create_new(folder.join("db"))?;
        let mut log = LogWriter {
            file,
            folder: folder.to_path_buf(),
            segment: Vec::with_capacity(SEGMENT),
            number: 0,
            body: Vec::new(),
        };
        log.begin_segment();
        Ok(log)
    }

    /// The header: everything before the segment is stable.
    fn begin_segment(&mut self) {
        let position = self.number * SEGMENT as u64;
        self.segment.clear();
        self.segment.extend_from_slice(&[0; 4]);
        for number in [position, position.wrapping_sub(1)] {
            self.segment.extend_from_slice(&(number ^ 0x7FFF_FFFF_FFFF_FFFF).to_le_bytes());
        }
        let sum = crc32fast::hash(&self.segment[4..]) ^ 0xFFFF_FFFF;
        self.segment[..4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Fills the segment up with a cap, if one fits, and writes it.
    fn end_segment(&mut self) -> io::Result<()> {
        let unused = SEGMENT - self.segment.len();
        if unused >= RED_ZONE {
            let padding = vec![0; unused - RED_ZONE];
            self.append(CAP, u64::MAX, &padding);
        }
        self.segment.resize(SEGMENT, 0);
        self.file.write_all(&self.segment)?;
        self.number += 1;
        self.begin_segment();
        Ok(())
    }

    fn append(&mut self, kind: u8, page: u64, body: &[u8]) {
        let at = self.segment.len();
        self.segment.extend_from_slice(&[0, 0, 0, 0, kind]);
        put_varint(&mut self.segment, body.len() as u64);
        put_varint(&mut self.segment, self.number);
        put_varint(&mut self.segment, page);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body);
        hasher.update(&self.segment[at + 4..]);
        let sum = hasher.finalize() ^ 0xFFFF_FFFF;
        self.segment[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        self.segment.extend_from_slice(body);
    }

    fn message(&mut self, kind: u8, page: u64, body: &[u8]) -> io::Result<()> {
        // The head of a message is never longer than the red zone.
        if self.segment.len() + RED_ZONE + body.len() > SEGMENT {
            self.end_segment()?;
        }
        assert!(SEGMENT_HEADER + RED_ZONE + body.len() <= SEGMENT, "a page is larger than a segment");
        self.append(kind, page, body);
        Ok(())
    }

    fn leaf(&mut self, page: u64, next: u64, lo: &[u8], hi: &[u8], entries: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let (mut body, prefix) = self.node(next, lo, hi);
        body.push(0);
        put_varint(&mut body, entries.len() as u64);
        entries.iter().for_each(|(key, _)| put_bytes(&mut body, &key[prefix..]));
        entries.iter().for_each(|(_, value)| put_bytes(&mut body, value));
        self.put_node(page, body)
    }

    fn inner(&mut self, page: u64, next: u64, lo: &[u8], hi: &[u8], children: &[(Vec<u8>, u64)]) -> io::Result<()> {
        let (mut body, prefix) = self.node(next, lo, hi);
        body.push(1);
        put_varint(&mut body, children.len() as u64);
        children.iter().for_each(|(lo, _)| put_bytes(&mut body, &lo[prefix..]));
        children.iter().for_each(|(_, page)| put_varint(&mut body, *page));
        self.put_node(page, body)
    }

    /// The beginning of a node, and how many bytes all its keys have in common.
    fn node(&mut self, next: u64, lo: &[u8], hi: &[u8]) -> (Vec<u8>, usize) {
        let prefix = common(lo, hi).min(usize::from(u8::MAX));
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        put_varint(&mut body, next);
        // No child is being merged, nor the node itself.
        body.extend_from_slice(&[0, 0, prefix as u8]);
        put_bytes(&mut body, lo);
        put_bytes(&mut body, hi);
        (body, prefix)
    }

    fn put_node(&mut self, page: u64, body: Vec<u8>) -> io::Result<()> {
        self.message(NODE, page, &body)?;
        self.body = body;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.write_all(&self.segment)?;
        self.file.sync_all()?;
        sync_dir(&self.folder)
    }
}

fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// The inverse of [`super::log::varint`].
fn put_varint(into: &mut Vec<u8>, number: u64) {
    match number {
        0..=240 => into.push(number as u8),
        241..=2287 => into.extend_from_slice(&[((number - 240) / 256 + 241) as u8, ((number - 240) % 256) as u8]),
        2288..=67823 => {
            into.extend_from_slice(&[249, ((number - 2288) / 256) as u8, ((number - 2288) % 256) as u8]);
        }
        _ => {
            let length = (8 - number.leading_zeros() as usize / 8).max(3);
            into.push(247 + length as u8);
            into.extend_from_slice(&number.to_le_bytes()[..length]);
        }
    }
}

#[cfg(test)]
mod tests;
