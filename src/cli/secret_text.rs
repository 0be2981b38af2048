//! Reads passwords and passphrases that a user gives in a file.

use std::io::Read;
use std::path::Path;

/// Reads a password or passphrase from the first line of a file, or of the standard input for `-`.
///
/// # Errors
/// A sentence for the user.
pub fn read_secret(file: &Path) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let mut text = String::new();
    match file == Path::new("-") {
        true => std::io::stdin().lock().take(4096).read_to_string(&mut text).map_err(wrong)?,
        false => std::fs::File::open(file).and_then(|file| file.take(4096).read_to_string(&mut text)).map_err(wrong)?,
    };
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("{} has no text in its first line", file.display())),
    }
}
