//! Skips a test that cannot run on this machine, or that only the long form runs.
//!
//! A skip is easily overlooked, so CI accepts only those that `tests/allowed-skips.txt` names.

/// The list of skips that CI accepts.
const LIST: &str = include_str!("../allowed-skips.txt");

/// The entries of the list: (kind, test, reason).
pub fn entries() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        match columns[..] {
            [kind, test, reason] => (kind, test, reason),
            _ => panic!("tests/allowed-skips.txt: `{line}` is not `kind | test | reason`"),
        }
    })
}

/// Reports that the current test is skipped; the caller returns afterwards.
///
/// # Panics
/// If `CI` is set and the list does not name the test.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = format!("{}::{}", env!("CARGO_CRATE_NAME"), thread.name().unwrap_or("a test without a name"));
    println!("SKIPPED {test}: {reason}");
    let in_ci = std::env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
    let allowed = entries().any(|(kind, name, _)| kind == "skip" && name == test);
    assert!(!in_ci || allowed, "CI does not allow {test} to be skipped (tests/allowed-skips.txt): {reason}");
}
