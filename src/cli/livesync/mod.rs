//! `settee livesync`: sets up vaults of Obsidian's plugin Self-hosted LiveSync, and checks a server for it.
//!
//! ```text
//! vault      what the command line asks for
//! set_up     accounts, database, rights, settings; the link is `auth/livesync_link`, its picture `auth/qr_code`
//! doctor     what LiveSync's check of a server reads, and how it judges
//! ```

pub mod doctor;
pub mod set_up;
pub mod vault;
