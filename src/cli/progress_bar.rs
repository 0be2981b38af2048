//! A progress bar for long commands on a terminal: shows position, rate and remaining time. Without a
//! terminal it shows nothing.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressBarIter, ProgressDrawTarget, ProgressStyle};

/// The unit that a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Documents,
    Attachments,
    /// Changes of the databases, in sequence order.
    Changes,
    Bytes,
}

/// Maximum length of the displayed name in characters.
const NAME: usize = 24;

/// A line on the standard error, refreshed several times a second; hidden if the standard error is not a
/// terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// Creates a bar. `total` is the number of units, if known.
    pub fn new(unit: Unit, total: Option<u64>) -> Bar {
        let drawn = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        if drawn {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_style(style(unit, total.is_some()));
        Bar(bar)
    }

    /// Sets the position to `done` units and the displayed name to `what`.
    pub fn show(&self, what: &str, done: u64) {
        self.name(what);
        if self.0.length().is_some_and(|total| total < done) {
            self.0.set_length(done);
        }
        self.0.set_position(done);
    }

    /// Sets the total to at least this number, while it is not known for good.
    pub fn extend_to(&self, total: u64) {
        if self.0.length().is_none_or(|known| known < total) {
            self.0.set_length(total);
        }
    }

    /// Sets the displayed name only; for bars that count by themselves, see [`read`](Bar::read).
    pub fn name(&self, what: &str) {
        if self.0.is_hidden() {
            return;
        }
        let what = match what.char_indices().nth(NAME) {
            Some((end, _)) => Cow::Owned(format!("{}…", &what[..end])),
            None => Cow::Borrowed(what),
        };
        if self.0.message() != what {
            self.0.set_message(what.into_owned());
        }
    }

    /// Wraps a reader so that the bar counts the bytes read.
    pub fn read<R: Read>(&self, from: R) -> ProgressBarIter<R> {
        self.0.wrap_read(from)
    }
}

/// Clears the line when the work is done or has failed.
impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(unit: Unit, total: bool) -> ProgressStyle {
    let (noun, done, of, rate) = match unit {
        Unit::Documents => (" documents", "{human_pos}", "{human_len}", "{per_sec:0}"),
        Unit::Attachments => (" attachments", "{human_pos}", "{human_len}", "{per_sec:0}"),
        Unit::Changes => (" changes", "{human_pos}", "{human_len}", "{per_sec:0}"),
        Unit::Bytes => ("", "{bytes}", "{total_bytes}", "{bytes_per_sec}"),
    };
    let template = match total {
        true => format!("[{{bar:30}}] {done} of {of}{noun}, {rate}, {{eta}} left  {{wide_msg}}"),
        false => format!("{{spinner}} {done}{noun}, {rate}, {{elapsed}} so far  {{wide_msg}}"),
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("#>.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for unit in [Unit::Documents, Unit::Attachments, Unit::Changes, Unit::Bytes] {
            for total in [true, false] {
                let bar = ProgressBar::hidden();
                bar.set_style(style(unit, total));
                bar.tick();
            }
        }
    }

    #[test]
    fn a_hidden_bar_counts_beyond_its_total() {
        let bar = Bar::new(Unit::Documents, Some(2));
        bar.show(&"ä".repeat(100), 3);
        assert_eq!((bar.0.position(), bar.0.length()), (3, Some(3)));
        let bar = Bar::new(Unit::Bytes, None);
        let mut text = String::new();
        bar.read(&b"some bytes"[..]).read_to_string(&mut text).unwrap();
        assert_eq!((bar.0.position(), text.as_str()), (10, "some bytes"));
    }
}
