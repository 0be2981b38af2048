//! The log in a file or pipe: lines as `tracing` writes them. Those of requests are written by hand, because `tracing`
//! takes several times as long, and some servers log ten thousands of them in a second.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::REQUEST;
use crate::clock::iso8601;

/// Formats events for a reader that is no terminal.
#[derive(Default)]
pub struct Plain {
    others: Format<format::Full>,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        if about.target() != REQUEST || *about.level() != Level::INFO || to.has_ansi_escapes() {
            return self.others.format_event(context, to, event);
        }
        write_time(&mut to, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())?;
        to.write_str("  INFO ")?;
        to.write_str(REQUEST)?;
        to.write_char(':')?;
        let mut fields = Fields { to, written: Ok(()) };
        event.record(&mut fields);
        let Fields { mut to, written } = fields;
        written?;
        to.write_char('\n')
    }
}

/// Writes ` name=value` for each field.
struct Fields<'a> {
    to: Writer<'a>,
    written: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let write = || {
            self.to.write_char(' ')?;
            if field.name() != "message" {
                self.to.write_str(field.name())?;
                self.to.write_char('=')?;
            }
            value(&mut self.to)
        };
        self.written = self.written.and_then(|()| write());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, |to| write!(to, "{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if value.bytes().all(is_plain) {
            self.write(field, |to| {
                to.write_char('"')?;
                to.write_str(value)?;
                to.write_char('"')
            });
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// Writes a time since 1970 as `2026-11-30T23:59:59.999999Z`.
fn write_time(to: &mut impl Write, since: Duration) -> fmt::Result {
    thread_local! {
        /// The last second that this thread has written, and its text.
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() || text.is_empty() {
            *second = since.as_secs();
            *text = iso8601(*second);
            text.pop();
        }
        to.write_str(text)
    })?;
    write!(to, ".{:06}Z", since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::prelude::*;

    use super::*;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Kept;

        fn make_writer(&'a self) -> Kept {
            self.clone()
        }
    }

    /// What a format writes of some events, without the times.
    fn lines<F>(format: F) -> Vec<String>
    where
        F: FormatEvent<tracing_subscriber::Registry, format::DefaultFields> + Send + Sync + 'static,
    {
        let kept = Kept::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(kept.clone()).with_ansi(false).event_format(format);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for (path, user, peer) in
                [("/notes/a", "ann", Some(std::net::Ipv4Addr::LOCALHOST)), ("/a \"b\" \\ \u{1b}[2J\n\u{e9}", "-", None)]
            {
                tracing::info!(
                    target: "settee::request",
                    method = %http::Method::GET, path, status = 200_u16, ms = 1.25, user, bytes = 5_u64, aborted = false,
                    peer = peer.map(tracing::field::display), id = "0123456789", "request"
                );
            }
            tracing::warn!(target: "settee::request", path = "/", "slow");
            tracing::info!(count = 1, "something else");
        });
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        text.lines().map(|line| line[27..].to_owned()).collect()
    }

    #[test]
    fn lines_are_those_of_tracing() {
        let expected = lines(Format::<format::Full>::default());
        assert!(expected[0].starts_with("  INFO settee::request: request method=GET path=\"/notes/a\" status=200"));
        assert_eq!(lines(Plain::default()), expected);
    }

    #[test]
    fn times_are_in_utc() {
        let text = |seconds: u64, micros: u32| {
            let mut text = String::new();
            write_time(&mut text, Duration::new(seconds, micros * 1000)).unwrap();
            text
        };
        for (seconds, micros, expected) in [
            (0, 1, "1970-01-01T00:00:00.000001Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_399, 50, "2000-02-28T23:59:59.000050Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
        ] {
            assert_eq!(text(seconds, micros), expected);
        }
    }
}
