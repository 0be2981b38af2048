//! The URL under which devices reach the server: the one given, or a guess.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::vault::Vault;
use crate::cli::admin_api::{AdminApi, Target};
use crate::cli::sources::DEFAULT_BIND;

/// The URL that a link holds, and how far it can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceUrl {
    pub url: String,
    source: Source,
}

/// Where a URL comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From the command line, or from a server that runs.
    Known,
    /// From the settings in the store, while no server was asked: its own command line or settings file may name another
    /// address.
    Stored,
    /// The default, while no server was asked.
    Default,
}

/// Finds the URL for devices. A server that runs is asked for its address. The address of a stopped one is in its store
/// only if it was set over HTTP: not if it comes from `--bind`, the environment or a settings file.
///
/// # Errors
/// A sentence for the user: the URL that was given is none.
pub(super) fn device_url(api: &AdminApi, vault: &Vault, config: &Value) -> Result<DeviceUrl, String> {
    let known = |url: String| DeviceUrl { url, source: Source::Known };
    if let Some(url) = &vault.url {
        return match url.starts_with("https://") || url.starts_with("http://") {
            true => Ok(known(url.trim_end_matches('/').to_owned())),
            false => Err(format!("--url: `{url}` does not begin with https:// or http://")),
        };
    }
    if let Target::Server { url, .. } = &vault.target {
        return Ok(known(url.clone()));
    }
    let listens = if api.is_live() { listens_at(api) } else { None };
    Ok(guess(config, api.is_live(), listens))
}

/// The address at which a running server listens. Not always that of its settings: systemd may have opened its port.
fn listens_at(api: &AdminApi) -> Option<SocketAddr> {
    let nodes = api.must("GET", "/_node/_local/_nodes", None, "the address").ok()?;
    nodes["nodes"][0]["address"].as_str()?.parse().ok()
}

fn guess(config: &Value, is_live: bool, listens: Option<SocketAddr>) -> DeviceUrl {
    let text = |section: &str, key: &str| config[section][key].as_str().unwrap_or_default();
    let stored = if is_live { Source::Known } else { Source::Stored };
    if let Some(domain) = text("ssl", "acme_domains").split(',').map(str::trim).find(|domain| !domain.is_empty()) {
        let port = text("ssl", "port");
        let url = if port == "443" { format!("https://{domain}") } else { format!("https://{domain}:{port}") };
        return DeviceUrl { url, source: stored };
    }
    let ip = match text("chttpd", "bind_address") {
        "any" => Some(Ipv4Addr::UNSPECIFIED.into()),
        address => address.parse::<IpAddr>().ok(),
    };
    let configured = ip.zip(text("chttpd", "port").parse::<u16>().ok()).map(SocketAddr::from);
    let address = listens.or(configured).unwrap_or(DEFAULT_BIND);
    let source = if address == DEFAULT_BIND && !is_live { Source::Default } else { stored };
    let (ip, port) = (address.ip(), address.port());
    let url = match ip {
        ip if ip.is_unspecified() => format!("http://{}:{port}", own_address().unwrap_or_else(|| "localhost".into())),
        ip if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => format!("http://localhost:{port}"),
        _ => format!("http://{address}"),
    };
    DeviceUrl { url, source }
}

/// The address of this machine in its network: the one from which it would reach others. Sends nothing.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address for documentation (RFC 5737): never on the own network.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

impl DeviceUrl {
    /// What the user should know of the URL in a new link.
    pub fn explained(&self) -> String {
        let DeviceUrl { url, source } = self;
        let guess = match source {
            Source::Known => "",
            Source::Stored => {
                "\nThis address is a guess from the stored settings, because no running server was asked. If the server is \
                 started\nwith another one (--bind, SETTEE_BIND, a settings file), the link does not work."
            }
            Source::Default => {
                "\nThis address is the default, because no running server was asked. If the server is started with another one \
                 (--bind,\nSETTEE_BIND, a settings file), the link does not work."
            }
        };
        let limits = if url.starts_with("http://localhost") {
            "\nOnly this machine reaches it there. For other devices, see docs/proxies.md."
        } else if url.starts_with("http://") {
            "\nPhones need https: see docs/livesync.md."
        } else {
            ""
        };
        let other = match guess.is_empty() && limits.is_empty() {
            true => "",
            false => "\nFor a link with another address, run this again with --url URL and --new-password.",
        };
        format!("The link has the address {url}.{guess}{limits}{other}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_url_is_that_of_a_certificate_or_of_the_address() {
        let address = |bind: &str, port: &str| json!({"chttpd": {"bind_address": bind, "port": port}});
        let acme = |port: &str| json!({"ssl": {"acme_domains": " a.example, b.example", "port": port}});
        let listens = Some(SocketAddr::from(([127, 0, 0, 1], 7000)));
        use Source::{Default, Known, Stored};
        for (config, is_live, listens, url, source) in [
            (acme("443"), true, None, "https://a.example", Known),
            (acme("8443"), false, None, "https://a.example:8443", Stored),
            (address("127.0.0.1", "5984"), true, None, "http://localhost:5984", Known),
            (address("127.0.0.1", "5984"), true, listens, "http://localhost:7000", Known),
            (address("127.0.0.1", "5984"), false, None, "http://localhost:5984", Default),
            (address("127.0.0.1", "7001"), false, None, "http://localhost:7001", Stored),
            (address("192.0.2.7", "5984"), false, None, "http://192.0.2.7:5984", Stored),
            (address("2001:db8::1", "5984"), true, None, "http://[2001:db8::1]:5984", Known),
            (address("127.0.0.2", "5984"), true, None, "http://127.0.0.2:5984", Known),
            (address("", ""), false, None, "http://localhost:5984", Default),
        ] {
            assert_eq!(guess(&config, is_live, listens), DeviceUrl { url: url.into(), source }, "{config}");
        }
        for bind in ["0.0.0.0", "::", "any"] {
            assert!(guess(&address(bind, "5984"), true, None).url.ends_with(":5984"), "{bind}");
        }
    }

    #[test]
    fn a_guess_is_called_one() {
        let of = |url: &str, source| DeviceUrl { url: url.into(), source }.explained();
        let said = of("http://localhost:5984", Source::Default);
        assert!(
            said.contains("is the default, because no running server was asked") && said.contains("--url URL"),
            "{said}"
        );
        assert!(of("https://a.example", Source::Stored).contains("--url URL"));
        assert_eq!(of("https://a.example", Source::Known), "The link has the address https://a.example.");
    }
}
