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
