//! From credentials to a user context: CouchDB's authentication handlers, tried in the order of the settings.
//!
//! Two steps, because a password hash takes tenths of a second of a core:
//!
//! ```text
//! begin ──> Done(who)                       cookie, token, proxy, nobody, or a password verified a moment ago
//!      └──> Hash(pending) ──> finish ──> who       the caller bounds how many run at once, off its async threads
//! ```
//!
//! `begin` may read the user's document, so it too runs off the async threads.

mod account;
mod authenticator;
mod credentials;
mod handlers;
mod password_sign_in;
mod proof;
mod signed_in;
mod still;
mod tokens;

pub use self::account::{CONFLICTED, MEMBERS, UserDocument, Users};
pub use self::authenticator::Authenticator;
pub use self::credentials::{Credentials, INCORRECT, basic};
pub use self::proof::Proof;
pub use self::signed_in::{Pending, Session, SignedIn, Step, Upgrade};
pub use self::still::Still;

#[cfg(test)]
mod tests;
