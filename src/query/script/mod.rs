//! JavaScript of design documents: map and reduce, validation, filters, shows, lists, updates, rewrites.
//!
//! ```text
//! Scripts -> pool -> worker process -> environment (a QuickJS runtime + sandbox.js, render.js) -> the stored function
//! ```
//!
//! Functions run in worker processes (`worker`), which have no file, no network and no other process, and memory and CPU
//! time that the system limits: what a function does to its process ends with it. The server asks over a socket (`wire`),
//! finds out which document a failure is owed to (`run`), and shares the workers between databases (`pool`, `watch`). An
//! environment is one QuickJS runtime for one design document revision (or one set of view functions) of one database
//! and, where a request is involved, one user: nothing that a script leaves behind is seen by another of these. A worker
//! has environments of one database only. What a script answers is CouchDB's query server protocol in spirit
//! (apache/couchdb `share/server`, `src/docs/src/query-server`), as JSON texts in and out.
//!
//! A runaway script (endless loop, memory, recursion) fails its own call with CouchDB's error, or costs a view the rows
//! of the document that it cannot get through.

mod confine;
mod engine;
mod failure;
mod frozen;
mod gather;
mod list;
mod memory;
mod pool;
mod process;
mod request;
mod response;
mod rows;
mod run;
mod turns;
mod watch;
mod wire;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use self::failure::{mend, rejected};
use self::pool::Threads;
use self::run::{Call, Key, Outcome, SMALL, Seat};
use self::turns::Size;
use crate::error::{Error, Result};

pub use self::list::{Part, Parts, Rows, send};
pub use self::pool::{Pending, Stats};
pub use self::request::{RequestBody, RequestContext, RequestParts, request_object, rewrite_request_object};
pub use self::response::{Response, Rewrite, Updated};
pub use self::rows::{BATCH_LIMIT, DOCUMENT_LIMIT, Mapped};
pub use self::worker::work;

/// The reason of the error, `InternalError`, of a batch whose documents emit too much together.
pub const TOO_LARGE: &str = "the rows of one batch of documents are too large";
/// The hidden first argument by which this program becomes a script worker: see [`work`].
pub const WORKER: &str = "script-worker";
/// Bytes of documents that are made ready for validation at once.
const VALIDATED: usize = 1 << 20;
/// Documents of one validation that may overrun before the rest is refused without being asked.
const OVERRUNS: usize = 3;

/// What scripts are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Scripts of one database that share the cores; usually as many as there are.
    pub threads: usize,
    /// Worker processes at most (`os_process_limit`), if there is memory for so many: see [`Limits::workers`].
    pub processes: usize,
    /// Bytes that one environment may use, beside what its input needs.
    pub memory: usize,
    /// Bytes that all worker processes may use together (`max_script_memory`).
    pub all_memory: usize,
    /// CPU time of one call: one document mapped, one validation, one row of a list (`os_process_timeout`).
    pub timeout: Duration,
    /// What happens when a reduce function does not reduce (`query_server_config/reduce_limit`).
    pub reduce_limit: ReduceLimit,
    /// Bytes of a reduction from which on it is looked at (`reduce_limit_threshold`).
    pub reduce_limit_threshold: usize,
    /// How many times a reduction must fit into its input (`reduce_limit_ratio`).
    pub reduce_limit_ratio: f64,
}

impl Limits {
    /// Worker processes at most: as many as fit into two thirds of the memory, and one at least.
    pub fn workers(&self) -> usize {
        let fitting = (self.all_memory - self.room()) / run::process_memory(self).max(1);
        fitting.min(self.processes).max(1)
    }

    /// Memory for inputs that are too large for a worker of the usual size: a third of all.
    fn room(&self) -> usize {
        self.all_memory / 3
    }
}

/// `query_server_config/reduce_limit`: `true`, `false`, `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceLimit {
    On,
    Off,
    Log,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get()),
            processes: 100,
            memory: 64 << 20,
            all_memory: 1 << 30,
            timeout: Duration::from_secs(5),
            reduce_limit: ReduceLimit::On,
            reduce_limit_threshold: 5000,
            reduce_limit_ratio: 2.0,
        }
    }
}

/// The map functions of one view signature.
#[derive(Debug)]
pub struct MapSet {
    /// The database's internal number.
    pub database: u64,
    /// Changes whenever `functions` or `lib` do.
    pub signature: String,
    /// Sources of the map functions.
    pub functions: Vec<String>,
    /// `views.lib`, as JSON, for `require('views/lib/...')`.
    pub lib: Option<String>,
}

/// A design document whose functions are to be called.
#[derive(Debug)]
pub struct Design {
    /// The database's internal number.
    pub database: u64,
    /// `_design/...`
    pub id: String,
    pub rev: String,
    /// The document as JSON, with `_id` and `_rev`.
    pub source: String,
    language: String,
}

impl Design {
    /// `source` must be the JSON of an object.
    pub fn new(database: u64, id: String, rev: String, source: String) -> Result<Design> {
        #[derive(serde::Deserialize)]
        struct Members {
            language: Option<serde_json::Value>,
        }
        let members: Members =
            serde_json::from_str(&source).map_err(|error| Error::Damaged(format!("design document {id}: {error}")))?;
        let language = match members.language {
            None | Some(serde_json::Value::Null) => "javascript".into(),
            Some(serde_json::Value::String(language)) => language,
            Some(other) => other.to_string(),
        };
        Ok(Design { database, id, rev, source, language })
    }

    pub fn language(&self) -> &str {
        &self.language
    }

    fn key(&self, user: &str) -> Result<Key> {
        check_language(&self.language)?;
        Ok(Key::Design { id: self.id.clone(), rev: self.rev.clone(), user: user.into() })
    }
}

/// Refuses a design document language that has no query server here, as CouchDB does. (Views of the language `query` need
/// none.)
pub fn check_language(language: &str) -> Result<()> {
    if language == "javascript" {
        return Ok(());
    }
    Err(Error::Script { word: "unknown_query_language".into(), reason: language.into() })
}

/// The way to run scripts; clones share the workers, the last one ends them.
#[derive(Clone)]
pub struct Scripts {
    threads: Arc<Threads>,
}

impl Scripts {
    pub fn new(limits: Limits) -> Scripts {
        Scripts { threads: Arc::new(Threads::new(limits)) }
    }

    pub fn limits(&self) -> Limits {
        self.threads.limits()
    }

    /// For scripts that start from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.threads.set_limits(limits);
    }

    /// What scripts did since the start.
    pub fn stats(&self) -> Stats {
        self.threads.stats()
    }

    /// Maps a batch of documents (each the JSON that CouchDB gives a map function, with `_id` and `_rev`). A function
    /// that throws loses its rows of that document; a document that overruns time or memory is skipped
    /// ([`Mapped::skipped`]); a function that overruns on any document fails the batch with CouchDB's error. Some hundred
    /// documents at a time, and several batches under way, keep all cores at work.
    pub fn map_batch(&self, set: &Arc<MapSet>, documents: Vec<String>) -> Pending<Mapped> {
        let set = set.clone();
        let size = size(set.database, documents.iter().map(String::len));
        let threads = Arc::downgrade(&self.threads);
        self.threads.submit(size, move |seat| {
            let key = Key::Map { signature: set.signature.clone() };
            let definition = map_definition(&set);
            let outcomes = seat.call(Call {
                fill: Some(("addMaps", &definition)),
                frozen: true,
                probe: Some(SMALL),
                most_bytes: DOCUMENT_LIMIT,
                ..Call::new(&key, "mapDocument", &documents)
            })?;
            let mut mapped = Mapped::new(set.functions.len());
            for outcome in outcomes {
                let answer = match outcome {
                    Outcome::Overran(error) => {
                        mapped.skip(error.to_string());
                        threads.upgrade().inspect(|threads| threads.counters().skipped());
                        continue;
                    }
                    outcome => outcome.result()?,
                };
                if !mapped.push(&answer) {
                    let reason = TOO_LARGE.into();
                    return Err(Error::Script { word: "InternalError".into(), reason });
                }
            }
            Ok(mapped)
        })
    }

    /// Counts a document that a view goes without because it emits too much.
    pub fn count_skipped(&self) {
        self.threads.counters().skipped();
    }

    /// Runs JavaScript reduce functions over rows: `rows` is JSON `[[[key, id], value], ...]`. One JSON text per
    /// function; `null` for one that threw, [`overflow`] for those of a call that did not reduce. `context` names the
    /// view in the message of an overflow.
    pub fn reduce(
        &self,
        database: u64,
        functions: &Arc<Vec<String>>,
        rows: String,
        context: &str,
    ) -> Pending<Vec<String>> {
        self.reduce_call(database, functions, rows, context, "")
    }

    /// Runs JavaScript reduce functions over reductions: `values` is JSON `[value, ...]`.
    pub fn rereduce(
        &self,
        database: u64,
        functions: &Arc<Vec<String>>,
        values: String,
        context: &str,
    ) -> Pending<Vec<String>> {
        self.reduce_call(database, functions, values, context, "again")
    }

    fn reduce_call(
        &self,
        database: u64,
        functions: &Arc<Vec<String>>,
        input: String,
        context: &str,
        again: &'static str,
    ) -> Pending<Vec<String>> {
        let functions = functions.clone();
        let context = context.to_owned();
        self.threads.submit(size(database, [input.len()]), move |seat| {
            let key = Key::Reduce { functions: functions.clone() };
            let (limits, input_size) = (seat.limits(), input.len());
            let sources = serde_json::to_string(&*functions).unwrap_or_default();
            let input = [input];
            let call = Call { fill: Some(("addReduces", &sources)), text: again, ..Call::new(&key, "reduce", &input) };
            let reductions = one(seat.call(call)?)?;
            let reductions = shrunk(&mend(&reductions), input_size, &limits, &context);
            if reductions.len() != functions.len() {
                return Err(Error::Internal("a script worker answered too few or too many reductions".into()));
            }
            Ok(reductions)
        })
    }

    /// Compiles functions without running them: for each, None or CouchDB's reason why it does not compile.
    pub fn compile(&self, database: u64, functions: Vec<String>) -> Pending<Vec<Option<String>>> {
        self.threads.submit(size(database, functions.iter().map(String::len)), move |seat| {
            let sources: Vec<String> =
                functions.iter().map(|function| serde_json::to_string(&[function]).unwrap_or_default()).collect();
            let outcomes =
                seat.call(Call { most_overruns: OVERRUNS, ..Call::new(&Key::Once, "addReduces", &sources) })?;
            Ok(outcomes.into_iter().map(|outcome| outcome.result().err().map(|error| error.to_string())).collect())
        })
    }

    /// Asks each design document's `validate_doc_update` about each of the `documents` in `range` (new and old as JSON),
    /// until one refuses: one verdict per document. `user` is `userCtx`, `security` the database's security object.
    /// Forbidden and unauthorized are those errors.
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
        // The documents themselves wait with the request, not here.
        let asked = documents.get(range.clone()).unwrap_or_default();
        let longest = asked.iter().map(length).max().unwrap_or(0) + beside;
        let owner = designs.first().map_or(0, |design| design.database);
        let size = Size { owner, bytes: beside, room: run::room(longest), list: false };
        self.gather(designs, documents, range, [user, security], size)
    }

    /// Asks the filter function `name` about each document: `request` is the request object as JSON, `user` its
    /// `userCtx`. A document that overruns time or memory does not pass.
    pub fn filter(
        &self,
        design: &Arc<Design>,
        name: &str,
        documents: Vec<String>,
        request: &str,
        user: &str,
    ) -> Pending<Vec<bool>> {
        self.passes(design, ["filter", name], documents, request, user)
    }

    /// Which documents the map function of view `name` emits anything for.
    pub fn filter_view(&self, design: &Arc<Design>, name: &str, documents: Vec<String>) -> Pending<Vec<bool>> {
        self.passes(design, ["filterView", name], documents, "", "")
    }

    fn passes(
        &self,
        design: &Arc<Design>,
        [entry, name]: [&str; 2],
        documents: Vec<String>,
        request: &str,
        user: &str,
    ) -> Pending<Vec<bool>> {
        let entry = if entry == "filter" { "filter" } else { "filterView" };
        let (design, name) = (design.clone(), name.to_owned());
        let (request, user) = (request.to_owned(), user.to_owned());
        let lengths = documents.iter().map(|document| document.len() + request.len());
        let size = size(design.database, lengths);
        let threads = Arc::downgrade(&self.threads);
        self.threads.submit(size, move |seat| {
            let key = design.key(&user)?;
            let outcomes = seat.call(Call {
                fill: Some(("addDesign", &design.source)),
                text: &name,
                shared: &request,
                probe: Some(SMALL),
                ..Call::new(&key, entry, &documents)
            })?;
            let pass = |(outcome, document): (Outcome, &String)| match outcome {
                Outcome::Overran(error) => {
                    threads.upgrade().inspect(|threads| threads.counters().skipped());
                    let (database, function) = (design.database, format!("{}/{name}", design.id));
                    let id = id_of(document);
                    tracing::warn!(target: "settee::script", database, function, id, "a filter skips a document: {error}");
                    Ok(false)
                }
                outcome => outcome.result().map(|answer| answer == "1"),
            };
            outcomes.into_iter().zip(&documents).map(pass).collect()
        })
    }

    /// Runs the show function `name`: the response as JSON, for [`Response::read`]. `request` is the request object as
    /// JSON, `user` its `userCtx`.
    pub fn show(
        &self,
        design: &Arc<Design>,
        name: &str,
        doc: Option<&str>,
        request: &str,
        user: &str,
    ) -> Pending<String> {
        let args = format!("[{},{request}]", doc.unwrap_or("null"));
        let (design, name, user) = (design.clone(), name.to_owned(), user.to_owned());
        let size = size(design.database, [args.len()]);
        self.threads.submit(size, move |seat| design_call(seat, &design, &user, "show", args, &name))
    }

    /// Runs the update function `name`.
    pub fn update(
        &self,
        design: &Arc<Design>,
        name: &str,
        doc: Option<&str>,
        request: &str,
        user: &str,
    ) -> Pending<Updated> {
        let args = format!("[{},{request}]", doc.unwrap_or("null"));
        let (design, name, user) = (design.clone(), name.to_owned(), user.to_owned());
        let size = size(design.database, [args.len()]);
        self.threads.submit(size, move |seat| Updated::read(&design_call(seat, &design, &user, "update", args, &name)?))
    }

    /// Runs `rewrites` when it is a function; None when it finds no rule. `request` is from [`rewrite_request_object`].
    pub fn rewrite(&self, design: &Arc<Design>, request: &str, user: &str) -> Pending<Option<Rewrite>> {
        let (design, request, user) = (design.clone(), request.to_owned(), user.to_owned());
        let size = size(design.database, [request.len()]);
        self.threads
            .submit(size, move |seat| Rewrite::read(&design_call(seat, &design, &user, "rewrite", request, "")?))
    }
}

impl<'a> Call<'a> {
    /// A call without anything beside.
    fn new(key: &'a Key, entry: &'static str, items: &'a [String]) -> Call<'a> {
        Call {
            key,
            fill: None,
            entry,
            text: "",
            shared: "",
            items,
            frozen: false,
            probe: None,
            most_overruns: usize::MAX,
            most_bytes: run::ANSWERS,
            exchange: None,
        }
    }
}

/// The size of a job with inputs of these lengths.
fn size(owner: u64, lengths: impl IntoIterator<Item = usize>) -> Size {
    let (bytes, longest) =
        lengths.into_iter().fold((0, 0), |(sum, longest): (usize, usize), length| (sum + length, longest.max(length)));
    Size { owner, bytes, room: run::room(longest), list: false }
}

/// A design document's map functions, for `addMaps`.
fn map_definition(set: &MapSet) -> String {
    #[derive(serde::Serialize)]
    struct Definition<'a> {
        functions: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        lib: Option<&'a RawValue>,
    }
    let lib = set.lib.as_deref().and_then(|lib| serde_json::from_str(lib).ok());
    serde_json::to_string(&Definition { functions: &set.functions, lib }).unwrap_or_default()
}

/// The answer of a call with one item.
fn one(outcomes: Vec<Outcome>) -> Result<String> {
    let outcome = outcomes.into_iter().next();
    outcome.ok_or_else(|| Error::Internal("a script worker did not answer".into()))?.result()
}

/// One call of a design document's function in that document's environment for that user.
fn design_call(
    seat: &mut Seat,
    design: &Design,
    user: &str,
    entry: &'static str,
    args: String,
    name: &str,
) -> Result<String> {
    let key = design.key(user)?;
    let items = [args];
    let fill = Some(("addDesign", design.source.as_str()));
    one(seat.call(Call { fill, text: name, ..Call::new(&key, entry, &items) })?)
}

/// One verdict per document: of the first design document that refuses it.
fn validated(
    seat: &mut Seat,
    designs: &[Arc<Design>],
    documents: &[&gather::Edit],
    [user, security]: [&str; 2],
    most_overruns: usize,
) -> Vec<Result<()>> {
    let mut verdicts: Vec<Result<()>> = vec![Ok(()); documents.len()];
    for design in designs {
        let asked: Vec<usize> = (0..documents.len()).filter(|at| verdicts[*at].is_ok()).collect();
        let args = |at: &usize| {
            let (new, old) = documents[*at];
            format!("[{new},{},{user},{security}]", old.as_deref().unwrap_or("null"))
        };
        let items: Vec<String> = asked.iter().map(args).collect();
        let fill = Some(("addDesign", design.source.as_str()));
        let outcomes = design
            .key(user)
            .and_then(|key| seat.call(Call { fill, most_overruns, ..Call::new(&key, "validate", &items) }));
        let mut answers: Vec<Result<()>> = match outcomes {
            Ok(outcomes) => outcomes.into_iter().map(verdict).collect(),
            Err(error) => vec![Err(error); asked.len()],
        };
        answers.resize_with(asked.len(), || Err(Error::Internal("a script worker did not answer".into())));
        asked.into_iter().zip(answers).for_each(|(at, answer)| verdicts[at] = answer);
    }
    verdicts
}

fn verdict(outcome: Outcome) -> Result<()> {
    match outcome.result()?.as_str() {
        "1" => Ok(()),
        answer => Err(rejected(answer)),
    }
}

/// The `_id` of a document's JSON.
fn id_of(document: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Id {
        _id: String,
    }
    serde_json::from_str::<Id>(document).map(|document| document._id).unwrap_or_default()
}

/// The JSON that stands for a reduction that did not reduce.
fn overflow(message: &str) -> String {
    serde_json::json!({ "reduce_overflow_error": message }).to_string()
}

/// The reductions, or the error in the place of each that is too large for its input (`views.js`, `runReduce`). Each
/// function is judged by itself: one that does not reduce spoils no other of the same map function.
fn shrunk(reductions: &str, input: usize, limits: &Limits, context: &str) -> Vec<String> {
    let judged = |reduction: &str| {
        // As an array of one, which is what CouchDB measures.
        let output = reduction.len() + 2;
        let too_large =
            output > limits.reduce_limit_threshold && output as f64 * limits.reduce_limit_ratio > input as f64;
        if too_large && limits.reduce_limit != ReduceLimit::Off {
            let message = format!(
                "Reduce output must shrink more rapidly: input size: {input} output size: {output} context: {context}"
            );
            tracing::warn!(target: "settee::script", "reduce_overflow_error: {message}");
            if limits.reduce_limit == ReduceLimit::On {
                return overflow(&message);
            }
        }
        reduction.to_owned()
    };
    rows::elements(reductions).into_iter().map(judged).collect()
}

#[cfg(test)]
mod render_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_tests;
