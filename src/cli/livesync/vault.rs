//! What `settee livesync` is asked to set up.

use std::path::PathBuf;

use crate::cli::admin_api::Target;

/// A vault and its people.
#[derive(Debug)]
pub struct Vault {
    pub target: Target,
    /// The vault's database.
    pub database: String,
    /// The owner: an admin of the database.
    pub user: String,
    /// The people with whom it is shared: members of the database.
    pub share: Vec<String>,
    /// The URL under which devices reach the server. `None`: guessed from the server's settings.
    pub url: Option<String>,
    /// Without end-to-end encryption.
    pub plain: bool,
    pub vault_passphrase_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
    pub new_password: bool,
    /// Print the QR code even if nobody seems to look.
    pub show_qr: bool,
    /// The file for the QR code.
    pub svg: Option<PathBuf>,
}

/// The database of a user who names none: `notes-NAME`, with what a database's name may not have replaced.
pub fn default_vault(user: &str) -> String {
    let is_kept = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
    let replaced: String = user.to_lowercase().chars().map(|c| if is_kept(c) { c } else { '-' }).collect();
    format!("notes-{replaced}")
}

/// Checks the name of a database, by the rule of LiveSync's own tools.
///
/// # Errors
/// A sentence for the user.
pub fn check_database(name: &str) -> Result<(), String> {
    let is_allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '$' | '(' | ')' | '+' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts && name.chars().all(is_allowed) && name.len() <= 200 {
        return Ok(());
    }
    Err(format!(
        "`{name}` cannot be the name of a vault: it becomes a database, whose name begins with a lower-case letter and \
         has lower-case letters, digits and _$()+- in it"
    ))
}

/// Checks the name of a person: it becomes the name of an account.
///
/// # Errors
/// A sentence for the user.
pub fn check_user(name: &str) -> Result<(), String> {
    match name.is_empty() || name.contains(':') || name.starts_with('_') || name.chars().any(char::is_control) {
        true => Err(format!("`{name}` cannot be the name of an account: it is empty, begins with _ or has a colon")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_is_named_after_its_owner() {
        for (user, vault) in
            [("ann", "notes-ann"), ("Ann.B@example.com", "notes-ann-b-example-com"), ("ÄNN", "notes--nn")]
        {
            assert_eq!(default_vault(user), vault);
            assert_eq!(check_database(vault), Ok(()));
        }
    }

    #[test]
    fn names_that_cannot_be_used_are_refused() {
        for name in ["", "Notes", "1st", "a/b", "_users", "a b"] {
            assert!(check_database(name).is_err(), "{name}");
        }
        for (name, good) in [("ann", true), ("Ann B", true), ("a:b", false), ("", false), ("_x", false), ("a\n", false)]
        {
            assert_eq!(check_user(name).is_ok(), good, "{name}");
        }
    }
}
