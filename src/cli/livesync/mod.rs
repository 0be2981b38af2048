//! `settee livesync`: sets up vaults of Obsidian's plugin Self-hosted LiveSync, and checks a server for it.
//!
//! ```text
//! vault       what the command line asks for
//! database    the vault's database and the rights to it
//! device_url  the address of the server in a link
//! set_up      accounts and settings; the link is `auth/livesync_link`, its picture `auth/qr_code`
//! doctor      what LiveSync's check of a server reads, and how it judges
//! ```

mod database;
mod device_url;
pub mod doctor;
pub mod set_up;
pub mod vault;

/// Tells the user what was done.
#[allow(clippy::print_stdout, reason = "a command answers on the standard output")]
fn done(what: &str) {
    println!("  {what}");
}
