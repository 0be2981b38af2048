//! A server whose users authenticate with every method, and every way to revoke their access.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};

use super::wire::{Reply, Wire};
use crate::server::Server;

const ROOT: &str = "Authorization: Basic YWRtaW46c2VjcmV0\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const JWT_SECRET: &[u8] = b"a secret of the tests";
const HANDLERS: &str = "{chttpd_auth, cookie_authentication_handler}, {chttpd_auth, default_authentication_handler}, \
                        {chttpd_auth, proxy_authentication_handler}, {chttpd_auth, jwt_authentication_handler}";

/// How a user authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Nobody,
    Password,
    Cookie,
    /// An access token that this server issued.
    Token,
    /// A token from another issuer.
    Jwt,
    Proxy,
    /// An admin named in the settings, by password and by cookie.
    Admin,
    AdminCookie,
}

/// How access is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    Member,
    Role,
    Account,
    /// The account is purged. The changes feed has no row for a purge.
    Purged,
    /// The whole users database is deleted, so this affects all users of the server.
    Accounts,
    Password,
    /// The user document gets the hash of another password under the same salt.
    Hash,
    Device,
    Everywhere,
    SignedOut,
    OneTimeCodes,
    Conflict,
    Expired,
    Key,
    Handler,
    ProxySecret,
    ValidUser,
    AdminGone,
    AdminPassword,
    Remade,
}

/// The server of a test.
pub struct House {
    pub server: Server,
    _data: tempfile::TempDir,
    count: AtomicU32,
}

/// A user with a database of their own.
pub struct Guest {
    pub name: String,
    pub database: String,
    pub by: By,
    /// Header lines that authenticate a request of the user.
    pub headers: String,
    /// When the user's JWT expires, in seconds since 1970.
    pub ends: u64,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn basic(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{name}:{password}")))
}

fn jwt(name: &str, ends: u64) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": name, "exp": ends, "_couchdb.roles": ["crew"]});
    let signed = format!("{}.{}", encode(json!({"typ": "JWT", "alg": "HS256"})), encode(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(JWT_SECRET).expect("a key");
    mac.update(signed.as_bytes());
    format!("Authorization: Bearer {signed}.{}\r\n", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

impl House {
    /// Starts a server with cheap password hashes, all authentication handlers and a JWT key.
    pub fn new() -> House {
        let data = tempfile::tempdir().expect("a folder");
        let server = Server::start(data.path(), "sled").expect("starts");
        let house = House { server, _data: data, count: AtomicU32::new(0) };
        for (key, value) in [
            ("chttpd_auth/iterations", "1"),
            ("chttpd/authentication_handlers", HANDLERS),
            ("jwt_keys/hmac:_default", &STANDARD.encode(JWT_SECRET)),
        ] {
            house.set(key, value);
        }
        let made = house.root("PUT /_users", &Value::Null).status;
        assert!(matches!(made, 201 | 412), "{made}");
        house
    }

    /// Sends a request as server admin.
    pub fn root(&self, line: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Wire::connect(&self.server.address).ask(line, &format!("{ROOT}{JSON}"), body.as_bytes())
    }

    /// Sends a request as server admin that must succeed.
    pub fn done(&self, line: &str, body: &Value) -> Reply {
        let reply = self.root(line, body);
        assert!((200..300).contains(&reply.status), "{line}: {} {}", reply.status, reply.text());
        reply
    }

    /// Sets a setting, named `section/key`.
    pub fn set(&self, key: &str, value: &str) {
        self.done(&format!("PUT /_node/_local/_config/{key}"), &value.into());
    }

    /// Resets a setting, named `section/key`, to its default.
    pub fn unset(&self, key: &str) {
        self.done(&format!("DELETE /_node/_local/_config/{key}"), &Value::Null);
    }

    /// Reads the guest's user document.
    pub fn user(&self, guest: &Guest) -> Value {
        self.done(&format!("GET /_users/org.couchdb.user:{}", guest.name), &Value::Null).json()
    }

    fn put_user(&self, guest: &Guest, change: impl FnOnce(&mut Value)) {
        let mut document = self.user(guest);
        change(&mut document);
        self.done(&format!("PUT /_users/org.couchdb.user:{}", guest.name), &document);
    }

    /// Creates a user who authenticates with `by`, and a database of which the user is admin and member.
    /// Access is granted by name, or by the role `crew` if the test will remove that role.
    pub fn guest(&self, by: By, loses: Withdrawn) -> Guest {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (name, database) = (format!("guest{number}"), format!("db{number}"));
        let mut guest = Guest { name: name.clone(), database, by, headers: String::new(), ends: now() + 600 };
        let account = json!({"type": "user", "name": name, "password": "pw", "roles": ["crew"]});
        match by {
            By::Password | By::Cookie | By::Token => {
                self.done(&format!("PUT /_users/org.couchdb.user:{name}"), &account);
            }
            By::Admin | By::AdminCookie => self.set(&format!("admins/{name}"), "pw"),
            By::Nobody | By::Jwt | By::Proxy => {}
        }
        self.open(&guest, loses == Withdrawn::Role);
        if loses == Withdrawn::Expired {
            guest.ends = now() + 4;
        }
        guest.headers = self.sign_in(&guest);
        guest
    }

    /// Creates the guest's database.
    fn open(&self, guest: &Guest, by_role: bool) {
        let group = if by_role { json!({"roles": ["crew"]}) } else { json!({"names": [guest.name]}) };
        let security = match guest.by {
            By::Nobody => json!({}),
            _ => json!({"members": group, "admins": group}),
        };
        self.done(&format!("PUT /{}", guest.database), &Value::Null);
        let design = json!({
            "rewrites": [{"from": "there", "to": "../../rewritten"}],
            "updates": {"f": "function (doc, request) { return [{_id: 'updated', body: request.body}, 'done']; }"},
        });
        self.done(&format!("PUT /{}/_design/d", guest.database), &design);
        self.done(&format!("PUT /{}/_security", guest.database), &security);
    }

    fn sign_in(&self, guest: &Guest) -> String {
        let body = json!({"name": guest.name, "password": "pw"}).to_string();
        let ask = |line: &str| {
            let reply = Wire::connect(&self.server.address).ask(line, JSON, body.as_bytes());
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply
        };
        match guest.by {
            By::Nobody => String::new(),
            By::Password | By::Admin => basic(&guest.name, "pw"),
            By::Cookie | By::AdminCookie => cookie(&ask("POST /_session")),
            By::Token => {
                let token = ask("POST /_session/token").json()["access_token"].as_str().expect("a token").to_owned();
                format!("Authorization: Bearer {token}\r\n")
            }
            By::Jwt => jwt(&guest.name, guest.ends),
            By::Proxy => {
                format!("X-Auth-CouchDB-UserName: {}\r\nX-Auth-CouchDB-Roles: crew\r\n", guest.name)
            }
        }
    }

    /// Revokes the guest's access in the way `what`. The change is effective when this returns.
    pub fn withdraw(&self, guest: &Guest, what: Withdrawn) {
        let Guest { name, database, .. } = guest;
        let own = |line: &str| {
            let headers = format!("{}{JSON}", guest.headers);
            let reply = Wire::connect(&self.server.address).ask(line, &headers, b"");
            assert_eq!(reply.status, 200, "{line}: {}", reply.text());
        };
        match what {
            Withdrawn::Member => {
                let others = json!({"members": {"names": ["somebody"]}, "admins": {"names": ["somebody"]}});
                self.done(&format!("PUT /{database}/_security"), &others);
            }
            Withdrawn::Role => self.put_user(guest, |user| user["roles"] = json!([])),
            Withdrawn::Account => {
                let rev = self.user(guest)["_rev"].as_str().expect("a revision").to_owned();
                self.done(&format!("DELETE /_users/org.couchdb.user:{name}?rev={rev}"), &Value::Null);
            }
            Withdrawn::Purged => {
                let rev = self.user(guest)["_rev"].clone();
                let id = format!("org.couchdb.user:{name}");
                self.done("POST /_users/_purge", &json!({ id: [rev] }));
            }
            Withdrawn::Accounts => drop(self.done("DELETE /_users", &Value::Null)),
            Withdrawn::Password => self.put_user(guest, |user| user["password"] = "other".into()),
            Withdrawn::Hash => self.put_user(guest, |user| user["derived_key"] = "0".repeat(64).into()),
            Withdrawn::OneTimeCodes => {
                self.put_user(guest, |user| user["totp"] = json!({"key": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"}));
            }
            Withdrawn::Conflict => {
                let mut other = self.user(guest);
                other["_rev"] = "1-ffffffffffffffffffffffffffffffff".into();
                self.done(&format!("PUT /_users/org.couchdb.user:{name}?new_edits=false"), &other);
            }
            Withdrawn::Device => {
                let listed = self.done(&format!("GET /_session/devices?user={name}"), &Value::Null).json();
                for device in listed["devices"].as_array().expect("devices") {
                    let id = device["id"].as_str().expect("an id");
                    self.done(&format!("DELETE /_session/devices/{id}?user={name}"), &Value::Null);
                }
            }
            Withdrawn::Everywhere => drop(self.done(&format!("DELETE /_session/devices?user={name}"), &Value::Null)),
            Withdrawn::SignedOut => own("DELETE /_session"),
            Withdrawn::Expired => {
                while now() < guest.ends {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Withdrawn::Key => self.unset("jwt_keys/hmac:_default"),
            Withdrawn::Handler => {
                self.set("chttpd/authentication_handlers", "{chttpd_auth, default_authentication_handler}")
            }
            Withdrawn::ProxySecret => self.set("chttpd_auth/proxy_use_secret", "true"),
            Withdrawn::ValidUser => self.set("chttpd/require_valid_user", "true"),
            Withdrawn::AdminGone => self.unset(&format!("admins/{name}")),
            Withdrawn::AdminPassword => self.set(&format!("admins/{name}"), "other"),
            Withdrawn::Remade => {
                self.done(&format!("DELETE /{database}"), &Value::Null);
                self.done(&format!("PUT /{database}"), &Value::Null);
            }
        }
    }

    /// Restores what a withdrawal has changed for all users.
    pub fn restore(&self, what: Withdrawn) {
        match what {
            Withdrawn::Key => self.set("jwt_keys/hmac:_default", &STANDARD.encode(JWT_SECRET)),
            Withdrawn::Handler => self.set("chttpd/authentication_handlers", HANDLERS),
            Withdrawn::Accounts => drop(self.done("PUT /_users", &Value::Null)),
            Withdrawn::ProxySecret => self.unset("chttpd_auth/proxy_use_secret"),
            Withdrawn::ValidUser => self.unset("chttpd/require_valid_user"),
            _ => {}
        }
    }
}

/// Returns the cookie that a response sets, as a header line.
pub fn cookie(reply: &Reply) -> String {
    let value = reply.header("set-cookie").expect("a cookie").split(';').next().expect("a value");
    format!("Cookie: {value}\r\n")
}
