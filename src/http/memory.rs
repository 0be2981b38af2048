//! How much of request bodies the server holds at once. A body that is read whole (JSON) takes its share before it is
//! read; attachments are streamed and take none.
//!
//! Bodies wait for each other in the order of their coming. One that says its length takes all of its share at once, and so
//! never waits while it holds what another waits for; one that does not takes it as its bytes come.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::too_large;
use super::failure::{Failure, Result};

/// What a share is counted in; the first of each body is free.
const UNIT: u64 = 64 << 10;
const WAIT: Duration = Duration::from_secs(30);

/// The memory for bodies, shared by all requests of a server.
#[derive(Debug, Clone)]
pub struct BodyMemory {
    free: Arc<Semaphore>,
    units: u64,
    /// How long a body waits for others to be done.
    wait: Duration,
}

/// A body's share; given back when dropped.
#[derive(Debug, Default)]
pub struct Share(Option<OwnedSemaphorePermit>);

impl BodyMemory {
    /// Room for `bytes`.
    pub fn new(bytes: u64) -> BodyMemory {
        let units = (bytes / UNIT).clamp(1, u64::from(u32::MAX >> 4));
        BodyMemory { free: Arc::new(Semaphore::new(units as usize)), units, wait: WAIT }
    }

    /// 413 for what does not fit even when nobody else holds anything.
    pub fn check(&self, bytes: u64) -> Result<()> {
        if bytes / UNIT > self.units { Err(too_large()) } else { Ok(()) }
    }

    /// Makes `share` large enough for `bytes`, and waits for room a while.
    pub async fn grow(&self, share: &mut Share, bytes: u64) -> Result<()> {
        self.check(bytes)?;
        let held = share.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        let more = (bytes / UNIT).saturating_sub(held) as u32;
        if more == 0 {
            return Ok(());
        }
        match tokio::time::timeout(self.wait, self.free.clone().acquire_many_owned(more)).await {
            Ok(Ok(permit)) => {
                match &mut share.0 {
                    Some(held) => held.merge(permit),
                    None => share.0 = Some(permit),
                }
                Ok(())
            }
            _ => Err(Failure::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                word: "service_unavailable",
                reason: "The server holds as much of other requests as it may. Try again.".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shares_wait_for_each_other_and_are_given_back() {
        let mut memory = BodyMemory::new(10 * UNIT);
        memory.wait = Duration::ZERO;
        let (mut one, mut two) = (Share::default(), Share::default());
        memory.grow(&mut one, UNIT - 1).await.unwrap();
        assert_eq!(memory.free.available_permits(), 10, "small bodies are free");
        for bytes in [3 * UNIT, 6 * UNIT, 6 * UNIT + 5, 2 * UNIT] {
            memory.grow(&mut one, bytes).await.unwrap();
        }
        assert_eq!(memory.free.available_permits(), 4);
        assert_eq!(memory.grow(&mut two, 11 * UNIT).await, Err(too_large()));
        assert!(matches!(memory.grow(&mut two, 5 * UNIT).await, Err(Failure::Refused { .. })), "waited in vain");
        let waiting = BodyMemory { wait: WAIT, ..memory.clone() };
        let waiting = tokio::spawn(async move { waiting.grow(&mut two, 5 * UNIT).await });
        tokio::task::yield_now().await;
        drop(one);
        waiting.await.unwrap().unwrap();
        assert_eq!(memory.free.available_permits(), 10, "given back with the last share");
    }
}
