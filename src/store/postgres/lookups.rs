//! Reads of keys: waiting calls are combined into one statement.
//!
//! ```text
//! get_each ─► waiting ─► one statement for the keys of all waiting calls ─► an answer for each call
//! ```
//!
//! A statement costs the server, the connection and the threads on both ends more than one more key in it. Under low
//! load, each call has a statement of its own. A statement is sent after its calls have arrived, so it sees everything
//! that was committed before them. All keys of a call are in one statement, so their values are of one snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::connections::{Connections, Parameters};
use super::encode::Place;
use super::runtime::{Answer, Threads};
use crate::store::{Result, StoreError};

/// A call with more keys has a statement of its own, so that others do not wait for its values.
const FEW: usize = 64;
/// The most keys in one statement.
const KEYS: usize = 512;
/// A statement starts beside those under way if almost twice as many calls wait as these have, or at least this many.
const CALLS: usize = 8;

/// The stored values of some keys, in their order.
type Values = Vec<Option<Vec<u8>>>;

struct Waiting {
    places: Vec<Place>,
    answer: Answer<Values>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Tasks that send statements.
    running: usize,
    /// The calls of the statements under way.
    under_way: usize,
}

pub(super) struct Lookups {
    connections: Connections,
    state: Mutex<State>,
    /// The most statements at a time.
    most: usize,
    one: String,
    some: String,
    mixed: String,
}

impl Lookups {
    pub fn new(connections: Connections) -> Arc<Lookups> {
        let kv = format!("{}.kv", connections.address.schema);
        let most = (connections.size() / 2).max(1);
        let (one, some, mixed) = (format!("select v from {kv} where db = $1 and k = $2"), some(&kv), mixed(&kv));
        Arc::new(Lookups { connections, state: Mutex::default(), most, one, some, mixed })
    }

    /// Reads the stored values of the keys at `places`. `answer` gets them.
    pub fn get(self: &Arc<Self>, threads: &Threads, places: Vec<Place>, answer: Answer<Values>) {
        if places.len() > FEW {
            let own = self.clone();
            threads.handle().spawn(async move { answer.send(own.read(places).await) });
            return;
        }
        let calls = {
            let mut state = self.state.lock();
            state.waiting.push_back(Waiting { places, answer });
            if !state.has_room(self.most) {
                return;
            }
            state.running += 1;
            state.take()
        };
        let running = Running { lookups: self.clone(), calls: calls.len(), counts: true };
        threads.handle().spawn(running.run(calls));
    }

    /// Reads in one statement.
    async fn read(&self, places: Vec<Place>) -> Result<Values> {
        let mut values = vec![None; places.len()];
        if let [(number, rest)] = &*places {
            let parameters: Parameters = vec![Box::new(*number), Box::new(rest.clone())];
            values[0] = self.connections.rows(&self.one, parameters).await?.first().map(|row| row.get(0));
            return Ok(values);
        }
        let (numbers, rests): (Vec<i64>, Vec<Vec<u8>>) = places.into_iter().unzip();
        let (sql, parameters): (_, Parameters) = match numbers.iter().all(|number| *number == numbers[0]) {
            true => (&self.some, vec![Box::new(numbers[0]), Box::new(rests)]),
            false => (&self.mixed, vec![Box::new(numbers), Box::new(rests)]),
        };
        for row in self.connections.rows(sql, parameters).await? {
            let at = usize::try_from(row.get::<_, i64>(0) - 1).ok().filter(|at| *at < values.len());
            let at = at.ok_or_else(|| StoreError::Unavailable("PostgreSQL: a row that was not asked for".into()))?;
            values[at] = Some(row.get(1));
        }
        Ok(values)
    }
}

impl State {
    /// Whether another task starts for the calls that wait.
    fn has_room(&self, most: usize) -> bool {
        self.running < most && self.is_enough()
    }

    /// Whether enough calls wait for another statement beside those under way.
    fn is_enough(&self) -> bool {
        self.waiting.len() >= (2 * self.under_way).saturating_sub(1).min(CALLS)
    }

    /// Takes the calls of the next statement, and counts them.
    fn take(&mut self) -> Vec<Waiting> {
        let mut keys = 0;
        let fits = |call: &&Waiting| {
            keys += call.places.len();
            keys <= KEYS
        };
        let count = self.waiting.iter().take_while(fits).count();
        self.under_way += count;
        self.waiting.drain(..count).collect()
    }
}

/// A task that sends one statement after the other while calls wait.
struct Running {
    lookups: Arc<Lookups>,
    /// How many calls its statement has: they are counted in `State::under_way`.
    calls: usize,
    /// Whether it is counted in `State::running`.
    counts: bool,
}

impl Running {
    async fn run(mut self, calls: Vec<Waiting>) {
        let mut next = Some(calls);
        while let Some(calls) = next {
            let places = calls.iter().flat_map(|call| call.places.clone()).collect();
            match self.lookups.read(places).await {
                Ok(values) => {
                    let mut values = values.into_iter();
                    for call in calls {
                        let own = values.by_ref().take(call.places.len()).collect();
                        call.answer.send(Ok(own));
                    }
                }
                Err(error) if calls.len() == 1 || matches!(error, StoreError::Down(_)) => self.refuse(calls, &error),
                // A single call may have caused the error.
                Err(_) => self.read_alone(calls.into()).await,
            }
            next = self.next();
        }
    }

    /// Reads for each call in a statement of its own.
    async fn read_alone(&self, mut calls: VecDeque<Waiting>) {
        while let Some(call) = calls.pop_front() {
            let read = self.lookups.read(call.places).await;
            let down = read.as_ref().err().filter(|error| matches!(error, StoreError::Down(_))).cloned();
            call.answer.send(read);
            if let Some(error) = down {
                return self.refuse(calls, &error);
            }
        }
    }

    /// Answers the calls with an error. If the server is down, the waiting calls get the same error: they would only
    /// wait as long for it.
    fn refuse(&self, calls: impl IntoIterator<Item = Waiting>, error: &StoreError) {
        let waiting = match error {
            StoreError::Down(_) => std::mem::take(&mut self.lookups.state.lock().waiting),
            _ => VecDeque::new(),
        };
        for call in calls.into_iter().chain(waiting) {
            call.answer.send(Err(error.clone()));
        }
    }

    /// The calls of the next statement. If too few wait, the task ends: the next calls start another one, or another
    /// statement that is under way is followed by theirs.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut state = self.lookups.state.lock();
        state.under_way -= std::mem::take(&mut self.calls);
        let calls = if state.is_enough() { state.take() } else { Vec::new() };
        self.calls = calls.len();
        if calls.is_empty() {
            state.running -= 1;
            self.counts = false;
        }
        Some(calls).filter(|calls| !calls.is_empty())
    }
}

impl Drop for Running {
    /// After a panic, another task serves the waiting calls. If the runtime ends, they fail.
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        let mut state = self.lookups.state.lock();
        state.under_way -= self.calls;
        if state.waiting.is_empty() {
            state.running -= 1;
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(handle) if std::thread::panicking() => {
                let calls = state.take();
                drop(state);
                let next = Running { lookups: self.lookups.clone(), calls: calls.len(), counts: true };
                handle.spawn(next.run(calls));
            }
            _ => {
                state.running -= 1;
                let ended = std::mem::take(&mut state.waiting);
                drop(state);
                drop(ended);
            }
        }
    }
}

/// The statement for several keys of one database. It returns the position of each key that exists, and its value.
///
/// PostgreSQL may keep the plan that it made while the table was small, or that suits small databases. With `k = any(...)`,
/// such a plan reads the whole database. One search of the index for each key is the only plan for this statement.
pub(super) fn some(kv: &str) -> String {
    format!(
        "select asked.n, found.v from unnest($2::bytea[]) with ordinality asked(k, n) \
         cross join lateral (select v from {kv} kv where kv.db = $1 and kv.k = asked.k offset 0) found"
    )
}

/// As [`some`], for keys of several databases.
pub(super) fn mixed(kv: &str) -> String {
    format!(
        "select asked.n, found.v from unnest($1::int8[], $2::bytea[]) with ordinality asked(db, k, n) \
         cross join lateral (select v from {kv} kv where kv.db = asked.db and kv.k = asked.k offset 0) found"
    )
}
