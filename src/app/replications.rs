//! The replications of a server: the part that all layers above `replicate` use.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::db::Databases;
use crate::replicate::Network;
use crate::replicate::documents::Documents;
use crate::replicate::scheduler::{Report, Scheduler};

/// The replications of a server.
pub struct Replications {
    pub scheduler: Arc<Scheduler>,
    pub documents: Arc<Documents>,
    /// Connections to other servers.
    pub network: Arc<Network>,
    /// What the scheduler reports; taken by the job that follows the documents.
    pub reports: Mutex<Option<mpsc::UnboundedReceiver<Report>>>,
}

impl Replications {
    /// Creates the scheduler, without jobs.
    pub fn new(databases: &Arc<Databases>, network: Arc<Network>, clock: &Clock) -> Replications {
        let of = databases.clone();
        // A database that is not open has not been written since the job slept, or its commit is on its way. On a
        // shared store, another node may have written it.
        let is_shared = databases.store().is_shared();
        let has_changes = move |source: &str, sequence| {
            is_shared || of.opened(source).is_none_or(|database| database.info().sequence > sequence)
        };
        let (scheduler, reports) = Scheduler::new(clock.clone(), Box::new(has_changes));
        let documents = Documents::new(databases.clone(), scheduler.clone(), clock.clone());
        Replications { scheduler, documents, network, reports: Mutex::new(Some(reports)) }
    }
}
