//! What a person at a terminal sees of a long work: how far it is, how fast, and how long it will take. Others see nothing.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressBarIter, ProgressDrawTarget, ProgressStyle};

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Documents,
    Attachments,
    /// Of a database, in their order.
    Changes,
    Bytes,
}

/// Letters of the name of what is at hand.
const NAME: usize = 24;

/// A line on the standard error that is written over some times a second, if that is a terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// `total`: how many there are, if that is known.
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

    /// `done` of them, at work on `what`.
    pub fn show(&self, what: &str, done: u64) {
        self.name(what);
        if self.0.length().is_some_and(|total| total < done) {
            self.0.set_length(done);
        }
        self.0.set_position(done);
    }

    /// At work on `what`, where the bar itself counts: see [`read`](Bar::read).
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

    /// Counts the bytes that are read.
    pub fn read<R: Read>(&self, from: R) -> ProgressBarIter<R> {
        self.0.wrap_read(from)
    }
}

/// The line is gone when the work is done, or has failed.
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
    fn templates_are_understood() {
        for unit in [Unit::Documents, Unit::Attachments, Unit::Changes, Unit::Bytes] {
            for total in [true, false] {
                let bar = ProgressBar::hidden();
                bar.set_style(style(unit, total));
                bar.tick();
            }
        }
    }

    #[test]
    fn nobody_looks_and_more_than_all_is_done() {
        let bar = Bar::new(Unit::Documents, Some(2));
        bar.show(&"ä".repeat(100), 3);
        assert_eq!((bar.0.position(), bar.0.length()), (3, Some(3)));
        let bar = Bar::new(Unit::Bytes, None);
        let mut text = String::new();
        bar.read(&b"some bytes"[..]).read_to_string(&mut text).unwrap();
        assert_eq!((bar.0.position(), text.as_str()), (10, "some bytes"));
    }
}
