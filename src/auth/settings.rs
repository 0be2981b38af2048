//! Typed settings of accounts and access, read from CouchDB's sections `[chttpd]`, `[chttpd_auth]` (and its
//! older name `[couch_httpd_auth]`), `[chttpd_auth_lockout]`, `[couch_peruser]` and others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::peruser::PerUser;
use super::requirements::Requirements;
use super::session::{Algorithm, Attributes, SameSite, Secrets};
use super::source::{Source, boolean, number};
use super::{Handler, jwt, lockout, password};

impl Source for BTreeMap<String, BTreeMap<String, String>> {
    fn get(&self, section: &str, key: &str) -> Option<String> {
        BTreeMap::get(self, section)?.get(key).cloned()
    }

    fn section(&self, section: &str) -> Vec<(String, String)> {
        let section = BTreeMap::get(self, section);
        section.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// All settings of `auth`. [`Settings::read`] never fails: an invalid value is replaced by CouchDB's default,
/// or disables the feature (`password_scheme`, `pbkdf2_prf`, lockout `mode`).
#[derive(Clone)]
pub struct Settings {
    /// `chttpd/authentication_handlers`, in the order in which they run.
    pub handlers: Vec<Handler>,
    /// `chttpd_auth/authentication_db`: the database of users, `_users`.
    pub authentication_db: String,
    /// The same, but only if it is set: only then does `GET /_session` show it.
    pub authentication_db_shown: Option<String>,
    /// `chttpd_auth/timeout`: seconds that a session lasts without renewal; 600.
    pub timeout: u64,
    /// `chttpd_auth/allow_persistent_cookies`: whether the cookie has a `Max-Age`, so that browsers keep it;
    /// true.
    pub persistent_cookies: bool,
    /// `chttpd_auth/cookie_domain`.
    pub cookie_domain: String,
    /// `chttpd_auth/same_site`.
    pub same_site: Option<SameSite>,
    /// `chttpd_auth/hash_algorithms` of the cookie. The first signs, all of them verify; `sha256, sha`.
    pub hash_algorithms: Vec<Algorithm>,
    /// `chttpd_auth/secret`. If there is none, the caller generates and persists one.
    pub secret: Option<String>,
    /// `chttpd_auth/allow_conflicted_user_docs`: whether a user with a conflicted document may authenticate;
    /// false.
    pub allow_conflicted_user_docs: bool,
    /// How passwords are hashed.
    pub password: password::Policy,
    /// `chttpd_auth/password_regexp`: requirements of new passwords.
    pub requirements: Requirements,
    /// `chttpd_auth/public_fields`: the members of user documents that everyone may read.
    pub public_fields: Vec<String>,
    /// `couchdb/users_db_security_editable`: whether the `_security` of the users' database may be changed;
    /// false.
    pub users_db_security_editable: bool,
    /// Per-user databases.
    pub peruser: PerUser,
    /// Lockout after repeated wrong passwords.
    pub lockout: lockout::Policy,
    /// `chttpd/require_valid_user`: anonymous clients may do nothing but sign in; false.
    pub require_valid_user: bool,
    /// `chttpd/require_valid_user_except_for_up`: the same, except for `/_up`; false.
    pub require_valid_user_except_for_up: bool,
    /// `chttpd/admin_only_all_dbs`: whether only server admins may list databases; true.
    pub admin_only_all_dbs: bool,
    /// Proxy authentication.
    pub proxy: Proxy,
    /// Bearer tokens.
    pub jwt: jwt::Settings,
}

/// Settings of proxy authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `chttpd_auth/x_auth_username`: the name of the header that contains the user's name.
    pub user_header: String,
    /// `chttpd_auth/x_auth_roles`: the name of the header that contains the user's roles.
    pub roles_header: String,
    /// `chttpd_auth/x_auth_token`: the name of the header that contains the token.
    pub token_header: String,
    /// `chttpd_auth/proxy_use_secret`: whether the token must be the HMAC of the name under the server's
    /// secret. False, as in CouchDB, which is safe only if no one but the proxy can reach the server.
    pub use_secret: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::read(&BTreeMap::new())
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Settings")
            .field("handlers", &self.handlers)
            .field("authentication_db", &self.authentication_db)
            .field("timeout", &self.timeout)
            .field("password", &self.password)
            .field("lockout", &self.lockout)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads all settings.
    pub fn read(source: &dyn Source) -> Settings {
        let auth = |key: &str| source.get("chttpd_auth", key).or_else(|| source.get("couch_httpd_auth", key));
        Settings {
            handlers: handlers(source),
            authentication_db: users_database(source),
            authentication_db_shown: users_database_in(source, "chttpd_auth"),
            timeout: number(auth("timeout"), 600),
            persistent_cookies: boolean(auth("allow_persistent_cookies"), true),
            cookie_domain: auth("cookie_domain").unwrap_or_default().trim().to_string(),
            same_site: same_site(auth("same_site")),
            hash_algorithms: Algorithm::list(auth("hash_algorithms").as_deref().unwrap_or("sha256, sha")),
            secret: auth("secret").filter(|secret| !secret.is_empty()),
            allow_conflicted_user_docs: boolean(source.get("chttpd_auth", "allow_conflicted_user_docs"), false),
            password: password_policy(&auth, source),
            requirements: Requirements::parse(&auth("password_regexp").unwrap_or_default()),
            public_fields: field_list(auth("public_fields")),
            users_db_security_editable: boolean(source.get("couchdb", "users_db_security_editable"), false),
            peruser: PerUser::read(source),
            lockout: lockout_policy(source),
            require_valid_user: boolean(source.get("chttpd", "require_valid_user"), false)
                || boolean(source.get("couch_httpd_auth", "require_valid_user"), false)
                || boolean(source.get("chttpd_auth", "require_valid_user"), false),
            require_valid_user_except_for_up: boolean(source.get("chttpd", "require_valid_user_except_for_up"), false),
            admin_only_all_dbs: boolean(source.get("chttpd", "admin_only_all_dbs"), true),
            proxy: Proxy {
                user_header: auth("x_auth_username").unwrap_or_else(|| "X-Auth-CouchDB-UserName".into()),
                roles_header: auth("x_auth_roles").unwrap_or_else(|| "X-Auth-CouchDB-Roles".into()),
                token_header: auth("x_auth_token").unwrap_or_else(|| "X-Auth-CouchDB-Token".into()),
                use_secret: boolean(auth("proxy_use_secret"), false),
            },
            jwt: jwt::Settings::read(source),
        }
    }

    /// Whether the settings enable a handler.
    pub fn uses(&self, handler: Handler) -> bool {
        self.handlers.contains(&handler)
    }

    /// The attributes of the session's `Set-Cookie` header. `secure`: the request came over TLS.
    pub fn cookie_attributes(&self, secure: bool) -> Attributes {
        Attributes {
            max_age: self.persistent_cookies.then_some(self.timeout),
            secure,
            domain: self.cookie_domain.clone(),
            same_site: self.same_site,
        }
    }

    /// The secrets that these settings define.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.secret.as_deref())
    }
}

/// The name of the users' database.
pub fn users_database(source: &dyn Source) -> String {
    ["chttpd_auth", "couch_httpd_auth"]
        .into_iter()
        .find_map(|section| users_database_in(source, section))
        .unwrap_or_else(|| "_users".into())
}

/// The name of the users' database in one section. An empty name counts as none.
fn users_database_in(source: &dyn Source, section: &str) -> Option<String> {
    source.get(section, "authentication_db").filter(|name| !name.is_empty())
}

/// Parses CouchDB's list of Erlang functions, `{chttpd_auth, cookie_authentication_handler}, ...`, by the
/// names of the functions. Without a list: cookie and Basic, and also JWT if a key to verify tokens is
/// configured.
fn handlers(source: &dyn Source) -> Vec<Handler> {
    let Some(list) = source.get("chttpd", "authentication_handlers").filter(|list| !list.trim().is_empty()) else {
        let jwt = !source.section("jwt_keys").is_empty() || source.get("jwt_auth", "jwks_url").is_some();
        return [Handler::Cookie, Handler::Default].into_iter().chain(jwt.then_some(Handler::Jwt)).collect();
    };
    let mut found = Vec::new();
    for word in list.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let handler = match word {
            "cookie_authentication_handler" => Handler::Cookie,
            "default_authentication_handler" => Handler::Default,
            "proxy_authentication_handler" | "proxy_authentification_handler" => Handler::Proxy,
            "jwt_authentication_handler" => Handler::Jwt,
            _ => continue,
        };
        if !found.contains(&handler) {
            found.push(handler);
        }
    }
    found
}

/// Upper limit of `max_iterations`: a few seconds of CPU time.
pub const MOST_ITERATIONS: u64 = 10_000_000;

fn password_policy(auth: &dyn Fn(&str) -> Option<String>, source: &dyn Source) -> password::Policy {
    let default = password::Policy::default();
    let most = number(auth("max_iterations"), default.max_iterations).clamp(1, MOST_ITERATIONS);
    password::Policy {
        scheme: match auth("password_scheme").as_deref() {
            None | Some("pbkdf2") => Some(password::Scheme::Pbkdf2),
            Some("simple") => Some(password::Scheme::Simple),
            Some(_) => None,
        },
        prf: auth("pbkdf2_prf").map_or(default.prf, |name| password::Prf::named(&name)),
        iterations: number(auth("iterations"), u64::from(default.iterations)).clamp(1, most) as u32,
        min_iterations: number(auth("min_iterations"), default.min_iterations),
        max_iterations: most,
        upgrade_on_sign_in: boolean(source.get("chttpd_auth", "upgrade_hash_on_auth"), true),
    }
}

fn field_list(setting: Option<String>) -> Vec<String> {
    let fields = setting.unwrap_or_default();
    fields.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::to_string).collect()
}

fn lockout_policy(source: &dyn Source) -> lockout::Policy {
    let get = |key: &str| source.get("chttpd_auth_lockout", key);
    let default = lockout::Policy::default();
    lockout::Policy {
        mode: match get("mode").as_deref() {
            None | Some("enforce") => lockout::Mode::Enforce,
            Some("warn") => lockout::Mode::Warn,
            Some(_) => lockout::Mode::Off,
        },
        threshold: number(get("threshold"), u64::from(default.threshold)).min(u64::from(u32::MAX)) as u32,
        lifetime: Duration::from_millis(number(get("max_lifetime"), default.lifetime.as_millis() as u64)),
    }
}

fn same_site(setting: Option<String>) -> Option<SameSite> {
    match setting?.trim().to_ascii_lowercase().as_str() {
        "" => None,
        "none" => Some(SameSite::None),
        "lax" => Some(SameSite::Lax),
        "strict" => Some(SameSite::Strict),
        other => {
            tracing::error!(value = other, "invalid value of chttpd_auth/same_site");
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A source with rows of (section, key, value).
    pub fn source(rows: &[(&str, &str, &str)]) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (section, key, value) in rows {
            all.entry(section.to_string()).or_default().insert(key.to_string(), value.to_string());
        }
        all
    }

    #[test]
    fn empty_settings_yield_couchdbs_defaults() {
        let settings = Settings::default();
        assert_eq!(settings.handlers, [Handler::Cookie, Handler::Default]);
        assert_eq!((settings.authentication_db.as_str(), settings.authentication_db_shown), ("_users", None));
        assert_eq!((settings.timeout, settings.persistent_cookies, settings.same_site), (600, true, None));
        assert_eq!(settings.hash_algorithms, [Algorithm::Sha256, Algorithm::Sha]);
        assert_eq!(settings.password, password::Policy::default());
        assert_eq!(settings.lockout, lockout::Policy::default());
        assert!(!settings.require_valid_user && settings.admin_only_all_dbs && !settings.proxy.use_secret);
    }

    #[test]
    fn the_older_section_applies_where_the_newer_has_no_value() {
        let settings = Settings::read(&source(&[
            ("couch_httpd_auth", "timeout", "30"),
            ("couch_httpd_auth", "iterations", "10"),
            ("chttpd_auth", "iterations", "1"),
            ("couch_httpd_auth", "require_valid_user", "true"),
            ("couch_httpd_auth", "authentication_db", "people"),
        ]));
        assert_eq!((settings.timeout, settings.password.iterations), (30, 1));
        assert!(settings.require_valid_user);
        assert_eq!((settings.authentication_db.as_str(), settings.authentication_db_shown), ("people", None));
    }

    #[test]
    fn handlers_keep_the_order_of_the_setting() {
        let list = "{chttpd_auth, jwt_authentication_handler}, {chttpd_auth,proxy_authentification_handler}, \
                    {couch_httpd_auth, default_authentication_handler}, {x, unknown}";
        let settings = Settings::read(&source(&[("chttpd", "authentication_handlers", list)]));
        assert_eq!(settings.handlers, [Handler::Jwt, Handler::Proxy, Handler::Default]);
        let keys = Settings::read(&source(&[("jwt_keys", "hmac:_default", "aGVsbG8=")]));
        assert_eq!(keys.handlers, [Handler::Cookie, Handler::Default, Handler::Jwt]);
    }

    #[test]
    fn invalid_values_yield_the_default_or_disable_the_feature() {
        let settings = Settings::read(&source(&[
            ("chttpd_auth", "timeout", "soon"),
            ("chttpd_auth", "pbkdf2_prf", "md5"),
            ("chttpd_auth", "password_scheme", "bcrypt"),
            ("chttpd_auth", "iterations", "99999999999"),
            ("chttpd_auth", "same_site", "sometimes"),
            ("chttpd_auth_lockout", "mode", "perhaps"),
            ("chttpd", "admin_only_all_dbs", "maybe"),
        ]));
        assert_eq!(settings.timeout, 600);
        assert_eq!((settings.password.prf, settings.password.scheme), (None, None));
        assert_eq!(settings.password.iterations, 1_500_000);
        assert_eq!((settings.same_site, settings.lockout.mode), (None, lockout::Mode::Off));
        assert!(settings.admin_only_all_dbs);
    }

    #[test]
    fn debug_shows_no_secret() {
        let settings = Settings::read(&source(&[("chttpd_auth", "secret", "hush")]));
        assert!(!format!("{settings:?} {:?}", settings.secrets()).contains("hush"));
    }
}
