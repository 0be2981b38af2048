//! The admins of the settings: their passwords are hashed when the server starts.

use crate::auth::password::Stored;
use crate::clock::Clock;
use crate::config::Live;
use crate::error;

/// Returns the `[admins]` value to store for a password: its hash, or the value itself if it is already a
/// hash in CouchDB's format. Blocks.
pub fn admin_hash(config: &Live, password: &str, clock: &Clock) -> error::Result<String> {
    if Stored::from_admin_setting(password).is_some() {
        return Ok(password.to_owned());
    }
    let policy = crate::auth::Settings::read(config.settings().table()).password;
    Ok(Stored::hash(password, None, &policy, clock)?.to_admin_setting())
}

/// Persists the password hashes of the admins given by file, environment and flags, unless a hash is stored
/// already. If there is no admin at all, creates one and returns its name and password, which the caller
/// shows once. Blocks.
pub fn settle_admins(
    config: &Live,
    given: &[(String, String)],
    clock: &Clock,
) -> error::Result<Option<(String, String)>> {
    for (name, password) in given {
        match config.settings().admin(name).and_then(Stored::from_admin_setting) {
            None => {
                let hash = admin_hash(config, password, clock)?;
                match config.settings().admin(name) {
                    None => drop(config.set_missing("admins", name, &hash)?),
                    Some(_) => drop(config.set("admins", name, &hash, true)?),
                }
            }
            Some(stored) => {
                let policy = crate::auth::Settings::read(config.settings().table()).password;
                let same = Stored::from_admin_setting(password).is_some() || stored.verify(password, &policy)?;
                if !same {
                    tracing::warn!(
                        name,
                        "the admin password given at startup differs from the stored one, which stays in effect; \
                         change it with PUT /_node/_local/_config/admins/{name}"
                    );
                }
            }
        }
    }
    if !config.settings().has_admins() {
        // Another node may have been started at the same time.
        config.learn()?;
    }
    if config.settings().has_admins() {
        return Ok(None);
    }
    let made = ("admin".to_owned(), clock.uuid());
    let hash = admin_hash(config, &made.1, clock)?;
    Ok(config.set_missing("admins", &made.0, &hash)?.then_some(made))
}
