//! Calls of map and reduce functions, and the limit on reductions that do not shrink.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::call::{Call, Outcome, SMALL};
use super::design::MapSet;
use super::environments::Key;
use super::failure::mend;
use super::limits::{Limits, ReduceLimit};
use super::pending::Pending;
use super::rows::{self, DOCUMENT_LIMIT, Mapped, TOO_LARGE};
use super::scripts::{Scripts, one, size};
use crate::error::Error;

impl Scripts {
    /// Maps a batch of documents (each as the JSON that CouchDB passes to a map function, with `_id` and
    /// `_rev`). If a function throws, its rows of that document are lost. A document that exceeds the time or
    /// memory limit is skipped ([`Mapped::skipped`]). A function that exceeds a limit even on a small document
    /// fails the batch with CouchDB's error. Several batches of some hundred documents at a time keep all cores
    /// busy.
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

    /// Runs JavaScript reduce functions over rows: `rows` is JSON `[[[key, id], value], ...]`. Returns one
    /// JSON text per function: `null` if it threw, [`overflow`] if its reduction did not shrink. `context`
    /// names the view in the message of an overflow.
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
                return Err(Error::Internal("a script worker returned the wrong number of reductions".into()));
            }
            Ok(reductions)
        })
    }
}

/// Returns the argument of `addMaps`.
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

/// Returns the JSON that replaces a reduction that did not shrink.
fn overflow(message: &str) -> String {
    serde_json::json!({ "reduce_overflow_error": message }).to_string()
}

/// Returns the reductions, with an error in place of each that is too large for its input (`views.js`,
/// `runReduce`). Each reduction is checked on its own: one that does not shrink does not affect the others.
fn shrunk(reductions: &str, input: usize, limits: &Limits, context: &str) -> Vec<String> {
    let judged = |reduction: &str| {
        // CouchDB measures an array of one reduction.
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
