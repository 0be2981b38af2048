//! The commands that work as a server admin, on a running server or on the data folder of a stopped one.

#![allow(clippy::print_stdout, reason = "a command answers on the standard output")]

use super::admin_api::{AdminApi, OpenStore};
use super::args::Administer;
use super::livesync::{doctor, set_up};
use super::secret_text::read_secret;
use crate::auth::generated_password::{Length, generated_password};

/// Runs a command. Returns false if it has found something that is wrong.
///
/// # Errors
/// A sentence for the user.
pub fn administer(work: Administer, open_store: OpenStore<'_>) -> Result<bool, String> {
    match work {
        Administer::Admin { target, name, password_file } => {
            let given = password_file.as_deref().map(read_secret).transpose()?;
            set_admin(&AdminApi::open(target, open_store, None)?, &name, given).map(|()| true)
        }
        Administer::Livesync(vault) => set_up::set_up(*vault, open_store).map(|()| true),
        Administer::Doctor { target, apply } => {
            doctor::run(&AdminApi::open(target, open_store, Some("--doctor"))?, apply)
        }
    }
}

/// `settee admin`: sets the password of a server admin.
fn set_admin(api: &AdminApi, name: &str, given: Option<String>) -> Result<(), String> {
    let password = given.clone().unwrap_or_else(|| generated_password(Length::Password));
    let before = api.set("admins", name, &password)?;
    let done = if before == "" { "is a server admin now" } else { "has a new password" };
    println!("{name} {done}, on {}", api.server);
    if given.is_none() {
        println!("\n    name      {name}\n    password  {password}\n\nThe password is shown only now.");
    }
    Ok(())
}
