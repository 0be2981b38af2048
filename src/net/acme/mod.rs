//! Certificates that the server obtains itself, by ACME (RFC 8555), from Let's Encrypt or a private
//! authority. It uses `instant-acme` and the challenge `tls-alpn-01` (RFC 8737), which is answered on the TLS
//! port, so no other port is opened.
//!
//! ```text
//! acme/certificate-*.pem ──start──> Shown ──every handshake──> clients, and the authority when it validates
//!        ▲                            ▲
//!        │ stored (synced, renamed)   │ a new certificate; the answer to a challenge during validation
//!        └──────────────── Automatic::run: due? ──order──> the authority
//! ```
//! Invariants:
//! - The server contacts the authority as rarely as possible, because authorities limit requests: the account
//!   key is on disk before it is used, a certificate survives restarts, and failed orders are retried at
//!   growing intervals ([`pause_after`]).
//! - A certificate stays in use until a better one is there, complete and valid for all names. Without a
//!   certificate handshakes fail, and everything else keeps working.
//! - Every step ends: each request and the whole order have a time limit, each response has a size limit
//!   ([`transport`]).

pub(crate) mod cache;
pub(crate) mod issued;
pub(crate) mod order;
pub(crate) mod shown;
mod transport;
pub mod wanted;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;

use self::cache::Cache;
use self::issued::{Issued, Pem};
use self::order::Order;
use self::shown::Shown;
use self::wanted::Wanted;
use crate::clock::Clock;
use crate::net::http_client::HttpClient;

/// Time limit from the first request of an order to its certificate. A hundred names take about four minutes.
const ORDER: Duration = Duration::from_secs(15 * 60);
/// Longest sleep before the due time is checked again, because the machine may be suspended or its clock set.
const ROUND: Duration = Duration::from_secs(3600);
/// Pause after the first failure; each further failure doubles it, up to [`LAST_PAUSE`]. Let's Encrypt allows
/// five failures per name and hour.
const FIRST_PAUSE: Duration = Duration::from_secs(120);
const LAST_PAUSE: Duration = Duration::from_secs(12 * 3600);

/// The certificate that the server obtains and renews.
pub struct Automatic {
    wanted: Wanted,
    cache: Cache,
    /// For the requests to the authority.
    client: HttpClient,
    shown: Arc<Shown>,
    clock: Clock,
    current: Mutex<Option<Issued>>,
}

impl Automatic {
    /// Opens the folder of keys and certificates, creates it if necessary, and uses the certificate stored in
    /// it. Sends no request.
    ///
    /// Fails if the folder cannot be used, since a certificate must not be requested without a place to store
    /// it. The error names the folder and the problem. Blocks.
    pub fn open(wanted: Wanted, folder: &Path, client: HttpClient, clock: Clock) -> Result<Automatic, String> {
        let cache = Cache::open(folder, &wanted)?;
        let kept = cache.certificate().and_then(|kept| kept.map(|pem| Issued::read(&pem, &wanted.domains)).transpose());
        let automatic = Automatic { wanted, cache, client, shown: Arc::default(), clock, current: Mutex::new(None) };
        match kept {
            Ok(Some(issued)) => {
                tracing::info!(names = automatic.names(), until = issued.ends(), "the stored certificate is in use");
                automatic.show(issued);
            }
            Ok(None) => {}
            Err(wrong) => {
                tracing::warn!("the stored certificate cannot be used, a new one is requested: {wrong}")
            }
        }
        Ok(automatic)
    }

    /// The certificates that handshakes use.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }

    /// Obtains the certificate and renews it, for as long as it is polled.
    pub async fn run(&self) {
        // Orders since the last one that returned a certificate valid for more than an hour.
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
            tracing::info!(names = self.names(), from = self.wanted.directory, "requesting a certificate");
            let pause = match self.order().await {
                Ok((pem, issued)) => {
                    tracing::info!(names = self.names(), until = issued.ends(), "a new certificate is in use");
                    self.show(issued);
                    unkept = self.keep(pem).await;
                    if self.due_in() >= ROUND {
                        orders = 0;
                    }
                    // A certificate that is due again at once is renewed once on time, and then at growing
                    // intervals.
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
                            "no new certificate was obtained, the current one stays in use: {wrong}"
                        ),
                        None => tracing::warn!(
                            names = self.names(),
                            again,
                            "no certificate was obtained, TLS is not available yet: {wrong}"
                        ),
                    }
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Time until the certificate has to be renewed; zero if there is none.
    fn due_in(&self) -> Duration {
        let due = self.current.lock().as_ref().map(Issued::due).unwrap_or_default();
        due.saturating_sub(self.clock.since_epoch())
    }

    /// Runs one order. Catches panics, because the code that talks to the authority is a dependency.
    async fn order(&self) -> Result<(Pem, Issued), String> {
        let cache = self.cache.clone();
        let key =
            tokio::task::spawn_blocking(move || cache.account_key()).await.map_err(|error| error.to_string())??;
        let order = Order { wanted: &self.wanted, client: &self.client, shown: &self.shown };
        let asked = tokio::time::timeout(ORDER, AssertUnwindSafe(order.run(key)).catch_unwind()).await;
        let pem = match asked {
            Ok(Ok(asked)) => asked?,
            Ok(Err(_)) => return Err("the order ended in a panic".into()),
            Err(_) => return Err(format!("the order took longer than {} min", ORDER.as_secs() / 60)),
        };
        let issued = Issued::read(&pem, &self.wanted.domains)?;
        if issued.until() <= self.clock.since_epoch() {
            return Err(format!(
                "the new certificate has already expired ({}); is this machine's clock correct?",
                issued.ends()
            ));
        }
        Ok((pem, issued))
    }

    fn show(&self, issued: Issued) {
        self.shown.use_from_now_on(issued.key());
        *self.current.lock() = Some(issued);
    }

    /// Stores the certificate for the next start. Returns it if that fails, so that the caller can retry.
    async fn keep(&self, pem: Pem) -> Option<Pem> {
        let cache = self.cache.clone();
        let kept = tokio::task::spawn_blocking(move || match cache.keep(&pem) {
            Ok(()) => None,
            Err(wrong) => Some((pem, wrong)),
        });
        let (pem, wrong) = kept.await.ok()??;
        tracing::warn!("the certificate cannot be stored, the next start would request another one: {wrong}");
        Some(pem)
    }

    /// The names, for messages.
    fn names(&self) -> String {
        self.wanted.domains.join(", ")
    }
}

/// The pause after `orders` orders without a certificate.
fn pause_after(orders: u32) -> Duration {
    match orders.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX)).min(LAST_PAUSE),
    }
}

#[cfg(test)]
mod tests;
