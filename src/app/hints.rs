//! Log lines that tell an admin which setting to look at. Each is written once for one subject, an address or an
//! origin, because clients repeat the request that causes it.

use std::collections::HashSet;
use std::net::IpAddr;

use parking_lot::Mutex;

/// Maximum number of subjects that are remembered. Clients choose them, so nothing is logged beyond this number:
/// neither memory nor the log may grow without bound.
const MOST: usize = 100;
/// Bytes of an origin that are logged and compared.
const ORIGIN: usize = 200;

/// What was logged already. One per server.
#[derive(Default)]
pub struct Hints(Mutex<Known>);

#[derive(Default)]
struct Known {
    origins: HashSet<String>,
    proxies: HashSet<IpAddr>,
}

impl Hints {
    /// A preflight request was refused. `reason` says why.
    pub fn refused_preflight(&self, origin: &str, reason: &str) {
        let origin: String = origin.chars().take(ORIGIN).collect();
        if remember(&mut self.0.lock().origins, origin.clone()) {
            tracing::warn!(
                origin,
                "a page may not use this server: {reason}. GET /_node/_local/_config/cors shows the settings"
            );
        }
    }

    /// A request came with `X-Forwarded-For` from an address that is not among `trusted_proxies`.
    pub fn ignored_proxy(&self, address: IpAddr) {
        if remember(&mut self.0.lock().proxies, address) {
            tracing::warn!(
                "requests from {address} have X-Forwarded-For, which is ignored: all clients of that proxy count as \
                 one address for lockout and rate limits. If it is your proxy, set trusted_proxies = [\"{address}\"] in \
                 the settings file, or SETTEE_TRUSTED_PROXIES={address}, and restart"
            );
        }
    }
}

/// Whether `subject` is new and is now remembered.
fn remember<T: std::hash::Hash + Eq>(known: &mut HashSet<T>, subject: T) -> bool {
    known.len() < MOST && known.insert(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_is_new_once_and_memory_is_bounded() {
        let mut known = HashSet::new();
        assert!(remember(&mut known, 0));
        assert!(!remember(&mut known, 0));
        for subject in 1..1000 {
            remember(&mut known, subject);
        }
        assert_eq!(known.len(), MOST);
        assert!(!remember(&mut known, 1000), "nothing more is logged");
    }
}
