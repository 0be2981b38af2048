//! Determines the client of a request: the peer of the socket, or, if that is a trusted proxy, the address
//! that the proxy reports in a header.
//!
//! Headers from other peers are ignored: a client that connects directly could put any address into a header
//! and so impersonate another client for lockout, rate limits and the audit log. `[settee] trusted_proxies`
//! therefore cannot be set over HTTP. The one exception is `chttpd/peer_header` without a list of proxies;
//! see [`client`].

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::config::Settings;
use crate::net::header_text::header_text;

/// The client of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The peer of the socket, if it sent `X-Forwarded-For` and is not trusted to: a proxy that is not configured.
    pub ignored_proxy: Option<IpAddr>,
    /// The client's address; an IPv4-mapped IPv6 address is converted to IPv4.
    pub address: Option<IpAddr>,
    /// Whether the connection to the client is encrypted, as far as the server or the proxy can tell.
    pub secure: bool,
}

/// Determines the client. `socket` is the peer of the socket; `encrypted` says whether this server terminates
/// TLS.
pub fn client(settings: &Settings, headers: &HeaderMap, socket: Option<IpAddr>, encrypted: bool) -> Client {
    let trusted = socket.is_some_and(|socket| settings.trusted_proxies.contains(socket));
    let named = match &settings.peer_header {
        // A configured header without a list of proxies means that only the proxy can reach the server.
        Some(name) if trusted || settings.trusted_proxies.is_empty() => {
            // Each proxy appends to the list: the last address is the one that the nearest proxy saw.
            let last = headers.get(name).and_then(|value| header_text(value)?.rsplit(',').next());
            last.and_then(address)
        }
        None if trusted => forwarded(settings, headers),
        Some(_) | None => None,
    };
    let header = |key: &str| settings.get("chttpd", key).and_then(|name| header_text(headers.get(name)?));
    let by_proxy = trusted && (header("x_forwarded_proto") == Some("https") || header("x_forwarded_ssl") == Some("on"));
    let ignored_proxy = socket.filter(|_| !trusted && named.is_none() && headers.contains_key("x-forwarded-for"));
    Client {
        ignored_proxy: ignored_proxy.map(|address| address.to_canonical()),
        address: named.or(socket).map(|address| address.to_canonical()),
        secure: encrypted || by_proxy,
    }
}

/// Reads `X-Forwarded-For` from its end. Each proxy appends the address of its peer, so the first address
/// that is not a trusted proxy is the client's; addresses before it cannot be trusted.
fn forwarded(settings: &Settings, headers: &HeaderMap) -> Option<IpAddr> {
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().map(header_text).collect::<Option<_>>()?;
    let mut found = None;
    for item in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(address) = address(item) else { break };
        found = Some(address);
        if !settings.trusted_proxies.contains(address) {
            break;
        }
    }
    found
}

/// Parses an address with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|both| both.ip());
    text.trim_matches(['[', ']']).parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Table;

    fn ask(rows: &[(&str, &str, &str)], socket: &str, headers: &[(&'static str, &str)]) -> (String, bool) {
        let mut table = Table::new();
        for (section, key, value) in rows {
            table.entry((*section).into()).or_default().insert((*key).into(), (*value).into());
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let client = client(&Settings::new(table).unwrap(), &map, Some(socket.parse().unwrap()), false);
        (client.address.unwrap().to_string(), client.secure)
    }

    const PROXIES: (&str, &str, &str) = ("settee", "trusted_proxies", "10.0.0.0/8, ::1");

    #[test]
    fn forwarded_headers_count_only_from_trusted_proxies() {
        let said = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
        for (rows, socket, headers, address, secure) in [
            (&[][..], "10.0.0.1", &said[..], "10.0.0.1", false),
            (&[PROXIES][..], "10.0.0.1", &said[..], "203.0.113.9", true),
            (&[PROXIES][..], "11.0.0.1", &said[..], "11.0.0.1", false),
            (&[PROXIES][..], "10.0.0.1", &[][..], "10.0.0.1", false),
            (&[PROXIES][..], "::ffff:10.0.0.1", &said[..], "203.0.113.9", true),
        ] {
            assert_eq!(ask(rows, socket, headers), (address.to_owned(), secure), "{rows:?} {socket}");
        }
    }

    #[test]
    fn a_proxy_that_is_not_trusted_is_reported() {
        let mut headers = HeaderMap::new();
        let ignored = |headers: &HeaderMap, proxies: &str| {
            let rows = [("trusted_proxies".to_owned(), proxies.to_owned())];
            let settings = Settings::new(Table::from([("settee".to_owned(), rows.into())])).unwrap();
            client(&settings, headers, Some(IpAddr::from([10, 0, 0, 1])), false).ignored_proxy
        };
        assert_eq!(ignored(&headers, ""), None, "no proxy");
        headers.insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        assert_eq!(ignored(&headers, ""), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(ignored(&headers, "10.0.0.0/8"), None, "a trusted one");
    }

    #[test]
    fn x_forwarded_for_is_read_from_its_end() {
        for (list, address) in [
            ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
            ("1.1.1.1, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
            ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
            ("1.1.1.1, nonsense, 10.0.0.8", "10.0.0.8"),
            ("nonsense", "10.0.0.1"),
            ("203.0.113.9:1234", "203.0.113.9"),
            ("[2001:db8::1]:1234", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(ask(&[PROXIES], "10.0.0.1", &[("x-forwarded-for", list)]).0, address, "{list}");
        }
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9, 10.0.0.2")];
        assert_eq!(ask(&[PROXIES], "10.0.0.1", &lines).0, "203.0.113.9");
    }

    #[test]
    fn peer_header_counts_only_from_trusted_proxies_if_any_are_configured() {
        let named = ("chttpd", "peer_header", "X-Real-IP");
        let said = [("x-real-ip", "203.0.113.9"), ("x-forwarded-for", "1.1.1.1")];
        assert_eq!(ask(&[named], "11.0.0.1", &said).0, "203.0.113.9");
        assert_eq!(ask(&[named, PROXIES], "10.0.0.1", &said).0, "203.0.113.9");
        assert_eq!(ask(&[named, PROXIES], "11.0.0.1", &said).0, "11.0.0.1");
    }
}
