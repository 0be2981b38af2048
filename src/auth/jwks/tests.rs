use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::auth::jwt;
use crate::auth::jwt::tests::samples;
use crate::auth::settings::tests::source;

/// Returns `document`, or an error if it is `None`; counts the fetches.
struct Issuer {
    asked: AtomicUsize,
    document: Mutex<Option<&'static str>>,
}

impl Issuer {
    fn fetch(&self, url: &str) -> Result<Vec<u8>> {
        assert!(url.starts_with("https://issuer"));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let document = *self.document.lock();
        document.map(|text| text.as_bytes().to_vec()).ok_or_else(|| Error::Internal("no route".into()))
    }
}

const URL: (&str, &str, &str) = ("jwt_auth", "jwks_url", "https://issuer/jwks.json");

struct House {
    issuer: Arc<Issuer>,
    clock: Clock,
    cache: JwksCache,
}

fn house() -> House {
    let issuer = Arc::new(Issuer { asked: AtomicUsize::new(0), document: Mutex::new(Some(samples::JWKS)) });
    let (asked, clock) = (issuer.clone(), Clock::fixed(Duration::from_secs(1_700_000_000)));
    let cache = JwksCache::new(Box::new(move |url| asked.fetch(url)), clock.clone());
    House { issuer, clock, cache }
}

impl House {
    fn ask(&self, rows: &[(&str, &str, &str)], token: &str) -> Result<Vec<String>> {
        let settings = jwt::Settings::read(&source(rows));
        settings.authenticate(token, self.clock.since_epoch().as_secs(), &self.cache).map(|user| user.roles)
    }

    fn asked(&self) -> usize {
        self.issuer.asked.load(Ordering::Relaxed)
    }
}

#[test]
fn published_keys_verify_tokens_without_system_roles() {
    let house = house();
    for token in [samples::RS256, samples::ES256, samples::EDDSA] {
        assert_eq!(house.ask(&[URL], token), Ok(vec!["a".to_string()]));
    }
    let system = ("jwt_auth", "jwks_system_roles", "true");
    assert_eq!(house.ask(&[URL, system], samples::RS256), Ok(vec!["a".to_string(), "_b".to_string()]));
    let wrong = Err(Error::BadRequest("Bad signature in authentication token".into()));
    assert_eq!(house.ask(&[URL], samples::RS512), wrong, "the key is published for RS256 only");
    assert_eq!(house.asked(), 1, "one fetch for all");
}

#[test]
fn a_missing_role_claim_means_no_roles() {
    let path = ("jwt_auth", "roles_claim_path", "realm_access.roles");
    assert_eq!(house().ask(&[URL, path], samples::RS256), Ok(vec![]));
}

#[test]
fn unusable_keys_are_skipped() {
    let jwks = Jwks::parse(samples::JWKS.as_bytes()).expect("parses");
    let kids: Vec<Option<&str>> = jwks.keys.iter().map(|key| key.kid.as_deref()).collect();
    assert_eq!(kids, [Some("r"), Some("e"), Some("d")]);
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert!(Jwks::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(Jwks::parse(&vec![b' '; MAX_DOCUMENT + 1]).is_err());
    let many = format!(r#"{{"keys":[{}]}}"#, vec![r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#; 500].join(","));
    assert_eq!(Jwks::parse(many.as_bytes()).expect("parses").keys.len(), MAX_KEYS);
}

#[test]
fn keys_are_fetched_again_when_expired_or_for_an_unknown_kid_but_not_too_often() {
    let house = house();
    let settings = JwksSettings::read(&source(&[URL])).expect("a URL");
    let alg = Alg::named("RS256").expect("known");
    let find = |kid| house.cache.find(&settings, alg, Some(kid)).expect("answers").is_some();
    assert_eq!(house.cache.changes(), 0);
    assert!(find("r"));
    assert!(!find("new") && !find("new"), "just fetched: not asked again");
    assert_eq!(house.asked(), 1);
    house.clock.advance(RETRY);
    assert!(!find("new") && !find("newer"));
    assert_eq!(house.asked(), 2);
    house.clock.advance(settings.max_age);
    *house.issuer.document.lock() = None;
    assert!(find("r") && find("r"), "the issuer is down: what is known stays good");
    assert_eq!((house.asked(), house.cache.changes()), (3, 1), "fetched three times, and the same each time");
    house.clock.advance(RETRY);
    *house.issuer.document.lock() = Some(r#"{"keys":[]}"#);
    assert!(!find("r"), "withdrawn");
    assert_eq!(house.cache.changes(), 2);
}

#[test]
fn keys_of_another_url_are_not_used() {
    let house = house();
    assert!(house.ask(&[URL], samples::RS256).is_ok());
    *house.issuer.document.lock() = Some(r#"{"keys":[]}"#);
    let other = ("jwt_auth", "jwks_url", "https://issuer2/jwks.json");
    assert_eq!(house.ask(&[other], samples::RS256), Err(Error::BadRequest("Unknown kid".into())));
}

#[test]
fn only_https_urls_and_local_http_urls_are_accepted() {
    for url in [
        "http://issuer/jwks.json",
        "http://localhost.issuer/jwks.json",
        "http://localhost@issuer/jwks.json",
        "https://ann:secret@issuer/jwks.json",
        "ftp://issuer",
        "issuer",
        "https://",
        " ",
    ] {
        assert_eq!(JwksSettings::read(&source(&[("jwt_auth", "jwks_url", url)])), None, "{url}");
    }
    assert!(JwksSettings::read(&source(&[("jwt_auth", "jwks_url", "http://localhost:8080/certs")])).is_some());
}

#[test]
fn keys_are_refreshed_before_they_expire() {
    let house = house();
    let settings = JwksSettings::read(&source(&[URL])).expect("a URL");
    for (after, asked) in [(Duration::ZERO, 1), (RETRY, 1), (settings.max_age / 4 * 3 - RETRY, 2), (RETRY, 2)] {
        house.clock.advance(after);
        house.cache.refresh_if_due(&settings);
        assert_eq!(house.asked(), asked, "after {after:?} more");
    }
    *house.issuer.document.lock() = None;
    house.clock.advance(settings.max_age);
    for _ in 0..3 {
        house.cache.refresh_if_due(&settings);
    }
    assert_eq!(house.asked(), 3, "the issuer is down: not asked all the time");
    assert!(house.ask(&[URL], samples::RS256).is_ok(), "and what is known stays good");
}

#[test]
fn requests_with_a_known_key_do_not_wait_for_a_fetch() {
    let house = house();
    let settings = JwksSettings::read(&source(&[URL])).expect("a URL");
    assert!(house.ask(&[URL], samples::RS256).is_ok());
    house.clock.advance(settings.max_age + RETRY);
    let fetching = house.cache.tried.lock();
    assert!(house.ask(&[URL], samples::RS256).is_ok(), "an old key is a key");
    house.cache.waiting.store(MOST_WAITING, Ordering::Relaxed);
    let alg = Alg::named("RS256").expect("known");
    assert!(house.cache.find(&settings, alg, Some("new")).expect("answers").is_none(), "too many wait already");
    assert_eq!(house.cache.waiting.load(Ordering::Relaxed), MOST_WAITING);
    drop(fetching);
    assert_eq!(house.asked(), 1);
}

#[test]
fn a_published_p521_key_verifies_tokens() {
    let house = house();
    *house.issuer.document.lock() = Some(samples::P521_JWKS);
    assert_eq!(house.ask(&[URL], samples::P521), Ok(vec!["a".to_string()]));
}
