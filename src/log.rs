//! Writes the log to standard error from a separate thread, so that a reader that does not read (a full pipe)
//! never delays a request or the shutdown. When the queue is full, lines are dropped and counted.
//!
//! Written by hand because `tracing-appender` does not keep all of that: it writes no line that says how many were
//! dropped, and it flushes only once, when its guard is dropped, within a fixed time.

#![warn(missing_docs)]

pub mod filter;
pub mod recent;
pub mod terminal;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use self::recent::RecentLines;

/// Capacity of the queue, in lines. A line of a request has about 200 bytes.
const WAITING: usize = 20_000;

/// The log. A cheap handle: clones write to the same log.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    lines: SyncSender<Entry>,
    dropped: AtomicU64,
}

enum Entry {
    Line(Level, Vec<u8>),
    /// A flush mark: the writer thread answers it once all earlier entries are written.
    Mark(SyncSender<()>),
}

impl Log {
    /// Starts a thread that writes the log to `to`, and keeps its newest lines in `recent`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(to: impl Write + Send + 'static, recent: RecentLines) -> io::Result<Log> {
        let (lines, waiting) = mpsc::sync_channel(WAITING);
        let log = Log(Arc::new(Inner { lines, dropped: AtomicU64::new(0) }));
        // A weak reference: the thread ends when the last handle is dropped.
        let inner = Arc::downgrade(&log.0);
        let dropped = move || inner.upgrade().map_or(0, |inner| inner.dropped.swap(0, Ordering::Relaxed));
        thread::Builder::new().name("settee-log".into()).spawn(move || write(&waiting, to, &recent, &dropped))?;
        Ok(log)
    }

    /// Waits, for `most` at most, until everything logged before this call is written. Returns at once if the
    /// queue is full. Returns whether everything was written.
    pub fn flush(&self, most: Duration) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        self.0.lines.try_send(Entry::Mark(done)).is_ok() && written.recv_timeout(most).is_ok()
    }
}

fn write(waiting: &Receiver<Entry>, mut to: impl Write, recent: &RecentLines, dropped: &dyn Fn() -> u64) {
    let mut put = |level: Level, line: &[u8]| {
        // A failure to write the log cannot be reported anywhere.
        let _ = to.write_all(line);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        recent.push(level, now.as_millis() as u64, line);
    };
    while let Ok(entry) = waiting.recv() {
        match entry {
            Entry::Line(level, line) => put(level, &line),
            Entry::Mark(done) => drop(done.try_send(())),
        }
        let lost = dropped();
        if lost > 0 {
            let line = format!("{lost} lines of the log were dropped: they were not read fast enough\n");
            put(Level::WARN, line.as_bytes());
        }
    }
}

/// One line while `tracing` formats it; dropping it queues the line.
pub struct Line {
    log: Log,
    level: Level,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if text.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.log.0.lines.try_send(Entry::Line(self.level, text)) {
            self.log.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self.clone(), level: Level::INFO, text: Vec::new() }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line { log: self.clone(), level: *about.level(), text: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_blocks_no_writer() {
        let (to, mut reader) = UnixStream::pair().unwrap();
        let log = Log::start(to, RecentLines::default()).unwrap();
        let line = [b'x'; 199].iter().chain(b"\n").copied().collect::<Vec<u8>>();
        for _ in 0..2 * WAITING {
            log.make_writer().write_all(&line).unwrap();
        }
        log.flush(Duration::from_millis(1));
        assert!(log.0.dropped.load(Ordering::Relaxed) > 0);
        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        // The queue drains once the reader reads; the reader sees the end of the stream once the log is
        // dropped.
        while !log.flush(Duration::from_secs(60)) {
            thread::yield_now();
        }
        log.make_writer().write_all(b"the last\n").unwrap();
        log.flush(Duration::from_secs(60));
        drop(log);
        let text = read.join().unwrap().unwrap();
        assert!(text.contains("lines of the log were dropped"));
        assert!(text.lines().count() > WAITING);
        assert!(text.ends_with("the last\n"));
    }
}
