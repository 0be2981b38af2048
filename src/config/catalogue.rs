//! The table of all known settings: CouchDB's section and key, the kind, the default, one line of
//! documentation.
//!
//! A key is "known" if it has a row here. The server checks the values of known keys, whatever their source
//! (file, environment, flag, HTTP), and a test checks that `docs/configuration.md` lists every row. The keys
//! of sections in [`FREE`] are names that users choose (admins, vendor, ...). Every other key is unknown: a
//! file may not set it; over HTTP it is stored and returned.

use super::kind::Kind;

/// One known setting.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// CouchDB's section.
    pub section: &'static str,
    /// CouchDB's key.
    pub key: &'static str,
    /// The syntax of the value.
    pub kind: Kind,
    /// `None`: the setting has no default.
    pub default: Option<&'static str>,
    /// Never shown in responses or logs.
    pub secret: bool,
    /// One line of documentation, which `docs/configuration.md` repeats.
    pub doc: &'static str,
}

const fn row(section: &'static str, key: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Known {
    Known { section, key, kind, default: Some(default), secret: false, doc }
}

const fn unset(section: &'static str, key: &'static str, kind: Kind, doc: &'static str) -> Known {
    Known { section, key, kind, default: None, secret: false, doc }
}

const fn secret(section: &'static str, key: &'static str, doc: &'static str) -> Known {
    Known { section, key, kind: Kind::Text, default: None, secret: true, doc }
}

const fn number(min: u64, max: u64) -> Kind {
    Kind::Number { min, max }
}

/// Sections whose keys are names that users choose.
pub const FREE: &[&str] = &["admins", "vendor", "jwt_keys", "feature_flags", "replicator.shares"];

/// Sections in which every value is secret.
pub const SECRET_SECTIONS: &[&str] = &["admins", "jwt_keys"];

/// Sections that cannot be changed over HTTP: in CouchDB they name programs and code (`couch_util.erl`,
/// `BLACKLIST_CONFIG_SECTIONS`). settee adds `settee` and `ssl`: only the machine's owner may choose the data
/// folder, the certificate files and the certificate authority.
pub const BLOCKED: &[&str] = &[
    "daemons",
    "external",
    "httpd_design_handlers",
    "httpd_db_handlers",
    "httpd_global_handlers",
    "native_query_servers",
    "os_daemons",
    "query_servers",
    "feature_flags",
    "settee",
    "ssl",
];

/// The default of `[cors] origins`: pages served from this machine, and the web views of mobile and desktop
/// apps. Without spaces: clients that read the list split it at the commas.
pub const DEFAULT_ORIGINS: &str = "http://localhost,https://localhost,http://127.0.0.1,https://127.0.0.1,\
                                   capacitor://localhost,ionic://localhost,tauri://localhost,http://tauri.localhost,\
                                   https://tauri.localhost,app://obsidian.md";

/// All known settings.
pub const KNOWN: &[Known] = &[
    // --- settee's own settings. Read at start; cannot be changed over HTTP.
    row("settee", "data", Kind::Text, "./data", "The folder that holds everything."),
    row("settee", "bind", Kind::Text, "127.0.0.1:5984", "Address and port to listen on."),
    unset(
        "settee",
        "store",
        Kind::Choice(&["sled", "redb", "memory", "postgres"]),
        "The storage engine, or the address of a PostgreSQL (docs/scaling.md); unset: the folder's, or sled.",
    ),
    unset(
        "settee",
        "encryption_key_file",
        Kind::Text,
        "A file with the key of encryption at rest (docs/encryption.md).",
    ),
    row(
        "settee",
        "log",
        Kind::Text,
        "info",
        "What is logged: off, error, warn, info, debug, trace, or a tracing filter.",
    ),
    row(
        "settee",
        "log_format",
        Kind::Choice(&["auto", "pretty", "json"]),
        "auto",
        "The format of log lines. `auto`: `pretty` on a terminal, plain text elsewhere.",
    ),
    unset("settee", "audit_file", Kind::Text, "A file for audit events alone, one JSON object a line; unset: none."),
    row(
        "settee",
        "audit_file_size",
        Kind::Bytes,
        "10 MB",
        "Bytes after which the audit file is renamed to FILE.1 and a new one begins.",
    ),
    row("settee", "audit_files", number(0, 1000), "5", "Rotated audit files that are kept beside the current one."),
    unset(
        "settee",
        "backup_folder",
        Kind::Text,
        "The folder in which the console makes backups; it must exist. Unset: none.",
    ),
    row(
        "settee",
        "max_connections",
        number(1, 1_000_000),
        "65536",
        "Open connections at most; more wait to be accepted.",
    ),
    row(
        "settee",
        "max_connections_per_address",
        number(0, 1_000_000),
        "16384",
        "Open connections of one address at most (IPv6: of a /64); 0: any number.",
    ),
    row(
        "settee",
        "http2",
        Kind::Flag,
        "true",
        "Whether HTTP/2 is served: negotiated by ALPN over TLS, by prior knowledge without TLS.",
    ),
    row("settee", "max_streams", number(1, 10_000), "256", "Requests at once on a connection with HTTP/2."),
    row("settee", "header_timeout", number(1, 86_400), "120", "Seconds in which a request's headers must arrive."),
    row(
        "settee",
        "max_header_size",
        number(8192, 1 << 20),
        "131072",
        "Bytes of a request's headers with its first line.",
    ),
    row(
        "settee",
        "body_timeout",
        number(1, 86_400),
        "300",
        "Seconds without a byte after which a request body is given up.",
    ),
    row(
        "settee",
        "min_body_rate",
        number(0, 1 << 30),
        "256",
        "Bytes a second that a request body must bring at least after its first minute; 0: any.",
    ),
    row(
        "settee",
        "write_timeout",
        number(1, 86_400),
        "300",
        "Seconds after which an answer that the client does not read is cut off.",
    ),
    row(
        "settee",
        "trusted_proxies",
        Kind::Networks,
        "",
        "Addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` count.",
    ),
    row(
        "settee",
        "drain_timeout",
        number(0, 3600),
        "25",
        "Seconds that running requests may still take after SIGTERM.",
    ),
    unset(
        "settee",
        "ca_file",
        Kind::Text,
        "PEM file of certificate authorities to trust beside the public ones, in requests that this server makes.",
    ),
    row("settee", "max_json_depth", number(8, 10_000), "512", "How deep arrays and objects of a body may nest."),
    row(
        "settee",
        "max_json_memory",
        Kind::Bytes,
        "268435456",
        "Bytes of JSON bodies and their values held at once, all requests together; read at the start.",
    ),
    row(
        "settee",
        "max_answer_memory",
        Kind::Bytes,
        "134217728",
        "Bytes of answers held at once until clients have read them, all together; read at the start.",
    ),
    row(
        "settee",
        "max_index_size",
        Kind::Bytes,
        "10737418240",
        "Bytes of indexes that each node of a shared store keeps; those not used for longest are removed.",
    ),
    row(
        "settee",
        "first_sync_rows",
        number(0, 10_000),
        "1000",
        "Rows of `_changes` for a PouchDB that is far behind and asked for 100; 0: what it asked for.",
    ),
    row(
        "settee",
        "rewrite_store",
        Kind::Flag,
        "true",
        "Whether sled's or redb's files are rewritten when they take more than three times what they hold.",
    ),
    // --- TLS. Read at start; cannot be changed over HTTP, because a client could make the server read any
    // file.
    unset("ssl", "enable", Kind::Flag, "Whether TLS is served; unset: if both files or `acme_domains` are set."),
    unset("ssl", "cert_file", Kind::Text, "PEM file of the certificate and its chain; read again when it changes."),
    unset("ssl", "key_file", Kind::Text, "PEM file of the certificate's private key; read again when it changes."),
    unset(
        "ssl",
        "acme_domains",
        Kind::Text,
        "Domain names, separated by commas, for which the server gets a certificate by ACME.",
    ),
    row("ssl", "acme_agree", Kind::Flag, "false", "Whether you accept the terms of service of the ACME authority."),
    unset("ssl", "acme_contact", Kind::Text, "The mail address that the ACME authority gets."),
    row(
        "ssl",
        "acme_directory",
        Kind::Text,
        "https://acme-v02.api.letsencrypt.org/directory",
        "The URL of the ACME authority's directory.",
    ),
    row("ssl", "port", number(0, 65_535), "6984", "The port of TLS."),
    unset("ssl", "bind_address", Kind::Text, "The address of TLS; unset: that of `bind`."),
    row("ssl", "hsts", Kind::Text, "max-age=31536000", "`Strict-Transport-Security` of answers over TLS; empty: none."),
    // --- couchdb
    unset("couchdb", "uuid", Kind::Text, "This server's identity in `GET /`; made at the first start."),
    row(
        "couchdb",
        "max_document_size",
        Kind::Bytes,
        "50000000",
        "A document's JSON body at most, without attachments.",
    ),
    row("couchdb", "max_attachment_size", Kind::Bytes, "1073741824", "Bytes of one attachment at most."),
    row("couchdb", "max_document_id_length", Kind::NumberOrInfinity, "infinity", "Bytes of a document id at most."),
    row(
        "couchdb",
        "max_partition_size",
        Kind::Bytes,
        "10737418240",
        "Bytes of one partition of a partitioned database at most; 0: no limit.",
    ),
    row("couchdb", "single_node", Kind::Flag, "true", "`_users` and `_replicator` are made at the first start."),
    row(
        "couchdb",
        "maintenance_mode",
        Kind::Choice(&["true", "false", "nolb"]),
        "false",
        "`/_up` answers 404 when true or nolb.",
    ),
    row(
        "couchdb",
        "default_security",
        Kind::Choice(&["admin_only", "admin_local", "everyone"]),
        "admin_only",
        "Who may use a new database before its `_security` is written.",
    ),
    row("couchdb", "users_db_security_editable", Kind::Flag, "false", "Whether `_users/_security` may be changed."),
    row(
        "couchdb",
        "os_process_timeout",
        number(1, 3_600_000),
        "5000",
        "Milliseconds of CPU time that one call of a design function may take.",
    ),
    // --- chttpd
    row(
        "chttpd",
        "port",
        number(0, 65_535),
        "5984",
        "The port after the next start, unless --bind or SETTEE_BIND sets it.",
    ),
    row(
        "chttpd",
        "bind_address",
        Kind::Text,
        "127.0.0.1",
        "The address after the next start, unless --bind or SETTEE_BIND sets it.",
    ),
    row(
        "chttpd",
        "allow_jsonp",
        Kind::Flag,
        "false",
        "Whether GET with `callback` answers JSONP, which lets any web page read with the rights of its visitor.",
    ),
    row("chttpd", "require_valid_user", Kind::Flag, "false", "Whether every request but signing in needs an account."),
    row(
        "chttpd",
        "require_valid_user_except_for_up",
        Kind::Flag,
        "false",
        "As `require_valid_user`, but `/_up` needs no account.",
    ),
    row("chttpd", "admin_only_all_dbs", Kind::Flag, "true", "Only admins may list databases."),
    row(
        "chttpd",
        "admin_only_security",
        Kind::Flag,
        "false",
        "Only a database's admins may read its `_security`; CouchDB shows it to its members.",
    ),
    row("chttpd", "max_http_request_size", Kind::Bytes, "4294967296", "Bytes of a request body at most."),
    row("chttpd", "max_uri_length", Kind::NumberOrInfinity, "infinity", "Bytes of a request's path and query at most."),
    row("chttpd", "max_db_number_for_dbs_info_req", number(1, 100_000), "100", "Keys of one `POST /_dbs_info`."),
    row("chttpd", "changes_timeout", number(1, 86_400_000), "60000", "Milliseconds a waiting `_changes` stays open."),
    row("chttpd", "decode_plus_to_space", Kind::Flag, "true", "A `+` in a path means a space."),
    row(
        "chttpd",
        "enable_cors",
        Kind::Flag,
        "true",
        "Whether browsers' pages from `[cors] origins` may use the server.",
    ),
    row("chttpd", "server_header_versions", Kind::Flag, "true", "Whether the `Server` header tells the version."),
    unset(
        "chttpd",
        "authentication_handlers",
        Kind::Text,
        "CouchDB's list of ways to sign in, in the order they are tried.",
    ),
    unset(
        "chttpd",
        "WWW-Authenticate",
        Kind::Text,
        "What a 401 says in that header, so that browsers ask for a password.",
    ),
    unset(
        "chttpd",
        "peer_header",
        Kind::Text,
        "The header with the client's address from a trusted proxy, for example X-Real-IP.",
    ),
    row("chttpd", "x_forwarded_host", Kind::Text, "X-Forwarded-Host", "The header of a proxy that names the host."),
    row("chttpd", "x_forwarded_proto", Kind::Text, "X-Forwarded-Proto", "The header of a proxy that names the scheme."),
    row(
        "chttpd",
        "x_forwarded_prefix",
        Kind::Text,
        "X-Forwarded-Prefix",
        "The header of a proxy that names the path below which it serves the server.",
    ),
    row("chttpd", "x_forwarded_ssl", Kind::Text, "X-Forwarded-Ssl", "The header of a proxy that is `on` for https."),
    // --- cors
    row(
        "cors",
        "origins",
        Kind::Text,
        DEFAULT_ORIGINS,
        "Origins of pages that may use the server, or `*`. Those of localhost, 127.0.0.1 and [::1] without a port: any port.",
    ),
    unset(
        "cors",
        "credentials",
        Kind::Flag,
        "Whether pages may send cookies; unset: only those of the default origins.",
    ),
    unset("cors", "headers", Kind::Text, "Request headers that pages may send, or `*`; unset: CouchDB's list."),
    unset("cors", "methods", Kind::Text, "Methods that pages may use; unset: all."),
    unset("cors", "exposed_headers", Kind::Text, "Answer headers that pages may read; unset: CouchDB's list."),
    row("cors", "max_age", number(0, 31_536_000), "600", "Seconds a browser may remember the answer."),
    // --- csp: the Content-Security-Policy of stored content
    row(
        "csp",
        "attachments_enable",
        Kind::Flag,
        "true",
        "Whether attachments are sent with a `Content-Security-Policy`.",
    ),
    row(
        "csp",
        "attachments_header_value",
        Kind::Text,
        "sandbox",
        "The policy of attachments; `sandbox` lets no script run.",
    ),
    row(
        "csp",
        "showlist_enable",
        Kind::Flag,
        "true",
        "Whether answers of shows, lists, updates and rewrites have a `Content-Security-Policy`.",
    ),
    row("csp", "showlist_header_value", Kind::Text, "sandbox", "The policy of shows, lists, updates and rewrites."),
    // --- attachments
    row("attachments", "compression_level", number(0, 9), "8", "gzip level of compressible attachments; 0: none."),
    row(
        "attachments",
        "compressible_types",
        Kind::Text,
        "text/*, application/javascript, application/json, application/xml",
        "Content types that are stored gzipped.",
    ),
    // --- uuids
    row(
        "uuids",
        "algorithm",
        Kind::Choice(&["sequential", "random", "utc_random", "utc_id"]),
        "sequential",
        "How ids are made.",
    ),
    row("uuids", "max_count", number(1, 1_000_000), "1000", "Ids of one `GET /_uuids` at most."),
    row("uuids", "utc_id_suffix", Kind::Text, "", "What `utc_id` appends."),
    // --- purge
    row(
        "purge",
        "max_revisions_number",
        Kind::NumberOrInfinity,
        "infinity",
        "Revisions of one `_purge` request at most.",
    ),
    // --- accounts
    secret("chttpd_auth", "secret", "Signs session cookies; made at the first start."),
    row(
        "chttpd_auth",
        "timeout",
        number(1, 31_536_000),
        "600",
        "Seconds after which an unused session cookie expires.",
    ),
    row(
        "chttpd_auth",
        "allow_persistent_cookies",
        Kind::Flag,
        "true",
        "Whether a browser keeps the session cookie when it is closed.",
    ),
    unset("chttpd_auth", "same_site", Kind::Choice(&["", "none", "lax", "strict"]), "The cookie's SameSite attribute."),
    unset("chttpd_auth", "cookie_domain", Kind::Text, "The cookie's Domain attribute."),
    row(
        "chttpd_auth",
        "hash_algorithms",
        Kind::Text,
        "sha256, sha",
        "Hash algorithms of the session cookie's HMAC: the first one signs, all verify.",
    ),
    row(
        "chttpd_auth",
        "password_scheme",
        Kind::Choice(&["pbkdf2", "simple"]),
        "pbkdf2",
        "How new passwords are hashed.",
    ),
    row(
        "chttpd_auth",
        "pbkdf2_prf",
        Kind::Choice(&["sha", "sha224", "sha256", "sha384", "sha512"]),
        "sha256",
        "The hash function of PBKDF2 for new password hashes.",
    ),
    row(
        "chttpd_auth",
        "allow_conflicted_user_docs",
        Kind::Flag,
        "false",
        "Whether an account whose document has a conflict may sign in.",
    ),
    row(
        "chttpd_auth",
        "iterations",
        number(1, 10_000_000),
        "600000",
        "PBKDF2 steps of new password hashes; never more than `max_iterations` lets a hash have.",
    ),
    row("chttpd_auth", "min_iterations", number(1, 10_000_000), "1", "Hashes with fewer steps are refused."),
    row(
        "chttpd_auth",
        "max_iterations",
        number(1, 10_000_000),
        "1500000",
        "Hashes with more steps are refused, when a user writes one and at sign-in. Steps of SHA-384 and SHA-512 count twice.",
    ),
    row(
        "chttpd_auth",
        "require_valid_user",
        Kind::Flag,
        "false",
        "As in `chttpd`; kept because set-up scripts write it.",
    ),
    row(
        "chttpd_auth",
        "authentication_redirect",
        Kind::Text,
        "/_utils/session.html",
        "Where a browser without account is sent.",
    ),
    row("chttpd_auth", "authentication_db", Kind::Text, "_users", "The database of accounts."),
    row(
        "chttpd_auth",
        "users_db_public",
        Kind::Flag,
        "false",
        "Accepted and without effect, as in CouchDB 3: `public_fields` alone says what others may read of an account.",
    ),
    row("chttpd_auth", "allow_sign_up", Kind::Flag, "false", "Whether anybody may make their own account."),
    unset("chttpd_auth", "public_fields", Kind::Text, "Members of an account that others may read."),
    unset("chttpd_auth", "password_regexp", Kind::Text, "Patterns that a new password must match."),
    row(
        "chttpd_auth",
        "upgrade_hash_on_auth",
        Kind::Flag,
        "true",
        "Whether a weak password hash is replaced when its user signs in.",
    ),
    row(
        "chttpd_auth",
        "proxy_use_secret",
        Kind::Flag,
        "false",
        "Whether the proxy that authenticates users must send a token signed with `secret`.",
    ),
    row(
        "chttpd_auth",
        "x_auth_username",
        Kind::Text,
        "X-Auth-CouchDB-UserName",
        "The authenticating proxy's header with the user's name.",
    ),
    row(
        "chttpd_auth",
        "x_auth_roles",
        Kind::Text,
        "X-Auth-CouchDB-Roles",
        "The authenticating proxy's header with the user's roles.",
    ),
    row(
        "chttpd_auth",
        "x_auth_token",
        Kind::Text,
        "X-Auth-CouchDB-Token",
        "The authenticating proxy's header with the token.",
    ),
    row(
        "chttpd_auth_lockout",
        "mode",
        Kind::Choice(&["off", "warn", "enforce"]),
        "enforce",
        "What too many wrong passwords do: nothing, a line in the log, or a lockout.",
    ),
    row(
        "chttpd_auth_lockout",
        "threshold",
        number(1, 1_000_000),
        "5",
        "Wrong passwords for a name from an address after which the lockout begins.",
    ),
    row(
        "chttpd_auth_lockout",
        "max_objects",
        number(1, 10_000_000),
        "10000",
        "Pairs of name and address that the lockout remembers at most.",
    ),
    row(
        "chttpd_auth_lockout",
        "max_lifetime",
        number(1, 86_400_000),
        "300000",
        "Milliseconds after which wrong passwords are forgotten.",
    ),
    // --- rate limits
    row(
        "rate_limits",
        "address_per_second",
        number(0, 1_000_000),
        "1000",
        "Requests of an address (IPv6: of a /64) a second; 0: any number.",
    ),
    row("rate_limits", "address_burst", number(1, 10_000_000), "10000", "Requests that an address may make at once."),
    row("rate_limits", "user_per_second", number(0, 1_000_000), "0", "Requests of a user a second; 0: any number."),
    row("rate_limits", "user_burst", number(1, 10_000_000), "1000", "Requests that a user may make at once."),
    row(
        "rate_limits",
        "sign_ins_per_minute",
        number(0, 1_000_000),
        "60",
        "Passwords that an address may try in a minute; 0: any number.",
    ),
    row("rate_limits", "sign_in_burst", number(1, 1_000_000), "100", "Passwords that an address may try at once."),
    row(
        "rate_limits",
        "sign_ups_per_hour",
        number(0, 1_000_000),
        "60",
        "Accounts that an address may make for itself in an hour (`allow_sign_up`); 0: any number.",
    ),
    row("rate_limits", "sign_up_burst", number(1, 1_000_000), "60", "Accounts that an address may make at once."),
    row("rate_limits", "exempt", Kind::Networks, "127.0.0.0/8, ::1", "Addresses and networks without rate limits."),
    row(
        "rate_limits",
        "max_objects",
        number(100, 10_000_000),
        "100000",
        "Addresses and users that are counted at most.",
    ),
    // --- anomalies that go to the audit log
    row(
        "audit",
        "mass_deletion",
        number(0, 1_000_000_000),
        "1000",
        "Deletions of a user in a minute that are audited as `suspicious`; 0: never.",
    ),
    row(
        "audit",
        "id_scanning",
        number(0, 1_000_000_000),
        "300",
        "Requests of a user or address for missing documents in a minute that are audited as `suspicious`; 0: never.",
    ),
    row(
        "audit",
        "guessing",
        number(0, 1_000_000_000),
        "20",
        "Wrong passwords of an address in a minute that are audited as `suspicious`; 0: never.",
    ),
    row(
        "sync",
        "device_stopped_after",
        number(60, 31_536_000),
        "86400",
        "Seconds without a request after which a device that lacks changes is reported (`/_sync/alerts`).",
    ),
    // --- tokens
    row("jwt_auth", "required_claims", Kind::Text, "exp", "Claims that a token must have: `exp, nbf, {iss, \"me\"}`."),
    row(
        "jwt_auth",
        "roles_claim_name",
        Kind::Text,
        "_couchdb.roles",
        "The claim with the roles, if it is at the top level of the token.",
    ),
    unset(
        "jwt_auth",
        "roles_claim_path",
        Kind::Text,
        "The path of the claim with the roles, for example `realm_access.roles`.",
    ),
    unset(
        "jwt_auth",
        "allowed_algorithms",
        Kind::Text,
        "Signature algorithms that are accepted, for example `RS256, ES256`; unset: all.",
    ),
    unset("jwt_auth", "jwks_url", Kind::Text, "Where the issuer publishes its keys (https, or on this machine)."),
    row(
        "jwt_auth",
        "jwks_max_age",
        number(60, 31_536_000),
        "3600",
        "Seconds after which published keys are fetched again.",
    ),
    row(
        "jwt_auth",
        "jwks_system_roles",
        Kind::Flag,
        "false",
        "Whether tokens of the issuer at `jwks_url` may have system roles such as `_admin`.",
    ),
    // --- per-user databases, automatic purge
    unset(
        "couch_auto_purge_plugin",
        "deleted_document_ttl",
        Kind::Text,
        "When deleted documents are purged where a database's `_auto_purge` does not say: `3_days`, `1_month`, `infinity`.",
    ),
    row("couch_peruser", "enable", Kind::Flag, "false", "Whether every account gets a database of its own."),
    row("couch_peruser", "delete_dbs", Kind::Flag, "false", "Whether a per-user database is deleted with its account."),
    row("couch_peruser", "database_prefix", Kind::Text, "userdb-", "What the names of per-user databases begin with."),
    row("couch_peruser", "q", number(1, 1024), "1", "The `q` of per-user databases."),
    // --- design document functions
    row(
        "query_server_config",
        "os_process_limit",
        number(1, 10_000),
        "100",
        "Worker processes for functions of design documents at most, and no more than `max_script_memory` has room for.",
    ),
    row(
        "query_server_config",
        "max_script_memory",
        number(64 << 20, u64::MAX),
        "1073741824",
        "Bytes that all worker processes may use together.",
    ),
    row(
        "query_server_config",
        "reduce_limit",
        Kind::Choice(&["true", "false", "log"]),
        "true",
        "Whether the result of a reduce must be smaller than its input; `log` only warns.",
    ),
    row(
        "query_server_config",
        "reduce_limit_threshold",
        number(0, u64::MAX),
        "5000",
        "Bytes up to which `reduce_limit` allows any result of a reduce.",
    ),
    row(
        "query_server_config",
        "reduce_limit_ratio",
        Kind::Text,
        "2.0",
        "How many times smaller than its input `reduce_limit` wants the result of a reduce.",
    ),
    // --- replicator
    row("replicator", "max_jobs", number(0, 100_000), "500", "Replications that run at the same time, at most."),
    row(
        "replicator",
        "interval",
        number(100, 86_400_000),
        "60000",
        "Milliseconds between two rounds of the scheduler.",
    ),
    row(
        "replicator",
        "max_churn",
        number(0, 100_000),
        "20",
        "Continuous replications that a round stops, at most, so that others run.",
    ),
    row("replicator", "max_history", number(1, 1000), "20", "Events of a replication that `_scheduler/jobs` shows."),
    row(
        "replicator",
        "startup_jitter",
        number(0, 3_600_000),
        "5000",
        "Milliseconds by which the start of a replication is delayed at random, at most, while many run.",
    ),
    row(
        "replicator",
        "health_threshold",
        number(0, 86_400),
        "120",
        "Seconds after which a replication that runs has recovered from earlier failures.",
    ),
    row(
        "replicator",
        "update_docs",
        Kind::Flag,
        "false",
        "Whether documents also get the states `triggered` and `error`.",
    ),
    row(
        "replicator",
        "allow_private",
        Kind::Flag,
        "false",
        "Whether replications may reach addresses of private networks and of this machine.",
    ),
    row(
        "replicator",
        "valid_endpoint_protocols",
        Kind::Choice(&["http,https", "https,http", "https"]),
        "http,https",
        "The protocols of remote databases; `https` refuses those without TLS.",
    ),
    row("replicator", "worker_processes", number(1, 20), "4", "Batches that one replication copies at the same time."),
    row("replicator", "worker_batch_size", number(1, 2000), "500", "Changes of a batch."),
    row("replicator", "http_connections", number(1, 100), "20", "Connections of one replication to a server."),
    row(
        "replicator",
        "connection_timeout",
        number(100, 3_600_000),
        "30000",
        "Milliseconds that a replication waits for an answer.",
    ),
    row("replicator", "retries_per_request", number(0, 20), "5", "How often a request that failed is sent again."),
    row(
        "replicator",
        "checkpoint_interval",
        number(100, 86_400_000),
        "30000",
        "Milliseconds between two checkpoints of a replication.",
    ),
    row("replicator", "use_checkpoints", Kind::Flag, "true", "Whether replications record how far they are."),
    row("replicator", "use_bulk_get", Kind::Flag, "true", "Whether documents are fetched with `_bulk_get`."),
];

/// Finds the row of a known key.
pub fn known(section: &str, key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|row| row.section == section && row.key == key)
}

/// Whether the key's value must never be shown.
pub fn is_secret(section: &str, key: &str) -> bool {
    SECRET_SECTIONS.contains(&section)
        || known(section, key).is_some_and(|row| row.secret)
        || matches!(
            (section, key),
            ("couch_httpd_auth", "secret") | ("replicator", "password") | ("ssl", "password") | ("httpsd", "password")
        )
}

/// CouchDB's older name of a section. Its keys apply when the newer section does not set them.
pub fn older_name(section: &str) -> Option<&'static str> {
    match section {
        "chttpd" => Some("httpd"),
        "chttpd_auth" => Some("couch_httpd_auth"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kind::check;

    #[test]
    fn defaults_are_valid_and_keys_are_unique() {
        for (index, row) in KNOWN.iter().enumerate() {
            if let Some(default) = row.default {
                assert_eq!(check(row.kind, default), Ok(()), "{}/{}", row.section, row.key);
            }
            let again = KNOWN[..index].iter().any(|other| (other.section, other.key) == (row.section, row.key));
            assert!(!again, "{}/{} twice", row.section, row.key);
        }
    }

    #[test]
    fn the_store_setting_lists_every_engine() {
        let Some(Known { kind: Kind::Choice(words), .. }) = known("settee", "store") else { panic!("no choice") };
        let engines: Vec<&str> =
            crate::store::Engine::ALL.iter().map(|engine| engine.name()).chain(["memory", "postgres"]).collect();
        assert_eq!(*words, engines);
    }

    #[test]
    fn the_documentation_lists_every_setting() {
        let page = include_str!("../../docs/configuration.md");
        let missing: Vec<String> = KNOWN
            .iter()
            .filter(|row| !page.contains(&format!("| `{}` | `{}` |", row.section, row.key)))
            .map(|row| format!("{}/{}", row.section, row.key))
            .collect();
        assert!(missing.is_empty(), "docs/configuration.md lacks {missing:?}");
    }
}
