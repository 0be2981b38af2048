//! What the offline commands return and print.

use crate::maintain::survey::Survey;
use crate::store::Store;

/// The result of a command; an error is a message for the user.
pub type Outcome<T> = Result<T, String>;

/// The number of documents to read, for the progress bar. `None` if the counters are damaged; the command
/// itself reports that.
pub fn documents_in(store: &dyn Store) -> Option<u64> {
    Survey::of(store).ok().map(|survey| survey.documents)
}

/// Formats a number of bytes for display.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_formatted() {
        assert_eq!((size(9_999), size(12_345_678)), ("9999 bytes".into(), "12 MB".into()));
    }
}
