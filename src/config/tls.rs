//! The section `ssl`: the TLS listener's address, and the source of its certificate.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::Settings;
use super::settings::split_list;
use crate::net::acme::wanted::Wanted;

/// Maximum number of names in one certificate: the limit of Let's Encrypt.
const MAX_DOMAINS: usize = 100;
/// Maximum length in bytes of the mail address and of the directory's URL.
const MAX_TEXT: usize = 1000;

/// The address of the TLS listener, and its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The address of the TLS listener.
    pub bind: SocketAddr,
    /// The source of the certificate.
    pub certificate: Certificate,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
    /// The server obtains the certificate by ACME and keeps it in `folder`.
    Acme {
        wanted: Wanted,
        folder: PathBuf,
    },
}

/// Reads the section `ssl`. `None` means no TLS. `http` is the address of the plain HTTP listener.
pub fn tls_of(settings: &Settings, http: SocketAddr) -> Result<Option<Tls>, String> {
    let enable = settings.get("ssl", "enable");
    if enable == Some("false") {
        return Ok(None);
    }
    let file = |key: &str| settings.get("ssl", key).filter(|path| !path.is_empty()).map(PathBuf::from);
    let named = settings.get("ssl", "acme_domains").is_some_and(|list| !split_list(list).is_empty());
    let asked =
        settings.flag("ssl", "acme_agree") || settings.get("ssl", "acme_contact").is_some_and(|to| !to.is_empty());
    let certificate = match (file("cert_file"), file("key_file")) {
        (None, None) if named => {
            let data = PathBuf::from(settings.get("settee", "data").unwrap_or("./data"));
            Certificate::Acme { wanted: acme_of(settings)?, folder: data.join("acme") }
        }
        _ if named => {
            return Err(
                "[ssl] acme_domains: the server either obtains a certificate for these names, or reads one from \
                        cert_file and key_file; set only one of the two"
                    .into(),
            );
        }
        _ if asked => {
            return Err("[ssl] acme_domains is not set: list the domains of the certificate".into());
        }
        (None, None) if enable.is_none() => return Ok(None),
        (Some(cert), Some(key)) => Certificate::Files { cert, key },
        (None, _) => {
            return Err(
                "[ssl] cert_file is not set: TLS needs a certificate (PEM), --tls-cert FILE; or set acme_domains, \
                        and the server obtains one"
                    .into(),
            );
        }
        (_, None) => {
            return Err("[ssl] key_file is not set: TLS needs the certificate's key (PEM), --tls-key FILE".into());
        }
    };
    let ip = match settings.get("ssl", "bind_address") {
        None => http.ip(),
        Some("any") => IpAddr::from([0, 0, 0, 0]),
        Some(address) => {
            address.parse().map_err(|_| format!("[ssl] bind_address: `{address}` is not an IP address"))?
        }
    };
    let port = settings.number("ssl", "port") as u16;
    let bind = SocketAddr::new(ip, port);
    if bind == http && port != 0 {
        return Err(format!("[ssl] port: plain HTTP already listens on {bind}; choose another port for TLS"));
    }
    Ok(Some(Tls { bind, certificate }))
}

/// Reads the ACME settings: the certificate that the server must obtain.
fn acme_of(settings: &Settings) -> Result<Wanted, String> {
    let of = |key: &str| settings.get("ssl", key).map(str::trim).filter(|text| !text.is_empty());
    let mut domains = split_list(of("acme_domains").unwrap_or_default());
    if domains.len() > MAX_DOMAINS {
        return Err(format!("[ssl] acme_domains: a certificate may have at most {MAX_DOMAINS} names"));
    }
    for domain in &mut domains {
        domain.make_ascii_lowercase();
        check_domain(domain)?;
    }
    domains.sort();
    domains.dedup();
    let directory = of("acme_directory").unwrap_or_default().to_owned();
    let url = directory.parse::<http::Uri>().ok().filter(|url| url.scheme_str() == Some("https"));
    let host = url.as_ref().and_then(http::Uri::authority).filter(|host| !host.as_str().contains('@'));
    if directory.len() > MAX_TEXT || host.is_none() {
        return Err(format!("[ssl] acme_directory: `{directory}` is not a URL that begins with https://"));
    }
    if !settings.flag("ssl", "acme_agree") {
        return Err(format!(
            "[ssl] acme_agree is not true: the authority at {directory} requires agreement to its terms of service; \
             read them, then set acme_agree = true"
        ));
    }
    let contact = of("acme_contact").map(|text| text.strip_prefix("mailto:").unwrap_or(text).to_owned());
    if let Some(address) = &contact {
        let plain = address.bytes().all(|byte| byte.is_ascii_graphic() && !b",?\"<>\\".contains(&byte));
        let whole = address.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
        if !plain || !whole || address.len() > MAX_TEXT {
            return Err(format!("[ssl] acme_contact: `{address}` is not a mail address"));
        }
    }
    Ok(Wanted { domains, contact, directory })
}

/// Checks a host name (RFC 1123). The challenge tls-alpn-01 can prove neither wildcards nor addresses.
fn check_domain(domain: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("[ssl] acme_domains: `{domain}` {why}"));
    if domain.starts_with("*.") {
        return wrong("is a wildcard, which the challenge tls-alpn-01 cannot prove: write out each name");
    }
    if domain.parse::<IpAddr>().is_ok() {
        return wrong("is an address: a certificate needs a host name");
    }
    if !domain.is_ascii() {
        return wrong("must be written in its ASCII form (xn--...)");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() > 253 || !domain.split('.').all(label) {
        return wrong("is not a domain such as sync.example.com");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Table;

    const HTTP: &str = "127.0.0.1:5984";
    const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

    fn tls(rows: &[(&str, &str)]) -> Result<Option<Tls>, String> {
        let mut table = Table::new();
        for (key, value) in rows {
            table.entry("ssl".into()).or_default().insert((*key).into(), (*value).into());
        }
        table.entry("settee".into()).or_default().insert("data".into(), "/data".into());
        tls_of(&Settings::new(table).unwrap(), HTTP.parse().unwrap())
    }

    fn wanted(rows: &[(&str, &str)]) -> Wanted {
        match tls(&[&[("acme_agree", "true")], rows].concat()) {
            Ok(Some(Tls { certificate: Certificate::Acme { wanted, folder }, .. })) => {
                assert_eq!(folder, PathBuf::from("/data/acme"));
                wanted
            }
            other => panic!("{rows:?}: {other:?}"),
        }
    }

    #[test]
    fn acme_settings_are_normalized() {
        let plain = Wanted { domains: vec!["a.example".into()], contact: None, directory: LETS_ENCRYPT.into() };
        assert_eq!(wanted(&[("acme_domains", "a.example")]), plain);
        let rows = [
            ("acme_domains", "Sync.Example.com, a.example,sync.example.com ,xn--bcher-kva.example"),
            ("acme_contact", "mailto:ann@example.com"),
            ("acme_directory", "https://ca.internal:14000/dir"),
            ("enable", "true"),
        ];
        let whole = Wanted {
            domains: vec!["a.example".into(), "sync.example.com".into(), "xn--bcher-kva.example".into()],
            contact: Some("ann@example.com".into()),
            directory: "https://ca.internal:14000/dir".into(),
        };
        assert_eq!(wanted(&rows), whole);
        assert_eq!(tls(&[("acme_domains", "a.example"), ("acme_agree", "true"), ("enable", "false")]), Ok(None));
        assert_eq!(tls(&[("acme_domains", ""), ("acme_contact", "")]), Ok(None));
    }

    #[test]
    fn invalid_acme_settings_are_rejected_with_a_reason() {
        let many: Vec<String> = (0..101).map(|number| format!("d{number}.example")).collect();
        let many = many.join(",");
        let long = format!("{}.example", "a".repeat(64));
        for (rows, says) in [
            (&[("acme_domains", "a.example"), ("acme_agree", "false")][..], "terms of service"),
            (&[("acme_domains", "a.example"), ("cert_file", "c"), ("key_file", "k")][..], "set only one of the two"),
            (&[("acme_domains", "a.example"), ("key_file", "k")][..], "set only one of the two"),
            (&[("acme_contact", "ann@example.com")][..], "acme_domains is not set"),
            (&[("acme_domains", ",")][..], "acme_domains is not set"),
            (&[("acme_domains", "*.example.com")][..], "is a wildcard"),
            (&[("acme_domains", "a.example, 192.0.2.1")][..], "is an address"),
            (&[("acme_domains", "2001:db8::1")][..], "is an address"),
            (&[("acme_domains", "b\u{fc}cher.example")][..], "xn--"),
            (&[("acme_domains", "https://a.example")][..], "is not a domain"),
            (&[("acme_domains", "a..example")][..], "is not a domain"),
            (&[("acme_domains", "-a.example")][..], "is not a domain"),
            (&[("acme_domains", long.as_str())][..], "is not a domain"),
            (&[("acme_domains", many.as_str())][..], "at most 100 names"),
            (&[("acme_domains", "a.example"), ("acme_contact", "ann")][..], "is not a mail address"),
            (&[("acme_domains", "a.example"), ("acme_contact", "a@b,c@d")][..], "is not a mail address"),
            (&[("acme_domains", "a.example"), ("acme_directory", "http://a.example/")][..], "https://"),
            (&[("acme_domains", "a.example"), ("acme_directory", "https://me:pw@a.example/")][..], "https://"),
            (&[("acme_domains", "a.example"), ("acme_directory", "")][..], "https://"),
        ] {
            let wrong = tls(&[&[("acme_agree", "true")], rows].concat()).unwrap_err();
            assert!(wrong.starts_with("[ssl] acme_") && wrong.contains(says), "{rows:?}: {wrong}");
        }
        let unsaid = tls(&[("acme_domains", "a.example")]).unwrap_err();
        assert!(unsaid.contains("acme_agree") && unsaid.contains(LETS_ENCRYPT), "{unsaid}");
    }
}
