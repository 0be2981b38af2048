//! The audit log: who signed in or failed to, was refused, changed accounts, settings or who may do what.
//!
//! Each [`Event`] is one `tracing` event with the target `audit`: it goes where the log goes, and, if `[settee] audit_file` names
//! one, as a line of JSON into a file of its own ([`trail`]). An event names people, addresses, databases and settings;
//! it never holds a password, a token, a hash or the value of a setting.

pub mod trail;

use std::net::IpAddr;

/// The target of all audit events.
pub const TARGET: &str = "audit";

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A password was right. `detail`: for a session, tokens, or one request.
    SignIn,
    /// A password, cookie or token was wrong. `detail`: which.
    SignInFailed,
    /// Refused without a look at the password: too many were wrong (`detail`: of the account, or from the address).
    SignInRefused,
    /// A session was ended by its user.
    SignOut,
    /// A device (`subject`) or all of a user's were signed out.
    DeviceRevoked,
    /// A request was answered 401 or 403.
    Denied,
    /// `_security` was written.
    SecurityChanged,
    /// A setting (`subject`: section/key) was set or (`detail`) deleted.
    ConfigChanged,
    /// A server admin (`subject`) was made, given a new password or removed.
    AdminChanged,
    /// An account (`subject`) was written, or (`detail`) deleted.
    AccountChanged,
    DatabaseCreated,
    DatabaseDeleted,
    /// Many deletions, misses or wrong passwords (`detail`) in a short time.
    Suspicious,
}

impl Kind {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Kind::SignIn => "sign_in",
            Kind::SignInFailed => "sign_in_failed",
            Kind::SignInRefused => "sign_in_refused",
            Kind::SignOut => "sign_out",
            Kind::DeviceRevoked => "device_revoked",
            Kind::Denied => "denied",
            Kind::SecurityChanged => "security_changed",
            Kind::ConfigChanged => "config_changed",
            Kind::AdminChanged => "admin_changed",
            Kind::AccountChanged => "account_changed",
            Kind::DatabaseCreated => "database_created",
            Kind::DatabaseDeleted => "database_deleted",
            Kind::Suspicious => "suspicious",
        }
    }

    fn is_warning(self) -> bool {
        matches!(self, Kind::SignInFailed | Kind::SignInRefused | Kind::Suspicious)
    }
}

/// One event. What is `None` is left out.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub kind: Kind,
    /// Who did it, or tried to.
    pub user: Option<&'a str>,
    pub peer: Option<IpAddr>,
    /// `X-Couch-Request-ID`: the request's own line in the log.
    pub id: Option<&'a str>,
    pub database: Option<&'a str>,
    /// What it was done to.
    pub subject: Option<&'a str>,
    pub detail: Option<&'a str>,
}

/// Names and paths come from outside and may be long; an event is a line to be read.
const LONGEST: usize = 256;

fn cut(text: Option<&str>) -> Option<&str> {
    text.map(|text| &text[..text.floor_char_boundary(LONGEST)])
}

impl<'a> Event<'a> {
    /// An event of which only the kind is known.
    pub fn of(kind: Kind) -> Event<'a> {
        Event { kind, user: None, peer: None, id: None, database: None, subject: None, detail: None }
    }

    /// Writes it.
    pub fn record(self) {
        let Event { kind, user, peer, id, database, subject, detail } = self;
        let (user, database, subject, detail) = (cut(user), cut(database), cut(subject), cut(detail));
        let (event, peer) = (kind.word(), peer.map(tracing::field::display));
        // A level is part of where an event stands in the code, so it stands here twice.
        if kind.is_warning() {
            tracing::warn!(target: TARGET, event, user, peer, database, subject, detail, id);
        } else {
            tracing::info!(target: TARGET, event, user, peer, database, subject, detail, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(cut(Some("ann")), Some("ann"));
        let long = format!("a{}", "é".repeat(1000));
        assert_eq!(cut(Some(&long)).map(str::len), Some(255));
        assert_eq!(cut(None), None);
    }
}
