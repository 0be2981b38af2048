//! Calls of `validate_doc_update`, and the check that functions compile.

use std::ops::Range;
use std::sync::Arc;

use super::call::Call;
use super::design::Design;
use super::environments::Key;
use super::gather::OVERRUNS;
use super::limits::room;
use super::pending::Pending;
use super::scripts::{Scripts, size};
use super::turns::Size;
use crate::error::Result;

impl Scripts {
    /// Compiles functions of views without running them: each with its kind, `map` or `reduce`. Returns for each
    /// function `None`, or CouchDB's error text if it does not compile.
    pub fn compile(&self, database: u64, functions: Vec<(&'static str, String)>) -> Pending<Vec<Option<String>>> {
        self.threads.submit(size(database, functions.iter().map(|(_, function)| function.len())), move |seat| {
            let sources: Vec<String> =
                functions.iter().map(|function| serde_json::to_string(function).unwrap_or_default()).collect();
            let outcomes = seat.call(Call { most_overruns: OVERRUNS, ..Call::new(&Key::Once, "check", &sources) })?;
            Ok(outcomes.into_iter().map(|outcome| outcome.result().err().map(|error| error.to_string())).collect())
        })
    }

    /// Calls each design document's `validate_doc_update` for each of the `documents` in `range` (new and old
    /// document as JSON) until one rejects it. Returns one verdict per document. `user` is the `userCtx`,
    /// `security` the database's security object. A thrown `forbidden` or `unauthorized` becomes that error.
    pub fn validate_all(
        &self,
        designs: &Arc<Vec<Arc<Design>>>,
        documents: &Arc<Vec<(String, Option<String>)>>,
        range: Range<usize>,
        user: &str,
        security: &str,
    ) -> Pending<Vec<Result<()>>> {
        let length = |(new, old): &(String, Option<String>)| new.len() + old.as_deref().map_or(0, str::len);
        let beside = user.len() + security.len();
        // The request holds the documents, so they do not count as memory of the queue.
        let asked = documents.get(range.clone()).unwrap_or_default();
        let longest = asked.iter().map(length).max().unwrap_or(0) + beside;
        let owner = designs.first().map_or(0, |design| design.database);
        let size = Size { owner, bytes: beside, room: room(longest), list: false };
        self.gathered.ask(&self.threads, designs, documents, range, [user, security], size)
    }
}
