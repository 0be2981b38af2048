//! Commits: waiting batches are combined into one transaction.
//!
//! ```text
//! commit(batch) ─► waiting ─► group ─► one call of the server's function `commit` ─► an answer for each batch
//!                             batches with no key in common; at most one for each database
//! ```
//!
//! The transaction is one statement, so it takes one round trip. The server tests the expectations, and a batch whose
//! expectation does not hold does not fail the others. `arrays.rs` builds the parameters. If the server refuses the
//! transaction, for example because of the content of one batch, each batch is sent alone and gets its own answer.
//!
//! A transaction costs the server as much as about twenty rows. Another one therefore starts beside those under way
//! only if as many batches wait as these have, or enough to be worth its cost anyway. A single client never waits; many
//! clients are soon in a few groups of equal size, which take turns.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio_postgres::error::SqlState;

use super::arrays::{Arrays, Encoded, placeholders};
use super::connections::{Connections, SILENT};
use super::encode::Place;
use super::errors::Fate;
use super::marks::{self, AllMarks};
use super::runtime::Answer;
use super::slot::{self, Slot, Told};
use crate::store::{Mark, Result, StoreError};

/// A group takes batches until it has this many...
const BATCHES: usize = 64;
/// ...or this many bytes.
const BYTES: usize = 4 << 20;
/// A transaction starts beside others if at least this many batches wait...
const ENOUGH: usize = 16;
/// ...or this many bytes.
const ENOUGH_BYTES: usize = 64 << 10;
/// The most batches that are examined for one group.
const LOOK: usize = 512;
/// How long after a conflict a database's batches are sent alone: another node writes to the database, and other
/// batches of the transaction would wait for its locks.
const HOT: Duration = Duration::from_secs(1);
/// How long to try to commit, or to find out the outcome of a commit.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a commit tries again to get a connection. That is enough after connections were cut; while the server is
/// away, the client soon gets an error.
const CONNECTS: u32 = 3;

/// The most slots that wait until their marks are announced.
const FULL: usize = 50;

/// The error of commits whose task ended without an outcome, because it panicked or the threads have ended.
const UNKNOWN: &str = "PostgreSQL: it is unknown whether a commit took effect: its task has ended";

/// The error of a commit that was rolled back again and again.
const AGAIN: &str = "PostgreSQL: a commit was given up after repeated serialization failures or deadlocks";

struct Waiting {
    batch: Encoded,
    databases: HashSet<i64>,
    answer: Answer<()>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// The bytes of the waiting batches.
    bytes: usize,
    /// Databases with a batch under way.
    busy: HashSet<i64>,
    /// Databases to which another node wrote, and until when their batches are sent alone.
    hot: HashMap<i64, Instant>,
    /// Transactions under way.
    running: usize,
    /// The batches of the transactions under way, except for slow ones: those that wait for another node, which writes to
    /// the same database, or are sent again.
    under_way: usize,
    /// Slots that no transaction uses.
    slots: Vec<Slot>,
    /// Slots that are not used until their marks are announced.
    full: Vec<Slot>,
}

pub(super) struct Commits {
    connections: Connections,
    handle: Handle,
    state: Mutex<State>,
    marks: AllMarks,
    /// The most transactions at a time.
    most: usize,
    sql: String,
}

impl Commits {
    pub fn new(connections: Connections, handle: &Handle) -> Arc<Commits> {
        let sql = format!("select {}.commit({})", connections.address.schema, placeholders());
        // Half of the connections stay for reads.
        let most = (connections.size() / 2).clamp(1, 8);
        let (state, marks) = (Mutex::default(), AllMarks::default());
        let commits = Arc::new(Commits { connections, handle: handle.clone(), state, marks, most, sql });
        handle.spawn(empty_idle_slots(Arc::downgrade(&commits)));
        commits
    }

    /// Forgets marks of this node.
    pub fn announced(&self, marks: &[Mark]) {
        self.marks.announced(marks);
    }

    /// Empties the rows of slots that have not been used for a while, and whose marks are announced.
    async fn empty_idle_slots(&self) {
        let (mut idle, full) = {
            let mut state = self.state.lock();
            let ends = |slot: &mut Slot| slot.is_marked && slot.marks.is_empty() && slot.used.elapsed() >= marks::IDLE;
            let idle: Vec<Slot> = state.slots.extract_if(.., ends).collect();
            let full: Vec<Slot> = state.full.extract_if(.., |slot| slot.marks.is_empty()).collect();
            (idle, full)
        };
        idle.extend(full);
        if idle.is_empty() {
            return;
        }
        if let Err(error) = slot::empty(&self.connections, &mut idle).await {
            tracing::debug!("the marks of idle slots could not be removed: {error}");
        }
        // Other slots may have been made meanwhile.
        let mut state = self.state.lock();
        for slot in idle {
            match slot.is_marked {
                true => state.full.push(slot),
                false if state.slots.len() < self.most => state.slots.push(slot),
                false => {}
            }
        }
    }

    /// Commits a batch, together with others. `answer` gets the result.
    pub fn submit(self: &Arc<Self>, batch: Encoded, answer: Answer<()>) {
        let databases = batch.databases();
        let mut state = self.state.lock();
        state.bytes += batch.bytes;
        state.waiting.push_back(Waiting { batch, databases, answer });
        self.begin(state);
    }

    /// Starts as many transactions as there is work and room for, and unlocks the state.
    fn begin(self: &Arc<Self>, mut state: MutexGuard<State>) {
        let mut turns = Vec::new();
        while state.has_room(self.most) {
            let group = state.take();
            if group.is_empty() {
                break;
            }
            let is_slow = group.iter().any(|one| state.is_hot(&one.databases));
            state.running += 1;
            state.under_way += if is_slow { 0 } else { group.len() };
            let (mut batches, mut members) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
            for Waiting { batch, databases, answer } in group {
                batches.push(batch);
                members.push(Member { databases, answer });
            }
            let turn = Turn { commits: self.clone(), members, is_slow, is_server_away: false };
            turns.push((turn, batches, state.slots.pop()));
        }
        drop(state);
        for (turn, batches, slot) in turns {
            // If the threads have ended, this drops the turn, which locks the state.
            self.handle.spawn(turn.run(batches, slot));
        }
    }

    /// After a connection has failed before anything was sent: whether another attempt is left.
    async fn goes_on(&self, left: &mut u32) -> bool {
        let goes_on = *left > 0;
        *left = left.saturating_sub(1);
        if goes_on {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        goes_on
    }

    async fn send(&self, slot: &mut Slot, arrays: &Arrays) -> std::result::Result<Vec<i32>, Sent> {
        let client = self.connections.get().await.map_err(Sent::Not)?;
        // The server has been replaced.
        if self.connections.hosts.timeline() != slot.timeline {
            return Err(Sent::Elsewhere);
        }
        let marks = slot.marks.with(&arrays.marks);
        let result = async {
            let statement = client.prepare_cached(&self.sql).await?;
            client.query_one(&statement, &arrays.values(&slot.id, &slot.number, &marks)).await
        };
        match self.connections.guarded(&client, result).await {
            Some(Ok(row)) => {
                let failed: Vec<i32> = row.get(0);
                slot.marks.add(&arrays.marks, &failed);
                slot.is_marked = !marks.is_empty();
                slot.used = Instant::now();
                Ok(failed)
            }
            Some(Err(error)) => Err(Sent::Failed(error)),
            None => Err(Sent::Silent),
        }
    }

    /// Finds out the outcome of the last commit of `slot`. An error: the server did not come back in time.
    async fn settle(&self, slot: &Slot, until: Instant, cause: &str) -> Result<Told> {
        tracing::warn!("the connection to the database was lost during a commit; its outcome is looked up: {cause}");
        self.connections.forget();
        let mut pause = Duration::from_millis(20);
        loop {
            match slot.fence(&self.connections).await {
                Ok(told) => return Ok(told),
                Err(error) if Instant::now() > until => {
                    tracing::error!("it is unknown whether a commit took effect: {error}");
                    return Err(error);
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        }
    }
}

async fn empty_idle_slots(commits: Weak<Commits>) {
    loop {
        tokio::time::sleep(marks::IDLE).await;
        let Some(commits) = commits.upgrade() else { return };
        commits.empty_idle_slots().await;
    }
}

/// A batch of a transaction under way.
struct Member {
    databases: HashSet<i64>,
    answer: Answer<()>,
}

/// A transaction under way. If it is dropped without an outcome, its batches get an error, and other commits go on.
struct Turn {
    commits: Arc<Commits>,
    /// The batches that have no answer yet. Empty once it has ended.
    members: Vec<Member>,
    /// Whether its batches are not counted in `State::under_way`.
    is_slow: bool,
    /// Whether it has given up because it could not reach the server.
    is_server_away: bool,
}

impl Turn {
    /// Lets another transaction start beside this one, which takes long.
    fn slow_down(&mut self) {
        if !std::mem::replace(&mut self.is_slow, true) {
            let mut state = self.commits.state.lock();
            state.under_way -= self.members.len();
            self.commits.begin(state);
        }
    }

    /// Notes that the transaction has ended because of the connection.
    fn without_server(&mut self, error: StoreError) -> Refused {
        self.is_server_away = matches!(error, StoreError::Down(_));
        error.into()
    }

    async fn run(mut self, batches: Vec<Encoded>, slot: Option<Slot>) {
        let (outcomes, slot) = self.commit(batches, slot).await;
        self.end(outcomes, slot);
    }

    /// Answers the batches, and lets other transactions start.
    fn end(&mut self, outcomes: Vec<Result<()>>, slot: Option<Slot>) {
        let members = std::mem::take(&mut self.members);
        let mut state = self.commits.state.lock();
        state.running -= 1;
        state.under_way -= if self.is_slow { 0 } else { members.len() };
        match slot {
            Some(slot) if slot.marks.are_many() => state.full.push(slot),
            slot => state.slots.extend(slot),
        }
        if state.full.len() > FULL {
            // Their rows are left to other nodes.
            state.full.drain(..FULL / 2);
        }
        for (member, outcome) in members.iter().zip(&outcomes) {
            for number in &member.databases {
                state.busy.remove(number);
                if *outcome == Err(StoreError::Conflict) {
                    state.hot.insert(*number, Instant::now() + HOT);
                }
            }
        }
        // The waiting batches would wait as long for the same error.
        let given_up = if self.is_server_away { state.take_all() } else { VecDeque::new() };
        self.commits.begin(state);
        if let Some(Err(error)) = outcomes.last() {
            given_up.into_iter().for_each(|one| one.answer.send(Err(error.clone())));
        }
        for (member, outcome) in members.into_iter().zip(outcomes) {
            member.answer.send(outcome);
        }
    }

    /// Commits the batches. Returns the answer of each, and a slot that can be used again.
    async fn commit(&mut self, batches: Vec<Encoded>, slot: Option<Slot>) -> (Vec<Result<()>>, Option<Slot>) {
        let count = batches.len();
        let is_long = batches.iter().any(Encoded::may_be_refused);
        let mut arrays = Arrays::of(batches);
        let (outcome, mut slot) = self.transact(&mut arrays, slot).await;
        if count == 1 || matches!(outcome, Ok(_) | Err(Refused { error: StoreError::Down(_), .. })) {
            return ((0..count).map(|at| answer_of(at, &outcome, is_long)).collect(), slot);
        }
        let mut answers = Vec::with_capacity(count);
        for (at, mut own) in arrays.split(count).into_iter().enumerate() {
            let outcome;
            (outcome, slot) = self.transact(&mut own, slot).await;
            answers.push(answer_of(at, &outcome, is_long));
            if let Some(Err(error @ StoreError::Down(_))) = answers.last().cloned() {
                // The remaining batches would wait as long for the same error.
                answers.resize(count, Err(error));
                break;
            }
        }
        (answers, slot)
    }

    /// Commits the batches. Returns the numbers of those whose expectations did not hold, and a slot that can be used
    /// again.
    async fn transact(
        &mut self,
        arrays: &mut Arrays,
        mut slot: Option<Slot>,
    ) -> (std::result::Result<Vec<i32>, Refused>, Option<Slot>) {
        let until = Instant::now() + PATIENCE;
        let mut left = CONNECTS;
        for attempt in 0u32.. {
            if attempt > 0 {
                self.slow_down();
            }
            let mut own = match slot.take() {
                Some(slot) => slot,
                None => match Slot::make(&self.commits.connections).await {
                    Ok(slot) => {
                        self.commits.marks.add(&slot.marks);
                        slot
                    }
                    // Nothing has been sent yet.
                    Err(StoreError::Down(_)) if self.commits.goes_on(&mut left).await => continue,
                    Err(error) => return (Err(self.without_server(error)), None),
                },
            };
            own.number += 1;
            let error = match self.commits.send(&mut own, arrays).await {
                Ok(failed) => return (Ok(failed), Some(own)),
                Err(Sent::Not(StoreError::Down(_))) if self.commits.goes_on(&mut left).await => {
                    slot = Some(own);
                    continue;
                }
                Err(Sent::Not(error)) => return (Err(self.without_server(error)), Some(own)),
                Err(Sent::Elsewhere) => continue,
                Err(Sent::Failed(error)) => Some(error),
                Err(Sent::Silent) => None,
            };
            if error.as_ref().is_some_and(Slot::is_gone) && Instant::now() < until {
                continue;
            }
            if error.as_ref().is_some_and(|error| error.code() == Some(&SqlState::UNIQUE_VIOLATION)) && arrays.has_new()
            {
                // A key that was sent as new exists.
                arrays.overwrite();
                slot = Some(own);
                continue;
            }
            match error.as_ref().map_or_else(|| Fate::Unknown(SILENT.to_owned()), Fate::of) {
                Fate::Again if attempt < 20 && Instant::now() < until => {
                    slot = Some(own);
                    let pause = Duration::from_millis(1 << attempt.min(6));
                    tokio::time::sleep(pause.mul_f64(fraction())).await;
                }
                Fate::Again => return (Err(StoreError::Down(AGAIN.to_owned()).into()), Some(own)),
                Fate::Failed(failed) => {
                    if matches!(failed, StoreError::Down(_)) {
                        self.commits.connections.forget();
                    }
                    let limit = error.is_some_and(|error| error.code() == Some(&SqlState::PROGRAM_LIMIT_EXCEEDED));
                    return (Err(Refused { error: failed, limit }), Some(own));
                }
                Fate::Unknown(cause) => {
                    self.slow_down();
                    match self.commits.settle(&own, until, &cause).await {
                        Ok(Told::Committed(failed)) => return (Ok(failed), None),
                        Ok(Told::Nothing) if Instant::now() < until => {}
                        Ok(Told::Nothing) => return (Err(self.without_server(StoreError::Down(cause))), None),
                        Err(error) => return (Err(self.without_server(error)), None),
                    }
                }
            }
        }
        (Err(StoreError::Down("a commit was tried too often".into()).into()), None)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.members.is_empty() {
            return;
        }
        // Without a panic, the threads have ended: what waits cannot be committed either. The slot is not used again:
        // the lost transaction may still be under way.
        self.is_server_away = !std::thread::panicking();
        let outcomes = vec![Err(StoreError::Down(UNKNOWN.to_owned())); self.members.len()];
        self.end(outcomes, None);
    }
}

/// Why a transaction was given up.
struct Refused {
    error: StoreError,
    /// It was over a limit of the server, such as that of the length of a key.
    limit: bool,
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused { error, limit: false }
    }
}

/// The answer of the batch `at` of a transaction.
fn answer_of(at: usize, outcome: &std::result::Result<Vec<i32>, Refused>, is_long: bool) -> Result<()> {
    match outcome {
        Ok(failed) if failed.contains(&(at as i32)) => Err(StoreError::Conflict),
        Ok(_) => Ok(()),
        Err(Refused { limit: true, .. }) if is_long => Err(StoreError::KeyTooLong),
        Err(Refused { error, .. }) => Err(error.clone()),
    }
}

/// Why a statement has no result.
enum Sent {
    /// It was not sent.
    Not(StoreError),
    /// It was not sent: the slot belongs to another timeline of the server.
    Elsewhere,
    Failed(tokio_postgres::Error),
    /// The server has not answered.
    Silent,
}

impl State {
    /// Takes the batches of the next transaction.
    fn take(&mut self) -> Vec<Waiting> {
        let now = Instant::now();
        self.hot.retain(|_, until| *until > now);
        let (mut group, mut bytes) = (Vec::new(), 0);
        let mut keys: HashSet<Place> = HashSet::new();
        // Databases of which an older batch waits.
        let mut passed: HashSet<i64> = HashSet::new();
        let mut at = 0;
        for _ in 0..LOOK {
            let Some(next) = self.waiting.get(at) else { break };
            let touched = &next.databases;
            let is_alone = next.batch.may_be_refused() || self.is_hot(touched);
            let fits = group.is_empty() || (!is_alone && bytes + next.batch.bytes <= BYTES);
            let waits = touched.iter().any(|number| self.busy.contains(number) || passed.contains(number));
            if !fits || waits || next.batch.shared_places().any(|place| keys.contains(place)) {
                passed.extend(touched);
                at += 1;
                continue;
            }
            let Some(next) = self.waiting.remove(at) else { break };
            bytes += next.batch.bytes;
            keys.extend(next.batch.shared_places().cloned());
            self.busy.extend(&next.databases);
            group.push(next);
            if is_alone || group.len() == BATCHES {
                break;
            }
        }
        self.bytes -= bytes;
        group
    }

    /// Takes all that waits.
    fn take_all(&mut self) -> VecDeque<Waiting> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Whether another transaction may start.
    fn has_room(&self, most: usize) -> bool {
        self.running < most && (self.waiting.len() >= self.under_way.min(ENOUGH) || self.bytes >= ENOUGH_BYTES)
    }

    /// Whether another node writes to one of the databases.
    fn is_hot(&self, databases: &HashSet<i64>) -> bool {
        databases.iter().any(|number| self.hot.contains_key(number))
    }
}

/// A random number from 0.5 to 1.
fn fraction() -> f64 {
    0.5 + (super::slot::random() % 1000) as f64 / 2000.0
}
