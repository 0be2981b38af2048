//! Certificates that the server gets by itself: ACME (RFC 8555), as Let's Encrypt and private authorities speak it, by
//! `rustls-acme`, with the challenge `tls-alpn-01` (RFC 8737), which is answered on the port of TLS: nothing else is opened.
//!
//! ```text
//! acme/certificate-*.pem ──start──> Shown ──every handshake──> clients
//!        ▲                            ▲
//!        │ kept (synced, renamed)     │ one that has come, from then on │ a challenge, while its name is checked
//!        └──────────── Automatic::run: due? ──order──> the authority ──connects to the port──> is shown the challenge
//! ```
//! What must hold:
//! - an authority is asked as seldom as can be, since it counts: the account's key is on the disk before it is used, a
//!   certificate is kept over restarts, what fails is tried again ever more seldom ([`pause_after`]);
//! - a certificate in use stays in use until a better one is there, whole and for all names; without one, handshakes fail
//!   and everything else goes on;
//! - every step ends: `rustls-acme` has no limits of its own, so each request and the whole order have a time here. It has no limit
//!   of an answer's size, and cannot be given one: whom the owner names as authority is trusted with that.
//!
//! `rustls_acme::AcmeState` is not used: an authority that does not answer would hold it up for good.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_rustls::rustls::ClientConfig;

use crate::clock::Clock;

mod cache;
mod issued;
mod order;
mod shown;

use cache::Cache;
use issued::{Issued, Pem};
use order::Order;
pub(super) use shown::Shown;

/// The protocol of the challenge (RFC 8737, section 4).
pub(super) const CHALLENGE: &[u8] = rustls_acme::acme::ACME_TLS_ALPN_NAME;
/// From the first request of an order to its certificate. A hundred names take some four minutes.
const ORDER: Duration = Duration::from_secs(15 * 60);
/// The longest that is slept until the next look: the machine may have slept too, or its clock been set.
const ROUND: Duration = Duration::from_secs(3600);
/// After a first failure; doubled with each further one, up to [`LAST_PAUSE`]. Let's Encrypt allows five failures of a name an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(120);
const LAST_PAUSE: Duration = Duration::from_secs(12 * 3600);

/// Which certificate is wanted, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The names it is to hold: at least one, lower-case, sorted, each once.
    pub domains: Vec<String>,
    /// The mail address that the authority is told.
    pub contact: Option<String>,
    /// The URL (https) of the authority's directory. Its terms of service were agreed to.
    pub directory: String,
}

/// The certificate that is got and renewed.
pub struct Automatic {
    wanted: Wanted,
    cache: Cache,
    /// Whom the server trusts to be the authority.
    trusts: Arc<ClientConfig>,
    shown: Arc<Shown>,
    clock: Clock,
    current: Mutex<Option<Issued>>,
}

impl Automatic {
    /// Opens the folder of keys and certificates, makes it if need be, and takes the certificate that is in it. Asks nobody.
    ///
    /// The error says which folder is of no use and why: without a place to keep a certificate none may be asked for. Blocks.
    pub fn open(wanted: Wanted, folder: &Path, trusts: Arc<ClientConfig>, clock: Clock) -> Result<Automatic, String> {
        let cache = Cache::open(folder, &wanted)?;
        let kept = cache.certificate().and_then(|kept| kept.map(|pem| Issued::read(&pem, &wanted.domains)).transpose());
        let automatic = Automatic { wanted, cache, trusts, shown: Arc::default(), clock, current: Mutex::new(None) };
        match kept {
            Ok(Some(issued)) => {
                tracing::info!(names = automatic.names(), until = issued.ends(), "the certificate is there");
                automatic.show(issued);
            }
            Ok(None) => {}
            Err(wrong) => {
                tracing::warn!("the certificate that was kept is of no use, another one is asked for: {wrong}")
            }
        }
        Ok(automatic)
    }

    /// What handshakes are answered with.
    pub(super) fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }

    /// Gets the certificate and renews it, for as long as it is polled.
    pub async fn run(&self) {
        // Orders since one brought a certificate that is good for more than an hour.
        let mut orders = 0_u32;
        let mut unkept = None;
        loop {
            if let Some(pem) = unkept.take() {
                unkept = self.keep(pem).await;
            }
            let due = self.due_in();
            if !due.is_zero() {
                tokio::time::sleep(due.min(ROUND)).await;
                continue;
            }
            orders = orders.saturating_add(1);
            tracing::info!(names = self.names(), from = self.wanted.directory, "a certificate is asked for");
            let pause = match self.order().await {
                Ok((pem, issued)) => {
                    tracing::info!(names = self.names(), until = issued.ends(), "a new certificate is in use");
                    self.show(issued);
                    unkept = self.keep(pem).await;
                    if self.due_in() >= ROUND {
                        orders = 0;
                    }
                    // One that is due again at once is renewed once at its time, then ever more seldom.
                    pause_after(orders.saturating_sub(1))
                }
                Err(wrong) => {
                    let pause = pause_after(orders);
                    let again = format!("{} min", pause.as_secs() / 60);
                    match self.current.lock().as_ref().map(Issued::ends) {
                        Some(until) => tracing::warn!(
                            names = self.names(),
                            until,
                            again,
                            "no new certificate was got, the old one stays in use: {wrong}"
                        ),
                        None => tracing::warn!(
                            names = self.names(),
                            again,
                            "no certificate was got, TLS cannot be served yet: {wrong}"
                        ),
                    }
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// How long the certificate is good without being renewed; zero without one.
    fn due_in(&self) -> Duration {
        let due = self.current.lock().as_ref().map(Issued::due).unwrap_or_default();
        due.saturating_sub(self.clock.since_epoch())
    }

    /// One order, whatever comes of it: the code that asks is not ours.
    async fn order(&self) -> Result<(Pem, Issued), String> {
        let cache = self.cache.clone();
        let key =
            tokio::task::spawn_blocking(move || cache.account_key()).await.map_err(|error| error.to_string())??;
        let order = Order { wanted: &self.wanted, trusts: &self.trusts, shown: &self.shown };
        let asked = tokio::time::timeout(ORDER, AssertUnwindSafe(order.run(&key)).catch_unwind()).await;
        let pem = match asked {
            Ok(Ok(asked)) => asked?,
            Ok(Err(_)) => return Err("the order ended in a panic".into()),
            Err(_) => return Err(format!("the order took longer than {} min", ORDER.as_secs() / 60)),
        };
        let issued = Issued::read(&pem, &self.wanted.domains)?;
        if issued.until() <= self.clock.since_epoch() {
            return Err(format!("what came has ended ({}); is this machine's clock right?", issued.ends()));
        }
        Ok((pem, issued))
    }

    fn show(&self, issued: Issued) {
        self.shown.use_from_now_on(issued.key());
        *self.current.lock() = Some(issued);
    }

    /// Puts the certificate where the next start finds it; back if that cannot be done.
    async fn keep(&self, pem: Pem) -> Option<Pem> {
        let cache = self.cache.clone();
        let kept = tokio::task::spawn_blocking(move || match cache.keep(&pem) {
            Ok(()) => None,
            Err(wrong) => Some((pem, wrong)),
        });
        let (pem, wrong) = kept.await.ok()??;
        tracing::warn!("the certificate cannot be kept, so that the next start asks for another one: {wrong}");
        Some(pem)
    }

    /// For messages.
    fn names(&self) -> String {
        self.wanted.domains.join(", ")
    }
}

/// How long nobody is asked after so many orders without a certificate.
fn pause_after(orders: u32) -> Duration {
    match orders.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX)).min(LAST_PAUSE),
    }
}

/// A time since the epoch, for people.
fn date(since_epoch: Duration) -> String {
    UNIX_EPOCH.checked_add(since_epoch).map_or_else(String::new, httpdate::fmt_http_date)
}

#[cfg(test)]
mod tests;
