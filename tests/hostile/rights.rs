//! Access that is revoked while a request is in progress: between the headers and the body of a write, or
//! while a feed is open. Covers every authentication method, every way to lose access, and every route that
//! writes.

mod house;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use house::{By, Guest, House, Withdrawn, cookie};
use serde_json::{Value, json};
use wire::{Reply, Wire};

/// A feed must end within this time after access is revoked. Its own timeout is a minute.
const SOON: Duration = Duration::from_secs(10);
const JSON: &str = "Content-Type: application/json\r\n";

/// Authentication methods, and the ways to lose access that apply to them.
const CASES: &[(By, Withdrawn)] = &[
    (By::Password, Withdrawn::Member),
    (By::Password, Withdrawn::Role),
    (By::Password, Withdrawn::Account),
    (By::Password, Withdrawn::Purged),
    (By::Password, Withdrawn::Password),
    (By::Password, Withdrawn::Hash),
    (By::Password, Withdrawn::OneTimeCodes),
    (By::Password, Withdrawn::Conflict),
    (By::Password, Withdrawn::Remade),
    (By::Cookie, Withdrawn::Member),
    (By::Cookie, Withdrawn::Role),
    (By::Cookie, Withdrawn::Account),
    (By::Cookie, Withdrawn::Purged),
    (By::Cookie, Withdrawn::Conflict),
    (By::Cookie, Withdrawn::Password),
    (By::Cookie, Withdrawn::Device),
    (By::Cookie, Withdrawn::Everywhere),
    (By::Cookie, Withdrawn::SignedOut),
    (By::Token, Withdrawn::Member),
    (By::Token, Withdrawn::Role),
    (By::Token, Withdrawn::Account),
    (By::Token, Withdrawn::Conflict),
    (By::Token, Withdrawn::Password),
    (By::Token, Withdrawn::Device),
    (By::Jwt, Withdrawn::Member),
    (By::Jwt, Withdrawn::Expired),
    (By::Jwt, Withdrawn::Key),
    (By::Jwt, Withdrawn::Handler),
    (By::Proxy, Withdrawn::Member),
    (By::Proxy, Withdrawn::ProxySecret),
    (By::Proxy, Withdrawn::Handler),
    (By::Nobody, Withdrawn::Member),
    (By::Nobody, Withdrawn::ValidUser),
    (By::Admin, Withdrawn::AdminGone),
    (By::Admin, Withdrawn::AdminPassword),
    (By::AdminCookie, Withdrawn::AdminGone),
    (By::AdminCookie, Withdrawn::AdminPassword),
    (By::AdminCookie, Withdrawn::Device),
    (By::Password, Withdrawn::Accounts),
];

/// A write whose body is held back, and the path (`look`) that shows whether it was executed.
struct Route {
    line: &'static str,
    headers: &'static str,
    body: &'static str,
    look: &'static str,
}

const fn route(line: &'static str, headers: &'static str, body: &'static str, look: &'static str) -> Route {
    Route { line, headers, body, look }
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\nContent-Type: text/plain\r\n";
const RELATED: &str = "Content-Type: multipart/related; boundary=x\r\n";
const FORM: &str = "Content-Type: multipart/form-data; boundary=x\r\nReferer: http://test/\r\n";

/// Writes that need a database member.
const MEMBERS: &[Route] = &[
    route("PUT /{db}/put", JSON, r#"{"a":1}"#, "/{db}/put"),
    route("PUT /{db}/old?new_edits=false", JSON, r#"{"_rev":"1-abc"}"#, "/{db}/old"),
    route("POST /{db}", JSON, r#"{"_id":"post"}"#, "/{db}/post"),
    route("POST /{db}/_bulk_docs", JSON, r#"{"docs":[{"_id":"bulk"},{"_id":"_local/bulk"}]}"#, "/{db}/bulk"),
    route("POST /{db}/_bulk_docs", JSON, r#"{"new_edits":false,"docs":[{"_id":"rep","_rev":"1-abc"}]}"#, "/{db}/rep"),
    route("PUT /{db}/att/file", CHUNKED, "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", "/{db}/att"),
    route("PUT /{db}/raw/file", "Content-Type: image/png\r\n", "0123456789", "/{db}/raw"),
    route(
        "PUT /{db}/parts",
        RELATED,
        "--x\r\nContent-Type: application/json\r\n\r\n{\"_attachments\":{\"f\":{\"follows\":true,\"length\":3}}}\r\n--x\r\n\r\nabc\r\n--x--",
        "/{db}/parts",
    ),
    route(
        "POST /{db}/form",
        FORM,
        "--x\r\nContent-Disposition: form-data; name=\"_doc\"\r\n\r\n{\"a\":1}\r\n--x--\r\n",
        "/{db}/form",
    ),
    route("PUT /{db}/_local/check", JSON, r#"{"last_seq":3}"#, "/{db}/_local/check"),
    route("PUT /{db}/_design/d/_rewrite/there", JSON, r#"{"a":1}"#, "/{db}/rewritten"),
    route("POST /{db}/_design/d/_update/f", JSON, r#"{"a":1}"#, "/{db}/updated"),
];

/// Writes that need a database admin.
const OWNERS: &[Route] = &[
    route("PUT /{db}/_security", JSON, r#"{"members":{"names":["thief"]}}"#, "/{db}/_security"),
    route("PUT /{db}/_revs_limit", JSON, "7", "/{db}/_revs_limit"),
    route("PUT /{db}/_auto_purge", JSON, r#"{"deleted_document_ttl":"1_day"}"#, "/{db}/_auto_purge"),
    route("PUT /{db}/_design/new", JSON, r#"{"a":1}"#, "/{db}/_design/new"),
    route("POST /{db}/_index", JSON, r#"{"index":{"fields":["a"]},"name":"n"}"#, "/{db}/_index"),
];

/// A user's write to their own account; here, one that would restore the account.
const ACCOUNT: &[Route] = &[route(
    "POST /_users/_bulk_docs",
    JSON,
    r#"{"new_edits":false,"docs":[{"_id":"org.couchdb.user:{name}","_rev":"9-abc","type":"user","name":"{name}","roles":[]}]}"#,
    "/_users/org.couchdb.user:{name}",
)];

/// Writes that need a server admin.
const ADMINS: &[Route] = &[
    route("PUT /_node/_local/_config/test/{db}", JSON, r#""set""#, "/_node/_local/_config/test/{db}"),
    route("PUT /_node/_local/_config/admins/made-{db}", JSON, r#""pw""#, "/_node/_local/_config/admins/made-{db}"),
    route("PUT /{db}/_purged_infos_limit", JSON, "7", "/{db}/_purged_infos_limit"),
    route(
        "PUT /_users/org.couchdb.user:made-{db}",
        JSON,
        r#"{"type":"user","name":"made-{db}","password":"pw","roles":[]}"#,
        "/_users/org.couchdb.user:made-{db}",
    ),
];

/// How often the test matrices run: `SETTEE_ROUNDS` times, by default once.
fn rounds() -> usize {
    std::env::var("SETTEE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A request that the server has authorized by its headers, with a part of its body sent.
struct Held {
    wire: Wire,
    rest: Vec<u8>,
    line: String,
    look: String,
}

/// Sends the headers and a part of the body of a request. `round` selects the part: half, nothing, all but
/// one byte, or an arbitrary part.
fn hold(house: &House, guest: &Guest, route: &Route, round: usize) -> Held {
    let named = |text: &str| text.replace("{db}", &guest.database).replace("{name}", &guest.name);
    let (line, body) = (named(route.line), named(route.body));
    let mut wire = Wire::connect(&house.server.address);
    let length = match route.headers.contains("chunked") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let (sign_in, headers) = (&guest.headers, route.headers);
    wire.send(
        format!("{line} HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n{sign_in}{headers}{length}\r\n").as_bytes(),
    );
    // The server asks for the body (100) only after it has authorized the request and its handler reads the
    // body.
    let asked = wire.head();
    assert_eq!(asked.status, 100, "{line} {:?}: {asked:?}", guest.by);
    let sent = match round {
        0 => body.len() / 2,
        1 => 0,
        2 => body.len() - 1,
        round => round * 7919 % body.len(),
    };
    wire.send(&body.as_bytes()[..sent]);
    Held { wire, rest: body.as_bytes()[sent..].to_vec(), line, look: format!("GET {}", named(route.look)) }
}

impl Held {
    /// Sends the rest of the body and reads the response.
    fn finish(mut self) -> Reply {
        self.wire.send(&self.rest);
        self.wire.reply()
    }
}

/// Returns the routes that the guest may use, and may no longer use after `loses`.
fn routes(guest: &Guest, loses: Withdrawn) -> Vec<&'static Route> {
    let owners = if guest.by == By::Nobody { &[] } else { OWNERS };
    let admins = if matches!(guest.by, By::Admin | By::AdminCookie) { ADMINS } else { &[] };
    let has_account = matches!(guest.by, By::Password | By::Cookie | By::Token);
    let loses_account = !matches!(loses, Withdrawn::Member | Withdrawn::Role | Withdrawn::Remade);
    let account = if has_account && loses_account { ACCOUNT } else { &[] };
    [MEMBERS, owners, admins, account].into_iter().flatten().collect()
}

#[test]
fn a_body_that_arrives_after_access_was_revoked_writes_nothing() {
    let house = House::new();
    for (round, (by, what)) in (0..rounds()).flat_map(|round| CASES.iter().map(move |case| (round, case))) {
        let guest = house.guest(*by, *what);
        let held: Vec<Held> =
            routes(&guest, *what).into_iter().map(|route| hold(&house, &guest, route, round)).collect();
        house.withdraw(&guest, *what);
        for held in held {
            let (line, look) = (held.line.clone(), held.look.clone());
            let before = house.root(&look, &Value::Null);
            let reply = held.finish();
            assert!(matches!(reply.status, 401 | 403), "{by:?} {what:?} {line}: {} {}", reply.status, reply.text());
            let after = house.root(&look, &Value::Null);
            assert_eq!((after.status, after.text()), (before.status, before.text()), "{by:?} {what:?} {line}");
        }
        house.restore(*what);
    }
}

#[test]
fn validation_functions_see_the_roles_at_the_time_the_body_is_complete() {
    let house = House::new();
    let guest = house.guest(By::Cookie, Withdrawn::Role);
    house.done(&format!("PUT /{}/_security", guest.database), &json!({}));
    let validate = "function (doc, old, user) { if (user.roles.indexOf('crew') < 0) throw {forbidden: 'crew only'}; }";
    house.done(&format!("PUT /{}/_design/v", guest.database), &json!({"validate_doc_update": validate}));
    let held: Vec<Held> = MEMBERS.iter().map(|route| hold(&house, &guest, route, 0)).collect();
    house.withdraw(&guest, Withdrawn::Role);
    for held in held.into_iter().filter(|held| !held.line.contains("_local")) {
        let (line, look) = (held.line.clone(), held.look.clone());
        let reply = held.finish();
        assert!(reply.status == 403 || reply.text().contains("crew only"), "{line}: {}", reply.text());
        assert_eq!(house.root(&look, &Value::Null).status, 404, "{line}");
    }
    // Conversely, a role that the user gained meanwhile is no reason to refuse the request.
    let late = house.guest(By::Cookie, Withdrawn::Role);
    let held = hold(&house, &late, &MEMBERS[0], 0);
    let mut user = house.user(&late);
    user["roles"] = json!(["crew", "more"]);
    house.done(&format!("PUT /_users/org.couchdb.user:{}", late.name), &user);
    let reply = held.finish();
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[test]
fn unrelated_changes_refuse_no_write_and_end_no_feed() {
    let house = House::new();
    for by in [By::Password, By::Cookie, By::Token, By::Proxy, By::Nobody, By::Admin, By::AdminCookie] {
        let guest = house.guest(by, Withdrawn::Member);
        let mut feed = Feed::open(&house, &guest, "continuous");
        let held: Vec<Held> =
            routes(&guest, Withdrawn::Member).into_iter().map(|route| hold(&house, &guest, route, 0)).collect();
        // Another user loses all access; a setting, this user's document and this database's `_security`
        // change, and another session of this user ends.
        let other = house.guest(By::Cookie, Withdrawn::Member);
        for what in [Withdrawn::Member, Withdrawn::Password, Withdrawn::Everywhere, Withdrawn::Account] {
            house.withdraw(&other, what);
        }
        house.set("test/unrelated", &guest.name);
        if matches!(by, By::Password | By::Cookie | By::Token) {
            let mut user = house.user(&guest);
            user["colour"] = "green".into();
            house.done(&format!("PUT /_users/org.couchdb.user:{}", guest.name), &user);
            let second = json!({"name": guest.name, "password": "pw"}).to_string();
            let second = Wire::connect(&house.server.address).ask("POST /_session", JSON, second.as_bytes());
            let out = Wire::connect(&house.server.address).ask("DELETE /_session", &cookie(&second), b"");
            assert_eq!(out.status, 200, "another device signs out");
        }
        if by != By::Nobody {
            let more = json!({"members": {"names": [guest.name, "more"]}, "admins": {"names": [guest.name]}});
            house.done(&format!("PUT /{}/_security", guest.database), &more);
        }
        for held in held {
            // This write would change the `_security` that the other writes need.
            if held.line.contains("_security") {
                continue;
            }
            let line = held.line.clone();
            let reply = held.finish();
            assert!((200..300).contains(&reply.status), "{by:?} {line}: {} {}", reply.status, reply.text());
        }
        assert!(feed.told("put"), "{by:?}");
    }
}

/// An open feed.
struct Feed {
    wire: Wire,
    text: String,
    kind: &'static str,
}

impl Feed {
    /// Opens a feed of the guest's database and waits for its first chunk.
    fn open(house: &House, guest: &Guest, kind: &'static str) -> Feed {
        Feed::at(
            house,
            guest,
            &format!("/{}/_changes?feed={kind}&since=now&timeout=60000&include_docs=true", guest.database),
            kind,
        )
    }

    /// Opens the feed at `path` and waits for its first chunk.
    fn at(house: &House, guest: &Guest, path: &str, kind: &'static str) -> Feed {
        let mut wire = Wire::connect(&house.server.address);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{}\r\n", guest.headers).as_bytes());
        let head = wire.head();
        assert_eq!(head.status, 200, "{path} {:?}", guest.by);
        let text = wire.chunk().expect("a first chunk");
        Feed { wire, text, kind }
    }

    /// Reads until the feed contains a row of the document. Returns `false` if the feed ends before.
    fn told(&mut self, id: &str) -> bool {
        while !self.text.contains(&format!("\"id\":\"{id}\"")) {
            match self.wire.chunk() {
                Some(chunk) => self.text.push_str(&chunk),
                None => return false,
            }
        }
        true
    }

    /// Reads to the end of the feed, which must come soon after `since`. Returns everything that the feed
    /// sent.
    fn end(mut self, since: Instant, about: &str) -> String {
        let rest = self.wire.rest();
        assert!(since.elapsed() < SOON, "{about}: a {} feed went on for {:?}", self.kind, since.elapsed());
        self.text + &rest
    }
}

const KINDS: [&str; 3] = ["continuous", "eventsource", "longpoll"];

#[test]
fn open_feeds_end_when_access_is_revoked() {
    let house = House::new();
    for (by, what) in CASES {
        let guest = house.guest(*by, *what);
        let mut feeds: Vec<Feed> = KINDS.iter().map(|kind| Feed::open(&house, &guest, kind)).collect();
        if matches!(by, By::Admin | By::AdminCookie) {
            for kind in KINDS {
                feeds.push(Feed::at(
                    &house,
                    &guest,
                    &format!("/_db_updates?feed={kind}&since=now&timeout=60000"),
                    kind,
                ));
            }
        }
        house.withdraw(&guest, *what);
        let since = Instant::now();
        for feed in feeds {
            feed.end(since, &format!("{by:?} {what:?}"));
        }
        house.restore(*what);
    }
}

#[test]
fn no_feed_sends_rows_written_after_access_was_revoked() {
    let house = House::new();
    let cases = || CASES.iter().filter(|(_, what)| !matches!(what, Withdrawn::Remade | Withdrawn::Accounts));
    for (by, what) in (0..rounds()).flat_map(|_| cases()) {
        let guest = house.guest(*by, *what);
        let feeds: Vec<Feed> = KINDS[..2].iter().map(|kind| Feed::open(&house, &guest, kind)).collect();
        let (started, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        let last = std::thread::scope(|scope| {
            scopeguard::defer!(done.store(true, Ordering::SeqCst));
            let writer = scope.spawn(|| {
                let mut wire = Wire::connect(&house.server.address);
                while !done.load(Ordering::SeqCst) {
                    let number = started.fetch_add(1, Ordering::SeqCst);
                    let line = format!("PUT /{}/row{number}", guest.database);
                    let reply = wire.ask(&line, "Authorization: Basic YWRtaW46c2VjcmV0\r\n", b"{}");
                    assert_eq!(reply.status, 201, "{line}: {}", reply.text());
                }
            });
            let until_started = |count| {
                while started.load(Ordering::SeqCst) < count {
                    assert!(!writer.is_finished(), "the writer has failed");
                    std::thread::yield_now();
                }
            };
            until_started(3);
            house.withdraw(&guest, *what);
            let last = started.load(Ordering::SeqCst);
            // The writer writes some more documents after access was revoked.
            until_started(last + 5);
            last
        });
        let since = Instant::now();
        for feed in feeds {
            let text = feed.end(since, &format!("{by:?} {what:?}"));
            for number in last..started.load(Ordering::SeqCst) {
                let row = format!("\"row{number}\"");
                assert!(!text.contains(&row), "{by:?} {what:?}: {row}, and withdrawn before row{last}");
            }
        }
        house.restore(*what);
    }
}

#[test]
fn an_idle_session_ends_its_feeds_and_a_used_session_does_not() {
    let house = House::new();
    house.set("chttpd_auth/timeout", "3");
    let (idle, used) = (house.guest(By::Cookie, Withdrawn::Member), house.guest(By::Cookie, Withdrawn::Member));
    let ends = Feed::open(&house, &idle, "continuous");
    let mut goes_on = Feed::open(&house, &used, "continuous");
    let (begun, mut headers) = (Instant::now(), used.headers.clone());
    // One session is used and its cookie renewed, while the other session is idle.
    while begun.elapsed() < Duration::from_millis(4500) {
        let reply = Wire::connect(&house.server.address).ask("GET /_session", &headers, b"");
        assert_eq!(reply.json()["userCtx"]["name"], used.name.as_str(), "the session is in use");
        if reply.header("set-cookie").is_some() {
            headers = cookie(&reply);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ends.end(begun + Duration::from_secs(3), "an unused session");
    house.done(&format!("PUT /{}/late", used.database), &json!({}));
    assert!(goes_on.told("late"), "a session that is in use goes on");
}

#[test]
fn a_password_hash_upgrade_by_the_server_revokes_nothing() {
    let house = House::new();
    let guest = house.guest(By::Password, Withdrawn::Member);
    // A hash in the format of an old CouchDB: SHA-1 of password and salt.
    let mut user = house.user(&guest);
    user["password_scheme"] = "simple".into();
    user["salt"] = "salt".into();
    user["password_sha"] = sha1_of("pwsalt").into();
    for name in ["derived_key", "iterations", "pbkdf2_prf"] {
        user.as_object_mut().expect("an object").remove(name);
    }
    house.done(&format!("PUT /_users/org.couchdb.user:{}", guest.name), &user);
    let mut feed = Feed::open(&house, &guest, "continuous");
    let held: Vec<Held> = MEMBERS[..4].iter().map(|route| hold(&house, &guest, route, 0)).collect();
    let begun = Instant::now();
    while house.user(&guest)["password_scheme"] != "pbkdf2" {
        assert!(begun.elapsed() < SOON, "the hash is upgraded");
        std::thread::sleep(Duration::from_millis(50));
    }
    for held in held {
        let line = held.line.clone();
        let reply = held.finish();
        assert_eq!(reply.status, 201, "{line}: {}", reply.text());
    }
    assert!(feed.told("put"));
}

fn sha1_of(text: &str) -> String {
    use sha1::Digest;
    sha1::Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_long_response_is_cut_when_access_is_revoked() {
    let house = House::new();
    let guest = house.guest(By::Password, Withdrawn::Member);
    let length = 48 << 20;
    let path = format!("/{}/large/file", guest.database);
    let stored = Wire::connect(&house.server.address).ask(
        &format!("PUT {path}"),
        &format!("{}Content-Type: image/png\r\n", guest.headers),
        &vec![7; length],
    );
    assert_eq!(stored.status, 201, "{}", stored.text());
    let mut wire = Wire::connect(&house.server.address);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{}\r\n", guest.headers).as_bytes());
    assert_eq!(wire.head().status, 200);
    house.withdraw(&guest, Withdrawn::Member);
    // The server re-checks access every second while it sends a response.
    std::thread::sleep(Duration::from_millis(1200));
    let read = wire.until_closed();
    assert!(read < length, "all of it was sent");
}

/// How long a function runs while access is revoked. On a slow machine it must run for longer; for 5 s of CPU time at most.
const BUSY: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// JavaScript that runs for so long.
fn busy(time: Duration) -> String {
    format!("var end = Date.now() + {}; while (Date.now() < end);", time.as_millis())
}

/// How many calls of functions run or wait for their turn.
fn calls(house: &House) -> u64 {
    let stats = house.root("GET /_node/_local/_stats/settee/scripts", &Value::Null).json();
    let value = |name: &str| stats[name]["value"].as_u64().expect("a number");
    value("busy") + value("waiting")
}

/// Waits until so many calls have begun. Gives up at `end`.
fn until_begun(house: &House, count: u64, end: Instant) {
    while calls(house) < count && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn access_revoked_while_a_function_runs_refuses_the_whole_request() {
    let house = House::new();
    for (by, what) in [(By::Password, Withdrawn::Account), (By::Jwt, Withdrawn::Member), (By::Token, Withdrawn::Device)]
    {
        assert!(BUSY.iter().any(|time| is_refused_while_busy(&house, by, what, *time)), "the machine is too slow");
    }
}

/// Revokes access while functions run for so long. Returns false if they may have ended before.
fn is_refused_while_busy(house: &House, by: By, what: Withdrawn, time: Duration) -> bool {
    let (guest, busy) = (house.guest(by, what), busy(time));
    let validate = format!("function () {{ {busy} }}");
    let rewrite = format!(
        "function () {{ {busy} return {{path: '../../_security', method: 'PUT', body: '{{\"stolen\":true}}'}}; }}"
    );
    house.done(&format!("PUT /{}/_design/w", guest.database), &json!({ "rewrites": rewrite }));
    house.done(&format!("PUT /{}/_design/v", guest.database), &json!({ "validate_doc_update": validate }));
    let bulk = json!({"docs": [{"_id": "a"}, {"_id": "_local/a"}]}).to_string();
    let asked = [
        (format!("POST /{}/_bulk_docs", guest.database), bulk.as_str()),
        (format!("PUT /{}/b", guest.database), "{}"),
        (format!("GET /{}/_design/w/_rewrite/x", guest.database), ""),
    ];
    // The check of a design document has an answer before its worker is free.
    while calls(house) > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = Instant::now() + time;
    let wires: Vec<Wire> = asked
        .iter()
        .map(|(line, body)| {
            let mut wire = Wire::connect(&house.server.address);
            let (sign_in, length) = (&guest.headers, body.len());
            let head = format!("{line} HTTP/1.1\r\nHost: test\r\n{sign_in}{JSON}Content-Length: {length}\r\n\r\n");
            wire.send(&[head.as_bytes(), body.as_bytes()].concat());
            wire
        })
        .collect();
    // One of the writes and the rewrite: the other write is validated after the first.
    until_begun(house, 2, end);
    house.withdraw(&guest, what);
    if Instant::now() >= end {
        return false;
    }
    // Not 201 with refused rows: a replicator skips the documents of such rows and never retries them.
    for (mut wire, (line, _)) in wires.into_iter().zip(&asked) {
        let reply = wire.reply();
        assert!(matches!(reply.status, 401 | 403), "{by:?} {line}: {} {}", reply.status, reply.text());
    }
    for id in ["a", "b", "_local/a"] {
        assert_eq!(house.root(&format!("GET /{}/{id}", guest.database), &Value::Null).status, 404, "{by:?} {id}");
    }
    let security = house.root(&format!("GET /{}/_security", guest.database), &Value::Null).json();
    assert!(security["stolen"].is_null(), "{by:?}: {security}");
    true
}

#[test]
fn members_lose_access_to_a_database_that_becomes_the_users_database() {
    let house = House::new();
    let guest = house.guest(By::Jwt, Withdrawn::Member);
    let members = json!({"members": {"names": [guest.name]}, "admins": {"names": ["somebody"]}});
    house.done(&format!("PUT /{}/_security", guest.database), &members);
    let feeds: Vec<Feed> = KINDS.iter().map(|kind| Feed::open(&house, &guest, kind)).collect();
    let held = hold(&house, &guest, &MEMBERS[0], 0);
    house.set("chttpd_auth/authentication_db", &guest.database);
    let since = Instant::now();
    for feed in feeds {
        feed.end(since, "the accounts");
    }
    let (look, reply) = (held.look.clone(), held.finish());
    assert_eq!((reply.status, house.root(&look, &Value::Null).status), (403, 404), "{}", reply.text());
}

#[test]
fn functions_of_one_database_cannot_act_elsewhere_with_the_callers_access() {
    let house = House::new();
    let (guest, victim) = (house.guest(By::Cookie, Withdrawn::Member), house.guest(By::AdminCookie, Withdrawn::Member));
    let database = &guest.database;
    let says =
        "headers: {'Content-Type': 'application/json', 'Sec-Fetch-Site': 'same-origin', 'Origin': 'http://test'}";
    let sign_in = json!({"name": guest.name, "password": "pw"}).to_string();
    let rewrite = format!(
        "function (req) {{ var to = {{
            session: {{path: '../../../_session', method: 'POST', body: {sign_in:?}, {says}}},
            out: {{path: '../../../_session', method: 'DELETE', {says}}},
            admin: {{path: '../../../_node/_local/_config/admins/evil', method: 'PUT', body: '\"pw\"', {says}}},
            other: {{path: '../../../{other}/stolen', method: 'PUT', body: '{{}}', {says}}},
            own: {{path: '../../written', method: 'PUT', body: '{{}}', {says}}},
            read: {{path: '../../_design/f'}} }};
            return to[req.query.to]; }}",
        other = victim.database,
    );
    let show = "function (doc, req) { return {headers: {'Set-Cookie': req.query.cookie}, body: 'x'}; }";
    house.done(&format!("PUT /{database}/_design/f"), &json!({"rewrites": rewrite, "shows": {"s": show}}));
    let ask = |line: &str, from: &str| {
        let headers = format!("{}{from}", victim.headers);
        Wire::connect(&house.server.address).ask(line, &headers, b"")
    };
    for from in ["Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: cross-site\r\n", "Sec-Fetch-Site: same-origin\r\n", ""] {
        for to in ["session", "out", "admin", "other"] {
            let reply = ask(&format!("GET /{database}/_design/f/_rewrite/x?to={to}"), from);
            assert!(reply.status >= 400, "{to} {from}: {} {}", reply.status, reply.text());
        }
        assert_eq!(ask("GET /_session", "").json()["userCtx"]["name"], victim.name.as_str(), "signed in as before");
        for cookie in ["AuthSession=x", "%20AuthSession=x", "=AuthSession=x", "%20=%20AuthSession=x"] {
            let reply = ask(&format!("GET /{database}/_design/f/_show/s?cookie={cookie}"), from);
            assert_eq!((reply.status, reply.header("set-cookie")), (200, None), "{cookie}");
        }
    }
    assert_eq!(house.root("GET /_node/_local/_config/admins/evil", &Value::Null).status, 404);
    assert_eq!(house.root(&format!("GET /{}/stolen", victim.database), &Value::Null).status, 404);
    // In its own database the rewrite works for the user's own requests, but not for a page of another site.
    let own = format!("GET /{database}/_design/f/_rewrite/x?to=own");
    assert_eq!(ask(&own, "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n").status, 403);
    assert_eq!(ask(&own, "Sec-Fetch-Site: same-origin\r\n").status, 201);
    assert_eq!(ask(&format!("GET /{database}/_design/f/_rewrite/x?to=read"), "").status, 200);
}

#[test]
fn a_former_users_database_admin_writes_no_account_with_a_request_in_progress() {
    let house = House::new();
    house.set("couchdb/users_db_security_editable", "true");
    assert!(BUSY.iter().any(|time| is_no_account_written(&house, *time)), "the machine is too slow");
}

/// Takes a user's rights in the users database while a function runs for so long. Returns false if it may have ended before.
fn is_no_account_written(house: &House, time: Duration) -> bool {
    let (guest, busy) = (house.guest(By::Jwt, Withdrawn::Member), busy(time));
    house.done("PUT /_users/_security", &json!({"admins": {"names": [guest.name]}}));
    let name = format!("made-by-{}", guest.name);
    let design = format!("/_users/_design/{}", guest.name);
    let validate = format!("function (doc) {{ if (doc.name === '{name}') {{ {busy} }} }}");
    house.done(&format!("PUT {design}"), &json!({ "validate_doc_update": validate }));
    let id = format!("org.couchdb.user:{name}");
    let doc = json!({"_id": id, "type": "user", "name": name, "password": "pw", "roles": ["crew"]});
    let bulk = json!({ "docs": [doc] }).to_string();
    // The check of a design document has an answer before its worker is free.
    while calls(house) > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = Instant::now() + time;
    let mut wire = Wire::connect(&house.server.address);
    let (sign_in, length) = (&guest.headers, bulk.len());
    let line = "POST /_users/_bulk_docs HTTP/1.1";
    wire.send(format!("{line}\r\nHost: test\r\n{sign_in}{JSON}Content-Length: {length}\r\n\r\n{bulk}").as_bytes());
    until_begun(house, 1, end);
    house.done("PUT /_users/_security", &json!({"admins": {"names": ["somebody"]}}));
    if Instant::now() >= end {
        return false;
    }
    let reply = wire.reply();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(house.root(&format!("GET /_users/{id}"), &Value::Null).status, 404);
    let again = Wire::connect(&house.server.address).ask(
        "POST /_users/_bulk_docs",
        &format!("{}{JSON}", guest.headers),
        bulk.as_bytes(),
    );
    assert!(again.text().contains("\"error\""), "{}", again.text());
    true
}
