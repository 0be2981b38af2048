//! Attacks by users on accounts: their own, other users', and accounts that an admin removed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};

use super::server::Server;

/// The headers of a request.
type Headers<'a> = &'a [&'a str];

const JSON: &str = "Content-Type: application/json";
const JWT_SECRET: &[u8] = b"a secret of the issuer of tokens";

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the session cookie that the response sets, as a header.
    fn cookie(&self) -> Option<String> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:"))?;
        let value = line.split_once(':')?.1.trim().split(';').next()?;
        value.strip_prefix("AuthSession=").filter(|value| !value.is_empty()).map(|_| format!("Cookie: {value}"))
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn admin() -> String {
    basic("admin", "secret")
}

/// A token from another issuer, valid for an hour.
fn token(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed =
        format!("{}.{}", part(json!({"alg": "HS256", "typ": "JWT"})), part(json!({"sub": name, "exp": now + 3600})));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(JWT_SECRET).expect("any key");
    mac.update(signed.as_bytes());
    format!("Authorization: Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A request whose headers are sent and whose body is not.
struct Held {
    stream: TcpStream,
    body: Vec<u8>,
}

/// Sends the headers of a request.
fn hold(address: &str, line: &str, headers: Headers, body: &[u8]) -> Held {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    let mut head =
        format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        head += &format!("{header}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("the head is sent");
    Held { stream, body: body.to_vec() }
}

impl Held {
    /// Sends the body and reads the response.
    fn release(mut self) -> Answer {
        // The server may refuse the request and close the connection before it has read the whole body.
        let _ = self.stream.write_all(&self.body);
        let mut all = Vec::new();
        let _ = self.stream.read_to_end(&mut all);
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut body = all[end + 4..].to_vec();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        Answer { status, head, body }
    }
}

/// Decodes a chunked body.
fn unchunked(mut left: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = left.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&left[..end]).unwrap_or("0").trim(), 16).unwrap_or(0);
        if length == 0 || left.len() < end + 2 + length {
            break;
        }
        whole.extend_from_slice(&left[end + 2..end + 2 + length]);
        left = left.get(end + 4 + length..).unwrap_or_default();
    }
    whole
}

/// The server of one test.
struct House {
    server: Server,
    folder: tempfile::TempDir,
}

impl House {
    fn new(settings: &[(&str, &str)]) -> House {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(folder.path(), "redb").expect("starts");
        let house = House { server, folder };
        house.set("jwt_keys/hmac:_default", &STANDARD.encode(JWT_SECRET));
        // Few iterations, so that a debug build hashes fast.
        house.set("chttpd_auth/iterations", "1000");
        for (key, value) in settings {
            house.set(key, value);
        }
        house
    }

    fn set(&self, key: &str, value: &str) {
        let answer = self.admin("PUT", &format!("/_node/_local/_config/{key}"), &json!(value));
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
    }

    fn ask(&self, method: &str, path: &str, headers: Headers, body: &[u8]) -> Answer {
        hold(&self.server.address, &format!("{method} {path}"), headers, body).release()
    }

    fn json(&self, method: &str, path: &str, who: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.ask(method, path, &[who, JSON], &body)
    }

    fn admin(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.json(method, path, &admin(), body)
    }

    /// Creates or re-creates an account as admin. Returns its revision.
    fn make(&self, name: &str, password: &str, roles: &[&str]) -> String {
        let made = self.admin("PUT", &path(name), &account(name, password, roles));
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["rev"].as_str().expect("a revision").to_owned()
    }

    /// Reads a user document as admin, with its revisions and conflicts.
    fn stored(&self, name: &str) -> Answer {
        self.admin("GET", &format!("{}?revs=true&conflicts=true", path(name)), &Value::Null)
    }

    fn revision(&self, name: &str) -> String {
        self.stored(name).json()["_rev"].as_str().expect("a revision").to_owned()
    }

    fn remove(&self, name: &str) {
        let answer = self.admin("DELETE", &format!("{}?rev={}", path(name), self.revision(name)), &Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Returns all leaves of a user document: the revision, and whether it is deleted.
    fn leaves(&self, name: &str) -> Vec<(String, bool)> {
        let answer =
            self.ask("GET", &format!("{}?open_revs=all", path(name)), &[&admin(), "Accept: application/json"], b"");
        let rows = answer.json();
        let leaf = |row: &Value| {
            let doc = &row["ok"];
            (doc["_rev"].as_str().expect("a revision").to_owned(), doc["_deleted"] == true)
        };
        rows.as_array().map(|rows| rows.iter().map(leaf).collect()).unwrap_or_default()
    }

    /// Signs in with a password. Returns the status.
    fn signs_in(&self, name: &str, password: &str) -> u16 {
        self.json("POST", "/_session", "X-Nothing: 1", &json!({"name": name, "password": password})).status
    }
}

fn path(name: &str) -> String {
    format!("/_users/org.couchdb.user:{name}")
}

fn account(name: &str, password: &str, roles: &[&str]) -> Value {
    json!({"_id": format!("org.couchdb.user:{name}"), "type": "user", "name": name, "password": password, "roles": roles})
}

fn hash_of(revision: &str) -> (u64, String) {
    let (generation, hash) = revision.split_once('-').expect("N-hash");
    (generation.parse().expect("a number"), hash.to_owned())
}

/// The hash of the revision that an attacker writes.
const NEW: &str = "ffffffffffffffffffffffffffffffff";

/// Turns `doc` into a replicated revision with the hash `NEW` and these ancestors, newest first.
fn brought(mut doc: Value, ancestors: &[&str]) -> Value {
    let first = ancestors.first().map_or(0, |first| hash_of(first).0);
    let ids: Vec<String> =
        std::iter::once(NEW.to_owned()).chain(ancestors.iter().map(|revision| hash_of(revision).1)).collect();
    doc["_rev"] = format!("{}-{NEW}", first + 1).into();
    doc["_revisions"] = json!({"start": first + 1, "ids": ids});
    doc
}

/// Writes a document with a client-chosen revision history in every way that the API has. Returns each way's
/// response.
fn bring(house: &House, who: &str, name: &str, doc: &Value) -> Vec<(&'static str, Answer)> {
    let bulk = json!({"new_edits": false, "docs": [doc]}).to_string();
    let text = doc.to_string();
    let related = format!("--b\r\nContent-Type: application/json\r\n\r\n{text}\r\n--b--");
    let put = format!("{}?new_edits=false", path(name));
    vec![
        ("_bulk_docs", house.ask("POST", "/_users/_bulk_docs", &[who, JSON], bulk.as_bytes())),
        ("PUT", house.ask("PUT", &put, &[who, JSON], text.as_bytes())),
        ("POST", house.ask("POST", "/_users?new_edits=false", &[who, JSON], text.as_bytes())),
        (
            "multipart",
            house.ask("PUT", &put, &[who, "Content-Type: multipart/related; boundary=b"], related.as_bytes()),
        ),
    ]
}

#[test]
fn a_request_held_open_does_not_restore_a_deleted_account() {
    let house = House::new(&[]);
    for (number, redo) in [false, true].into_iter().enumerate() {
        let name = format!("ann{number}");
        let first = house.make(&name, "pw", &["boss"]);
        let mut doc = house.stored(&name).json();
        doc.as_object_mut().expect("an object").retain(|member, _| !member.starts_with('_') || member == "_id");
        let body = json!({"new_edits": false, "docs": [brought(doc, &[&first])]}).to_string();
        let mine = basic(&name, "pw");
        let held = hold(&house.server.address, "POST /_users/_bulk_docs", &[&mine, JSON], body.as_bytes());
        // The server authorizes the request before or after the deletion; its write comes after the deletion
        // either way.
        std::thread::sleep(Duration::from_millis(if redo { 50 } else { 0 }));
        house.remove(&name);
        let answer = held.release();
        assert_eq!(house.stored(&name).status, 404, "{} {}", answer.status, answer.text());
        assert!(house.leaves(&name).iter().all(|(_, deleted)| *deleted));
        assert_eq!(house.signs_in(&name, "pw"), 401);
    }
}

#[test]
fn users_can_only_write_a_child_of_their_accounts_single_living_leaf() {
    let house = House::new(&[]);
    let first = house.make("ann", "pw", &["boss"]);
    let mut doc = house.stored("ann").json();
    doc.as_object_mut().expect("an object").retain(|member, _| !member.starts_with('_') || member == "_id");
    doc["_rev"] = first.clone().into();
    let mut demoted = doc.clone();
    demoted["roles"] = json!([]);
    let second = house.admin("PUT", &path("ann"), &demoted).json()["rev"].as_str().expect("written").to_owned();
    let plain = |mut doc: Value| {
        doc.as_object_mut().expect("an object").remove("_rev");
        doc
    };
    let (boss, plain) = (plain(doc), plain(demoted));
    let unknown = "2-0123456789abcdef0123456789abcdef";
    let longer = "3-0123456789abcdef0123456789abcdef";
    // A password of this server, and a token of another issuer that contains only the name.
    for who in [basic("ann", "pw"), token("ann")] {
        for (what, doc) in [
            ("a branch of an old revision", brought(plain.clone(), &[&first])),
            ("an old revision with its roles", brought(boss.clone(), &[&first])),
            ("a second root", brought(plain.clone(), &[])),
            ("an unknown parent", brought(plain.clone(), &[unknown, &first])),
            ("a longer path", brought(plain.clone(), &[longer, &second, &first])),
            ("roles on the leaf", brought(boss.clone(), &[&second, &first])),
        ] {
            for (way, answer) in bring(&house, &who, "ann", &doc) {
                assert_eq!(house.leaves("ann"), [(second.clone(), false)], "{what}, {way}: {}", answer.text());
                assert!(answer.status != 200, "{what}, {way}");
            }
        }
    }
    // Allowed edits still work.
    let allowed = brought(plain.clone(), &[&second, &first]);
    let bulk = json!({"new_edits": false, "docs": [allowed]});
    assert_eq!(house.json("POST", "/_users/_bulk_docs", &basic("ann", "pw"), &bulk).text().trim(), "[]");
    assert_eq!(house.leaves("ann"), [(format!("3-{NEW}"), false)]);
    let mut own = house.stored("ann").json();
    own.as_object_mut().expect("an object").remove("_revisions");
    own["city"] = "Rome".into();
    assert_eq!(house.json("PUT", &path("ann"), &basic("ann", "pw"), &own).status, 201);
}

#[test]
fn only_admins_write_removed_accounts_and_accounts_named_like_admins() {
    for sign_up in ["false", "true"] {
        let house = House::new(&[("chttpd_auth/allow_sign_up", sign_up)]);
        house.make("gone", "pw", &[]);
        house.remove("gone");
        let tombstone = house.leaves("gone")[0].0.clone();
        let nobody = "X-Nothing: 1".to_owned();
        for name in ["gone", "admin"] {
            let leaves = house.leaves(name);
            for who in [&token(name), &nobody] {
                let mut doc = account(name, "mine", &[]);
                let mut answers = bring(&house, who, name, &brought(doc.clone(), &[&tombstone]));
                answers.extend(bring(&house, who, name, &brought(doc.clone(), &[])));
                answers.push(("plain PUT", house.json("PUT", &path(name), who, &doc)));
                answers.push(("plain POST", house.json("POST", "/_users", who, &doc)));
                answers
                    .push(("bulk", house.json("POST", "/_users/_bulk_docs", who, &json!({ "docs": [doc.clone()] }))));
                let attachment = format!("{}/a", path(name));
                answers.push(("attachment", house.ask("PUT", &attachment, &[who, "Content-Type: text/plain"], b"a")));
                doc["_rev"] = tombstone.clone().into();
                answers.push(("with the tombstone's revision", house.json("PUT", &path(name), who, &doc)));
                for (way, answer) in answers {
                    let text = answer.text();
                    assert_eq!(house.leaves(name), leaves, "{name} {who} {way} {text}");
                    assert!(answer.status >= 400 || text.contains("\"error\""), "{name} {who} {way} {text}");
                }
            }
        }
        assert_eq!(house.signs_in("admin", "secret"), 200);
        // With a token, a user can create an account for an unused name only if sign-up is open. Admins can
        // re-create any account.
        let status = house.json("PUT", &path("new"), &token("new"), &account("new", "pw", &[])).status;
        assert_eq!(status, if sign_up == "true" { 201 } else { 403 });
        house.make("gone", "again", &[]);
        assert_eq!((house.signs_in("gone", "again"), house.signs_in("gone", "pw")), (200, 401));
    }
}

#[test]
fn a_deleted_account_stays_deleted_under_concurrent_writes() {
    let house = House::new(&[("chttpd_auth_lockout/mode", "off")]);
    let rounds: usize = std::env::var("SETTEE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6);
    for round in 0..rounds {
        let name = format!("ann{round}");
        house.make(&name, "pw", &[]);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scopeguard::defer!(ended.store(true, Ordering::Release));
            for _ in 0..3 {
                scope.spawn(|| {
                    // The old owner writes with a token that outlives the account, until some writes after
                    // the deletion.
                    let (who, mut left) = (token(&name), 20);
                    while left > 0 {
                        left -= usize::from(ended.load(Ordering::Acquire));
                        let own = house.json("GET", &path(&name), &who, &Value::Null).json();
                        let Some(revision) = own["_rev"].as_str().map(str::to_owned) else { continue };
                        let mut doc = own.clone();
                        doc["at"] = left.into();
                        let mut replicated = doc.clone();
                        replicated.as_object_mut().expect("an object").remove("_rev");
                        let replicated = brought(replicated, &[&revision]);
                        let bulk = json!({"new_edits": false, "docs": [replicated]});
                        house.json("POST", "/_users/_bulk_docs", &who, &bulk);
                        house.json("PUT", &path(&name), &who, &doc);
                    }
                });
            }
            while !matches!(
                house.admin("DELETE", &format!("{}?rev={}", path(&name), house.revision(&name)), &Value::Null).status,
                200
            ) {}
        });
        let leaves = house.leaves(&name);
        assert!(!leaves.is_empty() && leaves.iter().all(|(_, deleted)| *deleted), "{name}: {leaves:?}");
    }
}

#[test]
fn deleting_an_account_as_admin_also_deletes_its_conflicts() {
    let house = House::new(&[("chttpd_auth/allow_conflicted_user_docs", "true")]);
    for way in ["DELETE", "_bulk_docs", "PUT"] {
        let name = format!("ann{}", way.to_ascii_lowercase());
        house.make(&name, "pw", &[]);
        let stored = house.stored(&name).json();
        for (generation, hash) in [(1, "00000000000000000000000000000000"), (1, NEW), (5, NEW)] {
            let mut conflict = stored.clone();
            conflict.as_object_mut().expect("an object").remove("_revisions");
            conflict["_rev"] = format!("{generation}-{hash}").into();
            let bulk = json!({"new_edits": false, "docs": [conflict]});
            assert_eq!(house.admin("POST", "/_users/_bulk_docs", &bulk).text().trim(), "[]", "admins replicate");
        }
        assert_eq!(house.leaves(&name).len(), 4);
        // Deleting a losing leaf resolves a conflict and keeps the account.
        let losing = format!("{}?rev=1-{NEW}", path(&name));
        assert_eq!(house.admin("DELETE", &losing, &Value::Null).status, 200);
        assert_eq!(house.stored(&name).status, 200);
        let revision = house.revision(&name);
        let deletion = json!({"_id": stored["_id"], "_rev": revision, "_deleted": true});
        let answer = match way {
            "DELETE" => house.admin("DELETE", &format!("{}?rev={revision}", path(&name)), &Value::Null),
            "PUT" => house.admin("PUT", &path(&name), &deletion),
            _ => house.admin("POST", "/_users/_bulk_docs", &json!({ "docs": [deletion] })),
        };
        assert!(answer.status < 300 && !answer.text().contains("error"), "{way}: {}", answer.text());
        let leaves = house.leaves(&name);
        assert!(leaves.len() == 4 && leaves.iter().all(|(_, deleted)| *deleted), "{way}: {leaves:?}");
        assert_eq!((house.stored(&name).status, house.signs_in(&name, "pw")), (404, 401), "{way}");
    }
}

#[test]
fn a_conflicted_user_document_with_an_admins_name_does_not_lock_the_admin_out() {
    let house = House::new(&[]);
    for hash in ["0123456789abcdef0123456789abcdef", NEW] {
        let mut doc = account("admin", "", &["boss"]);
        doc.as_object_mut().expect("an object").remove("password");
        doc["_rev"] = format!("1-{hash}").into();
        let bulk = json!({"new_edits": false, "docs": [doc]});
        assert_eq!(house.admin("POST", "/_users/_bulk_docs", &bulk).text().trim(), "[]");
    }
    let session = house.json("GET", "/_session", &admin(), &Value::Null);
    assert_eq!((session.status, session.json()["userCtx"]["roles"].clone()), (200, json!(["_admin"])));
    assert_eq!(house.signs_in("admin", "secret"), 200);
}

#[test]
fn responses_do_not_reveal_which_accounts_exist() {
    let house = House::new(&[]);
    house.make("eve", "pw", &[]);
    let rev = house.make("there", "pw", &[]);
    house.make("gone", "pw", &[]);
    house.remove("gone");
    let eve = basic("eve", "pw");
    let att =
        house.ask("PUT", &format!("{}/a?rev={rev}", path("there")), &[&admin(), "Content-Type: text/plain"], b"a");
    let rev = att.json()["rev"].as_str().expect("written").to_owned();
    let ask = |name: &str| -> Vec<(String, u16, String)> {
        let id = format!("org.couchdb.user:{name}");
        let own = path(name);
        let rows: Vec<(String, &str, String, Value)> = vec![
            ("GET".into(), "GET", own.clone(), Value::Null),
            ("GET rev".into(), "GET", format!("{own}?rev={rev}"), Value::Null),
            ("GET open_revs".into(), "GET", format!("{own}?open_revs=all"), Value::Null),
            ("GET open_revs".into(), "GET", format!("{own}?open_revs=%5B%22{rev}%22%5D"), Value::Null),
            ("HEAD".into(), "HEAD", own.clone(), Value::Null),
            ("GET a".into(), "GET", format!("{own}/a"), Value::Null),
            ("PUT a".into(), "PUT", format!("{own}/a?rev={rev}"), json!({})),
            ("PUT a".into(), "PUT", format!("{own}/a"), json!({})),
            ("DELETE a".into(), "DELETE", format!("{own}/a?rev={rev}"), Value::Null),
            ("DELETE a".into(), "DELETE", format!("{own}/a"), Value::Null),
            ("DELETE".into(), "DELETE", format!("{own}?rev={rev}"), Value::Null),
            ("DELETE".into(), "DELETE", own.clone(), Value::Null),
            ("PUT".into(), "PUT", own.clone(), account(name, "x", &[])),
            ("PUT rev".into(), "PUT", format!("{own}?rev={rev}"), account(name, "x", &[])),
            ("bulk".into(), "POST", "/_users/_bulk_docs".into(), json!({"docs": [account(name, "x", &[])]})),
            (
                "bulk new_edits".into(),
                "POST",
                "/_users/_bulk_docs".into(),
                json!({"new_edits": false, "docs": [{"_id": id, "_rev": rev}]}),
            ),
            ("bulk_get".into(), "POST", "/_users/_bulk_get".into(), json!({"docs": [{"id": id}]})),
            ("bulk_get rev".into(), "POST", "/_users/_bulk_get".into(), json!({"docs": [{"id": id, "rev": rev}]})),
            ("revs_diff".into(), "POST", "/_users/_revs_diff".into(), json!({&id: [rev, "9-abc"]})),
            ("missing_revs".into(), "POST", "/_users/_missing_revs".into(), json!({&id: [rev, "9-abc"]})),
            ("show".into(), "GET", format!("/_users/_design/s/_show/f/{id}"), Value::Null),
        ];
        let mut answers: Vec<(String, u16, String)> = rows
            .into_iter()
            .map(|(what, method, path, body)| {
                let answer = house.json(method, &path, &eve, &body);
                (what, answer.status, answer.text().replace(name, "NAME"))
            })
            .collect();
        let copy = house.ask("COPY", &own, &[&eve, "Destination: org.couchdb.user:eve"], b"");
        answers.push(("COPY".into(), copy.status, copy.text()));
        answers
    };
    let design = json!({"shows": {"f": "function (doc) { return doc ? 'there' : 'not there'; }"}});
    assert_eq!(house.admin("PUT", "/_users/_design/s", &design).status, 201);
    let never = ask("never");
    for name in ["there", "gone"] {
        for (left, right) in ask(name).into_iter().zip(&never) {
            assert_eq!(left, *right, "{name} and one that never was");
        }
    }
    for path in ["_all_docs", "_changes", "_local_docs", "_design_docs", "_find"] {
        let method = if path == "_find" { "POST" } else { "GET" };
        let answer = house.json(method, &format!("/_users/{path}"), &eve, &json!({"selector": {}}));
        assert!(matches!(answer.status, 401 | 403), "{path}: {}", answer.status);
    }
    // Users can see their own account.
    let own = json!({"org.couchdb.user:eve": [house.revision("eve")]});
    assert_eq!(house.json("POST", "/_users/_revs_diff", &eve, &own).text().trim(), "{}");
}

#[test]
fn only_admins_access_local_documents_of_the_users_database() {
    let house = House::new(&[]);
    house.make("eve", "pw", &[]);
    assert_eq!(house.admin("PUT", "/_users/_local/check", &json!({"last_seq": 7})).status, 201);
    for who in [basic("eve", "pw"), token("stranger")] {
        assert_eq!(house.json("GET", "/_users/_local/check", &who, &Value::Null).status, 404);
        assert_eq!(house.json("PUT", "/_users/_local/check", &who, &json!({"_rev": "0-1"})).status, 403);
        assert_eq!(house.json("POST", "/_users", &who, &json!({"_id": "_local/check"})).status, 403);
        assert_eq!(house.json("DELETE", "/_users/_local/check?rev=0-1", &who, &Value::Null).status, 403);
        for docs in
            [json!([{"_id": "_local/check"}]), json!([{"_id": "_local/check", "_rev": "0-1", "_deleted": true}])]
        {
            let answer = house.json("POST", "/_users/_bulk_docs", &who, &json!({ "docs": docs }));
            assert!(answer.text().contains("forbidden"), "{}", answer.text());
        }
        let bulk = json!({"new_edits": false, "docs": [{"_id": "_local/check", "_rev": "0-1", "last_seq": 8}]});
        house.json("POST", "/_users/_bulk_docs", &who, &bulk);
        let got = house.json("POST", "/_users/_bulk_get", &who, &json!({"docs": [{"id": "_local/check"}]}));
        assert!(!got.text().contains("last_seq"), "{}", got.text());
        let copy = house.ask("COPY", "/_users/_local/check", &[&who, "Destination: org.couchdb.user:eve"], b"");
        assert_eq!(copy.status, 404, "{}", copy.text());
        let copy = house.ask("COPY", &path("eve"), &[&who, "Destination: _local/check"], b"");
        assert!(matches!(copy.status, 403 | 404), "{}", copy.text());
    }
    let kept = house.admin("GET", "/_users/_local/check", &Value::Null).json();
    assert_eq!((kept["last_seq"].clone(), kept["_rev"].as_str()), (json!(7), Some("0-1")));
}

#[test]
fn a_form_from_another_site_cannot_sign_anyone_in_or_out() {
    let house = House::new(&[]);
    house.make("eve", "pw", &[]);
    let form = "Content-Type: application/x-www-form-urlencoded";
    let own = format!("Origin: http://{}", house.server.address);
    let sign_in =
        |headers: &[&str]| house.ask("POST", "/_session", &[&[form], headers].concat(), b"name=eve&password=pw");
    for (headers, status) in [
        (vec![], 200),
        (vec!["Sec-Fetch-Site: same-origin", own.as_str()], 200),
        (vec!["Sec-Fetch-Site: none"], 200),
        (vec![own.as_str()], 200),
        (vec!["Sec-Fetch-Site: cross-site", "Origin: http://localhost:8100"], 200),
        (vec!["Sec-Fetch-Site: cross-site", "Origin: https://evil.example"], 403),
        (vec!["Sec-Fetch-Site: same-site", "Origin: https://evil.example"], 403),
        (vec!["Sec-Fetch-Site: cross-site"], 403),
        (vec!["Origin: https://evil.example"], 403),
        (vec!["Origin: null"], 403),
    ] {
        let answer = sign_in(&headers);
        assert_eq!(
            (answer.status, answer.cookie().is_some()),
            (status, status == 200),
            "{headers:?} {}",
            answer.text()
        );
    }
    let cookie = sign_in(&[]).cookie().expect("a session");
    let foreign = ["Sec-Fetch-Site: cross-site", "Origin: https://evil.example"];
    for (method, path) in [("DELETE", "/_session"), ("DELETE", "/_session/devices"), ("POST", "/_session/token")] {
        let headers = [&[cookie.as_str(), form][..], &foreign].concat();
        let answer = house.ask(method, path, &headers, b"name=eve&password=pw");
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
    }
    assert_eq!(house.ask("GET", "/_session", &[&cookie], b"").json()["userCtx"]["name"], "eve");
}

/// Computes the one-time code of a key of ten zero bytes at a time step.
fn code(step: u64) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&[0; 10]).expect("any key");
    mac.update(&step.to_be_bytes());
    let mac = mac.finalize().into_bytes();
    let at = usize::from(mac[19] & 15);
    let number = u32::from_be_bytes([mac[at], mac[at + 1], mac[at + 2], mac[at + 3]]) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

/// The current time step.
fn step() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() / 30
}

#[test]
fn a_one_time_code_works_only_once() {
    let mut house = House::new(&[("chttpd_auth_lockout/mode", "off")]);
    let mut doc = account("ann", "pw", &[]);
    doc["totp"] = json!({"key": "AAAAAAAAAAAAAAAA"});
    assert_eq!(house.admin("PUT", &path("ann"), &doc).status, 201);
    let sign_in = |house: &House, path: &str, step: u64| {
        house.json("POST", path, "X-Nothing: 1", &json!({"name": "ann", "password": "pw", "token": code(step)})).status
    };
    let now = step();
    // Of eight concurrent requests with one code, exactly one succeeds.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let (sign_in, house) = (&sign_in, &house);
        let asked: Vec<_> = (0..8)
            .map(|number| {
                let path = if number % 2 == 0 { "/_session" } else { "/_session/token" };
                scope.spawn(move || sign_in(house, path, now))
            })
            .collect();
        asked.into_iter().map(|one| one.join().expect("asks")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(sign_in(&house, "/_session", now), 401, "used");
    assert_eq!(sign_in(&house, "/_session/token", now), 401, "used, whatever for");
    assert_eq!(sign_in(&house, "/_session", now - 1), 401, "older than a used one");
    house.server.kill();
    house.server = Server::start(house.folder.path(), "redb").expect("starts again");
    assert_eq!(sign_in(&house, "/_session", now), 401, "used, before the restart");
    assert_eq!(sign_in(&house, "/_session", now + 1), 200, "the next one");
}

#[test]
fn a_new_account_inherits_nothing_from_a_deleted_account_of_the_same_name() {
    let house = House::new(&[]);
    for way in ["DELETE", "purge", "database"] {
        house.make("ann", "pw", &[]);
        let body = json!({"name": "ann", "password": "pw"});
        let signed = house.json("POST", "/_session", "X-Settee-Device: old phone", &body);
        let cookie = signed.cookie().expect("a session");
        let tokens = house.json("POST", "/_session/token", "X-Settee-Device: old app", &body).json();
        let bearer = format!("Authorization: Bearer {}", tokens["access_token"].as_str().expect("a token"));
        let mut stored = house.stored("ann").json();
        stored.as_object_mut().expect("an object").retain(|member, _| !member.starts_with('_') || member == "_id");
        match way {
            "DELETE" => house.remove("ann"),
            "purge" => {
                let purge = json!({"org.couchdb.user:ann": [house.revision("ann")]});
                assert_eq!(house.admin("POST", "/_users/_purge", &purge).status, 201);
            }
            _ => {
                assert_eq!(house.admin("DELETE", "/_users", &Value::Null).status, 200);
                assert_eq!(house.admin("PUT", "/_users", &Value::Null).status, 201);
            }
        }
        // The new account has the same hash and salt, as if restored from a backup.
        assert_eq!(house.admin("PUT", &path("ann"), &stored).status, 201, "{way}");
        let devices = house.json("GET", "/_session/devices", &basic("ann", "pw"), &Value::Null);
        assert_eq!(devices.text().trim(), r#"{"devices":[]}"#, "{way}");
        assert_eq!(house.ask("GET", "/_session", &[&cookie], b"").json()["userCtx"]["name"], Value::Null, "{way}");
        assert_eq!(house.ask("GET", "/_session", &[&bearer], b"").status, 401, "{way}");
        let refresh = json!({"refresh_token": tokens["refresh_token"]});
        assert_eq!(house.json("POST", "/_session/token", "X-Nothing: 1", &refresh).status, 401, "{way}");
        house.remove("ann");
    }
}

#[test]
fn verifying_any_stored_hash_takes_less_than_a_second() {
    let house = House::new(&[("chttpd_auth_lockout/mode", "off")]);
    house.make("eve", "pw", &[]);
    let mut own = house.stored("eve").json();
    own.as_object_mut().expect("an object").remove("_revisions");
    for (prf, iterations, scheme) in [
        ("sha512", json!(10_000_000), "pbkdf2"),
        ("sha512", json!(750_001), "pbkdf2"),
        ("sha256", json!(1_500_001), "simple+pbkdf2"),
        ("sha", json!(4_294_967_296_u64), "pbkdf2"),
        ("sha", json!(1e300), "pbkdf2"),
        ("sha", json!(-1), "pbkdf2"),
        ("sha", json!(0), "pbkdf2"),
        ("md5", json!(10), "pbkdf2"),
    ] {
        let mut asked = own.clone();
        for (name, value) in
            [("pbkdf2_prf", json!(prf)), ("iterations", iterations.clone()), ("password_scheme", json!(scheme))]
        {
            asked[name] = value;
        }
        for who in [basic("eve", "pw"), admin()] {
            let answer = house.json("PUT", &path("eve"), &who, &asked);
            assert_eq!(answer.status, 403, "{prf} {iterations} {scheme}: {}", answer.text());
        }
    }
    for member in ["salt", "derived_key", "password_sha"] {
        let mut asked = own.clone();
        asked[member] = "a".repeat(100_000).into();
        assert_eq!(house.json("PUT", &path("eve"), &basic("eve", "pw"), &asked).status, 403, "{member}");
    }
    // Replication by an admin stores such a hash, but the server does not compute it.
    let mut asked = own.clone();
    (asked["iterations"], asked["pbkdf2_prf"]) = (json!(10_000_000), json!("sha512"));
    asked["_rev"] = format!("2-{NEW}").into();
    asked["_revisions"] = json!({"start": 2, "ids": [NEW, hash_of(own["_rev"].as_str().expect("one")).1]});
    let bulk = json!({"new_edits": false, "docs": [asked]});
    assert_eq!(house.admin("POST", "/_users/_bulk_docs", &bulk).text().trim(), "[]");
    let began = Instant::now();
    assert_eq!(house.signs_in("eve", "wrong"), 401);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let shown = house.admin("GET", "/_node/_local/_config/chttpd_auth/max_iterations", &Value::Null).json();
    assert_eq!(shown, "1500000", "the bound that holds is the one that is shown");
}

#[test]
fn a_client_that_forces_many_hashes_does_not_delay_others() {
    let house = House::new(&[("chttpd_auth_lockout/mode", "off")]);
    house.make("ann", "pw", &[]);
    house.make("eve", "pw", &[]);
    let mut own = house.stored("eve").json();
    own.as_object_mut().expect("an object").remove("_revisions");
    (own["iterations"], own["pbkdf2_prf"]) = (json!(750_000), json!("sha512"));
    assert_eq!(house.json("PUT", &path("eve"), &basic("eve", "pw"), &own).status, 201, "as much as is allowed");
    let wrong = json!({"name": "eve", "password": "wrong"}).to_string();
    let flood: Vec<Held> = (0..48)
        .map(|_| {
            let mut held = hold(&house.server.address, "POST /_session", &[JSON], wrong.as_bytes());
            held.stream.write_all(wrong.as_bytes()).expect("sent");
            held
        })
        .collect();
    let waited: Vec<Duration> = (0..4)
        .map(|number| {
            let began = Instant::now();
            let (password, status) = if number == 3 { ("pw", 200) } else { ("also wrong", 401) };
            assert_eq!(house.signs_in("ann", password), status);
            began.elapsed()
        })
        .collect();
    drop(flood);
    // Each sign-in waits for at most one running hash and its own.
    assert!(waited.iter().all(|time| *time < Duration::from_secs(5)), "{waited:?}");
}

#[test]
fn sign_up_is_limited_to_one_account_per_request_and_a_few_per_hour() {
    let house = House::new(&[
        ("chttpd_auth/allow_sign_up", "true"),
        ("couch_peruser/enable", "true"),
        ("rate_limits/exempt", "192.0.2.1"),
        ("rate_limits/sign_up_burst", "5"),
        ("rate_limits/sign_ups_per_hour", "1"),
    ]);
    let plain = |name: String| {
        let mut doc = account(&name, "", &[]);
        doc.as_object_mut().expect("an object").remove("password");
        doc
    };
    let docs: Vec<Value> = (0..2000).map(|number| plain(format!("a{number}"))).collect();
    for who in ["X-Nothing: 1".to_owned(), token("a1")] {
        let answer = house.json("POST", "/_users/_bulk_docs", &who, &json!({ "docs": docs }));
        let made = answer.json().as_array().map_or(0, |rows| rows.iter().filter(|row| row["ok"] == true).count());
        assert_eq!(made, 1, "{}", &answer.text()[..200.min(answer.text().len())]);
    }
    let statuses: Vec<u16> = (0..6)
        .map(|number| {
            // The same limit applies with and without a password.
            let name = format!("b{number}");
            let doc = if number % 2 == 0 { plain(name.clone()) } else { account(&name, "pw", &[]) };
            house.json("PUT", &path(&name), "X-Nothing: 1", &doc).status
        })
        .collect();
    assert_eq!(statuses, [201, 201, 201, 429, 429, 429]);
    house.set("rate_limits/exempt", "127.0.0.1");
    let all = house.admin("GET", "/_users/_all_docs?startkey=%22org%22", &Value::Null).json();
    assert_eq!(all["rows"].as_array().map(Vec::len), Some(5));
}
