//! JavaScript of design documents: map and reduce, validation, filters, shows, lists, updates, rewrites.
//!
//! ```text
//! Scripts -> pool (threads) -> environment (a QuickJS runtime + sandbox.js, render.js) -> the stored function
//! ```
//!
//! Every script runs with a memory limit, a stack limit and a wall clock limit, and sees no file, network, process or
//! module but what its own design document holds. An environment is one QuickJS runtime for one design document
//! revision (or one set of view functions) of one database and, where a request is involved, one user: nothing that a
//! script leaves behind is seen by another of these. What a script answers is CouchDB's query server protocol in
//! spirit (apache/couchdb `share/server`, `src/docs/src/query-server`), as JSON texts in and out.
//!
//! A runaway script (endless loop, memory, recursion) fails its own call with CouchDB's error; its environment is thrown
//! away and the thread goes on.

mod engine;
mod frozen;
mod list;
mod pool;
#[cfg(test)]
mod render_tests;
mod request;
mod response;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use engine::{Environment, Failure, mend, worded};
use pool::{Key, Threads, Worker};

pub use list::{Part, Parts, Rows, send};
pub use pool::Pending;
pub use request::{RequestBody, RequestContext, RequestParts, request_object, rewrite_request_object};
pub use response::{Response, Rewrite, Updated};
pub use rows::Mapped;

/// What scripts are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Threads that run scripts at the same time; usually the cores.
    pub threads: usize,
    /// Threads at most, with those that wait for a slow script or a slow reader of a list (`os_process_limit`).
    pub most_threads: usize,
    /// Bytes that one environment may use, beside what its input needs.
    pub memory: usize,
    /// Wall clock time of one call: one document mapped, one validation, one row of a list (`os_process_timeout`).
    pub timeout: Duration,
    /// What happens when a reduce function does not reduce (`query_server_config/reduce_limit`).
    pub reduce_limit: ReduceLimit,
    /// Bytes of a reduction from which on it is looked at (`reduce_limit_threshold`).
    pub reduce_limit_threshold: usize,
    /// How many times a reduction must fit into its input (`reduce_limit_ratio`).
    pub reduce_limit_ratio: f64,
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
            most_threads: 100,
            memory: 64 << 20,
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
        Ok(Key::Design { database: self.database, id: self.id.clone(), rev: self.rev.clone(), user: user.into() })
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

/// The way to run scripts; clones share the threads, the last one ends them.
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

    /// Maps a batch of documents (each the JSON that CouchDB gives a map function, with `_id` and `_rev`). A function
    /// that throws loses its rows of that document; a runaway fails the batch with CouchDB's error. Some hundred
    /// documents at a time, and several batches under way, keep all threads at work.
    pub fn map_batch(&self, set: &Arc<MapSet>, documents: Vec<String>) -> Pending<Mapped> {
        let set = set.clone();
        self.threads.submit(move |worker| {
            let key = Key::Map { database: set.database, signature: set.signature.clone() };
            let timeout = worker.limits().timeout;
            let answer = worker.within(
                &key,
                |environment| fill_maps(environment, &set, timeout),
                |environment| map(environment, documents, set.functions.len(), timeout),
            );
            answer.map_err(|failure| failure.error)
        })
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
        self.threads.submit(move |worker| {
            let key = Key::Reduce { database, functions: functions.clone() };
            let limits = worker.limits();
            let input_size = input.len();
            let answer = worker.within(
                &key,
                |environment| {
                    let sources = serde_json::to_string(&*functions).unwrap_or_default();
                    environment.call("addReduces", sources, "", limits.timeout).map(drop)
                },
                |environment| environment.call("reduce", input, again, limits.timeout),
            );
            let reductions = answer.map_err(|failure| failure.error)?;
            Ok(shrunk(&mend(&reductions), input_size, &limits, &context))
        })
    }

    /// Compiles functions without running them: for each, None or CouchDB's reason why it does not compile.
    pub fn compile(&self, functions: Vec<String>) -> Pending<Vec<Option<String>>> {
        self.threads.submit(move |worker| {
            let timeout = worker.limits().timeout;
            let mut told = Vec::with_capacity(functions.len());
            let mut environment = None;
            for function in functions {
                let kept = match environment.take() {
                    Some(kept) => kept,
                    None => worker.fresh().map_err(|failure| failure.error)?,
                };
                let source = serde_json::to_string(&[function]).unwrap_or_default();
                told.push(match kept.call("addReduces", source, "", timeout) {
                    Ok(_) => None,
                    Err(failure) => {
                        if failure.fatal {
                            drop(kept);
                            told.push(Some(failure.error.to_string()));
                            continue;
                        }
                        Some(failure.error.to_string())
                    }
                });
                environment = Some(kept);
            }
            Ok(told)
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
        let (designs, documents) = (designs.clone(), documents.clone());
        let (user, security) = (user.to_owned(), security.to_owned());
        self.threads.submit(move |worker| {
            let ask = |worker: &mut Worker, design: &Design, (new, old): &(String, Option<String>)| {
                let args = format!("[{new},{},{user},{security}]", old.as_deref().unwrap_or("null"));
                match design_call(worker, design, &user, "validate", args, "")?.as_str() {
                    "1" => Ok(()),
                    answer => Err(rejected(answer)),
                }
            };
            let documents = documents.get(range).unwrap_or_default();
            Ok(documents
                .iter()
                .map(|document| designs.iter().try_for_each(|design| ask(worker, design, document)))
                .collect())
        })
    }

    /// Asks the filter function `name` about each document: `request` is the request object as JSON, `user` its
    /// `userCtx`.
    pub fn filter(
        &self,
        design: &Arc<Design>,
        name: &str,
        documents: Vec<String>,
        request: &str,
        user: &str,
    ) -> Pending<Vec<bool>> {
        let (design, name) = (design.clone(), name.to_owned());
        let (request, user) = (request.to_owned(), user.to_owned());
        self.threads.submit(move |worker| {
            passes(documents, |documents| {
                let args = format!("[[{}],{request}]", documents.join(","));
                design_call(worker, &design, &user, "filter", args, &name)
            })
        })
    }

    /// Which documents the map function of view `name` emits anything for.
    pub fn filter_view(&self, design: &Arc<Design>, name: &str, documents: Vec<String>) -> Pending<Vec<bool>> {
        let (design, name) = (design.clone(), name.to_owned());
        self.threads.submit(move |worker| {
            passes(documents, |documents| {
                let args = format!("[{}]", documents.join(","));
                design_call(worker, &design, "", "filterView", args, &name)
            })
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
        self.threads.submit(move |worker| design_call(worker, &design, &user, "show", args, &name))
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
        self.threads.submit(move |worker| Updated::read(&design_call(worker, &design, &user, "update", args, &name)?))
    }

    /// Runs `rewrites` when it is a function; None when it finds no rule. `request` is from [`rewrite_request_object`].
    pub fn rewrite(&self, design: &Arc<Design>, request: &str, user: &str) -> Pending<Option<Rewrite>> {
        let (design, request, user) = (design.clone(), request.to_owned(), user.to_owned());
        self.threads.submit(move |worker| Rewrite::read(&design_call(worker, &design, &user, "rewrite", request, "")?))
    }
}

/// Loads a design document's map functions.
fn fill_maps(environment: &Environment, set: &MapSet, timeout: Duration) -> std::result::Result<(), Failure> {
    #[derive(serde::Serialize)]
    struct Definition<'a> {
        functions: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        lib: Option<&'a RawValue>,
    }
    let lib = set.lib.as_deref().and_then(|lib| serde_json::from_str(lib).ok());
    let definition = Definition { functions: &set.functions, lib };
    let definition = serde_json::to_string(&definition).unwrap_or_default();
    environment.call("addMaps", definition, "", timeout).map(drop)
}

fn map(
    environment: &Environment,
    documents: Vec<String>,
    functions: usize,
    timeout: Duration,
) -> std::result::Result<Mapped, Failure> {
    environment.make_room(documents.iter().map(String::len).max().unwrap_or(0));
    environment.with(|calls| {
        let entry = calls.entry("mapDocument")?;
        let mut freezer = calls.freezer();
        let mut mapped = Mapped::new(functions);
        for document in documents {
            calls.watch().start(timeout);
            let answer = match freezer.value(&document) {
                Some(frozen) => calls.call(&entry, (frozen, true))?,
                None => calls.call(&entry, (calls.parse(document)?, false))?,
            };
            if !mapped.push(&answer) {
                let reason = "the rows of one batch of documents are too large".into();
                return Err(Failure::fatal(Error::Script { word: "InternalError".into(), reason }));
            }
        }
        Ok(mapped)
    })
}

/// One call of a design document's function in that document's environment for that user.
fn design_call(
    worker: &mut Worker,
    design: &Design,
    user: &str,
    entry: &str,
    args: String,
    name: &str,
) -> Result<String> {
    let key = design.key(user)?;
    let timeout = worker.limits().timeout;
    let answer = worker.within(
        &key,
        |environment| environment.call("addDesign", design.source.clone(), "", timeout).map(drop),
        |environment| environment.call(entry, args, name, timeout),
    );
    answer.map_err(|failure| failure.error)
}

/// Asks about all documents at once, and one by one when together they need too much memory
/// (`couch_query_servers:filter_docs`).
fn passes(documents: Vec<String>, mut ask: impl FnMut(&[String]) -> Result<String>) -> Result<Vec<bool>> {
    let read = |answer: String| rows::elements(&answer).into_iter().map(|pass| pass == "1").collect::<Vec<bool>>();
    match ask(&documents) {
        Err(Error::Script { word, .. }) if word == "InternalError" && documents.len() > 1 => {
            let mut all = Vec::with_capacity(documents.len());
            for document in &documents {
                all.extend(read(ask(std::slice::from_ref(document))?));
            }
            Ok(all)
        }
        answer => answer.map(read),
    }
}

/// What `validate_doc_update` threw, `{"thrown": ...}`, as CouchDB reads it (`couch_query_servers:validate_doc_update`).
fn rejected(answer: &str) -> Error {
    #[derive(serde::Deserialize)]
    struct Thrown {
        #[serde(default)]
        thrown: serde_json::Value,
    }
    let thrown = serde_json::from_str::<Thrown>(&mend(answer)).map(|answer| answer.thrown).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let serde_json::Value::Object(members) = &thrown {
        for word in ["forbidden", "unauthorized"] {
            if let Some(reason) = members.get(word) {
                return worded(word.into(), text(reason));
            }
        }
        if let (Some(word), Some(reason)) = (members.get("error"), members.get("reason")) {
            return worded(text(word), text(reason));
        }
        if let Some((_, reason)) = members.iter().next().filter(|_| members.len() == 1) {
            return Error::Script { word: "unknown_error".into(), reason: text(reason) };
        }
    }
    Error::Script { word: "unknown_error".into(), reason: text(&thrown) }
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
