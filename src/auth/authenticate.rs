//! Authenticates requests: credentials in, user context out.
//!
//! Authentication has two steps, because a password hash takes tenths of a second of CPU time:
//!
//! ```text
//! begin ──> Done(user)                       cookie, token, proxy, anonymous, or a recently verified password
//!      └──> Hash(pending) ──> finish ──> user       the caller limits how many hashes run at once
//! ```
//!
//! `begin` may read the user's document. Both steps block, so they must not run on async threads; `in_memory` never does.

mod account;
mod authenticator;
mod credentials;
mod handlers;
mod in_memory;
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
