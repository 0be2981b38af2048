//! Locks out clients that guess passwords (`couch_auth_lockout.erl`, settings `[chttpd_auth_lockout]`).
//!
//! Failures are counted per address, user and salt of the user. When the count reaches the threshold,
//! sign-ins of this user from this address are refused even with the right password, until the first failure
//! is `max_lifetime` old or the password changes. The user can still sign in from other addresses, so that an
//! attacker cannot lock out others.
//!
//! IPv6 addresses are counted by their /64 network, because a client usually controls at least one. CouchDB
//! counts each address separately, so that a client with a /64 has unlimited attempts.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use crate::bounded_map::Bounded;

/// What happens when an address has too many failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Failures are not counted.
    Off,
    /// Failures are counted. At and above the threshold they are logged.
    Warn,
    /// Failures are counted. At and above the threshold sign-ins are refused.
    Enforce,
}

/// Settings of `[chttpd_auth_lockout]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `mode`: `enforce` by default; an unknown value counts as `off`, as in CouchDB.
    pub mode: Mode,
    /// `threshold`: number of failures at which sign-ins are refused; 5 by default.
    pub threshold: u32,
    /// `max_lifetime`: how long failures count; 300 s by default.
    pub lifetime: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { mode: Mode::Enforce, threshold: 5, lifetime: Duration::from_millis(300_000) }
    }
}

/// Maximum number of counts; CouchDB's `max_objects`.
const BOUND: usize = 10_000;

#[derive(PartialEq, Eq, Hash)]
struct Key {
    peer: IpAddr,
    user: String,
    salt: String,
}

struct Failures {
    count: u32,
    first: Duration,
}

/// Counts of failures, in bounded memory.
pub(super) struct Lockout {
    failures: Mutex<Bounded<Key, Failures>>,
}

/// Longer names and salts are truncated, so that an entry stays small. No real user has such a name.
const NAME_BYTES: usize = 256;

/// The network that is counted as one client: the address itself for IPv4, the /64 for IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// Rounds up, so that a client that waits as long is not refused again.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn key(peer: IpAddr, user: &str, salt: &str) -> Key {
    let peer = network(peer);
    let cut = |text: &str| text.char_indices().take_while(|(at, _)| *at < NAME_BYTES).map(|(_, c)| c).collect();
    Key { peer, user: cut(user), salt: cut(salt) }
}

impl Lockout {
    pub fn new() -> Lockout {
        Lockout { failures: Mutex::new(Bounded::new(BOUND)) }
    }

    /// Returns for how many more seconds a sign-in is refused, or `None` if it is not refused. In mode `warn`, logs a
    /// warning instead.
    pub fn refuses(&self, peer: Option<IpAddr>, user: &str, salt: &str, policy: &Policy, now: Duration) -> Option<u64> {
        let peer = peer.filter(|_| policy.mode != Mode::Off)?;
        let mut failures = self.failures.lock();
        if failures.is_empty() {
            return None;
        }
        let key = key(peer, user, salt);
        let (count, age) = match failures.get_mut(&key) {
            Some(found) => (found.count, now.saturating_sub(found.first)),
            None => return None,
        };
        if age >= policy.lifetime {
            failures.remove(&key);
            return None;
        }
        drop(failures);
        if count < policy.threshold {
            return None;
        }
        if policy.mode == Mode::Warn {
            tracing::warn!(user, %peer, "authentication failure threshold reached");
        }
        (policy.mode == Mode::Enforce).then(|| seconds(policy.lifetime - age))
    }

    /// Counts a failure. Logs when it is the one that locks the address out.
    pub fn failed(&self, peer: Option<IpAddr>, user: &str, salt: &str, policy: &Policy, now: Duration) {
        let (Some(peer), false) = (peer, policy.mode == Mode::Off) else { return };
        let key = key(peer, user, salt);
        let mut failures = self.failures.lock();
        let (count, first) = match failures.get_mut(&key) {
            Some(found) if now.saturating_sub(found.first) < policy.lifetime => {
                found.count = found.count.saturating_add(1);
                (found.count, found.first)
            }
            _ => {
                failures.insert(key, Failures { count: 1, first: now });
                (1, now)
            }
        };
        drop(failures);
        if count == policy.threshold && policy.mode == Mode::Enforce {
            let wait = seconds((first + policy.lifetime).saturating_sub(now));
            tracing::warn!(
                user,
                %peer,
                "sign-ins of this user from this address are refused for {wait} s, also with the right password: \
                 {count} passwords were wrong. Is there a device with an old password?"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const THERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    #[test]
    fn an_address_is_refused_for_a_user_from_the_threshold_until_the_lifetime_ends() {
        let (lockout, policy, now) = (Lockout::new(), Policy::default(), Duration::from_secs(9));
        for count in 0..5 {
            assert!(lockout.refuses(HERE, "ann", "s", &policy, now).is_none(), "after {count} failures");
            lockout.failed(HERE, "ann", "s", &policy, now);
        }
        assert!(lockout.refuses(HERE, "ann", "s", &policy, now).is_some());
        assert!(lockout.refuses(THERE, "ann", "s", &policy, now).is_none(), "from elsewhere");
        assert!(lockout.refuses(HERE, "bob", "s", &policy, now).is_none(), "somebody else");
        assert!(lockout.refuses(HERE, "ann", "t", &policy, now).is_none(), "the password was changed");
        assert!(lockout.refuses(None, "ann", "s", &policy, now).is_none(), "no address: not from the network");
        let warn = Policy { mode: Mode::Warn, ..policy.clone() };
        assert!(lockout.refuses(HERE, "ann", "s", &warn, now).is_none());
        assert!(lockout.refuses(HERE, "ann", "s", &policy, now + policy.lifetime - Duration::from_millis(1)).is_some());
        assert!(lockout.refuses(HERE, "ann", "s", &policy, now + policy.lifetime).is_none());
    }

    #[test]
    fn a_refusal_says_how_long_it_lasts() {
        let (lockout, policy, now) = (Lockout::new(), Policy::default(), Duration::from_secs(9));
        for _ in 0..5 {
            lockout.failed(HERE, "ann", "s", &policy, now);
        }
        let after = |millis| lockout.refuses(HERE, "ann", "s", &policy, now + Duration::from_millis(millis));
        assert_eq!(
            [after(0), after(1), after(298_000), after(299_999), after(300_000)],
            [Some(300), Some(300), Some(2), Some(1), None]
        );
    }

    #[test]
    fn ipv6_addresses_are_counted_by_network() {
        let (lockout, policy, now) = (Lockout::new(), Policy::default(), Duration::from_secs(9));
        let address = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        for count in 0..5 {
            lockout.failed(address(&format!("2001:db8::{count}:1")), "ann", "s", &policy, now);
        }
        assert!(lockout.refuses(address("2001:db8::ffff:0:0:1"), "ann", "s", &policy, now).is_some());
        assert!(lockout.refuses(address("2001:db8:0:1::1"), "ann", "s", &policy, now).is_none());
    }

    #[test]
    fn mode_off_counts_nothing() {
        let (lockout, now) = (Lockout::new(), Duration::ZERO);
        let off = Policy { mode: Mode::Off, ..Policy::default() };
        for _ in 0..9 {
            lockout.failed(HERE, "ann", "s", &off, now);
        }
        assert!(lockout.refuses(HERE, "ann", "s", &Policy::default(), now).is_none());
    }
}
