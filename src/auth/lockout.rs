//! Lockout of guessing: CouchDB's `couch_auth_lockout.erl`, setting section `[chttpd_auth_lockout]`.
//!
//! Failures are counted by (address, user, the user's salt). At the threshold the pair is refused, right password or
//! not, until its count is `max_lifetime` old or the password changes. Others may still sign in as that user from
//! elsewhere, so that nobody can be locked out by somebody else. An IPv6 client has at least a /64 of addresses for itself,
//! and is counted as that; CouchDB counts each of them, which lets who has one guess without end.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use super::bounded::Bounded;

/// What is done about an address that fails too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Failures are not counted.
    Off,
    /// Failures are counted, and logged from the threshold on.
    Warn,
    /// From the threshold on, sign-ins are refused.
    Enforce,
}

/// Settings of `[chttpd_auth_lockout]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `mode`: `enforce` by default; a word that CouchDB does not know counts as `off`.
    pub mode: Mode,
    /// `threshold`: failures from which on sign-ins are refused; 5.
    pub threshold: u32,
    /// `max_lifetime`: how long failures count; 300 s.
    pub lifetime: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { mode: Mode::Enforce, threshold: 5, lifetime: Duration::from_millis(300_000) }
    }
}

/// What CouchDB answers, as 403, to who is locked out.
pub const LOCKED: &str = "Account is temporarily locked due to multiple authentication failures";

/// CouchDB's `max_objects`.
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

/// Counts failures, in bounded memory.
pub(super) struct Lockout {
    failures: Mutex<Bounded<Key, Failures>>,
}

/// Names longer than this are nobody's; cutting them keeps an entry small.
const NAME_BYTES: usize = 256;

/// What is counted as one client: the address, of IPv6 its /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
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

    /// Whether a sign-in must be refused now. Logs instead, when the mode is `warn`.
    pub fn refuses(&self, peer: Option<IpAddr>, user: &str, salt: &str, policy: &Policy, now: Duration) -> bool {
        let (Some(peer), false) = (peer, policy.mode == Mode::Off) else { return false };
        let key = key(peer, user, salt);
        let mut failures = self.failures.lock();
        let count = match failures.get_mut(&key) {
            Some(found) if now.saturating_sub(found.first) < policy.lifetime => found.count,
            Some(_) => {
                failures.remove(&key);
                0
            }
            None => 0,
        };
        drop(failures);
        if count < policy.threshold {
            return false;
        }
        if policy.mode == Mode::Warn {
            tracing::warn!(user, %peer, "authentication failure threshold reached");
        }
        policy.mode == Mode::Enforce
    }

    /// Counts a failure.
    pub fn failed(&self, peer: Option<IpAddr>, user: &str, salt: &str, policy: &Policy, now: Duration) {
        let (Some(peer), false) = (peer, policy.mode == Mode::Off) else { return };
        let key = key(peer, user, salt);
        let mut failures = self.failures.lock();
        match failures.get_mut(&key) {
            Some(found) if now.saturating_sub(found.first) < policy.lifetime => {
                found.count = found.count.saturating_add(1);
            }
            _ => failures.insert(key, Failures { count: 1, first: now }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const THERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    #[test]
    fn refuses_the_address_and_user_from_the_threshold_until_the_lifetime_is_over() {
        let (lockout, policy, now) = (Lockout::new(), Policy::default(), Duration::from_secs(9));
        for count in 0..5 {
            assert!(!lockout.refuses(HERE, "ann", "s", &policy, now), "after {count} failures");
            lockout.failed(HERE, "ann", "s", &policy, now);
        }
        assert!(lockout.refuses(HERE, "ann", "s", &policy, now));
        assert!(!lockout.refuses(THERE, "ann", "s", &policy, now), "from elsewhere");
        assert!(!lockout.refuses(HERE, "bob", "s", &policy, now), "somebody else");
        assert!(!lockout.refuses(HERE, "ann", "t", &policy, now), "the password was changed");
        assert!(!lockout.refuses(None, "ann", "s", &policy, now), "no address: not from the network");
        let warn = Policy { mode: Mode::Warn, ..policy.clone() };
        assert!(!lockout.refuses(HERE, "ann", "s", &warn, now));
        assert!(lockout.refuses(HERE, "ann", "s", &policy, now + policy.lifetime - Duration::from_millis(1)));
        assert!(!lockout.refuses(HERE, "ann", "s", &policy, now + policy.lifetime));
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let (lockout, policy, now) = (Lockout::new(), Policy::default(), Duration::from_secs(9));
        let address = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        for count in 0..5 {
            lockout.failed(address(&format!("2001:db8::{count}:1")), "ann", "s", &policy, now);
        }
        assert!(lockout.refuses(address("2001:db8::ffff:0:0:1"), "ann", "s", &policy, now));
        assert!(!lockout.refuses(address("2001:db8:0:1::1"), "ann", "s", &policy, now));
    }

    #[test]
    fn off_counts_nothing() {
        let (lockout, now) = (Lockout::new(), Duration::ZERO);
        let off = Policy { mode: Mode::Off, ..Policy::default() };
        for _ in 0..9 {
            lockout.failed(HERE, "ann", "s", &off, now);
        }
        assert!(!lockout.refuses(HERE, "ann", "s", &Policy::default(), now));
    }
}
