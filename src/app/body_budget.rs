//! The memory budget for request bodies: limits how many body bytes the server holds at once. A body that is
//! read whole (JSON), and the values parsed from it, reserve a share as the bytes arrive. Attachments are
//! streamed and reserve nothing.
//!
//! ```text
//! headers read       nothing reserved: a `Content-Length` alone costs nothing
//! bytes arrive       the share grows with them
//! body parsed        the share grows to what the values take
//! response sent      the share is released
//! ```
//! Bodies wait for room in arrival order, and keep what they have reserved while they wait. To prevent a
//! deadlock, one body at a time may exceed the budget; the memory held is therefore at most twice the
//! configured size.
//!
//! A client that holds a share and sends slowly is disconnected when others need the room ([`Pace`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer_budget::AnswerMemory;

/// The granularity of shares in bytes; sizes are rounded down, so bodies below one unit are free.
const UNIT: u64 = 64 << 10;
/// How long a body waits for room before it fails.
const WAIT: Duration = Duration::from_secs(30);
/// How often a waiting body looks for slow clients that still keep a body share while they read their
/// response.
const LOOK: Duration = Duration::from_millis(250);

/// The time over which the transfer rate of a body is measured, or `[settee] body_timeout` if that is
/// shorter.
const WINDOW: Duration = Duration::from_secs(30);
/// While the budget is short, each window must bring at least 1/`PART` of the bytes received so far.
const PART: u64 = 16;

/// The memory budget for request bodies, shared by all requests of a server.
#[derive(Clone)]
pub struct BodyMemory {
    free: Arc<Semaphore>,
    units: u64,
    /// The permit of the one body that may exceed the budget.
    beside: Arc<Semaphore>,
    /// See [`WAIT`]; tests set it lower.
    wait: Duration,
    /// Connections whose responses keep the share of their request: the slowest is closed while a body waits.
    answers: Option<AnswerMemory>,
}

/// Why a body gets no share of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The body exceeds the whole budget.
    TooLarge,
    /// There was no room within the time that a body waits for it.
    NoRoom,
}

/// The result of a reservation.
pub type Result<T> = std::result::Result<T, Refused>;

/// A body's share of the budget; dropping it releases the memory.
#[derive(Debug, Default)]
pub struct Share {
    held: Option<OwnedSemaphorePermit>,
    beside: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Whether the share holds nothing, so that no other body waits for it.
    pub fn is_empty(&self) -> bool {
        self.held.is_none() && self.beside.is_none()
    }
}

impl BodyMemory {
    /// Creates a budget of `bytes`.
    pub fn new(bytes: u64) -> BodyMemory {
        let units = (bytes / UNIT).clamp(1, u64::from(u32::MAX >> 4));
        let (free, beside) = (Arc::new(Semaphore::new(units as usize)), Arc::new(Semaphore::new(1)));
        BodyMemory { free, units, beside, wait: WAIT, answers: None }
    }

    /// Connects the budget with that of the responses, so that a waiting body can close slow connections.
    pub fn beside(self, answers: AnswerMemory) -> BodyMemory {
        BodyMemory { answers: Some(answers), ..self }
    }

    /// Closes connections whose slow clients keep a share, until the caller drops this future. Never returns.
    async fn give_up_answers(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(answers) = &self.answers {
                answers.give_up_one_that_keeps_a_body();
            }
        }
    }

    /// Fails with [`Refused::TooLarge`] if `bytes` exceed the whole budget.
    pub fn check(&self, bytes: u64) -> Result<()> {
        if bytes / UNIT > self.units { Err(Refused::TooLarge) } else { Ok(()) }
    }

    /// Whether less than half of the budget is free.
    pub fn is_short(&self) -> bool {
        (self.free.available_permits() as u64) < self.units / 2
    }

    /// Grows `share` to `bytes`, and waits for room if necessary.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] if `bytes` exceed the whole budget, [`Refused::NoRoom`] if there is no room
    /// within [`WAIT`].
    pub async fn grow(&self, share: &mut Share, bytes: u64) -> Result<()> {
        self.check(bytes)?;
        let held = share.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        let more = (bytes / UNIT).saturating_sub(held) as u32;
        if more == 0 || share.beside.is_some() {
            return Ok(());
        }
        let room = async {
            tokio::select! {
                biased;
                room = self.free.clone().acquire_many_owned(more) => room.map(|room| (Some(room), None)),
                turn = self.beside.clone().acquire_owned() => turn.map(|turn| (None, Some(turn))),
                never = self.give_up_answers() => match never {},
            }
        };
        match tokio::time::timeout(self.wait, room).await {
            Ok(Ok((Some(room), _))) => match &mut share.held {
                Some(held) => held.merge(room),
                None => share.held = Some(room),
            },
            Ok(Ok((None, turn))) => share.beside = turn,
            _ => return Err(Refused::NoRoom),
        }
        Ok(())
    }
}

/// Measures the transfer rate of a body. Only the time that the server spends waiting for the client counts.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    /// The total waiting time when the window began.
    waited: Duration,
    /// The bytes received when the window began.
    read: u64,
}

impl Pace {
    /// Creates the measurement for a body that times out after `idle` without a byte.
    pub fn new(idle: Duration) -> Pace {
        Pace { window: WINDOW.min(idle), waited: Duration::ZERO, read: 0 }
    }

    /// The time until the window ends, given the total waiting time.
    pub fn left(&self, waited: Duration) -> Duration {
        self.window.saturating_sub(waited.saturating_sub(self.waited))
    }

    /// At the end of a window, returns whether the body arrived too slowly for what it holds, and starts the
    /// next window. Returns false before the end.
    pub fn is_slow(&mut self, waited: Duration, read: u64) -> bool {
        if !self.left(waited).is_zero() {
            return false;
        }
        let came = read.saturating_sub(self.read);
        *self = Pace { waited, read, ..*self };
        came < read / PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shares_wait_for_room_and_are_released() {
        let mut memory = BodyMemory::new(10 * UNIT);
        memory.wait = Duration::ZERO;
        let (mut one, mut two, mut three) = (Share::default(), Share::default(), Share::default());
        memory.grow(&mut one, UNIT - 1).await.unwrap();
        assert_eq!(memory.free.available_permits(), 10, "small bodies are free");
        assert!(one.is_empty() && !memory.is_short());
        for bytes in [3 * UNIT, 6 * UNIT, 6 * UNIT + 5, 2 * UNIT] {
            memory.grow(&mut one, bytes).await.unwrap();
        }
        assert_eq!(memory.free.available_permits(), 4);
        assert!(!one.is_empty() && memory.is_short());
        assert_eq!(memory.grow(&mut two, 11 * UNIT).await, Err(Refused::TooLarge));
        memory.grow(&mut two, 5 * UNIT).await.unwrap();
        memory.grow(&mut two, 9 * UNIT).await.unwrap();
        assert_eq!(memory.free.available_permits(), 4, "one body at a time may exceed the budget");
        assert_eq!(memory.grow(&mut three, 5 * UNIT).await, Err(Refused::NoRoom), "and no second one");
        let waiting = BodyMemory { wait: WAIT, ..memory.clone() };
        let waiting = tokio::spawn(async move { waiting.grow(&mut three, 5 * UNIT).await });
        tokio::task::yield_now().await;
        drop(one);
        waiting.await.unwrap().unwrap();
        drop(two);
        assert_eq!((memory.free.available_permits(), memory.beside.available_permits()), (10, 1), "released");
    }

    #[tokio::test]
    async fn bodies_that_exhaust_the_budget_do_not_deadlock() {
        let memory = BodyMemory::new(10 * UNIT);
        let bodies = (0..20).map(|_| {
            let memory = memory.clone();
            tokio::spawn(async move {
                let mut share = Share::default();
                for units in 1..=9 {
                    memory.grow(&mut share, units * UNIT).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        });
        for body in bodies.collect::<Vec<_>>() {
            tokio::time::timeout(Duration::from_secs(10), body).await.expect("in time").unwrap();
        }
        assert_eq!(memory.free.available_permits(), 10);
    }

    #[test]
    fn each_window_must_bring_a_part_of_the_body() {
        let mut pace = Pace::new(Duration::from_secs(300));
        let seconds = Duration::from_secs;
        for (waited, read, slow) in [
            (0, 100_000, false),
            (29, 160_000, false),
            (30, 160_000, false),
            (59, 160_001, false),
            (60, 170_667, false),
            (90, 170_668, true),
            (119, 170_668, false),
            (125, 170_668, true),
        ] {
            assert_eq!(pace.is_slow(seconds(waited), read), slow, "{waited} {read}");
        }
        assert_eq!(pace.left(seconds(135)), seconds(20));
        assert_eq!(Pace::new(seconds(2)).left(seconds(0)), seconds(2));
    }
}
