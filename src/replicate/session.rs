//! The session of a user on another server: a cookie instead of the password in each request, so that the server
//! need not hash the password each time. It is renewed before it ends. A server without sessions gets the
//! password with each request (CouchDB: `couch_replicator_auth_session`).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::replicate::parameters::Basic;

/// How long a cookie is used whose `Max-Age` the server does not name: CouchDB's default is ten minutes.
const DEFAULT: Duration = Duration::from_secs(550);

/// The longest time for which a cookie is used, whatever the server says.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How a user signs in to one server.
pub(super) struct Session {
    state: Mutex<State>,
    /// One sign-in at a time.
    pub signing_in: tokio::sync::Mutex<()>,
}

enum State {
    /// Not tried yet.
    New,
    Cookie {
        value: HeaderValue,
        /// When it is to be renewed.
        until: Instant,
    },
    /// The server has no sessions.
    None,
}

/// What a request needs for its sign-in.
pub(super) enum Ready {
    /// This header.
    Header(http::HeaderName, HeaderValue),
    /// A session first.
    SignIn,
}

impl Session {
    /// No session yet.
    pub fn new() -> Session {
        Session { state: Mutex::new(State::New), signing_in: tokio::sync::Mutex::default() }
    }

    /// The header for a request.
    pub fn ready(&self, basic: &Basic, now: Instant) -> Ready {
        match &*self.state.lock() {
            State::Cookie { value, until } if *until > now => Ready::Header(header::COOKIE, value.clone()),
            State::New | State::Cookie { .. } => Ready::SignIn,
            State::None => Ready::Header(header::AUTHORIZATION, authorization(basic)),
        }
    }

    /// The server has no sessions.
    pub fn give_up(&self) {
        *self.state.lock() = State::None;
    }

    /// The server no longer accepts the cookie `used`. Returns whether there was one, so that it is worth signing in
    /// again.
    pub fn is_over(&self, used: Option<&HeaderValue>) -> bool {
        let mut state = self.state.lock();
        match &*state {
            State::Cookie { value, .. } if Some(value) == used => {
                *state = State::New;
                true
            }
            // Another request has signed in again meanwhile.
            State::Cookie { .. } | State::New => used.is_some(),
            State::None => false,
        }
    }

    /// Takes the cookie of an answer, if there is one: of a sign-in, or a renewed one. Returns whether there was
    /// one.
    pub fn take(&self, headers: &HeaderMap, now: Instant) -> bool {
        let found = headers.get_all(header::SET_COOKIE).iter().find_map(|value| read(value.to_str().ok()?));
        let Some((value, lives)) = found else { return false };
        *self.state.lock() = State::Cookie { value, until: now + before_the_end(lives) };
        true
    }

    /// Whether a session is in use.
    pub fn is_used(&self) -> bool {
        matches!(*self.state.lock(), State::Cookie { .. })
    }
}

/// When a cookie that lives so long is renewed: after nine tenths of its life, and at least 5 seconds early.
fn before_the_end(lives: Option<Duration>) -> Duration {
    match lives {
        None => DEFAULT,
        Some(lives) => {
            let lives = lives.min(LONGEST);
            lives.mul_f64(0.9).min(lives.saturating_sub(Duration::from_secs(5)))
        }
    }
}

/// The `Cookie` header and the life of a session cookie, from a `Set-Cookie` header.
fn read(set_cookie: &str) -> Option<(HeaderValue, Option<Duration>)> {
    let mut parts = set_cookie.split(';').map(str::trim);
    let pair = parts.next()?;
    let value = pair.strip_prefix("AuthSession=").filter(|value| !value.is_empty())?;
    let lives = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.parse().ok().map(Duration::from_secs)).flatten()
    });
    let mut header = HeaderValue::from_str(&format!("AuthSession={value}")).ok()?;
    header.set_sensitive(true);
    Some((header, lives))
}

/// The `Authorization` header of a name and a password.
pub(super) fn authorization(basic: &Basic) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{}:{}", basic.username, basic.password));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is a header's text");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_of_a_sign_in_is_found() {
        for (header, wanted) in [
            ("AuthSession=abc; Version=1; Max-Age=600; Path=/; HttpOnly", Some(("AuthSession=abc", Some(600)))),
            ("AuthSession=a=b==; max-age=7", Some(("AuthSession=a=b==", Some(7)))),
            ("AuthSession=abc", Some(("AuthSession=abc", None))),
            ("AuthSession=; Max-Age=600", None),
            ("Other=abc", None),
            ("", None),
        ] {
            let found = read(header);
            let found =
                found.as_ref().map(|(value, lives)| (value.to_str().unwrap(), lives.map(|lives| lives.as_secs())));
            assert_eq!(found, wanted, "{header}");
        }
    }

    #[test]
    fn a_cookie_is_renewed_before_it_ends() {
        let basic = Basic { username: "ann".into(), password: "p:w".into() };
        let (session, now) = (Session::new(), Instant::now());
        assert!(matches!(session.ready(&basic, now), Ready::SignIn));
        let mut headers = HeaderMap::new();
        headers.insert(header::SET_COOKIE, HeaderValue::from_static("AuthSession=one; Max-Age=600"));
        assert!(session.take(&headers, now));
        let Ready::Header(name, used) = session.ready(&basic, now) else { panic!("a cookie") };
        assert_eq!((name, used.as_bytes()), (header::COOKIE, &b"AuthSession=one"[..]));
        assert!(matches!(session.ready(&basic, now + Duration::from_secs(541)), Ready::SignIn));
        assert!(session.is_over(Some(&used)), "the server says so");
        assert!(matches!(session.ready(&basic, now), Ready::SignIn));
        let endless = HeaderValue::from_static("AuthSession=one; Max-Age=18446744073709551615");
        headers.insert(header::SET_COOKIE, endless);
        assert!(session.take(&headers, now), "a server may name any time");
        assert!(matches!(session.ready(&basic, now + LONGEST), Ready::SignIn));
        session.give_up();
        let Ready::Header(name, value) = session.ready(&basic, now) else { panic!("the password") };
        assert_eq!((name, value.as_bytes()), (header::AUTHORIZATION, &b"Basic YW5uOnA6dw=="[..]));
        assert!(!session.is_over(None));
    }
}
