//! The services of higher layers that the jobs of documents use.

use crate::error::Result;
use crate::replicate::parameters::parse::Defaults;
use crate::replicate::scheduler::JobUser;
use crate::replicate::{Context, Pending};

/// Ends when another node may follow the documents. On an embedded store, it never does.
pub struct Turn(pub Pending<'static, ()>);

/// The services of higher layers that jobs use: settings, accounts, rights.
pub trait Environment: Send + Sync + 'static {
    /// What a pass of this user's job needs of the server.
    ///
    /// # Errors
    /// Those of the store.
    fn context<'a>(&'a self, user: &'a JobUser) -> Pending<'a, Result<Context>>;

    /// The values of parameters that a document does not set.
    fn defaults(&self) -> Defaults;

    /// Waits until this node may follow the documents. Then it may until the [`Turn`] ends; dropping that gives it up.
    fn turn(&self) -> Pending<'_, Turn>;

    /// Whether documents get a state while their replication runs or waits, too (`[replicator] update_docs`).
    fn updates_docs(&self) -> bool;
}
