//! The session of a user on another server: a cookie instead of the password in each request, so that the server
//! need not hash the password each time. It is renewed before it ends. A server without sessions gets the
//! password with each request (CouchDB: `couch_replicator_auth_session`).
//!
//! All jobs of one user on one server share a session: servers refuse clients that sign in a thousand times at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::replicate::failure::Failure;
use crate::replicate::parameters::{Basic, RemoteEndpoint};

/// How long a cookie is used whose `Max-Age` the server does not name: CouchDB's default is ten minutes.
const DEFAULT: Duration = Duration::from_secs(550);

/// The longest time for which a cookie is used, whatever the server says.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How long a server is taken for one without sessions.
const WITHOUT: Duration = Duration::from_secs(600);

/// Sessions that are kept although no job uses them now: the next pass of a job needs no sign-in.
const MOST_KEPT: usize = 1000;

/// The sessions on other servers, of all jobs. The keys are digests, so that passwords are not in them.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<[u8; 32], Arc<Session>>>);

impl Sessions {
    /// The session of the endpoint's user on the server whose root is `root`.
    pub fn of(&self, endpoint: &RemoteEndpoint, root: &str) -> Arc<Session> {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        add(root.as_bytes());
        if let Some(Basic { username, password }) = &endpoint.auth {
            add(username.as_bytes());
            add(password.as_bytes());
        }
        // An answer through a proxy may be the proxy's own.
        let proxy = endpoint.proxy.as_ref().map(|proxy| (proxy.url.to_string(), proxy.user.clone()));
        let (proxy, (user, secret)) =
            proxy.map_or_else(Default::default, |(url, user)| (url, user.unwrap_or_default()));
        [proxy, user, secret].iter().for_each(|part| add(part.as_bytes()));
        // A server may tell its tenants apart by a header.
        for (name, value) in &endpoint.headers {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
        let mut sessions = self.0.lock();
        if sessions.len() >= MOST_KEPT {
            sessions.retain(|_, session| Arc::strong_count(session) > 1);
        }
        sessions.entry(digest.finalize().into()).or_default().clone()
    }
}

/// How a user signs in to one server.
#[derive(Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    /// One sign-in at a time.
    signing_in: tokio::sync::Mutex<()>,
    /// When the last sign-in failed, and why.
    failed: Mutex<Option<(Instant, Failure)>>,
}

#[derive(Default)]
enum State {
    /// Not tried yet.
    #[default]
    New,
    Cookie {
        value: HeaderValue,
        /// When it is to be renewed.
        until: Instant,
    },
    /// The server has no sessions. When it is asked again.
    None { until: Instant },
}

/// What a request needs for its sign-in.
pub(crate) enum Ready {
    /// This header.
    Header(http::HeaderName, HeaderValue),
    /// A session first.
    SignIn,
}

impl Session {
    /// Waits until no other request signs in, and returns the permission to do so.
    ///
    /// # Errors
    /// The sign-in that was waited for has failed: it counts for all who waited, so that a thousand jobs do not wait
    /// for a server that does not answer, one after the other.
    pub async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Failure> {
        let asked = Instant::now();
        let turn = self.signing_in.lock().await;
        match &*self.failed.lock() {
            Some((at, failure)) if *at > asked => Err(failure.clone()),
            _ => Ok(turn),
        }
    }

    /// The sign-in has failed.
    pub fn fail(&self, failure: &Failure) {
        *self.failed.lock() = Some((Instant::now(), failure.clone()));
    }

    /// The header for a request.
    pub fn ready(&self, basic: &Basic, now: Instant) -> Ready {
        match &*self.state.lock() {
            State::Cookie { value, until } if *until > now => Ready::Header(header::COOKIE, value.clone()),
            State::None { until } if *until > now => Ready::Header(header::AUTHORIZATION, authorization(basic)),
            State::New | State::Cookie { .. } | State::None { .. } => Ready::SignIn,
        }
    }

    /// The server has no sessions.
    pub fn give_up(&self, now: Instant) {
        *self.state.lock() = State::None { until: now + WITHOUT };
    }

    /// The server no longer accepts the cookie `used`. Returns whether there was one, so that it is worth sending the
    /// request again.
    pub fn is_over(&self, used: Option<&HeaderValue>) -> bool {
        let mut state = self.state.lock();
        match &*state {
            State::Cookie { value, .. } if Some(value) == used => {
                *state = State::New;
                true
            }
            // Another request has signed in again meanwhile.
            State::Cookie { .. } | State::New | State::None { .. } => used.is_some(),
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
pub(crate) fn authorization(basic: &Basic) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{}:{}", basic.username, basic.password));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is a header's text");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::http_client::Proxy;

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
        let (session, now) = (Session::default(), Instant::now());
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
        session.give_up(now);
        let Ready::Header(name, value) = session.ready(&basic, now) else { panic!("the password") };
        assert_eq!((name, value.as_bytes()), (header::AUTHORIZATION, &b"Basic YW5uOnA6dw=="[..]));
        assert!(!session.is_over(None));
        assert!(matches!(session.ready(&basic, now + WITHOUT), Ready::SignIn), "it may have sessions now");
    }

    #[test]
    fn jobs_of_one_user_on_one_server_share_a_session() {
        let sessions = Sessions::default();
        let endpoint = |username: &str, password: &str, tenant: Option<&'static str>| RemoteEndpoint {
            url: "http://h/db".parse().unwrap(),
            headers: tenant
                .map(|tenant| (http::HeaderName::from_static("x-tenant"), tenant.parse().unwrap()))
                .into_iter()
                .collect(),
            auth: Some(Basic { username: username.into(), password: password.into() }),
            proxy: None,
        };
        let ann = sessions.of(&endpoint("ann", "pw", None), "http://h");
        let proxy = Proxy { url: "http://proxy:1".parse().unwrap(), user: None };
        let proxied = RemoteEndpoint { proxy: Some(proxy), ..endpoint("ann", "pw", None) };
        assert!(Arc::ptr_eq(&ann, &sessions.of(&endpoint("ann", "pw", None), "http://h")));
        for (other, root) in [
            (endpoint("ann", "pw", None), "http://h/sub"),
            (endpoint("ann", "p", None), "http://h"),
            (endpoint("ann", "other", None), "http://h"),
            (endpoint("ann", "pw", Some("one")), "http://h"),
            (proxied, "http://h"),
        ] {
            assert!(!Arc::ptr_eq(&ann, &sessions.of(&other, root)));
        }
        for number in 0..3 * MOST_KEPT {
            sessions.of(&endpoint(&number.to_string(), "pw", None), "http://h");
        }
        assert!(sessions.0.lock().len() <= MOST_KEPT, "sessions without a job are forgotten");
        assert!(Arc::ptr_eq(&ann, &sessions.of(&endpoint("ann", "pw", None), "http://h")), "one with a job is kept");
    }

    #[tokio::test]
    async fn a_sign_in_that_failed_counts_for_all_who_waited_for_it() {
        let session = Session::default();
        let first = session.turn().await.unwrap();
        let (mut second, mut third) = (Box::pin(session.turn()), Box::pin(session.turn()));
        assert!(futures_util::poll!(&mut second).is_pending() && futures_util::poll!(&mut third).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
        let failure = Failure::Network("down".into());
        session.fail(&failure);
        drop(first);
        assert_eq!(second.await.err(), Some(failure.clone()));
        assert_eq!(third.await.err(), Some(failure));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(session.turn().await.is_ok(), "the next one tries again");
    }
}
