//! Lists of networks in settings: `127.0.0.0/8, ::1, fd00::/8`.

use std::net::IpAddr;

use ipnet::IpNet;

/// A list of networks. The empty list contains no address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// Parses an address or a network. An IPv4-mapped address (`::ffff:10.0.0.1`) counts as IPv4.
fn network(text: &str) -> Option<IpNet> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let address = address.trim().parse::<IpAddr>().ok()?.to_canonical();
    match length {
        Some(length) => IpNet::new(address, length).ok(),
        None => Some(IpNet::from(address)),
    }
}

impl Networks {
    /// Parses a comma-separated list. Returns `None` if an item is neither an address nor a network.
    pub fn parse(text: &str) -> Option<Networks> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(network).collect::<Option<Vec<_>>>().map(Networks)
    }

    /// Whether one of the networks contains `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the list has no networks.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_contains_the_addresses_of_its_networks() {
        let list = Networks::parse("10.0.0.0/8, 192.168.1.7,, ::1, fd00::/8").unwrap();
        for (address, held) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.6", false),
            ("::1", true),
            ("::2", false),
            ("fdff::9", true),
            ("fe00::9", false),
            ("::ffff:10.0.0.1", true),
            ("::10.0.0.1", false),
        ] {
            assert_eq!(list.contains(address.parse().unwrap()), held, "{address}");
        }
        let mapped = Networks::parse("::ffff:10.0.0.7, 10.9.9.9/16").unwrap();
        assert!(mapped.contains("10.0.0.7".parse().unwrap()) && !mapped.contains("10.0.0.8".parse().unwrap()));
        assert!(mapped.contains("10.9.0.1".parse().unwrap()) && !mapped.contains("10.8.0.1".parse().unwrap()));
        let all = Networks::parse("0.0.0.0/0").unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!(Networks::parse(" ").unwrap().is_empty());
        for wrong in ["10.0.0.0/33", "::/129", "host", "10.0.0.0/", "10.0.0.0/-1", "1.2.3"] {
            assert_eq!(Networks::parse(wrong), None, "{wrong}");
        }
    }
}
