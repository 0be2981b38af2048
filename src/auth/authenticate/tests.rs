use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use base64::Engine;
use serde_json::Map;

use super::credentials::BASE64;
use super::*;
use crate::auth::devices::{Client, Devices};
use crate::auth::password::Stored;
use crate::auth::session::Secrets;
use crate::auth::settings::tests::source;
use crate::auth::{ADMIN, Handler, Settings, UserCtx, session, token};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::memory::Memory;

/// Accounts in memory.
#[derive(Default)]
struct Known {
    admins: Mutex<HashMap<String, String>>,
    documents: Mutex<HashMap<String, UserDocument>>,
    /// A name whose document must be read.
    unread: Mutex<&'static str>,
}

impl Users for Known {
    fn admin(&self, name: &str) -> Option<String> {
        self.admins.lock().get(name).cloned()
    }

    fn document(&self, name: &str) -> Result<Option<UserDocument>> {
        Ok(self.documents.lock().get(name).cloned())
    }

    fn document_in_memory(&self, name: &str) -> Option<Option<UserDocument>> {
        (*self.unread.lock() != name).then(|| self.documents.lock().get(name).cloned())
    }
}

const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

struct House {
    known: Arc<Known>,
    store: Arc<Memory>,
    clock: Clock,
    auth: Authenticator,
}

fn house(rows: &[(&str, &str, &str)]) -> House {
    let rows = [&[("chttpd_auth", "iterations", "1"), ("chttpd_auth", "secret", "s3cret")], rows].concat();
    let known = Arc::new(Known::default());
    let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
    let store = Arc::new(Memory::new());
    let devices = Arc::new(Devices::new(store.clone(), clock.clone()));
    let auth = Authenticator::new(known.clone(), Settings::read(&source(&rows)), clock.clone()).with_devices(devices);
    House { known, store, clock, auth }
}

impl House {
    fn hash(&self, password: &str) -> Stored {
        Stored::hash(password, None, &self.auth.settings().password, &self.clock).expect("hashes")
    }

    fn admin(self, name: &str, password: &str) -> House {
        let setting = self.hash(password).to_admin_setting();
        self.known.admins.lock().insert(name.into(), setting);
        self
    }

    fn user(self, name: &str, password: &str, roles: &[&str]) -> House {
        let mut members = Map::new();
        members.insert("roles".into(), roles.to_vec().into());
        members.extend(self.hash(password).to_document().into_iter().map(|(k, v)| (k.to_string(), v)));
        self.known.documents.lock().insert(name.into(), UserDocument { members, conflicted: false });
        self
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut UserDocument)) {
        change(self.known.documents.lock().get_mut(name).expect("a user"));
    }

    fn basic(&self, name: &str, password: &str) -> Result<SignedIn> {
        let header = format!("Basic {}", BASE64.encode(format!("{name}:{password}")));
        self.auth.authenticate(&Credentials { authorization: Some(&header), peer: HERE, ..Default::default() })
    }

    /// Issues tokens to `ann`, whose password is `pw`.
    fn issue(&self, device: &str) -> Result<(String, String)> {
        self.auth.issue_tokens("ann", &self.basic("ann", "pw")?.proof, device, HERE)
    }

    /// Re-checks a sign-in, for a request that uploads and for one that only waits.
    fn still(&self, proof: &Proof) -> [Option<Still>; 2] {
        [false, true].map(|waits| self.auth.still(proof, waits).expect("looks"))
    }

    /// Authenticates a cookie, in memory too: that must accept nothing else.
    fn cookie(&self, value: &str) -> Result<SignedIn> {
        let given = Credentials { cookie: Some(value), peer: HERE, ..Default::default() };
        let at_once = self.cookie_in_memory(&given);
        let signed_in = self.auth.authenticate(&given);
        assert!(at_once.is_none_or(|at_once| Ok(at_once) == signed_in), "{signed_in:?}");
        signed_in
    }

    fn cookie_in_memory(&self, given: &Credentials<'_>) -> Option<SignedIn> {
        let session = self.auth.cookie_in_memory(given)?;
        let devices = self.store.get(&session.devices_key()).expect("reads");
        self.auth.signed_in_by_cookie(given, session, devices.as_deref())
    }
}

fn incorrect() -> Result<SignedIn> {
    Err(Error::Unauthorized(INCORRECT.into()))
}

#[test]
fn basic_accepts_only_the_right_password_of_admins_and_users() {
    let house = house(&[]).admin("root", "relax").user("ann", "p:w", &["a", "b"]);
    let root = house.basic("root", "relax").expect("signed in");
    assert_eq!(
        root.user,
        UserCtx { name: Some("root".into()), roles: vec![ADMIN.into()], handler: Some(Handler::Default) }
    );
    assert_eq!((root.cookie, root.session, root.upgrade), (None, None, None));
    let ann = house.basic("ann", "p:w").expect("signed in, with a colon in the password");
    assert_eq!(ann.user.roles, ["a", "b"]);
    for (name, password) in [("ann", "pw"), ("ann", ""), ("root", "p:w"), ("eve", "p:w"), ("", ""), ("ann ", "p:w")] {
        assert_eq!(house.basic(name, password), incorrect(), "{name}:{password}");
    }
}

#[test]
fn an_admin_with_a_user_document_has_both_roles_and_the_admin_password() {
    let house = house(&[]).admin("ann", "strong").user("ann", "weak", &["foo"]);
    assert_eq!(house.basic("ann", "strong").expect("signed in").user.roles, ["_admin", "foo"]);
    assert_eq!(house.basic("ann", "weak"), incorrect());
}

#[test]
fn an_unhashed_admin_setting_accepts_no_password() {
    let house = house(&[]);
    house.known.admins.lock().insert("root".into(), "relax".into());
    assert_eq!(house.basic("root", "relax"), incorrect());
}

#[test]
fn an_unusable_authorization_header_is_anonymous_or_a_bad_request() {
    let house = house(&[]).admin("root", "relax");
    for header in ["Basic: cm9vdDpyZWxheA==", "Basic", "Digest x", "", "Basic Xzpf", "Basic cm9vdA=="] {
        let given = Credentials { authorization: Some(header), ..Default::default() };
        assert_eq!(house.auth.authenticate(&given), Ok(SignedIn::default()), "{header}");
    }
    for header in ["Basic x", "Basic XX=", "Basic *"] {
        let given = Credentials { authorization: Some(header), ..Default::default() };
        let refused = house.auth.authenticate(&given);
        assert_eq!(refused, Err(Error::BadRequest("Authorization header has invalid base64 value".into())), "{header}");
    }
}

#[test]
fn a_verified_password_is_cached_and_a_wrong_one_is_always_hashed() {
    let house = house(&[]).user("ann", "pw", &[]);
    let begin = |password: &str| {
        let header = format!("Basic {}", BASE64.encode(format!("ann:{password}")));
        house.auth.begin(&Credentials { authorization: Some(&header), ..Default::default() }).expect("begins")
    };
    let Step::Hash(pending) = begin("pw") else { panic!("the first request hashes") };
    house.auth.finish(pending).expect("signed in");
    assert!(matches!(begin("pw"), Step::Done(_)));
    for _ in 0..3 {
        let Step::Hash(pending) = begin("px") else { panic!("a wrong password hashes") };
        assert_eq!(house.auth.finish(pending), incorrect());
    }
    let other = house.hash("new");
    house.change("ann", |document| {
        document.members.extend(other.to_document().into_iter().map(|(k, v)| (k.to_string(), v)));
    });
    let Step::Hash(pending) = begin("pw") else { panic!("the password was changed") };
    assert_eq!(house.auth.finish(pending), incorrect());
}

#[test]
fn a_password_is_checked_in_memory_only_if_nothing_must_be_read() {
    let house = house(&[]).admin("root", "relax").user("ann", "pw", &["a"]).user("bob", "pw", &[]);
    *house.known.unread.lock() = "bob";
    let header = |name: &str, password: &str| format!("Basic {}", BASE64.encode(format!("{name}:{password}")));
    let begin = |name: &str, password: &str| {
        let header = header(name, password);
        house.auth.begin_in_memory(&Credentials { authorization: Some(&header), peer: HERE, ..Default::default() })
    };
    for (name, password, roles) in [("ann", "pw", "a"), ("root", "relax", ADMIN)] {
        let Some(Ok(Step::Hash(pending))) = begin(name, password) else { panic!("the first request hashes") };
        house.auth.finish(pending).expect("signed in");
        let Some(Ok(Step::Done(who))) = begin(name, password) else { panic!("the password is known") };
        assert_eq!(who, house.basic(name, password).expect("signed in"));
        assert_eq!((who.user.name.as_deref(), who.user.roles), (Some(name), vec![roles.to_owned()]));
    }
    for (name, password) in [("ann", "px"), ("eve", "pw")] {
        let Some(Ok(Step::Hash(pending))) = begin(name, password) else { panic!("{name} is hashed") };
        assert_eq!(house.auth.finish(pending), incorrect());
    }
    (0..4).for_each(|_| assert_eq!(house.basic("ann", "px"), incorrect()));
    assert!(matches!(begin("ann", "px"), Some(Err(Error::Locked(_)))));
    assert!(begin("bob", "pw").is_none(), "his document must be read");
    let good = header("root", "relax");
    let basic = Credentials { authorization: Some(&good), ..Default::default() };
    assert!(house.auth.begin_in_memory(&basic).is_some());
    for other in [
        Credentials { cookie: Some("x"), ..basic },
        Credentials { proxy_user: Some("ann"), ..basic },
        Credentials { authorization: Some("Basic *"), ..basic },
        Credentials { authorization: Some("Bearer x"), ..basic },
        Credentials { authorization: None, ..basic },
    ] {
        assert!(house.auth.begin_in_memory(&other).is_none(), "{:?} {:?}", other.authorization, other.cookie);
    }
    house.auth.configure(Settings::read(&source(&[(
        "chttpd",
        "authentication_handlers",
        "{chttpd_auth, cookie_authentication_handler}",
    )])));
    assert!(house.auth.begin_in_memory(&basic).is_none(), "passwords are not accepted");
}

/// Sign-ins that have begun and wait for their hash.
fn waiting(house: &House, passwords: &[&str]) -> Vec<Pending> {
    let begin = |password: &&str| match house.auth.begin_session("ann", password, None, HERE, "") {
        Ok(Step::Hash(pending)) => pending,
        _ => panic!("hashes"),
    };
    passwords.iter().map(begin).collect()
}

#[test]
fn concurrent_guesses_are_locked_out_like_sequential_ones() {
    let house = house(&[]).user("ann", "pw", &[]);
    let guesses = waiting(&house, &["1", "2", "3", "4", "5", "6", "7", "pw"]);
    let results: Vec<Result<SignedIn>> = guesses.into_iter().map(|guess| house.auth.finish(guess)).collect();
    assert!(results[..5].iter().all(|result| *result == incorrect()));
    assert!(results[5..].iter().all(|result| *result == Err(Error::Locked(300))));
    assert_eq!(house.auth.hashings(), (0, 5), "the locked-out guesses are not hashed");
}

#[test]
fn concurrent_sign_ins_with_the_same_password_hash_it_once() {
    let house = house(&[]).user("ann", "pw", &[]);
    for pending in waiting(&house, &["pw"; 6]) {
        assert!(house.auth.finish(pending).is_ok());
    }
    assert_eq!(house.auth.hashings().1, 1);
    let totp = serde_json::json!({"key": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"});
    house.change("ann", |document| drop(document.members.insert("totp".into(), totp)));
    for pending in waiting(&house, &["pw"; 2]) {
        assert_eq!(house.auth.finish(pending), incorrect(), "the code is still required");
    }
}

#[test]
fn a_session_cookie_authenticates_is_renewed_and_expires() {
    let house = house(&[]).user("ann", "pw", &["a"]);
    assert_eq!(house.auth.sign_in("ann", "px", None, HERE), incorrect());
    assert_eq!(house.auth.sign_in("eve", "pw", None, HERE), incorrect());
    let signed_in = house.auth.sign_in("ann", "pw", None, HERE).expect("signed in");
    let cookie = signed_in.cookie.expect("a cookie");
    assert_eq!(signed_in.session, Some(Session::Cookie(1_700_000_000)));

    let used = house.cookie(&cookie).expect("a good cookie");
    assert_eq!(
        used.user,
        UserCtx { name: Some("ann".into()), roles: vec!["a".into()], handler: Some(Handler::Cookie) }
    );
    assert_eq!(used.cookie, None, "too young to be renewed");
    house.clock.advance(Duration::from_secs(61));
    let renewed = house.cookie(&cookie).expect("a good cookie").cookie.expect("renewed");
    assert_ne!(renewed, cookie);
    house.clock.advance(Duration::from_secs(600 - 61));
    assert_eq!(house.cookie(&cookie), Ok(SignedIn::default()), "expired");
    assert_eq!(house.cookie(&renewed).expect("a good cookie").user.name.as_deref(), Some("ann"));
}

#[test]
fn a_cookie_is_checked_in_memory_only_if_nothing_must_be_read_or_written() {
    let house = house(&[]).user("ann", "pw", &["a"]).user("bob", "pw", &[]);
    *house.known.unread.lock() = "bob";
    let cookie = |name: &str| house.auth.sign_in(name, "pw", None, HERE).expect("signed in").cookie.expect("a cookie");
    let (ann, bob) = (cookie("ann"), cookie("bob"));
    let given = Credentials { cookie: Some(&ann), peer: HERE, ..Default::default() };
    let signed_in = house.cookie_in_memory(&given).expect("in memory");
    assert_eq!(Ok(signed_in), house.cookie(&ann));
    let session = || house.auth.cookie_in_memory(&given).expect("in memory");
    let key = session().devices_key();
    assert_eq!(key, crate::auth::devices::key("ann"));
    for stored in [None, Some(b"another node has written it".as_slice())] {
        assert_eq!(house.auth.signed_in_by_cookie(&given, session(), stored), None);
    }
    let elsewhere = Credentials { peer: Some(IpAddr::V4(std::net::Ipv4Addr::BROADCAST)), ..given };
    assert_eq!(house.cookie_in_memory(&elsewhere), None, "the new address must be written");
    let forged = ann.chars().rev().collect::<String>();
    for other in [
        Credentials { cookie: Some(&bob), ..given },
        Credentials { cookie: Some(&forged), ..given },
        Credentials { cookie: None, ..given },
        Credentials { authorization: Some("Basic YTpi"), ..given },
        Credentials { proxy_user: Some("ann"), ..given },
    ] {
        assert!(house.auth.cookie_in_memory(&other).is_none(), "{:?} {:?}", other.authorization, other.cookie);
    }
    let devices = house.auth.devices().expect("devices");
    let id = devices.of_session("ann", 1_700_000_000).expect("looks").expect("a device");
    let device = house.cookie_in_memory(&given).expect("in memory").proof.device().map(str::to_owned);
    assert_eq!(device.as_deref(), Some(&*id));
    devices.revoke("ann", &id).expect("revokes");
    assert_eq!(house.cookie_in_memory(&given), None, "revoked");
    let ann = cookie("ann");
    let given = Credentials { cookie: Some(&ann), ..given };
    assert!(house.cookie_in_memory(&given).is_some());
    house.clock.advance(Duration::from_secs(61));
    assert!(house.auth.cookie_in_memory(&given).is_none(), "it is to be renewed");
    house.auth.configure(Settings::read(&source(&[(
        "chttpd",
        "authentication_handlers",
        "{chttpd_auth, default_authentication_handler}",
    )])));
    assert!(house.auth.cookie_in_memory(&given).is_none(), "cookies are not accepted");
}

#[test]
fn a_new_password_or_a_deleted_user_ends_the_session() {
    let house = house(&[]).user("ann", "pw", &[]);
    let cookie = house.auth.sign_in("ann", "pw", None, HERE).expect("signed in").cookie.expect("a cookie");
    let house = house.user("ann", "pw", &[]);
    assert_eq!(house.cookie(&cookie), Ok(SignedIn::default()), "another salt");
    house.known.documents.lock().clear();
    assert_eq!(house.cookie(&cookie), Ok(SignedIn::default()));
}

#[test]
fn malformed_cookies_are_a_bad_request_and_forged_ones_are_anonymous() {
    let house = house(&[]).user("ann", "pw", &[]);
    assert_eq!(house.cookie("!"), Err(Error::BadRequest(session::MALFORMED.into())));
    for (name, secret) in [("ann", "guess"), ("eve", "guess"), ("eve", "s3cret")] {
        let secrets = Secrets::new(Some(secret));
        let forged = session::issue(name, "", 1_700_000_000, &secrets, &[session::Algorithm::Sha]);
        assert_eq!(house.cookie(&forged.expect("a secret")), Ok(SignedIn::default()), "{name} {secret}");
    }
}

#[test]
fn a_session_outlives_a_change_of_the_secret() {
    let house = house(&[]).user("ann", "pw", &[]);
    let cookie = house.auth.sign_in("ann", "pw", None, HERE).expect("signed in").cookie.expect("a cookie");
    house.auth.configure(Settings::read(&source(&[("chttpd_auth", "secret", "other")])));
    let used = house.cookie(&cookie).expect("a good cookie");
    assert_eq!(used.user.name.as_deref(), Some("ann"));
    house.auth.configure(Settings::read(&source(&[])));
    assert_eq!(house.cookie(&cookie), Ok(SignedIn::default()), "no secret at all");
}

#[test]
fn a_conflicted_user_document_cannot_authenticate() {
    let house = house(&[]).user("ann", "pw", &[]);
    house.change("ann", |document| document.conflicted = true);
    assert_eq!(house.basic("ann", "pw"), Err(Error::Unauthorized(CONFLICTED.into())));
    house.auth.configure(Settings::read(&source(&[("chttpd_auth", "allow_conflicted_user_docs", "true")])));
    assert!(house.basic("ann", "pw").is_ok());
}

#[test]
fn after_too_many_guesses_even_the_right_password_is_refused() {
    let house = house(&[]).admin("root", "relax").user("ann", "pw", &[]);
    assert!(house.basic("ann", "pw").is_ok(), "fills the cache");
    for _ in 0..5 {
        assert_eq!(house.basic("ann", "px"), incorrect());
        assert_eq!(house.auth.sign_in("nobody", "px", None, HERE), incorrect());
    }
    let locked = Err(Error::Locked(300));
    assert_eq!(house.basic("ann", "pw"), locked);
    assert_eq!(house.auth.sign_in("ann", "pw", None, HERE), locked);
    assert_eq!(house.auth.sign_in("nobody", "px", None, HERE), locked);
    assert!(house.basic("root", "relax").is_ok(), "another user is not locked out");
    house.clock.advance(Duration::from_secs(300));
    assert!(house.basic("ann", "pw").is_ok());
}

#[test]
fn old_hashes_are_upgraded_unless_the_setting_is_off() {
    let house = house(&[]).user("ann", "pw", &[]);
    assert_eq!(house.basic("ann", "pw").expect("signed in").upgrade, None);
    let more = [("chttpd_auth", "iterations", "2"), ("chttpd_auth", "secret", "s")];
    house.auth.configure(Settings::read(&source(&more)));
    let upgrade = house.basic("ann", "pw").expect("signed in").upgrade.expect("an upgrade");
    assert_eq!((upgrade.name.as_str(), upgrade.password.as_str()), ("ann", "pw"));
    assert!(house.auth.sign_in("ann", "pw", None, HERE).expect("signed in").upgrade.is_some());
    assert!(!format!("{upgrade:?}").contains("pw"));
    let off = [more[0], more[1], ("chttpd_auth", "upgrade_hash_on_auth", "false")];
    house.auth.configure(Settings::read(&source(&off)));
    assert_eq!(house.basic("ann", "pw").expect("signed in").upgrade, None);
}

#[test]
fn users_with_totp_need_a_code_and_cannot_use_basic() {
    let house = house(&[]).user("ann", "pw", &[]);
    let totp = serde_json::json!({"key": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "length": 8});
    house.change("ann", |document| drop(document.members.insert("totp".into(), totp)));
    house.clock.advance(Duration::from_secs(20_000_000_000 - 1_700_000_000));
    assert_eq!(house.basic("ann", "pw"), incorrect());
    assert_eq!(house.auth.sign_in("ann", "pw", None, HERE), incorrect());
    assert_eq!(house.auth.sign_in("ann", "pw", Some("65353131"), HERE), incorrect());
    assert!(house.auth.sign_in("ann", "pw", Some("65353130"), HERE).is_ok());
    assert_eq!(house.auth.sign_in("ann", "pw", Some("0"), HERE), incorrect(), "the cache does not replace the code");
}

#[test]
fn proxy_headers_authenticate_only_if_enabled_and_with_the_right_token() {
    const HANDLERS: (&str, &str, &str) = (
        "chttpd",
        "authentication_handlers",
        "{chttpd_auth, proxy_authentication_handler}, {chttpd_auth, default_authentication_handler}",
    );
    let given = |token| Credentials {
        proxy_user: Some("couch@apache.org"),
        proxy_roles: Some("one , two,"),
        proxy_token: token,
        ..Default::default()
    };
    let mac = crate::hex::hex(&session::Algorithm::Sha.mac(b"s3cret", b"couch@apache.org"));

    let off = house(&[]);
    assert_eq!(off.auth.authenticate(&given(Some(&mac))), Ok(SignedIn::default()), "the handler is not set");
    let open = house(&[HANDLERS]);
    let who = open.auth.authenticate(&given(None)).expect("believed").user;
    assert_eq!((who.name.as_deref(), who.handler), (Some("couch@apache.org"), Some(Handler::Proxy)));
    assert_eq!(who.roles, ["one", "two"]);
    let strict = house(&[HANDLERS, ("chttpd_auth", "proxy_use_secret", "true")]);
    assert!(strict.auth.authenticate(&given(Some(&mac))).expect("believed").user.name.is_some());
    for token in [None, Some(""), Some("xyz"), Some("00"), Some(&mac[2..])] {
        assert_eq!(strict.auth.authenticate(&given(token)), Ok(SignedIn::default()), "{token:?}");
    }
    let rows = [HANDLERS, ("chttpd_auth", "proxy_use_secret", "true")];
    strict.auth.configure(Settings::read(&source(&rows)));
    for token in [None, Some(mac.as_str())] {
        assert_eq!(strict.auth.authenticate(&given(token)), Ok(SignedIn::default()), "the secret was deleted");
    }
}

#[test]
fn revoking_a_device_or_all_devices_ends_cookies_at_once() {
    let house = house(&[]).user("ann", "pw", &[]);
    let sign_in = || {
        let signed = house.auth.sign_in("ann", "pw", None, HERE).expect("signed in");
        (signed.cookie.expect("a cookie"), signed.session.expect("a session"))
    };
    let ((phone, Session::Cookie(issued)), (laptop, _)) = (sign_in(), sign_in()) else { panic!("cookies") };
    assert_ne!(phone, laptop, "two sign-ins in one second");
    let devices = house.auth.devices().expect("devices");
    let id = devices.of_session("ann", issued).expect("looks").expect("a device");
    assert!(devices.revoke("ann", &id).expect("revokes"));
    assert_eq!(house.cookie(&phone), Ok(SignedIn::default()));
    assert!(house.cookie(&laptop).expect("good").user.name.is_some());
    devices.revoke_all("ann", None).expect("revokes");
    assert_eq!(house.cookie(&laptop), Ok(SignedIn::default()));
}

#[test]
fn access_tokens_authenticate_refresh_and_expire() {
    let house = house(&[]).user("ann", "pw", &["a"]);
    let ask = |token: &str| {
        let header = format!("Bearer {token}");
        house.auth.authenticate(&Credentials { authorization: Some(&header), ..Default::default() })
    };
    let (access, refresh) = house.issue("phone").expect("issues");
    let signed = ask(&access).expect("good");
    assert_eq!(signed.user, UserCtx { name: Some("ann".into()), roles: vec!["a".into()], handler: Some(Handler::Jwt) });
    let Some(Session::Token(device)) = signed.session else { panic!("a token") };
    let (second, _) = house.auth.refresh_tokens(&refresh, "phone", HERE).expect("refreshes");
    assert!(ask(&second).is_ok());
    let invalid = Err(Error::Unauthorized("The access token is not valid.".into()));
    house.clock.advance(Duration::from_secs(token::LIFETIME));
    assert_eq!(ask(&second), invalid, "expired");
    for bad in ["", "a.b", "a.b.zz", "a.b.61.c", &refresh] {
        assert!(matches!(house.auth.refresh_tokens(bad, "", HERE), Err(Error::Unauthorized(_))), "{bad}");
    }
    let (third, refresh) = house.issue("tablet").expect("issues");
    let house = house.user("ann", "pw", &["a"]);
    let header = format!("Bearer {third}");
    let given = Credentials { authorization: Some(&header), ..Default::default() };
    assert_eq!(house.auth.authenticate(&given), invalid, "another salt");
    assert!(house.auth.refresh_tokens(&refresh, "", HERE).is_err());
    assert!(!house.auth.devices().expect("devices").token_seen("ann", &device, &Client::default()).expect("looks"));
}

const OVER: [Option<Still>; 2] = [None, None];

#[test]
fn a_password_proof_holds_while_the_account_has_that_password() {
    let house = house(&[]).user("ann", "pw", &["a"]);
    let proof = house.basic("ann", "pw").expect("signed in").proof;
    assert!(!format!("{proof:?}").contains("pw"));
    house.change("ann", |document| drop(document.members.insert("roles".into(), vec!["b"].into())));
    let [Some(still), Some(waiting)] = house.still(&proof) else { panic!("good") };
    assert_eq!((still.user.roles, still.until, still.proof), (vec!["b".to_string()], None, None), "the current roles");
    assert_eq!(waiting.until, None);

    // A new hash counts as a new password, even if it is a hash of the same password, unless the server has
    // recorded it as its own upgrade of the hash.
    let document = house.known.documents.lock().get("ann").cloned().expect("a user");
    let other = Stored::hash("pw", None, &house.auth.settings().password, &house.clock).expect("hashes");
    house.change("ann", |document| {
        document.members.extend(other.to_document().into_iter().map(|(k, v)| (k.to_string(), v)));
    });
    assert_eq!(house.still(&proof), OVER);
    house.auth.rehashed("ann", "px", &other);
    assert_eq!(house.still(&proof), OVER, "an upgrade of another password's hash");
    house.auth.rehashed("ann", "pw", &other);
    let [Some(still), _] = house.still(&proof) else { panic!("good") };
    assert_eq!(
        house.still(&still.proof.expect("another hash"))[0].as_ref().map(|still| still.proof.is_none()),
        Some(true)
    );

    let with = |change: &dyn Fn(&mut UserDocument)| {
        house.known.documents.lock().insert("ann".into(), document.clone());
        assert!(house.still(&proof)[0].is_some(), "the original document");
        house.change("ann", change);
        house.still(&proof)
    };
    let totp = serde_json::json!({"key": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"});
    assert_eq!(
        with(&|document| drop(document.members.insert("totp".into(), totp.clone()))),
        OVER,
        "a code is required now"
    );
    assert_eq!(with(&|document| document.conflicted = true), OVER);
    assert_eq!(with(&|document| document.members.clear()), OVER, "no password");
    assert_eq!(
        with(&|document| drop(document.members.insert("derived_key".into(), "00".into()))),
        OVER,
        "another hash with the same salt"
    );
    house.known.documents.lock().clear();
    assert_eq!(house.still(&proof), OVER, "deleted");
    assert!(house.issue("phone").is_err() && house.auth.issue_tokens("ann", &proof, "", HERE).is_err());
}

#[test]
fn disabling_a_handler_ends_the_sign_ins_that_it_authenticated() {
    let house = house(&[]).user("ann", "pw", &[]).admin("root", "relax");
    let cookie = house.auth.sign_in("ann", "pw", None, HERE).expect("signed in").cookie.expect("a cookie");
    let proofs = [
        house.basic("ann", "pw").expect("signed in").proof,
        house.basic("root", "relax").expect("signed in").proof,
        house.cookie(&cookie).expect("good").proof,
    ];
    let before = house.auth.generation();
    let handlers = ("chttpd", "authentication_handlers", "{chttpd_auth, jwt_authentication_handler}");
    house.auth.configure(Settings::read(&source(&[handlers, ("chttpd_auth", "secret", "s3cret")])));
    assert!(house.auth.generation() > before);
    for proof in &proofs {
        assert_eq!(house.still(proof), OVER, "{proof:?}");
    }
}

#[test]
fn a_session_proof_holds_while_the_session_is_used_and_its_device_exists() {
    let house = house(&[]).user("ann", "pw", &[]);
    let cookie = house.auth.sign_in("ann", "pw", None, HERE).expect("signed in").cookie.expect("a cookie");
    let proof = house.cookie(&cookie).expect("good").proof;
    let ends = |still: &[Option<Still>; 2]| still[1].as_ref().and_then(|still| still.until);
    assert_eq!(ends(&house.still(&proof)), Some(1_700_000_600));
    house.clock.advance(Duration::from_secs(300));
    house.cookie(&cookie).expect("good").cookie.expect("renewed");
    assert_eq!(ends(&house.still(&proof)), Some(1_700_000_900), "another request renewed the session");
    house.clock.advance(Duration::from_secs(599));
    assert!(house.still(&proof)[1].is_some());
    house.clock.advance(Duration::from_secs(1));
    let [uploads, waits] = house.still(&proof);
    assert!(uploads.is_some() && waits.is_none(), "an upload counts as use of the session, waiting does not");
    let devices = house.auth.devices().expect("devices");
    assert!(devices.revoke_all("ann", None).expect("revokes") > 0);
    assert_eq!(house.still(&proof), OVER);
}

#[test]
fn an_access_token_proof_holds_until_it_expires_or_its_device_is_revoked() {
    let house = house(&[]).user("ann", "pw", &[]);
    let proof = |access: &str| {
        let header = format!("Bearer {access}");
        let given = Credentials { authorization: Some(&header), ..Default::default() };
        house.auth.authenticate(&given).expect("good").proof
    };
    let (first, second) = (house.issue("phone").expect("issues").0, house.issue("tablet").expect("issues").0);
    let (first, second) = (proof(&first), proof(&second));
    assert_eq!(first.until(), Some(1_700_000_000 + token::LIFETIME));
    let Proof::Access(access) = &second else { panic!("a token") };
    assert!(house.auth.devices().expect("devices").revoke("ann", &access.device).expect("revokes"));
    assert_eq!((house.still(&first)[1].is_some(), house.still(&second)), (true, OVER));
    house.clock.advance(Duration::from_secs(token::LIFETIME));
    assert_eq!(house.still(&first), OVER);
}
