//! Rate limits per address and per user: the settings of `[rate_limits]`, enforced with governor (GCRA).
//!
//! ```text
//! open connections of the address     when a connection is accepted
//! requests of the address             before authentication
//! sign-ins of the address             during authentication, if a password must be hashed
//! requests of the user                after authentication
//! sign-ups of the address             when a user creates their own account
//! ```
//! A limit has a rate and a burst; a rate of 0 disables it. The state of a key takes eight bytes, in a map of
//! at most `max_objects` entries. The map evicts the least recently used entries; an evicted client gets its
//! full burst again. An IPv6 client usually has at least a /64 for itself, so all addresses of a /64 count as
//! one.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use parking_lot::{Mutex, RwLock};

use crate::bounded_map::Bounded;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::networks::Networks;

/// The network whose requests are counted together: an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(IpAddr);

impl Origin {
    /// The origin of an address.
    pub fn of(address: IpAddr) -> Origin {
        Origin(crate::auth::lockout::network(address))
    }
}

/// The refusal of a client that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// After how many seconds the client may try again.
    pub seconds: u64,
    pub reason: &'static str,
}

/// The result of counting a request.
pub type Result<T> = std::result::Result<T, TooMany>;

/// Counts requests and refuses those beyond the limits. One per server.
pub struct RateLimits {
    time: Time,
    current: RwLock<Arc<Current>>,
    open: Mutex<HashMap<Origin, u32>>,
}

struct Current {
    wanted: Wanted,
    address: Option<Limiter<Origin>>,
    user: Option<Limiter<String>>,
    sign_in: Option<Limiter<Origin>>,
    sign_up: Option<Limiter<Origin>>,
}

/// The limits as configured: (rate, burst) of each.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    address: (u64, u64),
    user: (u64, u64),
    sign_in: (u64, u64),
    sign_up: (u64, u64),
    most: u64,
    exempt: Networks,
    connections: u64,
}

impl Wanted {
    fn read(settings: &Settings) -> Wanted {
        let of = |key: &str| settings.number("rate_limits", key);
        Wanted {
            address: (of("address_per_second"), of("address_burst")),
            user: (of("user_per_second"), of("user_burst")),
            sign_in: (of("sign_ins_per_minute"), of("sign_in_burst")),
            sign_up: (of("sign_ups_per_hour"), of("sign_up_burst")),
            most: of("max_objects"),
            exempt: settings.unlimited.clone(),
            connections: settings.number("settee", "max_connections_per_address"),
        }
    }

    fn limits(self, time: &Time) -> Current {
        let (second, minute, hour) = (Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(3600));
        Current {
            address: Limiter::new(self.address, second, self.most, time),
            user: Limiter::new(self.user, second, self.most, time),
            sign_in: Limiter::new(self.sign_in, minute, self.most, time),
            sign_up: Limiter::new(self.sign_up, hour, self.most, time),
            wanted: self,
        }
    }
}

impl RateLimits {
    /// Creates the limits that `settings` configure.
    pub fn new(settings: &Settings, clock: &Clock) -> RateLimits {
        let time = Time { clock: clock.clone(), start: Instant::now() };
        let current = RwLock::new(Arc::new(Wanted::read(settings).limits(&time)));
        RateLimits { time, current, open: Mutex::default() }
    }

    /// Applies changed settings. If one of the limits has changed, all rates start from zero. Open
    /// connections stay counted.
    pub fn configure(&self, settings: &Settings) {
        let wanted = Wanted::read(settings);
        let mut current = self.current.write();
        if current.wanted != wanted {
            *current = Arc::new(wanted.limits(&self.time));
        }
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().clone()
    }

    /// Counts a request from an address.
    pub fn request(&self, address: Option<IpAddr>) -> Result<()> {
        let current = self.current();
        match (address, &current.address) {
            (Some(address), Some(limiter)) if !current.wanted.exempt.contains(address) => {
                limiter.check(&Origin::of(address), "Too many requests from this address.")
            }
            _ => Ok(()),
        }
    }

    /// Counts a request of a user.
    pub fn user(&self, name: &str) -> Result<()> {
        match &self.current().user {
            Some(limiter) => limiter.check(&cut(name), "Too many requests from this user."),
            None => Ok(()),
        }
    }

    /// Counts a password that must be hashed.
    pub fn sign_in(&self, address: Option<IpAddr>) -> Result<()> {
        let current = self.current();
        match (address, &current.sign_in) {
            (Some(address), Some(limiter)) if !current.wanted.exempt.contains(address) => {
                limiter.check(&Origin::of(address), "Too many sign-ins from this address.")
            }
            _ => Ok(()),
        }
    }

    /// Counts an account that a user creates for themselves.
    pub fn sign_up(&self, address: Option<IpAddr>) -> Result<()> {
        let current = self.current();
        match (address, &current.sign_up) {
            (Some(address), Some(limiter)) if !current.wanted.exempt.contains(address) => {
                limiter.check(&Origin::of(address), "Too many new accounts from this address.")
            }
            _ => Ok(()),
        }
    }

    /// Counts an open connection until the returned guard is dropped. Returns `None` if the address has too
    /// many connections.
    pub fn connect(self: &Arc<Self>, address: IpAddr) -> Option<Open> {
        let current = self.current();
        if current.wanted.connections == 0 || current.wanted.exempt.contains(address) {
            return Some(Open(None));
        }
        let origin = Origin::of(address);
        let mut open = self.open.lock();
        let count = open.entry(origin).or_insert(0);
        if u64::from(*count) >= current.wanted.connections {
            return None;
        }
        *count += 1;
        Some(Open(Some((self.clone(), origin))))
    }
}

/// The guard of a counted connection.
pub struct Open(Option<(Arc<RateLimits>, Origin)>);

impl Drop for Open {
    fn drop(&mut self) {
        let Some((limits, origin)) = self.0.take() else { return };
        let mut open = limits.open.lock();
        if let Some(count) = open.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                open.remove(&origin);
            }
        }
    }
}

/// Truncates a name, to bound the size of an entry.
fn cut(name: &str) -> String {
    name.chars().take(128).collect()
}

/// A rate limiter with separate state for each key.
struct Limiter<K: Hash + Eq + Clone> {
    counted: RateLimiter<K, Kept<K>, Time, NoOpMiddleware<Nanos>>,
    time: Time,
    #[cfg(test)]
    kept: Kept<K>,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// Returns `None` if the limit is disabled.
    fn new((rate, burst): (u64, u64), per: Duration, most: u64, time: &Time) -> Option<Limiter<K>> {
        let rate = u32::try_from(rate.min(u64::from(u32::MAX))).ok().filter(|rate| *rate > 0)?;
        let burst = NonZeroU32::new(u32::try_from(burst).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(per / rate)?.allow_burst(burst);
        let kept = Kept(Arc::new(Mutex::new(Bounded::new(usize::try_from(most).unwrap_or(usize::MAX)))));
        Some(Limiter {
            #[cfg(test)]
            kept: kept.clone(),
            counted: RateLimiter::new(quota, kept, time.clone()),
            time: time.clone(),
        })
    }

    fn check(&self, key: &K, reason: &'static str) -> Result<()> {
        self.counted.check_key(key).map_err(|until| {
            let wait = until.wait_time_from(governor::clock::Clock::now(&self.time));
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            TooMany { seconds: seconds.max(1), reason }
        })
    }
}

/// The bounded map in which governor keeps its state.
#[derive(Clone)]
struct Kept<K>(Arc<Mutex<Bounded<K, Nanos>>>);

impl<K: Hash + Eq + Clone> StateStore for Kept<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> std::result::Result<T, E>
    where
        F: Fn(Option<Nanos>) -> std::result::Result<(T, Nanos), E>,
    {
        let mut kept = self.0.lock();
        match kept.get_mut(key) {
            Some(known) => measure(Some(*known)).map(|(value, next)| {
                *known = next;
                value
            }),
            None => measure(None).map(|(value, next)| {
                kept.insert(key.clone(), next);
                value
            }),
        }
    }
}

/// Monotonic time, or the time of the clock that a test has fixed.
#[derive(Debug, Clone)]
struct Time {
    clock: Clock,
    start: Instant,
}

impl governor::clock::Clock for Time {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        if self.clock.is_fixed() { self.clock.since_epoch().into() } else { self.start.elapsed().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Table;

    fn settings(rows: &[(&str, &str)]) -> Settings {
        let mut table = Table::new();
        for (key, value) in rows {
            let section = if key.starts_with("max_connections") { "settee" } else { "rate_limits" };
            table.entry(section.into()).or_default().insert((*key).into(), (*value).into());
        }
        Settings::new(table).unwrap()
    }

    fn limits(rows: &[(&str, &str)]) -> (Arc<RateLimits>, Clock) {
        let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
        (Arc::new(RateLimits::new(&settings(rows), &clock)), clock)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn seconds(result: Result<()>) -> Option<u64> {
        match result {
            Ok(()) => None,
            Err(TooMany { seconds, .. }) => Some(seconds),
        }
    }

    #[test]
    fn an_address_may_use_its_burst_and_then_its_rate() {
        let (limits, clock) = limits(&[("address_per_second", "2"), ("address_burst", "5")]);
        let from = |address| seconds(limits.request(ip(address)));
        for count in 0..5 {
            assert_eq!(from("203.0.113.1"), None, "{count}");
        }
        assert_eq!(from("203.0.113.1"), Some(1));
        assert_eq!(from("::ffff:203.0.113.1"), Some(1), "the same address in IPv6-mapped form");
        assert_eq!(from("203.0.113.2"), None, "another address");
        assert_eq!(from("127.0.0.1"), None);
        clock.advance(Duration::from_millis(500));
        assert_eq!((from("203.0.113.1"), from("203.0.113.1")), (None, Some(1)));
        for count in 0..20 {
            assert_eq!(from("127.0.0.1"), None, "this machine is exempt, {count}");
            assert_eq!(seconds(limits.request(None)), None);
        }
    }

    #[test]
    fn ipv6_addresses_of_one_64_count_together() {
        let (limits, _) = limits(&[("address_per_second", "1"), ("address_burst", "1")]);
        let from = |address| seconds(limits.request(ip(address))).is_some();
        assert!(!from("2001:db8::1") && from("2001:db8::2") && from("2001:db8::ffff:0:0:1"));
        assert!(!from("2001:db8:0:1::1"));
    }

    #[test]
    fn sign_ins_and_users_have_separate_limits() {
        let rows =
            [("sign_ins_per_minute", "1"), ("sign_in_burst", "2"), ("user_per_second", "1"), ("user_burst", "1")];
        let (limits, clock) = limits(&rows);
        let sign_in = || seconds(limits.sign_in(ip("203.0.113.1")));
        assert_eq!((sign_in(), sign_in()), (None, None));
        assert!(sign_in().is_some_and(|wait| (59..=61).contains(&wait)));
        clock.advance(Duration::from_secs(60));
        assert_eq!(sign_in(), None);
        let user = |name| seconds(limits.user(name));
        assert_eq!((user("ann"), user("ann"), user("bob")), (None, Some(1), None));
    }

    #[test]
    fn default_limits_do_not_affect_normal_use() {
        let (limits, _) = limits(&[]);
        for _ in 0..5000 {
            assert_eq!(seconds(limits.request(ip("203.0.113.1"))), None);
            assert_eq!(seconds(limits.user("ann")), None);
        }
    }

    #[test]
    fn changed_settings_apply_at_once() {
        let (limits, _) = limits(&[("address_per_second", "1"), ("address_burst", "1")]);
        let from = || seconds(limits.request(ip("203.0.113.1")));
        assert_eq!((from(), from()), (None, Some(1)));
        limits.configure(&settings(&[("address_per_second", "1"), ("address_burst", "1")]));
        assert_eq!(from(), Some(1), "nothing has changed");
        limits.configure(&settings(&[("address_per_second", "0")]));
        assert_eq!(from(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let (limits, _) = limits(&[("address_per_second", "1"), ("address_burst", "1"), ("max_objects", "100")]);
        for number in 0..10_000_u32 {
            let _ = limits.request(Some(IpAddr::from((0x2000_0000 + number).to_be_bytes())));
        }
        let current = limits.current();
        let kept = &current.address.as_ref().unwrap().kept;
        assert!((1..=100).contains(&kept.0.lock().len()));
    }

    #[test]
    fn connections_of_an_address_are_counted_while_they_are_open() {
        let (limits, _) = limits(&[("max_connections_per_address", "2")]);
        let connect = |address: &str| limits.connect(address.parse().unwrap());
        let first = connect("203.0.113.1").unwrap();
        let _second = connect("203.0.113.1").unwrap();
        assert!(connect("203.0.113.1").is_none());
        assert!(connect("203.0.113.2").is_some());
        let many: Vec<_> = (0..10).map(|_| connect("127.0.0.1")).collect();
        assert!(many.iter().all(Option::is_some));
        drop(first);
        assert!(connect("203.0.113.1").is_some());
        drop((_second, many));
        assert!(limits.open.lock().is_empty());
    }
}
