//! The address of the database: a `postgres://` URL, and what settee adds to its parameters.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, TargetSessionAttrs};

/// Whether and how the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// Not at all: the default for hosts on this machine.
    Off,
    /// Encrypted, with any certificate.
    Unverified,
    /// Encrypted, with a certificate that names the host: the default for other hosts.
    Verified,
}

/// Where the database is, and how to use it. Its `Debug` and `Display` show no password.
#[derive(Clone)]
pub struct Address {
    /// The configuration of tokio-postgres.
    pub(super) config: tokio_postgres::Config,
    /// The schema that holds settee's tables.
    pub(super) schema: Schema,
    pub(super) tls: Tls,
    /// Certificate authorities to trust instead of the public ones.
    pub(super) authorities: Option<PathBuf>,
    /// The most connections for reads and commits.
    pub(super) pool: usize,
    /// A statement that takes longer fails.
    pub(super) statement_timeout: Duration,
    /// How long an attachment that nothing refers to is kept: requests that are about to refer to it may last as long.
    pub(super) keep_unused: Duration,
    shown: String,
}

/// The name of a schema. `Display` quotes it for SQL: the name may be a keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schema(String);

impl Schema {
    /// The name without quotes.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\"", self.0)
    }
}

const SCHEMA: &str = "settee";
const POOL: usize = 16;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_UNUSED: Duration = Duration::from_secs(3600);

impl Address {
    /// Whether `--store` names a database server and not an engine of the data folder.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// Reads a URL, and the password from `environment` (`PGPASSWORD`) if the URL has none. An error is a sentence for
    /// the user, and repeats nothing of the URL that could be a password.
    pub fn read(url: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Address, String> {
        let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
        let mut address = Address {
            config: tokio_postgres::Config::new(),
            schema: Schema(SCHEMA.to_owned()),
            tls: Tls::Verified,
            authorities: None,
            pool: POOL,
            statement_timeout: STATEMENT_TIMEOUT,
            keep_unused: KEEP_UNUSED,
            shown: without_password(place),
        };
        let (mut tls, mut password_file, mut left) = (None, None, Vec::new());
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value).decode_utf8().map_err(|_| wrong("it is not UTF-8"))?.into_owned();
            match name {
                "sslmode" => tls = Some(tls_of(&value)?),
                "sslrootcert" => address.authorities = Some(PathBuf::from(value)),
                "password_file" => password_file = Some(PathBuf::from(value)),
                "schema" => address.schema = schema_of(value)?,
                "pool_size" => address.pool = number(name, &value, 2, 1000)? as usize,
                "statement_timeout" => {
                    address.statement_timeout = Duration::from_secs(number(name, &value, 1, 3600)?);
                }
                "keep_unused" => address.keep_unused = Duration::from_secs(number(name, &value, 0, 1 << 30)?),
                _ => left.push(parameter),
            }
        }
        let mut plain = place.to_owned();
        if !left.is_empty() {
            plain = format!("{place}?{}", left.join("&"));
        }
        // The library's own error could repeat a part of the URL.
        address.config = tokio_postgres::Config::from_str(&plain)
            .map_err(|_| wrong("it is not postgres://USER@HOST[:PORT][,HOST[:PORT]]/DATABASE[?PARAMETER=VALUE&...]"))?;
        if address.config.get_hosts().is_empty() {
            return Err(wrong("it names no host"));
        }
        if address.config.get_dbname().is_none_or(str::is_empty) {
            return Err(wrong("it names no database"));
        }
        address.password(password_file.as_deref(), environment)?;
        address.tls = tls.unwrap_or(if address.is_local() { Tls::Off } else { Tls::Verified });
        address.settle_config();
        Ok(address)
    }

    fn password(&mut self, file: Option<&Path>, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("the password file {} cannot be read: {error}", file.display()))?;
            self.config.password(text.trim_end_matches(['\n', '\r']));
        } else if self.config.get_password().is_none()
            && let Some(password) = environment("PGPASSWORD")
        {
            self.config.password(password);
        }
        Ok(())
    }

    fn settle_config(&mut self) {
        let tls = match self.tls {
            Tls::Off => tokio_postgres::config::SslMode::Disable,
            Tls::Unverified | Tls::Verified => tokio_postgres::config::SslMode::Require,
        };
        self.config.ssl_mode(tls);
        // A standby is read-only, and its data may be old.
        self.config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if self.config.get_application_name().is_none() {
            self.config.application_name("settee");
        }
        if self.config.get_connect_timeout().is_none() {
            self.config.connect_timeout(CONNECT_TIMEOUT);
        }
        // A host that vanishes without closing the connection is noticed after about 15 seconds.
        self.config.keepalives(true);
        self.config.keepalives_idle(Duration::from_secs(5));
        self.config.keepalives_interval(Duration::from_secs(3));
        self.config.keepalives_retries(3);
        if self.config.get_tcp_user_timeout().is_none() {
            self.config.tcp_user_timeout(Duration::from_secs(15));
        }
    }

    /// Whether all hosts are sockets or loopback addresses.
    fn is_local(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => {
                let ip = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
                name == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
            }
            #[cfg(unix)]
            Host::Unix(_) => true,
        })
    }
}

fn wrong(why: &str) -> String {
    format!("the address of the store cannot be used: {why}")
}

fn tls_of(mode: &str) -> Result<Tls, String> {
    match mode {
        "disable" => Ok(Tls::Off),
        "require" => Ok(Tls::Unverified),
        "verify-full" => Ok(Tls::Verified),
        _ => Err(wrong("sslmode is disable, require (any certificate) or verify-full")),
    }
}

fn schema_of(name: String) -> Result<Schema, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = name.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_');
    if starts && name.len() <= 48 && name.bytes().all(plain) && !name.starts_with("pg_") {
        Ok(Schema(name))
    } else {
        Err(wrong("a schema has up to 48 lower-case letters, digits and _, and begins with no digit and not with pg_"))
    }
}

fn number(name: &str, value: &str, low: u64, high: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| wrong(&format!("{name} is a number from {low} to {high}")))
}

/// The URL without parameters and password.
fn without_password(place: &str) -> String {
    let (scheme, rest) = place.split_once("://").unwrap_or(("postgres", place));
    // A password may hold an `@` that is not encoded.
    match rest.rsplit_once('@') {
        Some((user, hosts)) => format!("{scheme}://{}@{hosts}", user.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{rest}"),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown)?;
        if self.schema.name() == SCHEMA { Ok(()) } else { write!(out, "?schema={}", self.schema.name()) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Address, String> {
        Address::read(url, &|name| (name == "PGPASSWORD").then(|| "from-environment".to_owned()))
    }

    #[test]
    fn an_address_never_shows_its_password() {
        let address = read("postgres://settee:top@secret@db1.example,db2.example:5433/sync?schema=one").unwrap();
        assert_eq!(address.to_string(), "postgres://settee@db1.example,db2.example:5433/sync?schema=one");
        assert!(!format!("{address:?}").contains("secret"));
        for broken in ["postgres://settee:secret@", "postgres://:secret@h:99999/d", "postgres://u:secret@h/d?x=secret"]
        {
            let said = read(broken).unwrap_err();
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_password_comes_from_the_file_the_url_or_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "from file\n").unwrap();
        let password = |url: &str| read(url).unwrap().config.get_password().map(<[u8]>::to_vec);
        assert_eq!(password("postgres://u:in-url@h/d").as_deref(), Some(&b"in-url"[..]));
        assert_eq!(password("postgres://u@h/d").as_deref(), Some(&b"from-environment"[..]));
        let named = format!("postgres://u@h/d?password_file={}", file.display());
        assert_eq!(password(&named).as_deref(), Some(&b"from file"[..]));
    }

    #[test]
    fn tls_is_verified_unless_all_hosts_are_on_this_machine() {
        for (url, tls) in [
            ("postgres://u@localhost/d", Tls::Off),
            ("postgres://u@127.0.0.1:5433/d", Tls::Off),
            ("postgres://u@localhost,db.example/d", Tls::Verified),
            ("postgres://u@10.0.0.7/d", Tls::Verified),
            ("postgres://u@10.0.0.7/d?sslmode=disable", Tls::Off),
            ("postgres://u@localhost/d?sslmode=require", Tls::Unverified),
        ] {
            assert_eq!(read(url).unwrap().tls, tls, "{url}");
        }
        assert!(read("postgres://u@h/d?sslmode=prefer").is_err());
    }

    #[test]
    fn parameters_are_checked() {
        let address = read("postgres://u@h/d?schema=a_1&pool_size=4&statement_timeout=9&application_name=x").unwrap();
        assert_eq!((address.schema.name(), address.pool, address.statement_timeout.as_secs()), ("a_1", 4, 9));
        assert_eq!(address.config.get_application_name(), Some("x"));
        assert_eq!(read("postgres://u@h/d?schema=select").unwrap().schema.to_string(), "\"select\"");
        for parameter in ["schema=A", "schema=a\"b", "schema=", "schema=pg_x", "pool_size=1", "statement_timeout=0"] {
            assert!(read(&format!("postgres://u@h/d?{parameter}")).is_err(), "{parameter}");
        }
        for url in ["postgres://u@h", "postgres:///d", "postgres://u@h/"] {
            assert!(read(url).is_err(), "{url}");
        }
    }
}
