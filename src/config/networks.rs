//! Lists of networks in settings: `127.0.0.0/8, ::1, fd00::/8`.

use std::net::IpAddr;

/// One network: all addresses that share a prefix of `bits` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: u128,
    /// Prefix length, of 32 (IPv4) or 128 (IPv6) bits.
    bits: u32,
    v4: bool,
}

/// A list of networks. The empty list contains no address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// Returns the address as a number, and whether it is IPv4. An IPv4-mapped address (`::ffff:10.0.0.1`) counts
/// as IPv4.
fn number(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(u32::from(address)), true),
        IpAddr::V6(address) => (u128::from(address), false),
    }
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (first, v4) = number(address.trim().parse().ok()?);
        let width = if v4 { 32 } else { 128 };
        let bits = length.unwrap_or(width);
        (bits <= width).then_some(Network { first, bits, v4 })
    }

    fn contains(&self, number: u128, v4: bool) -> bool {
        let width = if self.v4 { 32 } else { 128 };
        // `bits == 0` matches every address and is tested first, because shifting a u128 by 128 bits
        // overflows.
        v4 == self.v4 && (self.bits == 0 || (self.first ^ number) >> (width - self.bits) == 0)
    }
}

impl Networks {
    /// Parses a comma-separated list. Returns `None` if an item is neither an address nor a network.
    pub fn parse(text: &str) -> Option<Networks> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(Network::parse).collect::<Option<Vec<_>>>().map(Networks)
    }

    /// Whether one of the networks contains `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (number, v4) = number(address);
        self.0.iter().any(|network| network.contains(number, v4))
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
        let all = Networks::parse("0.0.0.0/0").unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!(Networks::parse(" ").unwrap().is_empty());
        for wrong in ["10.0.0.0/33", "::/129", "host", "10.0.0.0/", "10.0.0.0/-1", "1.2.3"] {
            assert_eq!(Networks::parse(wrong), None, "{wrong}");
        }
    }
}
