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
//!   growing intervals ([`times`]).
//! - A certificate stays in use until a better one is there, complete and valid for all names. Without a
//!   certificate handshakes fail, and everything else keeps working.
//! - Every step ends: each request and the whole order have a time limit, each response has a size limit
//!   ([`transport`]).
//! - The nodes of a shared store have one account and one certificate. One of them orders it under a lease, any of them
//!   answers the authority, and all use it ([`shared`]).

mod answer;
pub(crate) mod cache;
pub(crate) mod issued;
pub(crate) mod order;
mod shared;
pub(crate) mod shown;
mod times;
mod transport;
pub mod wanted;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;

use tokio_rustls::rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use self::cache::Cache;
use self::issued::{Issued, Pem};
use self::order::Order;
use self::shared::Shared;
use self::shown::Shown;
use self::times::{ORDER, pause_after};
use self::wanted::Wanted;
use crate::clock::Clock;
use crate::net::http_client::HttpClient;
use crate::store::Store;

/// Longest sleep before the due time is checked again, because the machine may be suspended or its clock set.
const ROUND: Duration = Duration::from_secs(3600);
/// On a shared store: how often a node looks for the certificate of another one, while it has one, and while it needs
/// one.
const SHARED_ROUND: Duration = Duration::from_secs(60);
const SHARED_LOOK: Duration = Duration::from_secs(2);

/// Where keys and certificates are kept.
#[derive(Clone)]
enum Kept {
    Folder(Cache),
    Shared(Shared),
}

impl Kept {
    fn account_key(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Kept::Folder(cache) => cache.account_key(),
            Kept::Shared(shared) => shared.account_key(),
        }
    }

    fn certificate(&self) -> Result<Option<Pem>, String> {
        match self {
            Kept::Folder(cache) => cache.certificate(),
            Kept::Shared(shared) => shared.certificate(),
        }
    }

    fn keep(&self, pem: &[u8]) -> Result<(), String> {
        match self {
            Kept::Folder(cache) => cache.keep(pem),
            Kept::Shared(shared) => shared.keep(pem),
        }
    }

    fn shared(&self) -> Option<&Shared> {
        match self {
            Kept::Folder(_) => None,
            Kept::Shared(shared) => Some(shared),
        }
    }
}

/// The certificate that the server obtains and renews.
pub struct Automatic {
    wanted: Wanted,
    cache: Kept,
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
        let cache = Kept::Folder(Cache::open(folder, &wanted)?);
        Ok(Automatic::with(wanted, cache, client, clock))
    }

    /// As [`Automatic::open`], for a node of a shared store: keys and certificates are kept there, for all nodes.
    pub fn shared(wanted: Wanted, store: Arc<dyn Store>, client: HttpClient, clock: Clock) -> Automatic {
        let cache = Kept::Shared(Shared::new(store, &wanted, &clock));
        Automatic::with(wanted, cache, client, clock)
    }

    fn with(wanted: Wanted, cache: Kept, client: HttpClient, clock: Clock) -> Automatic {
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
        automatic
    }

    /// The certificates that handshakes use.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }

    /// Whether other nodes order and answer for this one.
    pub(crate) fn is_shared(&self) -> bool {
        self.cache.shared().is_some()
    }

    /// The answer to a challenge for `name` that another node of a shared store has published.
    pub(crate) async fn answer_of_another_node(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let answer = self.cache.shared()?.answer(name).await?;
        answer.certified().ok().map(Arc::new)
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
            self.learn().await;
            let due = self.due_in();
            if !due.is_zero() {
                tokio::time::sleep(due.min(if self.is_shared() { SHARED_ROUND } else { ROUND })).await;
                continue;
            }
            if self.is_shared() {
                let Some(before) = self.begin().await else {
                    tokio::time::sleep(SHARED_LOOK).await;
                    continue;
                };
                orders = before;
            }
            let pause = self.attempt(&mut orders, &mut unkept).await;
            tokio::time::sleep(self.end(orders, pause).await).await;
        }
    }

    /// Orders a certificate. Returns the pause until the next order, at the earliest.
    async fn attempt(&self, orders: &mut u32, unkept: &mut Option<Pem>) -> Duration {
        *orders = orders.saturating_add(1);
        tracing::info!(names = self.names(), from = self.wanted.directory, "requesting a certificate");
        match self.order().await {
            Ok((pem, issued)) => {
                tracing::info!(names = self.names(), until = issued.ends(), "a new certificate is in use");
                self.show(issued);
                *unkept = self.keep(pem).await;
                if self.due_in() >= ROUND {
                    *orders = 0;
                }
                // A certificate that is due again at once is renewed once on time, and then at growing
                // intervals.
                pause_after(orders.saturating_sub(1))
            }
            Err(wrong) => {
                let pause = pause_after(*orders);
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
        }
    }

    /// On a shared store: uses the certificate that another node has obtained.
    async fn learn(&self) {
        if !self.is_shared() {
            return;
        }
        let (cache, domains) = (self.cache.clone(), self.wanted.domains.clone());
        let read = move || cache.certificate()?.map(|pem| Issued::read(&pem, &domains)).transpose();
        let read = crate::blocking::spawn_blocking(read).await;
        match read.map_err(|error| error.to_string()).and_then(|read| read) {
            Ok(Some(issued)) => {
                let until = self.current.lock().as_ref().map(Issued::until);
                if until.is_none_or(|until| issued.until() > until) {
                    let names = self.names();
                    tracing::info!(names, until = issued.ends(), "the certificate of another node is in use");
                    self.show(issued);
                }
            }
            Ok(None) => {}
            Err(wrong) => tracing::debug!("the certificate in the store cannot be used: {wrong}"),
        }
    }

    /// On a shared store: takes the turn to order. Returns the number of orders without a certificate so far. `None`:
    /// it is another node's turn, or nobody's for now.
    async fn begin(&self) -> Option<u32> {
        let shared = self.cache.shared()?;
        let own = shared.clone();
        let begun = crate::blocking::spawn_blocking(move || own.begin()).await;
        let before = match begun.map_err(|error| error.to_string()).and_then(|begun| begun) {
            Ok(before) => before?,
            Err(wrong) => {
                tracing::debug!("no certificate can be ordered: {wrong}");
                return None;
            }
        };
        // Another node may have stored one since this node has looked.
        self.learn().await;
        if self.due_in().is_zero() {
            return Some(before);
        }
        self.end(0, Duration::ZERO).await;
        None
    }

    /// Ends the turn to order. Returns how long this node has nothing to do.
    async fn end(&self, orders: u32, pause: Duration) -> Duration {
        let Some(shared) = self.cache.shared() else { return pause };
        let own = shared.clone();
        // A failure: the turn ends by itself.
        let _ = crate::blocking::spawn_blocking(move || own.end(orders, pause)).await;
        SHARED_LOOK
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
            crate::blocking::spawn_blocking(move || cache.account_key()).await.map_err(|error| error.to_string())??;
        let order =
            Order { wanted: &self.wanted, client: &self.client, shown: &self.shown, shared: self.cache.shared() };
        let asked = tokio::time::timeout(ORDER, AssertUnwindSafe(order.run(key)).catch_unwind());
        let asked = tokio::select! {
            asked = asked => asked,
            () = self.keep_turn() => return Err("another node orders the certificate".into()),
        };
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

    /// Renews the turn to order, on a shared store. Returns when another node has it.
    async fn keep_turn(&self) {
        let Some(shared) = self.cache.shared() else { return std::future::pending().await };
        loop {
            tokio::time::sleep(shared::RENEWAL).await;
            let own = shared.clone();
            if matches!(crate::blocking::spawn_blocking(move || own.renew()).await, Ok(Ok(false))) {
                return;
            }
        }
    }

    fn show(&self, issued: Issued) {
        self.shown.use_from_now_on(issued.key());
        *self.current.lock() = Some(issued);
    }

    /// Stores the certificate for the next start. Returns it if that fails, so that the caller can retry.
    async fn keep(&self, pem: Pem) -> Option<Pem> {
        let cache = self.cache.clone();
        let kept = crate::blocking::spawn_blocking(move || match cache.keep(&pem) {
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

#[cfg(test)]
mod tests;
