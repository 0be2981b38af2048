//! One immutable snapshot of all runtime settings. A change creates a new snapshot; running requests keep the
//! old one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::catalogue;
use super::kind::{self, Kind, parse_bytes};
use super::networks::Networks;

/// Section → key → value, as text. Holds only explicitly set values, no defaults.
pub type Table = BTreeMap<String, BTreeMap<String, String>>;

/// What a 401 says in `WWW-Authenticate` under `require_valid_user`, if nothing else is configured.
pub const CHALLENGE: &str = "Basic realm=\"server\"";

/// The keys that clients read to judge a server (set-up assistants such as that of Obsidian LiveSync), and whose
/// value follows from other keys if it is not set: see [`Settings::shown`].
const IN_FORCE: &[(&str, &str)] = &[
    ("cors", "credentials"),
    ("cors", "origins"),
    ("httpd", "enable_cors"),
    ("httpd", "WWW-Authenticate"),
    ("chttpd", "WWW-Authenticate"),
];

/// The settings that requests use, typed, and the table that they were parsed from.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    table: Table,
    /// Maximum size of a document's JSON body in bytes.
    pub max_document_size: u64,
    /// Maximum size of one attachment in bytes.
    pub max_attachment_size: u64,
    /// Maximum size of a request body in bytes.
    pub max_request_size: u64,
    /// Maximum length of a document id in bytes.
    pub max_document_id_length: u64,
    /// Maximum length of a request's path and query in bytes.
    pub max_uri_length: u64,
    /// Maximum nesting depth of a JSON body.
    pub max_json_depth: usize,
    /// Maximum bytes of JSON bodies held in memory at once, over all requests.
    pub max_json_memory: u64,
    /// Milliseconds that a waiting `_changes` feed stays open, by default and at most.
    pub changes_timeout: u64,
    /// Whether a `+` in a path decodes to a space.
    pub plus_is_space: bool,
    /// Rejects all unauthenticated requests.
    pub require_valid_user: bool,
    /// Rejects all unauthenticated requests except `/_up`.
    pub require_valid_user_except_for_up: bool,
    /// Only admins may list databases.
    pub admin_only_all_dbs: bool,
    /// Maximum number of databases in one `POST /_dbs_info`.
    pub max_dbs_info: usize,
    /// `[uuids]`.
    pub uuids: Uuids,
    /// `[cors]`.
    pub cors: Cors,
    /// Whether the `Server` header tells the version.
    pub server_header_versions: bool,
    /// The header with the client's address, if one is set.
    pub peer_header: Option<String>,
    /// `[attachments]`.
    pub compression: AttachmentCompression,
    /// Proxies whose forwarding headers set the client's address.
    pub trusted_proxies: Networks,
    /// Addresses that are exempt from rate limits.
    pub unlimited: Networks,
    /// Seconds without a byte after which the server stops reading a request body.
    pub body_timeout: u64,
    /// Minimum rate of a request body in bytes per second, averaged over the time spent waiting for it; 0: no
    /// minimum.
    pub min_body_rate: u64,
}

/// `[uuids]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uuids {
    /// The algorithm that generates ids.
    pub algorithm: UuidAlgorithm,
    /// Maximum number of ids in one `GET /_uuids`.
    pub max_count: usize,
    /// The suffix that `utc_id` appends.
    pub utc_id_suffix: String,
}

/// CouchDB's algorithms for generating ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UuidAlgorithm {
    Sequential,
    Random,
    UtcRandom,
    UtcId,
}

/// `[cors]`. Header names are lower-cased, because CouchDB compares them case-insensitively.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Whether CORS is enabled.
    pub enabled: bool,
    /// Allowed origins, or `*`.
    pub origins: Vec<String>,
    /// Whether pages may send cookies.
    pub credentials: bool,
    /// Allowed request headers, lower-cased; `None`: CouchDB's list.
    pub headers: Option<Vec<String>>,
    /// Allowed methods; `None`: all.
    pub methods: Option<Vec<String>>,
    /// Response headers that pages may read, lower-cased; `None`: CouchDB's list.
    pub exposed_headers: Option<Vec<String>>,
    /// Seconds for which a browser may cache the preflight response.
    pub max_age: u64,
}

/// `[attachments]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentCompression {
    /// gzip level; 0: off.
    pub level: u32,
    /// Content types; `text/*` matches all subtypes.
    pub types: Vec<String>,
}

impl Settings {
    /// Checks the values of all known keys in `table`. The error names the key and the accepted values.
    pub fn new(table: Table) -> Result<Settings, String> {
        for (section, keys) in &table {
            for (key, value) in keys {
                check(section, key, value)?;
            }
        }
        let of = |section: &str, key: &str| lookup(&table, section, key).unwrap_or_default();
        let flag = |section: &str, key: &str| of(section, key) == "true";
        let number = |section: &str, key: &str| parse_bytes(of(section, key)).unwrap_or(u64::MAX);
        let networks = |section: &str, key: &str| Networks::parse(of(section, key)).unwrap_or_default();
        let list = |section: &str, key: &str| lookup(&table, section, key).map(split_list);
        let settings = Settings {
            max_document_size: number("couchdb", "max_document_size"),
            max_attachment_size: number("couchdb", "max_attachment_size"),
            max_request_size: number("chttpd", "max_http_request_size"),
            max_document_id_length: number("couchdb", "max_document_id_length"),
            max_uri_length: number("chttpd", "max_uri_length"),
            max_json_depth: number("settee", "max_json_depth") as usize,
            max_json_memory: number("settee", "max_json_memory"),
            changes_timeout: number("chttpd", "changes_timeout"),
            plus_is_space: flag("chttpd", "decode_plus_to_space"),
            require_valid_user: flag("chttpd", "require_valid_user"),
            require_valid_user_except_for_up: flag("chttpd", "require_valid_user_except_for_up"),
            admin_only_all_dbs: flag("chttpd", "admin_only_all_dbs"),
            max_dbs_info: number("chttpd", "max_db_number_for_dbs_info_req") as usize,
            uuids: Uuids {
                algorithm: match of("uuids", "algorithm") {
                    "random" => UuidAlgorithm::Random,
                    "utc_random" => UuidAlgorithm::UtcRandom,
                    "utc_id" => UuidAlgorithm::UtcId,
                    _ => UuidAlgorithm::Sequential,
                },
                max_count: number("uuids", "max_count") as usize,
                utc_id_suffix: of("uuids", "utc_id_suffix").to_owned(),
            },
            cors: Cors {
                enabled: flag("chttpd", "enable_cors"),
                origins: list("cors", "origins").unwrap_or_default(),
                // With configured origins, credentials are off unless set, as in CouchDB. Otherwise `origins
                // = *` would let every page send cookies.
                credentials: match lookup(&table, "cors", "credentials") {
                    Some(said) => said == "true",
                    None => explicit(&table, "cors", "origins").is_none(),
                },
                headers: list("cors", "headers").map(lower),
                methods: list("cors", "methods"),
                exposed_headers: list("cors", "exposed_headers").map(lower),
                max_age: number("cors", "max_age"),
            },
            server_header_versions: flag("chttpd", "server_header_versions"),
            peer_header: Some(of("chttpd", "peer_header")).filter(|name| !name.is_empty()).map(str::to_owned),
            compression: AttachmentCompression {
                level: number("attachments", "compression_level") as u32,
                types: list("attachments", "compressible_types").unwrap_or_default(),
            },
            trusted_proxies: networks("settee", "trusted_proxies"),
            unlimited: networks("rate_limits", "exempt"),
            body_timeout: number("settee", "body_timeout"),
            min_body_rate: number("settee", "min_body_rate"),
            table,
        };
        Ok(settings)
    }

    /// Returns the value of a key: the one set, else the one set under the section's older name, else the
    /// default.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        lookup(&self.table, section, key)
    }

    /// Returns the value of a known number or size, or its default if it is unset.
    pub fn number(&self, section: &str, key: &str) -> u64 {
        self.get(section, key).and_then(parse_bytes).unwrap_or(u64::MAX)
    }

    /// Returns the value of a known flag, or its default if it is unset.
    pub fn flag(&self, section: &str, key: &str) -> bool {
        self.get(section, key) == Some("true")
    }

    /// The explicitly set values, without defaults.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Returns the value of a key as clients may read it: as [`Settings::get`], but for the keys in [`IN_FORCE`],
    /// whose value depends on other keys, what is in force.
    pub fn shown(&self, section: &str, key: &str) -> Option<Cow<'_, str>> {
        let cors = &self.cors;
        let word = |flag: bool| Some(if flag { "true" } else { "false" }.into());
        match (section, key) {
            ("cors", "credentials") => word(cors.credentials),
            ("cors", "origins") => Some(cors.origins.join(",").into()),
            ("httpd", "enable_cors") if explicit(&self.table, section, key).is_none() => word(cors.enabled),
            ("chttpd" | "httpd", "WWW-Authenticate") => explicit(&self.table, section, key)
                .or_else(|| self.get("chttpd", key))
                .or(self.require_valid_user.then_some(CHALLENGE))
                .map(Cow::from),
            _ => self.get(section, key).map(Cow::from),
        }
    }

    /// All values including defaults, as `GET /_node/_local/_config` returns them. Contains secrets: the
    /// caller must mask them.
    pub fn whole(&self) -> Table {
        let mut whole = self.table.clone();
        for row in catalogue::KNOWN {
            if let Some(default) = row.default {
                let value = lookup(&self.table, row.section, row.key).unwrap_or(default);
                let section = whole.entry(row.section.to_owned()).or_default();
                section.entry(row.key.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        for (section, key) in IN_FORCE {
            if let Some(value) = self.shown(section, key) {
                whole.entry((*section).to_owned()).or_default().insert((*key).to_owned(), value.into_owned());
            }
        }
        whole
    }

    /// Returns the password hash of a server admin.
    pub fn admin(&self, name: &str) -> Option<&str> {
        self.table.get("admins")?.get(name).map(String::as_str)
    }

    /// Whether any admin is configured.
    pub fn has_admins(&self) -> bool {
        self.table.get("admins").is_some_and(|admins| !admins.is_empty())
    }
}

/// Prints only the names of the set keys, because the table holds secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            self.table.iter().flat_map(|(section, keys)| keys.keys().map(move |key| format!("{section}/{key}")));
        out.debug_struct("Settings").field("set", &names.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new(Table::new()).expect("the defaults are right")
    }
}

/// Checks one value. Unknown keys accept any text.
pub fn check(section: &str, key: &str, value: &str) -> Result<(), String> {
    let row = catalogue::known(section, key).or_else(|| {
        catalogue::KNOWN.iter().find(|row| catalogue::older_name(row.section) == Some(section) && row.key == key)
    });
    kind::check(row.map_or(Kind::Text, |row| row.kind), value).map_err(|wrong| format!("[{section}] {key}: {wrong}"))
}

fn explicit<'a>(table: &'a Table, section: &str, key: &str) -> Option<&'a str> {
    table.get(section)?.get(key).map(String::as_str)
}

pub(super) fn lookup<'a>(table: &'a Table, section: &str, key: &str) -> Option<&'a str> {
    explicit(table, section, key)
        .or_else(|| explicit(table, catalogue::older_name(section)?, key))
        .or_else(|| catalogue::known(section, key)?.default)
}

/// Splits a comma-separated list; trims the items and drops empty ones.
pub fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn lower(list: Vec<String>) -> Vec<String> {
    list.into_iter().map(|item| item.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str, &str)]) -> Table {
        let mut table = Table::new();
        for (section, key, value) in rows {
            table.entry((*section).into()).or_default().insert((*key).into(), (*value).into());
        }
        table
    }

    #[test]
    fn unset_keys_have_their_defaults() {
        let settings = Settings::default();
        assert_eq!(settings.max_document_size, 50_000_000);
        assert_eq!(settings.max_request_size, 4_294_967_296);
        assert!(settings.cors.enabled && settings.cors.credentials);
        assert!(!settings.require_valid_user);
        assert!(!settings.has_admins());
    }

    #[test]
    fn the_newer_section_name_overrides_the_older_one() {
        let older = table(&[("httpd", "enable_cors", "false")]);
        assert!(!Settings::new(older).unwrap().cors.enabled);
        let both = table(&[("httpd", "enable_cors", "false"), ("chttpd", "enable_cors", "true")]);
        assert!(Settings::new(both).unwrap().cors.enabled);
    }

    #[test]
    fn an_invalid_value_is_rejected_and_the_error_names_the_accepted_values() {
        for (section, key, value, says) in [
            ("chttpd", "enable_cors", "yes", "`true` or `false`"),
            ("httpd", "enable_cors", "yes", "`true` or `false`"),
            ("couchdb", "max_document_size", "big", "a number of bytes"),
            ("uuids", "algorithm", "dice", "sequential, random, utc_random, utc_id"),
            ("uuids", "max_count", "0", "from 1 to 1000000"),
        ] {
            let wrong = Settings::new(table(&[(section, key, value)])).unwrap_err();
            assert!(wrong.contains(says) && wrong.contains(key), "{wrong}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let rows =
            [("chttpd_auth", "secret", "hush"), ("admins", "ann", "-pbkdf2-hush"), ("jwt_keys", "hmac:a", "hush")];
        let shown = format!("{:?}", Settings::new(table(&rows)).unwrap());
        assert!(shown.contains("chttpd_auth/secret") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn what_is_shown_is_what_is_in_force() {
        let shown = |rows: &[(&str, &str, &str)], section: &str, key: &str| {
            let settings = Settings::new(table(rows)).unwrap();
            let whole = settings.whole().get(section).and_then(|keys| keys.get(key)).cloned();
            assert_eq!(
                settings.shown(section, key).map(Cow::into_owned),
                whole,
                "{section}/{key}: one key and all keys"
            );
            whole.unwrap_or_default()
        };
        let two = ("cors", "origins", "https://a.example, https://b.example");
        let closed = ("chttpd", "require_valid_user", "true");
        for (rows, section, key, value) in [
            (&[][..], "cors", "credentials", "true"),
            (&[two][..], "cors", "credentials", "false"),
            (&[two, ("cors", "credentials", "true")], "cors", "credentials", "true"),
            (&[], "cors", "origins", catalogue::DEFAULT_ORIGINS),
            (&[two], "cors", "origins", "https://a.example,https://b.example"),
            (&[], "httpd", "enable_cors", "true"),
            (&[("chttpd", "enable_cors", "false")], "httpd", "enable_cors", "false"),
            (&[("httpd", "enable_cors", "false")], "chttpd", "enable_cors", "false"),
            (&[], "httpd", "WWW-Authenticate", ""),
            (&[closed], "httpd", "WWW-Authenticate", CHALLENGE),
            (&[closed], "chttpd", "WWW-Authenticate", CHALLENGE),
            (&[("chttpd", "WWW-Authenticate", "Basic realm=\"a\"")], "httpd", "WWW-Authenticate", "Basic realm=\"a\""),
            (&[("httpd", "WWW-Authenticate", "Basic realm=\"a\"")], "chttpd", "WWW-Authenticate", "Basic realm=\"a\""),
        ] {
            assert_eq!(shown(rows, section, key), value, "{rows:?} {section}/{key}");
        }
        assert!(!catalogue::DEFAULT_ORIGINS.contains(' '), "clients split the list at its commas");
    }

    #[test]
    fn unknown_keys_are_kept() {
        let settings = Settings::new(table(&[("mine", "own", "x")])).unwrap();
        assert_eq!(settings.get("mine", "own"), Some("x"));
        assert_eq!(settings.whole()["mine"]["own"], "x");
        assert_eq!(settings.whole()["couchdb"]["max_document_size"], "50000000");
    }
}
