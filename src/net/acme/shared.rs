//! What the nodes of a shared store have in common: the account's key, the certificate, the answers to challenges, and
//! when the authority may be asked again. So one node obtains and renews the certificate for all, and the authority may
//! ask any of them.
//!
//! ```text
//! 09 account-<id>        the account's private key (PEM, PKCS #8)
//! 09 certificate-<id>    the certificate's private key and chain (PEM)
//! 09 orders-<id>         1, orders without a certificate:4, earliest time of the next one, in ms since the epoch:8
//! 09 answer-<id>         1, end of its use, in ms since the epoch:8, then the answer to a challenge
//! ```
//! `<id>` is [`Wanted::account_id`], [`Wanted::certificate_id`] or [`Wanted::domain_id`]. Like every value, these are
//! sealed with encryption at rest. They are in no backup.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::answer::Answer;
use super::issued::{Issued, Pem};
use super::times::{LAST_PAUSE, ORDER, pause_after};
use super::wanted::Wanted;
use crate::clock::Clock;
use crate::store::{Change, Durability, Store, StoreError, keyspace, update};

/// How long the lease lasts after its last renewal, and the pause between two renewals.
const TTL: Duration = Duration::from_secs(30);
pub(super) const RENEWAL: Duration = Duration::from_secs(10);
/// The version byte of the records that are no PEM.
const VERSION: u8 = 1;

/// The records of the current settings in a shared store.
#[derive(Clone)]
pub(crate) struct Shared {
    store: Arc<dyn Store>,
    wanted: Arc<Wanted>,
    /// Unique to this process.
    owner: Arc<str>,
    clock: Clock,
    /// One handshake at a time asks the store for an answer.
    asks: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    pub fn new(store: Arc<dyn Store>, wanted: &Wanted, clock: &Clock) -> Shared {
        let owner = clock.uuid().into();
        Shared { store, wanted: Arc::new(wanted.clone()), owner, clock: clock.clone(), asks: Arc::default() }
    }

    fn certificate_key(&self) -> Vec<u8> {
        keyspace::tls(&format!("certificate-{}", self.wanted.certificate_id()))
    }

    fn orders_key(&self) -> Vec<u8> {
        keyspace::tls(&format!("orders-{}", self.wanted.certificate_id()))
    }

    fn answer_key(&self, domain: &String) -> Vec<u8> {
        keyspace::tls(&format!("answer-{}", self.wanted.domain_id(domain)))
    }

    fn now(&self) -> u64 {
        self.clock.since_epoch().as_millis() as u64
    }

    /// The account's key (PKCS #8, DER). Creates one if there is none. Blocks, like all functions here that are not
    /// async.
    pub fn account_key(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let key = keyspace::tls(&format!("account-{}", self.wanted.account_id()));
        let made = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
        let pem: Zeroizing<Vec<u8>> = update(&*self.store, &key, |stored| match stored {
            Some(pem) => Ok::<_, StoreError>((Change::Keep, Zeroizing::new(pem.to_vec()))),
            None => {
                let pem = Zeroizing::new(made.serialize_pem().into_bytes());
                Ok((Change::Write(Some(pem.to_vec()), Durability::Synced), pem))
            }
        })
        .map_err(unreachable)?;
        match PrivateKeyDer::from_pem_slice(&pem) {
            Ok(PrivateKeyDer::Pkcs8(key)) => Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
            _ => Err("the account's key in the store is damaged".into()),
        }
    }

    /// The certificate that a node has stored.
    pub fn certificate(&self) -> Result<Option<Pem>, String> {
        Ok(self.store.get(&self.certificate_key()).map_err(unreachable)?.map(Zeroizing::new))
    }

    /// Stores a certificate for all nodes, unless there is one that is valid for longer.
    pub fn keep(&self, pem: &[u8]) -> Result<(), String> {
        let until = |pem: &[u8]| Issued::read(pem, &self.wanted.domains).map(|issued| issued.until()).ok();
        update(&*self.store, &self.certificate_key(), |stored| match stored.and_then(until) > until(pem) {
            true => Ok((Change::Keep, ())),
            false => Ok((Change::Write(Some(pem.to_vec()), Durability::Synced), ())),
        })
        .map_err(unreachable)
    }

    /// Takes the turn to order a certificate. Returns the number of orders without a certificate so far. `None`: another
    /// node orders one, or the pause after a failure is not over. A node that dies has failed.
    pub fn begin(&self) -> Result<Option<u32>, String> {
        if !self.renew()? {
            return Ok(None);
        }
        let now = self.now();
        let begun = update(&*self.store, &self.orders_key(), |stored| {
            let (orders, next) = stored.and_then(decode).unwrap_or((0, 0));
            // A time that is further away was written by a node whose clock was wrong.
            if next > now && next <= now + LAST_PAUSE.as_millis() as u64 {
                return Ok::<_, StoreError>((Change::Keep, None));
            }
            Ok((self.pause(orders.saturating_add(1), pause_after(orders.saturating_add(1))), Some(orders)))
        });
        let begun = begun.map_err(unreachable);
        if !matches!(begun, Ok(Some(_))) {
            self.leave();
        }
        begun
    }

    /// Keeps the turn. Returns false if another node has it.
    pub fn renew(&self) -> Result<bool, String> {
        self.store.lease("acme", &self.owner, TTL).map_err(unreachable)
    }

    /// Ends the turn: so many orders have brought no certificate, and nobody orders one before the pause is over. Does
    /// nothing if the turn was lost.
    pub fn end(&self, orders: u32, pause: Duration) {
        if !matches!(self.renew(), Ok(true)) {
            return;
        }
        // A failure: what `begin` has noted holds, and the lease ends by itself.
        let _ = update(&*self.store, &self.orders_key(), |_| Ok::<_, StoreError>((self.pause(orders, pause), ())));
        self.leave();
    }

    /// Gives up the turn.
    pub fn leave(&self) {
        // A failure: the lease ends by itself.
        let _ = self.store.lease("acme", &self.owner, Duration::ZERO);
    }

    fn pause(&self, orders: u32, pause: Duration) -> Change {
        let next = self.now() + pause.as_millis() as u64;
        let record = [&[VERSION], &orders.to_be_bytes()[..], &next.to_be_bytes()].concat();
        Change::Write(Some(record), Durability::Synced)
    }

    /// Lets every node answer the challenge for `domain`. They do when this returns.
    pub async fn publish(&self, domain: &str, answer: Answer) -> Result<(), String> {
        let (shared, domain) = (self.clone(), domain.to_owned());
        let publish = move || {
            let until = shared.now() + ORDER.as_millis() as u64;
            let record = [&[VERSION], &until.to_be_bytes()[..], &answer.encode()].concat();
            let change = || Change::Write(Some(record.clone()), Durability::Synced);
            update(&*shared.store, &shared.answer_key(&domain), |_| Ok((change(), ()))).map_err(unreachable)
        };
        crate::blocking::spawn_blocking(publish).await.map_err(|error| error.to_string())?
    }

    /// Ends [`Shared::publish`].
    pub async fn withdraw(&self, domain: &str) {
        let (shared, domain) = (self.clone(), domain.to_owned());
        // A failure: the answer ends by itself.
        let _ = crate::blocking::spawn_blocking(move || {
            let change = Change::Write(None, Durability::Synced);
            update(&*shared.store, &shared.answer_key(&domain), |_| Ok::<_, StoreError>((change.clone(), ())))
        })
        .await;
    }

    /// The answer that a node has published for `domain`.
    pub async fn answer(&self, domain: &str) -> Option<Answer> {
        let domain = self.wanted.domains.iter().find(|name| *name == domain)?.clone();
        let _one = self.asks.lock().await;
        let shared = self.clone();
        let asked = crate::blocking::spawn_blocking(move || shared.store.get(&shared.answer_key(&domain)));
        let record = Zeroizing::new(asked.await.ok()?.ok()??);
        let (until, answer) = record.strip_prefix(&[VERSION])?.split_first_chunk()?;
        (u64::from_be_bytes(*until) > self.now()).then(|| Answer::decode(answer))?
    }
}

/// Orders without a certificate, and the earliest time of the next one.
fn decode(record: &[u8]) -> Option<(u32, u64)> {
    let (orders, next) = record.strip_prefix(&[VERSION])?.split_first_chunk()?;
    Some((u32::from_be_bytes(*orders), u64::from_be_bytes(next.try_into().ok()?)))
}

fn unreachable(error: StoreError) -> String {
    format!("the store: {error}")
}

#[cfg(test)]
mod tests;
