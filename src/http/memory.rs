//! How much of request bodies the server holds at once. A body that is read whole (JSON), and what is made of it, takes its
//! share as it comes; attachments are streamed and take none.
//!
//! ```text
//! announced: nothing taken     come: so much taken     read as values: what they take     answered: given back
//! ```
//! Bodies wait for each other in the order of their coming, while they hold what has come of them. So that they never all
//! wait for each other, one at a time goes on beside the full memory: what is held is at most twice what is set.
//!
//! Announcing costs nothing and holds nothing. Who holds a share and sends slowly is given up when others need the room
//! ([`Pace`]).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer_memory::AnswerMemory;
use super::body::too_large;
use super::failure::{Failure, Result};

/// What a share is counted in; the first of each body is free.
const UNIT: u64 = 64 << 10;
const WAIT: Duration = Duration::from_secs(30);
/// How often a body that waits looks for answers that are read slowly.
const LOOK: Duration = Duration::from_millis(250);

/// How often it is looked at whether a body that holds a share comes on, unless bodies are not waited for as long
/// (`[settee] body_timeout`).
const WINDOW: Duration = Duration::from_secs(30);
/// What part of what it holds must come in a window while memory is short.
const PART: u64 = 16;

/// The memory for bodies, shared by all requests of a server.
#[derive(Clone)]
pub struct BodyMemory {
    free: Arc<Semaphore>,
    units: u64,
    /// For the one that goes on although nothing is free.
    beside: Arc<Semaphore>,
    /// How long a body waits for others to be done.
    wait: Duration,
    /// Answers that keep their request's share while they are read: the slowest is given up when a body waits.
    answers: Option<AnswerMemory>,
}

/// A body's share; given back when dropped.
#[derive(Debug, Default)]
pub struct Share {
    held: Option<OwnedSemaphorePermit>,
    beside: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Whether others may wait for it.
    pub fn is_empty(&self) -> bool {
        self.held.is_none() && self.beside.is_none()
    }
}

impl BodyMemory {
    /// Room for `bytes`.
    pub fn new(bytes: u64) -> BodyMemory {
        let units = (bytes / UNIT).clamp(1, u64::from(u32::MAX >> 4));
        let (free, beside) = (Arc::new(Semaphore::new(units as usize)), Arc::new(Semaphore::new(1)));
        BodyMemory { free, units, beside, wait: WAIT, answers: None }
    }

    /// The same beside a memory for answers.
    pub fn beside(self, answers: AnswerMemory) -> BodyMemory {
        BodyMemory { answers: Some(answers), ..self }
    }

    /// Never ends; has answers given up that are read slowly and keep a share.
    async fn give_up_answers(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(answers) = &self.answers {
                answers.give_up_one_that_keeps_a_body();
            }
        }
    }

    /// 413 for what does not fit even when nobody else holds anything.
    pub fn check(&self, bytes: u64) -> Result<()> {
        if bytes / UNIT > self.units { Err(too_large()) } else { Ok(()) }
    }

    /// Whether less than half of it is free.
    pub fn is_short(&self) -> bool {
        (self.free.available_permits() as u64) < self.units / 2
    }

    /// Makes `share` large enough for `bytes`, and waits for room a while.
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
            _ => {
                return Err(Failure::Refused {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    word: "service_unavailable",
                    reason: "The server holds as much of other requests as it may. Try again.".into(),
                });
            }
        }
        Ok(())
    }
}

/// Whether a body comes on, looked at every 30 seconds that it was waited for.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    /// How long it had been waited for when the window began, and what had come.
    waited: Duration,
    read: u64,
}

impl Pace {
    /// Of a body that is given up after `idle` without a byte.
    pub fn new(idle: Duration) -> Pace {
        Pace { window: WINDOW.min(idle), waited: Duration::ZERO, read: 0 }
    }

    /// How long the window still lasts.
    pub fn left(&self, waited: Duration) -> Duration {
        self.window.saturating_sub(waited.saturating_sub(self.waited))
    }

    /// At the end of a window: whether the body came too slowly for what it holds. Begins the next one.
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
    async fn shares_wait_for_each_other_and_are_given_back() {
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
        assert_eq!(memory.grow(&mut two, 11 * UNIT).await, Err(too_large()));
        memory.grow(&mut two, 5 * UNIT).await.unwrap();
        memory.grow(&mut two, 9 * UNIT).await.unwrap();
        assert_eq!(memory.free.available_permits(), 4, "one at a time goes on beside the full memory");
        assert!(matches!(memory.grow(&mut three, 5 * UNIT).await, Err(Failure::Refused { .. })), "and no second one");
        let waiting = BodyMemory { wait: WAIT, ..memory.clone() };
        let waiting = tokio::spawn(async move { waiting.grow(&mut three, 5 * UNIT).await });
        tokio::task::yield_now().await;
        drop(one);
        waiting.await.unwrap().unwrap();
        drop(two);
        assert_eq!((memory.free.available_permits(), memory.beside.available_permits()), (10, 1), "given back");
    }

    #[tokio::test]
    async fn bodies_that_hold_all_of_it_do_not_wait_for_each_other_for_ever() {
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
    fn a_body_must_bring_a_part_of_what_it_holds() {
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
