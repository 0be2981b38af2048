//! `settee livesync`: sets up vaults of Obsidian's plugin Self-hosted LiveSync, and checks a server for it.
//!
//! ```text
//! vault      what the command line asks for           link       the setup link, as LiveSync's own tools write it
//! set_up     accounts, database, rights, settings     qr_code    the link in the terminal, or as an SVG file
//! doctor     what LiveSync's check of a server reads, and how it judges
//! ```

pub mod doctor;
mod link;
mod qr_code;
pub mod set_up;
pub mod vault;
