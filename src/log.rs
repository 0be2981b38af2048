//! The log's way to the standard error: lines are handed to a thread that writes them, so that a reader who does not read
//! (a full pipe) never holds a request up, or the way out. What does not fit is dropped, and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written. A line of a request has some 200 bytes.
const WAITING: usize = 20_000;

/// A handle: clones write to the same log.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    lines: SyncSender<Entry>,
    dropped: AtomicU64,
}

enum Entry {
    Line(Vec<u8>),
    /// Everything before it has been written.
    Mark(SyncSender<()>),
}

impl Log {
    /// A log that is written to `to` on a thread of its own.
    ///
    /// # Errors
    /// Those of the system: there is no thread for it.
    pub fn start(to: impl Write + Send + 'static) -> io::Result<Log> {
        let (lines, waiting) = mpsc::sync_channel(WAITING);
        let log = Log(Arc::new(Inner { lines, dropped: AtomicU64::new(0) }));
        // Not the handle itself: the thread ends with the last one.
        let inner = Arc::downgrade(&log.0);
        let dropped = move || inner.upgrade().map_or(0, |inner| inner.dropped.swap(0, Ordering::Relaxed));
        thread::Builder::new().name("settee-log".into()).spawn(move || write(&waiting, to, &dropped))?;
        Ok(log)
    }

    /// Waits until what was logged before is written, for `most` at most, and not at all while no more lines can wait.
    /// Whether it is written.
    pub fn flush(&self, most: Duration) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        self.0.lines.try_send(Entry::Mark(done)).is_ok() && written.recv_timeout(most).is_ok()
    }
}

fn write(waiting: &Receiver<Entry>, mut to: impl Write, dropped: &dyn Fn() -> u64) {
    while let Ok(entry) = waiting.recv() {
        // There is nobody to tell of a log that cannot be written.
        match entry {
            Entry::Line(line) => drop(to.write_all(&line)),
            Entry::Mark(done) => drop(done.try_send(())),
        }
        let lost = dropped();
        if lost > 0 {
            let _ = writeln!(to, "{lost} lines of the log were dropped: they were not read fast enough");
        }
    }
}

/// One line, as it is put together.
pub struct Line {
    log: Log,
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
        if let Err(TrySendError::Full(_)) = self.log.0.lines.try_send(Entry::Line(text)) {
            self.log.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self.clone(), text: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn nobody_waits_for_a_reader_who_does_not_read() {
        let (to, mut reader) = UnixStream::pair().unwrap();
        let log = Log::start(to).unwrap();
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
        // There is room again once the reader reads, and an end once nobody writes.
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
