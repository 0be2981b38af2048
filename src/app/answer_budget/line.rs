//! A connection's handle to the budget: reserves memory for its responses and reports whether its client
//! reads.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{Connection, Owner};
use super::ledger::{Held, LOOK, SMALL, Shared, Waiting, hand_over};
use crate::app::rate_limits::Origin;

/// The refusal of a reservation: no room was free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// The result of a reservation.
pub type Result<T> = std::result::Result<T, NoRoom>;

/// A connection's handle to the memory budget.
#[derive(Clone)]
pub struct Line {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Arc<Connection>,
}

impl Line {
    /// Sets the owner of this connection's next responses: the user, or the network of an anonymous client.
    pub fn belongs_to(&self, user: Option<&str>, address: Option<IpAddr>) {
        let mut known = self.connection.owner.lock();
        match (user, address) {
            (Some(user), _) => {
                if !matches!(&*known, Owner::User(known) if **known == *user) {
                    *known = Owner::User(user.into());
                }
            }
            (None, Some(address)) => *known = Owner::Anonymous(Origin::of(address)),
            (None, None) => *known = Owner::Nobody,
        }
    }

    /// Reserves `bytes`, and waits for room if necessary. A request for more than the whole budget is reduced
    /// to the whole budget.
    ///
    /// # Errors
    /// [`NoRoom`] if there is no room within `WAIT`.
    pub async fn take(&self, bytes: u64) -> Result<Held> {
        let bytes = bytes.min(self.shared.total);
        let mut answer = match self.take_or_wait(bytes) {
            Ok(held) => return Ok(held),
            Err(answer) => answer,
        };
        let deadline = Instant::now() + self.shared.wait;
        while Instant::now() < deadline {
            match tokio::time::timeout(LOOK, &mut answer).await {
                Ok(Ok(held)) => return Ok(held),
                Ok(Err(_)) => break,
                Err(_) => {
                    let granted = self.shared.look(&mut self.shared.state.lock());
                    hand_over(granted);
                }
            }
        }
        Err(NoRoom)
    }

    /// Reserves `bytes` if that is possible without waiting and within the budget.
    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        let mut state = self.shared.state.lock();
        let owner = self.connection.owner.lock().clone();
        match self.shared.admit(&state, &owner, &self.connection, bytes) {
            Some(false) => Some(self.shared.charge(&mut state, &self.connection, bytes, false)),
            _ => None,
        }
    }

    /// Reserves `bytes`, or joins the queue and returns the receiver of the later reservation.
    fn take_or_wait(&self, bytes: u64) -> std::result::Result<Held, oneshot::Receiver<Held>> {
        let mut state = self.shared.state.lock();
        let owner = self.connection.owner.lock().clone();
        let key = (owner, bytes > SMALL);
        if !state.waiting.contains_key(&key)
            && let Some(beside) = self.shared.admit(&state, &key.0, &self.connection, bytes)
        {
            return Ok(self.shared.charge(&mut state, &self.connection, bytes, beside));
        }
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting { bytes, since: Instant::now(), connection: self.connection.clone(), answer: sender };
        state.waiting.entry(key).or_default().push_back(waiting);
        let mut granted = self.shared.settle(&mut state);
        granted.extend(self.shared.look(&mut state));
        drop(state);
        hand_over(granted);
        Err(answer)
    }

    /// Charges bytes that are in memory already.
    ///
    /// # Errors
    /// [`NoRoom`] if more than twice the budget would be held. With `must` it never fails: the operation is done and
    /// its response can no longer be refused.
    pub fn count(&self, bytes: u64, must: bool) -> Result<Held> {
        let mut state = self.shared.state.lock();
        if !must && state.held.saturating_add(bytes) > 2 * self.shared.total {
            return Err(NoRoom);
        }
        Ok(self.shared.charge(&mut state, &self.connection, bytes, false))
    }

    /// Marks the connection as keeping a share of the budget for request bodies, until the returned guard is
    /// dropped.
    pub fn keeps_body(&self) -> KeepsBody {
        let held = {
            let mut state = self.shared.state.lock();
            self.shared.charge(&mut state, &self.connection, 0, false)
        };
        self.connection.keeps_body.store(true, Ordering::Relaxed);
        KeepsBody(held)
    }

    /// Records that the client has read `bytes`.
    pub fn wrote(&self, bytes: usize) {
        self.connection.wrote(bytes);
    }

    /// Records that bytes wait for the client. Returns whether the connection is to be closed; if not, the
    /// task is woken when it is.
    pub fn waits(&self, context: &Context<'_>) -> bool {
        self.connection.waits(context)
    }

    /// Records that no bytes wait for the client.
    pub fn rests(&self) {
        self.connection.rests();
    }
}

/// See [`Line::keeps_body`].
pub struct KeepsBody(Held);

impl Drop for KeepsBody {
    fn drop(&mut self) {
        self.0.connection.keeps_body.store(false, Ordering::Relaxed);
    }
}
