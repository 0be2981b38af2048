//! The audit log: sign-ins and failures, refused requests, and changes of accounts, settings and permissions.
//!
//! Each [`Event`] is one `tracing` event with the target `audit`. It goes to the server's log and, if
//! `[settee] audit_file` is set, also as a line of JSON to a separate file ([`trail`]). The newest events are kept
//! in memory, too ([`recent`]). An event names people, addresses, databases and settings; it never contains a
//! password, a token, a hash or the value of a setting.

#![warn(missing_docs)]

pub mod recent;
pub mod trail;

use std::net::IpAddr;

/// The target of all audit events.
pub const TARGET: &str = "audit";

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The password was correct. `detail`: whether it was used for a session, for tokens or for one request.
    SignIn,
    /// A password, cookie or token was wrong. `detail` says which.
    SignInFailed,
    /// Refused without checking the password, because too many attempts failed (`detail`: for this account,
    /// or from this address).
    SignInRefused,
    /// The user ended a session.
    SignOut,
    /// One device (`subject`) of a user, or all of them, were signed out.
    DeviceRevoked,
    /// A request was answered 401 or 403.
    Denied,
    /// `_security` was written.
    SecurityChanged,
    /// A setting (`subject`: section/key) was set, or deleted if `detail` says so.
    ConfigChanged,
    /// A server admin (`subject`) was created, given a new password or removed.
    AdminChanged,
    /// An account (`subject`) was written, or deleted if `detail` says so.
    AccountChanged,
    /// A database was created.
    DatabaseCreated,
    /// A database was deleted.
    DatabaseDeleted,
    /// Many deletions, misses or wrong passwords within a short time (`detail` says which).
    Suspicious,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 13] = [
        Kind::SignIn,
        Kind::SignInFailed,
        Kind::SignInRefused,
        Kind::SignOut,
        Kind::DeviceRevoked,
        Kind::Denied,
        Kind::SecurityChanged,
        Kind::ConfigChanged,
        Kind::AdminChanged,
        Kind::AccountChanged,
        Kind::DatabaseCreated,
        Kind::DatabaseDeleted,
        Kind::Suspicious,
    ];

    /// The kind's name in the log.
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

/// One audit event. Fields that are `None` are not logged.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// What happened.
    pub kind: Kind,
    /// The user who did it or tried to.
    pub user: Option<&'a str>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// `X-Couch-Request-ID`, which links the event to the request's line in the log.
    pub id: Option<&'a str>,
    /// The database concerned.
    pub database: Option<&'a str>,
    /// The object of the action: an account, a device, a setting.
    pub subject: Option<&'a str>,
    /// Additional information; its meaning depends on the kind.
    pub detail: Option<&'a str>,
}

/// Longest text in an event, in bytes. Names and paths come from clients and may be long; an event must stay
/// readable.
const LONGEST: usize = 256;

fn cut(text: Option<&str>) -> Option<&str> {
    text.map(|text| &text[..text.floor_char_boundary(LONGEST)])
}

impl<'a> Event<'a> {
    /// An event with only its kind set.
    pub fn of(kind: Kind) -> Event<'a> {
        Event { kind, user: None, peer: None, id: None, database: None, subject: None, detail: None }
    }

    /// Logs the event.
    pub fn record(self) {
        let Event { kind, user, peer, id, database, subject, detail } = self;
        let (user, database, subject, detail) = (cut(user), cut(database), cut(subject), cut(detail));
        let (event, peer) = (kind.word(), peer.map(tracing::field::display));
        // `tracing` fixes the level at compile time at each call site, hence two calls.
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
    fn long_names_are_truncated_at_a_character_boundary() {
        assert_eq!(cut(Some("ann")), Some("ann"));
        let long = format!("a{}", "é".repeat(1000));
        assert_eq!(cut(Some(&long)).map(str::len), Some(255));
        assert_eq!(cut(None), None);
    }
}
