//! Reads and writes the checkpoints of both ends during a pass.

use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::replicate::checkpoint::{Common, Session, Stored, common, next};
use crate::replicate::failure::Failure;
use crate::replicate::parameters::{Filter, Parameters};
use crate::replicate::peer::Peer;
use crate::replicate::progress::Progress;

/// The checkpoints of a replication.
pub(super) struct Checkpoints<'a> {
    pub source: &'a dyn Peer,
    pub target: &'a dyn Peer,
    /// The name below `_local/`.
    pub id: &'a str,
    pub parameters: &'a Parameters,
    pub progress: &'a Progress,
    pub clock: &'a Clock,
}

/// Identifies both databases, so that a checkpoint is not used for later databases of the same names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Instances {
    pub source: String,
    pub target: String,
}

impl Checkpoints<'_> {
    /// Reads both checkpoints.
    pub async fn read(&self) -> Result<(Option<Stored>, Option<Stored>), Failure> {
        let both = futures_util::future::try_join(self.source.checkpoint(self.id), self.target.checkpoint(self.id));
        both.await
    }

    /// Records on both ends that everything up to `through` is on the target. `known`: what they must agree on
    /// until now. Returns the checkpoint.
    pub async fn write(
        &self,
        session: &Session,
        instances: &Instances,
        known: &Value,
        through: &Value,
    ) -> Result<Map<String, Value>, Failure> {
        self.target.commit().await?;
        self.check_instances(instances).await?;
        let (source, target) = self.read().await?;
        let Common { since, history } = common(source.as_ref(), target.as_ref());
        if since != *known {
            return Err(Failure::CheckpointCommit("the checkpoints were changed by somebody else".into()));
        }
        let is_by_ids = matches!(self.parameters.filter, Filter::DocIds(_));
        let now = self.clock.since_epoch().as_secs();
        let body = next(session, &self.progress.totals(), through, now, is_by_ids, history);
        for (peer, side, stored) in [(self.source, "source", source), (self.target, "target", target)] {
            self.put(peer, side, &body, stored.map(|stored| stored.rev)).await?;
        }
        Ok(body)
    }

    /// Writes one copy. A conflict may be this checkpoint itself, whose answer was lost.
    async fn put(
        &self,
        peer: &dyn Peer,
        side: &str,
        body: &Map<String, Value>,
        rev: Option<String>,
    ) -> Result<(), Failure> {
        match peer.write_checkpoint(self.id, body, rev.as_deref()).await {
            Err(Failure::Status { status: 409, .. }) => match peer.checkpoint(self.id).await? {
                Some(stored) if stored.body == *body => Ok(()),
                _ => Err(Failure::CheckpointCommit(format!("Error updating the {side} checkpoint document: conflict"))),
            },
            Err(Failure::Forbidden(text) | Failure::Unauthorized(text)) => Err(Failure::CheckpointCommit(format!(
                "the checkpoint cannot be written to the {side} (`use_checkpoints: false` goes without): {text}"
            ))),
            written => written,
        }
    }

    async fn check_instances(&self, known: &Instances) -> Result<(), Failure> {
        let (source, target) = futures_util::future::try_join(self.source.about(), self.target.about()).await?;
        let now = Instances { source: source.instance, target: target.instance };
        // CouchDB's texts.
        let differs = |before: &str, now: &str| before != now && before != "0" && now != "0";
        let changed = match (differs(&known.source, &now.source), differs(&known.target, &now.target)) {
            (false, false) => return Ok(()),
            (true, false) => "instance_start_time on source database has changed since last checkpoint.",
            (false, true) => "instance_start_time on target database has changed since last checkpoint.",
            (true, true) => "instance_start_time on source and target database has changed since last checkpoint.",
        };
        Err(Failure::CheckpointCommit(changed.into()))
    }
}
