//! Writes the log to standard error from a separate thread, so that a reader that does not read (a full pipe)
//! never delays a request or the shutdown. When the queue is full, lines are dropped and counted.
//!
//! Written by hand because `tracing-appender` does not do all of this: it writes no line that says how many were
//! dropped, and it flushes only once, when its guard is dropped, within a fixed time.

#![warn(missing_docs)]

pub mod filter;
pub mod plain;
pub mod recent;
pub mod terminal;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use self::recent::RecentLines;

/// The target of the event at the end of a request.
const REQUEST: &str = "settee::request";
/// Capacity of the queue, in lines; the thread may hold as many more that it has taken from the queue. A line of a
/// request has about 200 bytes.
const WAITING: usize = 10_000;
/// Capacity in entries that an empty queue keeps.
const KEPT: usize = 1000;
/// How long the thread lets lines gather after it has written some. Waking a thread for each line would cost a request as
/// much as a read of a document. Warnings, errors and flushes do not wait.
const GATHERS: Duration = Duration::from_millis(5);
/// Bytes that are written with one call.
const CHUNK: usize = 64 << 10;

/// The log. A cheap handle: clones write to the same log.
#[derive(Clone)]
pub struct Log(Arc<Sender>);

/// The writing end of the queue; the thread ends when the last handle has dropped it.
struct Sender(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Wakes the thread that writes.
    more: Condvar,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    /// Lines that found the queue full.
    dropped: u64,
    /// The thread has nothing to write and waits for the first entry.
    idle: bool,
    /// An entry is to be written without waiting for more.
    urgent: bool,
    closed: bool,
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
        let queue = Arc::new(Queue::default());
        let log = Log(Arc::new(Sender(queue.clone())));
        let writer = Writer { to, recent, text: Vec::new() };
        thread::Builder::new().name("settee-log".into()).spawn(move || queue.write(writer))?;
        Ok(log)
    }

    /// Waits, for `most` at most, until everything logged before this call is written. Returns at once if the
    /// queue is full. Returns whether everything was written.
    pub fn flush(&self, most: Duration) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        self.0.0.push(Entry::Mark(done)) && written.recv_timeout(most).is_ok()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.more.notify_one();
    }
}

impl Queue {
    /// Queues an entry. If the queue is full, returns false, and counts the entry if it is a line.
    fn push(&self, entry: Entry) -> bool {
        let mut state = self.state.lock();
        if state.entries.len() >= WAITING {
            state.dropped += u64::from(matches!(entry, Entry::Line(..)));
            return false;
        }
        let gathers = matches!(entry, Entry::Line(level, _) if level > Level::WARN);
        state.entries.push(entry);
        let urgent = !gathers || state.entries.len() == WAITING / 2;
        let wakes = std::mem::take(&mut state.idle) || (urgent && !state.urgent);
        state.urgent |= urgent;
        drop(state);
        if wakes {
            self.more.notify_one();
        }
        true
    }

    /// Writes entries as they come, until the last handle is dropped.
    fn write(&self, mut writer: Writer<impl Write>) {
        let mut entries = Vec::new();
        while let Some(dropped) = self.take(&mut entries) {
            writer.write(&mut entries, dropped);
            let until = Instant::now() + GATHERS;
            let mut state = self.state.lock();
            while !state.urgent && !state.closed && !self.more.wait_until(&mut state, until).timed_out() {}
            state.urgent = false;
        }
    }

    /// Waits for entries, and moves them to `entries`, which is empty. Returns the number of dropped lines; `None` when all
    /// handles are dropped and everything is written.
    fn take(&self, entries: &mut Vec<Entry>) -> Option<u64> {
        let mut state = self.state.lock();
        while state.entries.is_empty() && state.dropped == 0 {
            if state.closed {
                return None;
            }
            state.idle = true;
            self.more.wait(&mut state);
        }
        state.idle = false;
        std::mem::swap(&mut state.entries, entries);
        Some(std::mem::take(&mut state.dropped))
    }
}

/// Where the thread writes.
struct Writer<W> {
    to: W,
    recent: RecentLines,
    /// Lines that are not written yet.
    text: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn write(&mut self, entries: &mut Vec<Entry>, dropped: u64) {
        for entry in entries.drain(..) {
            match entry {
                Entry::Line(level, line) => self.put(level, &line),
                Entry::Mark(done) => {
                    self.end();
                    let _ = done.try_send(());
                }
            }
        }
        if dropped > 0 {
            let line = format!("{dropped} lines of the log were dropped: they were not read fast enough\n");
            self.put(Level::WARN, line.as_bytes());
        }
        self.end();
        entries.shrink_to(KEPT);
    }

    fn put(&mut self, level: Level, line: &[u8]) {
        if self.text.len() + line.len() > CHUNK {
            self.end();
        }
        self.text.extend_from_slice(line);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.recent.push(level, now.as_millis() as u64, line);
    }

    fn end(&mut self) {
        let mut rest = self.text.as_slice();
        while !rest.is_empty() {
            match self.to.write(rest) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reader has set the pipe to non-blocking mode.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(GATHERS),
                // A failure to write the log cannot be reported anywhere.
                Ok(0) | Err(_) => break,
                Ok(written) => rest = &rest[written..],
            }
        }
        self.text.clear();
        self.text.shrink_to(CHUNK);
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
        self.log.0.0.push(Entry::Line(self.level, text));
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
        for _ in 0..4 * WAITING {
            log.make_writer().write_all(&line).unwrap();
        }
        assert!(!log.flush(Duration::from_millis(1)), "nobody reads");
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

    /// Counts the calls that write.
    #[derive(Clone, Default)]
    struct Counted(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock();
            state.0 += usize::from(!bytes.is_empty());
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_come_fast_are_written_together_and_in_order() {
        let to = Counted::default();
        let log = Log::start(to.clone(), RecentLines::default()).unwrap();
        let expected: String = (0..WAITING / 2).map(|number| format!("line {number}\n")).collect();
        for line in expected.split_inclusive('\n') {
            log.make_writer().write_all(line.as_bytes()).unwrap();
        }
        assert!(log.flush(Duration::from_secs(60)));
        let (calls, text) = to.0.lock().clone();
        assert!(calls < WAITING / 10, "{calls} calls");
        assert_eq!(text, expected.into_bytes());
    }

    #[test]
    fn a_line_is_written_although_no_other_follows() {
        let to = Counted::default();
        let log = Log::start(to.clone(), RecentLines::default()).unwrap();
        for line in ["one\n", "two\n"] {
            let before = to.0.lock().0;
            log.make_writer().write_all(line.as_bytes()).unwrap();
            let begun = Instant::now();
            while to.0.lock().0 == before {
                assert!(begun.elapsed() < Duration::from_secs(30), "{line}");
                thread::yield_now();
            }
        }
        log.make_writer().write_all(b"three\n").unwrap();
        drop(log);
        let begun = Instant::now();
        while to.0.lock().1 != b"one\ntwo\nthree\n" {
            assert!(begun.elapsed() < Duration::from_secs(30), "the last line is written after the log is dropped");
            thread::yield_now();
        }
    }
}
