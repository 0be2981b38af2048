//! Reads sled's log before sled opens it, without changing it.
//!
//! sled 0.34.7 takes the part of the log that it can replay for the whole log, and then **destroys the
//! rest**: it zeroes the remainder of the segment after the first record that does not verify, and all later
//! segments. In the middle of the log, it silently skips the rest of a segment that holds such a record, and
//! any segment whose header does not verify. Both are normal after a power cut, in segments that had been
//! freed. Damage must therefore be found before sled opens the log:
//!
//! ```text
//! db       segments of 2 or 8 MiB, in any order, each: CRC(4) lsn(8) highest stable lsn(8) | messages | cap
//! message  CRC(4) kind(1) length segment-number page (varints) | body
//! lsn      the position in the log, ever increasing; a segment's is a multiple of the segment size
//! snap.X   the pages as of lsn X: replay begins there
//! ```
//!
//! A segment that is all zeros is free: sled zeroes free segments when it opens, and reuses them while it
//! runs. A segment that a fault has zeroed as a whole looks the same. The number of free segments reveals
//! it: after a clean stop the mark holds that number. After any other stop, log positions that no segment
//! covers are suspect if there is a free segment.
//!
//! [`survey`] walks the records that sled will replay, following `LogIter` and
//! `check_contiguity_in_unstable_tail` in sled's `pagecache/iterator.rs`. It reports where the replay will
//! end, and whether it will skip anything before. The mark says how far the log had got (see `mark`). sled
//! reads the same bytes right afterwards, then from the page cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::store::disk_space::next_data;

/// Bytes of a segment's header. A segment that is in use has a header that is not all zeros.
pub(super) const SEGMENT_HEADER: usize = 20;
/// Bytes at the end of a segment in which no message begins.
pub(super) const RED_ZONE: usize = 32;
const CORRUPTED: u8 = 0;
pub(super) const CAP: u8 = 2;
const LAST_KIND: u8 = 11;

/// What sled will replay of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Survey {
    /// The position at which the replay ends.
    pub end: u64,
    /// The replay skips nothing before the end.
    pub whole: bool,
    /// Length of the file in bytes.
    pub length: u64,
    /// Segments without a header.
    pub unused: u64,
    /// No segment covers some positions after the snapshot: their segment was reused or is lost.
    pub gaps: bool,
}

struct Header {
    lsn: u64,
    stable: u64,
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At its cap, or where no further message fits.
    Full,
    /// At a record that does not verify, at this offset in the segment.
    Broken(usize),
}

/// Surveys the log in `folder`. `None` if there is no log yet.
pub(crate) fn survey(folder: &Path, segment: usize) -> io::Result<Option<Survey>> {
    let file = match File::open(folder.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let size = segment as u64;
    let begin = snapshot(folder)?.unwrap_or(0);
    let mut whole = true;
    let mut buffer = Vec::new();
    let mut segments = BTreeMap::new();
    let mut unused = 0;
    let mut stable = begin / size * size;
    for slot in 0..(length + size - SEGMENT_HEADER as u64) / size {
        match header(&file, slot * size)? {
            Some(header) if header.lsn % size != 0 => whole = false,
            Some(header) if header.lsn >= begin / size * size => {
                stable = stable.max(header.stable);
                whole &= segments.insert(header.lsn, slot * size).is_none();
            }
            Some(_) => {}
            // A segment that sled has freed is zeroed as a whole.
            None => {
                unused += 1;
                whole &= next_data(&file, slot * size)? >= (slot + 1) * size
                    || read_segment(&file, &mut buffer, segment, slot * size)?.iter().all(|byte| *byte == 0);
            }
        }
    }
    // The unstable tail must be contiguous: sled stops at the first gap.
    let mut expected = stable / size * size;
    let mut end = None;
    let mut stopped = false;
    let last = segments.keys().next_back().copied();
    let gaps = last.is_some_and(|last| (segments.len() as u64) <= (last - begin / size * size) / size);
    for (&lsn, &at) in &segments {
        let in_tail = lsn >= stable / size * size;
        let how = walk(read_segment(&file, &mut buffer, segment, at)?, segment, lsn);
        if in_tail && !stopped {
            if lsn != expected {
                stopped = true;
            } else {
                expected += size;
                end = Some(match how {
                    End::Full => lsn + size,
                    End::Broken(at) => lsn + at as u64,
                });
                stopped = how != End::Full;
            }
        }
        whole &= how == End::Full || (Some(lsn) == last && in_tail);
    }
    // Without a tail nothing is replayed: the snapshot is the whole content.
    Ok(Some(Survey { end: end.unwrap_or(begin), whole, length, unused, gaps }))
}

/// The number of segments without a header.
pub(crate) fn unused(folder: &Path, segment: usize) -> io::Result<u64> {
    let file = File::open(folder.join("db"))?;
    let size = segment as u64;
    let mut unused = 0;
    for slot in 0..(file.metadata()?.len() + size - SEGMENT_HEADER as u64) / size {
        unused += u64::from(header(&file, slot * size)?.is_none());
    }
    Ok(unused)
}

/// The position of the newest snapshot, from its name.
fn snapshot(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let lsn = name.to_str().and_then(|name| u64::from_str_radix(name.strip_prefix("snap.")?, 16).ok());
        newest = newest.max(lsn);
    }
    Ok(newest)
}

/// Reads a segment's header. `None` if it does not verify.
fn header(file: &File, at: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0; SEGMENT_HEADER];
    file.read_exact_at(&mut bytes, at)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte])) ^ 0x7FFF_FFFF_FFFF_FFFF;
    let sum = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) ^ 0xFFFF_FFFF;
    let (lsn, stable) = (number(4), number(12));
    // sled's positions are signed: before the first byte is stable, the stable one is -1.
    let stable = if stable > i64::MAX as u64 { 0 } else { stable };
    Ok((crc32fast::hash(&bytes[4..]) == sum && lsn <= i64::MAX as u64 / 2).then_some(Header { lsn, stable }))
}

fn read_segment<'a>(file: &File, buffer: &'a mut Vec<u8>, segment: usize, at: u64) -> io::Result<&'a [u8]> {
    buffer.resize(segment, 0);
    let mut read = 0;
    while read < segment {
        match file.read_at(&mut buffer[read..], at + read as u64)? {
            0 => break,
            count => read += count,
        }
    }
    Ok(&buffer[..read])
}

/// Follows the messages of a segment and returns how they end.
fn walk(bytes: &[u8], segment: usize, lsn: u64) -> End {
    let mut at = SEGMENT_HEADER;
    loop {
        if at > segment - RED_ZONE {
            return End::Full;
        }
        match message(bytes, at, lsn / segment as u64) {
            Some((CAP, _)) => return End::Full,
            Some((_, length)) => at += length,
            None => return End::Broken(at),
        }
    }
}

/// Kind and total length of the message at `at`, if it verifies.
fn message(bytes: &[u8], at: usize, segment_number: u64) -> Option<(u8, usize)> {
    let bytes = bytes.get(at..)?;
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    let (&kind, rest) = rest.split_first().filter(|(kind, _)| (CORRUPTED + 1..=LAST_KIND).contains(kind))?;
    let (length, rest) = varint(rest)?;
    let (number, rest) = varint(rest)?;
    let (_page, rest) = varint(rest)?;
    let head = bytes.len() - rest.len();
    let body = rest.get(..usize::try_from(length).ok()?)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&bytes[4..head]);
    let verifies = hasher.finalize() ^ 0xFFFF_FFFF == u32::from_le_bytes(*sum) && number == segment_number;
    verifies.then_some((kind, head + body.len()))
}

/// Decodes sled's varint: as SQLite 4's for small numbers, little-endian for larger ones.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let first = u64::from(first);
    Some(match first {
        0..=240 => (first, rest),
        241..=248 => (240 + 256 * (first - 241) + u64::from(*rest.first()?), &rest[1..]),
        249 => (2288 + 256 * u64::from(*rest.first()?) + u64::from(*rest.get(1)?), &rest[2..]),
        _ => {
            let (bytes, rest) = rest.split_at_checked(first as usize - 247)?;
            let mut number = [0; 8];
            number[..bytes.len()].copy_from_slice(bytes);
            (u64::from_le_bytes(number), rest)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = 256 << 10;

    fn open(folder: &Path) -> sled::Db {
        let config = sled::Config::new().path(folder).segment_size(SEGMENT).flush_every_ms(None);
        let config = config.mode(sled::Mode::LowSpace);
        // A thread of the sled that was just closed may still hold the lock.
        loop {
            match config.open() {
                Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                    std::thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn position(db: &sled::Db) -> u64 {
        db.flush().unwrap();
        db.context.pagecache.log.stable_offset() as u64
    }

    #[test]
    fn the_survey_ends_where_the_replay_of_sled_ends() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        assert_eq!(survey(dir.path(), SEGMENT).unwrap(), None);
        let mut reached = 0;
        for life in 0..4u64 {
            let db = open(&folder);
            for number in 0..200u64 {
                let key = (life % 2 * 100 + number).to_be_bytes();
                db.insert(key, vec![life as u8; 100 + (number * 37 % 9000) as usize]).unwrap();
            }
            reached = position(&db);
            drop(db);
            let found = survey(&folder, SEGMENT).unwrap().unwrap();
            assert!(found.end >= reached && found.end <= reached + SEGMENT as u64, "{found:?} {reached}");
            assert!(found.whole, "life {life}: {found:?}");
        }
        // A flipped bit after the last snapshot either does not matter or is reported.
        let file = File::options().read(true).write(true).open(folder.join("db")).unwrap();
        let length = file.metadata().unwrap().len();
        let before = survey(&folder, SEGMENT).unwrap().unwrap();
        let mut told = 0;
        for at in (0..length).step_by(length as usize / 150) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let found = survey(&folder, SEGMENT).unwrap().unwrap();
            told += u64::from(found.end < reached || !found.whole);
            assert!(found == before || found.end < reached || !found.whole, "at {at}: {found:?}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(told > 10, "{told}");
    }
}
