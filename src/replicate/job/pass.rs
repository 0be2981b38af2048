//! The loop of a pass: reads the feed, keeps some batches going, records what is complete.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::Copier;
use super::checkpoints::{Checkpoints, Instances};
use super::outcome::{Completed, Outcome, Replication};
use crate::replicate::Pending;
use crate::replicate::checkpoint::{self, Common, Session, common, number_of};
use crate::replicate::context::Context;
use crate::replicate::failure::Failure;
use crate::replicate::local::LocalPeer;
use crate::replicate::parameters::{Endpoint, Parameters};
use crate::replicate::peer::{About, Feed, Page, Peer};
use crate::replicate::progress::{Position, Progress};
use crate::replicate::remote::RemotePeer;

/// One pass.
pub(super) struct Pass<'a> {
    context: &'a Context,
    replication: &'a Replication,
    progress: &'a Progress,
    source: Box<dyn Peer + 'a>,
    target: Box<dyn Peer + 'a>,
    /// The id with its suffix, for the log.
    id: String,
}

/// Where a pass starts.
struct Start {
    instances: Instances,
    /// The sequence to start after.
    since: Value,
    /// What both checkpoints agree on.
    recorded: Value,
    /// The last sequence of the source; `null` if it was not asked.
    last: Value,
    /// The source's checkpoint.
    stored: Map<String, Value>,
}

/// Where a pass is.
struct Reached {
    session: Session,
    instances: Instances,
    /// Everything up to here is on the target.
    through: Value,
    /// Everything up to here is in the checkpoints.
    recorded: Value,
    /// The last checkpoint that this pass has written.
    written: Option<Map<String, Value>>,
}

/// Batches that are copied. Each returns the sequence up to which all is on the target when it and those before it
/// have ended.
type Batches<'a> = FuturesOrdered<Pending<'a, Result<Value, Failure>>>;

/// Whether two sequences are the same: a new database starts at `null`, 0 or `"0-..."`.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (number_of(a) == Some(0) && number_of(b) == Some(0))
}

impl<'a> Pass<'a> {
    /// Opens both ends.
    pub fn open(
        context: &'a Context,
        replication: &'a Replication,
        progress: &'a Progress,
    ) -> Result<Pass<'a>, Failure> {
        let parameters = &replication.parameters;
        let source: Box<dyn Peer + 'a> = match &parameters.source {
            Endpoint::Local { name } => Box::new(LocalPeer::source(&*context.access, name, parameters)),
            Endpoint::Remote(remote) => Box::new(RemotePeer::new(context, remote, parameters, false)?),
        };
        let target: Box<dyn Peer + 'a> = match &parameters.target {
            Endpoint::Local { name } => Box::new(LocalPeer::target(&*context.access, name, parameters)),
            Endpoint::Remote(remote) => Box::new(RemotePeer::new(context, remote, parameters, true)?),
        };
        Ok(Pass { context, replication, progress, source, target, id: replication.id.to_string() })
    }

    fn parameters(&self) -> &Parameters {
        &self.replication.parameters
    }

    fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints {
            source: &*self.source,
            target: &*self.target,
            id: &self.replication.id.base,
            parameters: self.parameters(),
            progress: self.progress,
            clock: &self.context.clock,
        }
    }

    /// Runs the pass to its end.
    pub async fn run(self, stop: &CancellationToken) -> Result<Outcome, Failure> {
        let start = self.start().await?;
        let session = checkpoint::session(self.progress, &start.since, || {
            (self.context.clock.uuid(), self.context.clock.since_epoch().as_secs())
        });
        let mut reached = Reached {
            session,
            instances: start.instances,
            through: start.since.clone(),
            recorded: start.recorded,
            written: None,
        };
        let done = self.progress.counters().changes_done;
        let copied = self.copy(&start.since, &start.last, stop, &mut reached).await;
        let is_local = matches!(self.parameters().source, Endpoint::Local { .. });
        let rests = copied.is_ok() && self.parameters().continuous && is_local && !stop.is_cancelled();
        let due = if rests { self.checkpoint_due(&reached) } else { None };
        self.progress.state.lock().checkpoint_due = due;
        if due.is_none() && !matches!(copied, Err(Failure::CheckpointCommit(_))) {
            let recorded = self.record(&mut reached).await;
            // The first failure is the one to report.
            copied.and(recorded)?;
        } else {
            copied?;
        }
        self.progress.rest_at(Position {
            since: reached.through.clone(),
            recorded: reached.recorded.clone(),
            source: reached.instances.source.clone().into(),
            target: reached.instances.target.clone().into(),
        });
        if stop.is_cancelled() {
            return Ok(Outcome::Stopped);
        }
        if self.parameters().continuous {
            let sequence = number_of(&reached.through).unwrap_or(0);
            return Ok(Outcome::CaughtUp { sequence });
        }
        // A filter may have left nothing.
        let no_changes = self.progress.counters().changes_done == done;
        let members = match reached.written {
            _ if same(&reached.through, &start.since) => start.stored,
            Some(body) => body,
            None => [("use_checkpoints".to_owned(), false.into())].into_iter().collect(),
        };
        Ok(Outcome::Completed(Completed { no_changes, members }))
    }

    /// When the next checkpoint of a job that rests is due, since the epoch; `None` if it is due now, or has nothing to
    /// record.
    fn checkpoint_due(&self, reached: &Reached) -> Option<Duration> {
        if !self.parameters().use_checkpoints || same(&reached.through, &reached.recorded) {
            return None;
        }
        let last = self.progress.state.lock().checkpointed_at?;
        let due = last + self.parameters().checkpoint_interval;
        (due > self.context.clock.since_epoch()).then_some(due)
    }

    /// Finds where to start: where the last pass of this job has ended, or at what both checkpoints agree on.
    async fn start(&self) -> Result<Start, Failure> {
        if let Some(start) = self.rested().await? {
            return Ok(start);
        }
        if self.parameters().create_target && matches!(self.target.about().await, Err(Failure::DbNotFound(_))) {
            self.target.create().await?;
        }
        let (source, target) = futures_util::future::try_join(self.source.about(), self.target.about()).await?;
        let instances = Instances { source: source.instance, target: target.instance };
        let since_seq = self.parameters().since_seq.clone().unwrap_or_default();
        if !self.parameters().use_checkpoints {
            let (recorded, last, stored) = (Value::Null, source.update_seq, Map::new());
            return Ok(Start { instances, since: since_seq, recorded, last, stored });
        }
        let (at_source, at_target) = self.checkpoints().read().await?;
        let Common { since: recorded, history } = common(at_source.as_ref(), at_target.as_ref());
        if let Some(last) = history.first() {
            self.progress.begin_after(last);
        }
        let mut since = if recorded.is_null() { since_seq } else { recorded.clone() };
        if is_beyond(&since, &source.update_seq) {
            let replication = &self.id;
            tracing::warn!(target: "settee::replicate", replication, "the source has lost changes: starting over");
            since = Value::Null;
        }
        self.progress.state.lock().checkpointed_source_seq = recorded.clone();
        let stored = at_source.map(|stored| stored.body).unwrap_or_default();
        Ok(Start { instances, since, recorded, last: source.update_seq, stored })
    }

    /// Where the last pass of this job has ended, if the source here and the target are still the same.
    async fn rested(&self) -> Result<Option<Start>, Failure> {
        let Some(position) = self.progress.take_position() else { return Ok(None) };
        if !matches!(self.parameters().source, Endpoint::Local { .. }) || !self.parameters().continuous {
            return Ok(None);
        }
        let About { instance, update_seq } = self.source.about().await?;
        // A target elsewhere is compared with the next checkpoint.
        let target = match self.parameters().target {
            Endpoint::Local { .. } => self.target.about().await?.instance,
            Endpoint::Remote(_) => position.target.to_string(),
        };
        if *instance != *position.source || *target != *position.target {
            return Ok(None);
        }
        Ok(Some(Start {
            instances: Instances { source: instance, target },
            since: position.since,
            recorded: position.recorded,
            last: update_seq,
            stored: Map::new(),
        }))
    }

    /// Copies the changes after `since`. A pass that is not continuous ends with the last change.
    async fn copy(
        &self,
        since: &Value,
        last: &Value,
        stop: &CancellationToken,
        reached: &mut Reached,
    ) -> Result<(), Failure> {
        let mut feed = self.source.feed(since.clone()).await?;
        let (send, pages) = mpsc::channel(1);
        let mut reader = pin!(self.read(&mut *feed, last, stop, send));
        let mut writer = pin!(self.write(pages, reached));
        let mut reads = true;
        loop {
            tokio::select! {
                biased;
                done = &mut writer => return done,
                () = &mut reader, if reads => reads = false,
            }
        }
    }

    /// Reads pages until the end, and sends them. Ends when the pass is stopped.
    async fn read(
        &self,
        feed: &mut dyn Feed,
        last: &Value,
        stop: &CancellationToken,
        send: mpsc::Sender<Result<Page, Failure>>,
    ) {
        let parameters = self.parameters();
        let is_local = matches!(parameters.source, Endpoint::Local { .. });
        // The number of a clustered CouchDB's sequence is a sum: it may be reached before each shard is at its end.
        let position = |sequence: &Value| sequence.as_u64().or_else(|| exact(sequence).map(|(number, _)| number));
        let (goes_on, until) = (parameters.continuous && !is_local, position(last));
        let mut wait = false;
        loop {
            let page = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                page = feed.next(parameters.worker_batch_size.max(1), wait) => page,
            };
            let mut ends = page.is_err();
            if let Ok(page) = &page {
                self.progress.read_through(&page.through, page.pending);
                wait = goes_on && page.is_last;
                let is_far_enough = !parameters.continuous
                    && until.zip(position(&page.through)).is_some_and(|(until, through)| through >= until);
                ends = !goes_on && (page.is_last || is_far_enough);
            }
            if send.send(page).await.is_err() || ends {
                return;
            }
        }
    }

    /// Copies pages, several at a time, and records how far they are complete.
    async fn write(
        &self,
        mut pages: mpsc::Receiver<Result<Page, Failure>>,
        reached: &mut Reached,
    ) -> Result<(), Failure> {
        let memory = self.context.network.memory.share();
        let copier = &Copier {
            source: &*self.source,
            target: &*self.target,
            memory: &memory,
            progress: self.progress,
            id: &self.id,
        };
        let most = self.parameters().worker_processes.max(1);
        let mut batches: Batches<'_> = FuturesOrdered::new();
        let mut failed = None;
        let mut is_open = true;
        let mut due = Instant::now() + self.parameters().checkpoint_interval;
        while is_open || !batches.is_empty() {
            let is_new = !same(&reached.through, &reached.recorded) && self.parameters().use_checkpoints;
            tokio::select! {
                biased;
                Some(done) = batches.next(), if !batches.is_empty() => {
                    reached.through = done?;
                    self.progress.state.lock().through_seq = reached.through.clone();
                }
                page = pages.recv(), if is_open && batches.len() < most => match page {
                    Some(Ok(page)) => batches.push_back(Box::pin(async move {
                        copier.copy(page.changes).await?;
                        Ok(page.through)
                    })),
                    // The batches that are under way should still be recorded.
                    Some(Err(failure)) => (failed, is_open) = (Some(failure), false),
                    None => is_open = false,
                },
                () = tokio::time::sleep_until(due), if is_new => {
                    self.record_beside(reached, &mut batches).await?;
                    due = Instant::now() + self.parameters().checkpoint_interval;
                }
                else => break,
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes checkpoints, while the batches go on: a peer that is slow to take one must not stop what is copied, which
    /// holds memory.
    async fn record_beside(&self, reached: &mut Reached, batches: &mut Batches<'_>) -> Result<(), Failure> {
        let mut through = Ok(None);
        {
            let mut record = pin!(self.record(reached));
            loop {
                tokio::select! {
                    biased;
                    recorded = &mut record => break recorded?,
                    Some(done) = batches.next(), if !batches.is_empty() && through.is_ok() => through = done.map(Some),
                }
            }
        }
        if let Some(through) = through? {
            reached.through = through;
            self.progress.state.lock().through_seq = reached.through.clone();
        }
        Ok(())
    }

    /// Writes checkpoints, if there is something to record.
    async fn record(&self, reached: &mut Reached) -> Result<(), Failure> {
        if !self.parameters().use_checkpoints || same(&reached.through, &reached.recorded) {
            return Ok(());
        }
        let Reached { session, instances, through, recorded, .. } = &*reached;
        let body = self.checkpoints().write(session, instances, recorded, through).await?;
        reached.recorded = reached.through.clone();
        reached.written = Some(body);
        let mut state = self.progress.state.lock();
        state.checkpointed_source_seq = reached.recorded.clone();
        state.checkpointed_at = Some(self.context.clock.since_epoch());
        Ok(())
    }
}

/// Whether a sequence is beyond the last one of the source, which was then restored from an older copy. Only
/// where sequences are exact: the numbers of a cluster are sums that may go back a little.
fn is_beyond(since: &Value, last: &Value) -> bool {
    match (exact(since), exact(last)) {
        (Some((since, before)), Some((last, now))) => before == now && since > last,
        _ => false,
    }
}

/// The number and the instance of a sequence `N-<32 hex digits>`, as settee's are.
fn exact(sequence: &Value) -> Option<(u64, String)> {
    let (number, instance) = sequence.as_str()?.split_once('-')?;
    let is_hex = instance.len() == 32 && instance.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then_some((number.parse().ok()?, instance.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sequence_beyond_the_last_one_is_found_where_sequences_are_exact() {
        let of = |number: u64, instance: &str| json!(format!("{number}-{instance}"));
        let (a, b) = ("0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff");
        assert!(is_beyond(&of(6, a), &of(5, a)));
        assert!(!is_beyond(&of(5, a), &of(5, a)));
        assert!(!is_beyond(&of(6, a), &of(5, b)), "another database starts from its first change anyway");
        assert!(!is_beyond(&json!("6-g1AAAA"), &json!("5-g1AAAA")), "a cluster");
        assert!(!is_beyond(&json!(6), &json!(5)));
        assert!(!is_beyond(&Value::Null, &of(5, a)));
    }

    #[test]
    fn a_new_database_starts_at_any_zero() {
        assert!(same(&Value::Null, &json!("0-abc")));
        assert!(same(&json!(0), &Value::Null));
        assert!(!same(&json!("1-abc"), &json!("2-abc")));
        assert!(!same(&Value::Null, &json!("1-abc")));
    }
}
