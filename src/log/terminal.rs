//! The log on a terminal: one short line for each request, so that lines do not wrap. Other events look as `tracing`
//! writes them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{self, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::REQUEST;

/// Characters of a path that are shown.
const PATH: usize = 50;

/// Formats events for a terminal.
#[derive(Default)]
pub struct Terminal {
    others: Format<format::Full>,
}

impl<S, N> FormatEvent<S, N> for Terminal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() != REQUEST {
            return self.others.format_event(context, to, event);
        }
        let mut request = Request::default();
        event.record(&mut request);
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        writeln!(to, "{}", request.line(second))
    }
}

/// The fields of a request that are shown.
#[derive(Debug, Default)]
struct Request {
    method: String,
    path: String,
    status: u64,
    millis: f64,
    user: String,
    aborted: bool,
}

impl Request {
    /// `23:59:59 GET /notes/_changes 200 1.2 ms ann`, in UTC.
    fn line(&self, second: u64) -> String {
        let (hours, minutes, seconds) = (second / 3600 % 24, second / 60 % 60, second % 60);
        let aborted = if self.aborted { " aborted" } else { "" };
        format!(
            "{hours:02}:{minutes:02}:{seconds:02} {} {} {} {:.1} ms {}{aborted}",
            self.method, self.path, self.status, self.millis, self.user
        )
    }
}

/// Shortens a text, and escapes what a terminal would interpret.
fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(PATH).collect::<String>().escape_debug().to_string();
    if text.chars().nth(PATH).is_some() {
        shown.push('\u{2026}');
    }
    shown
}

impl Visit for Request {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "method" => self.method = short(&format!("{value:?}")),
            // Only if it is not recorded as text.
            "path" => self.path = short(&format!("{value:?}")),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "path" => self.path = short(value),
            "user" => self.user = short(value),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "status" {
            self.status = value;
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "ms" {
            self.millis = value;
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "aborted" {
            self.aborted = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::prelude::*;

    use super::*;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Kept(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Kept;

        fn make_writer(&'a self) -> Kept {
            self.clone()
        }
    }

    #[test]
    fn a_request_is_one_line_of_80_columns() {
        let kept = Kept::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(kept.clone()).with_ansi(false);
        let log = tracing_subscriber::registry().with(layer.event_format(Terminal::default()));
        let (path, user) = (format!("/notes/{}", "x".repeat(500)), "ann");
        tracing::subscriber::with_default(log, || {
            tracing::info!(
                target: "settee::request",
                method = %http::Method::GET, path, status = 200_u16, ms = 1.25, user, bytes = 5_u64, aborted = false,
                id = "0123456789", "request"
            );
            tracing::info!(target: "settee::request", method = %http::Method::PUT, path = "/a\u{1b}[2J", status = 201_u16,
                ms = 10.0, user = "-", bytes = 5_u64, aborted = true, id = "1", "request");
            tracing::warn!("something else");
        });
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].chars().count() <= 90
                && lines[0].contains(" GET /notes/xxx")
                && lines[0].ends_with("\u{2026} 200 1.2 ms ann"),
            "{text}"
        );
        assert!(lines[1].ends_with(" PUT /a\\u{1b}[2J 201 10.0 ms - aborted"), "{text}");
        assert!(lines[2].contains("WARN") && lines[2].ends_with("something else"), "{text}");
    }

    #[test]
    fn the_time_is_that_of_the_day() {
        assert!(Request::default().line(1_700_000_000).starts_with("22:13:20 "));
    }
}
