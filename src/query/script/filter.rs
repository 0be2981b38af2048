//! Calls of filter functions, and of map functions as filters.

use std::sync::Arc;

use super::call::{Call, Outcome, SMALL};
use super::design::Design;
use super::pending::Pending;
use super::scripts::{Scripts, size};

impl Scripts {
    /// Calls the filter function `name` for each document. `request` is the request object as JSON, `user`
    /// its `userCtx`. A document that exceeds the time or memory limit does not pass.
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

    /// Returns for which documents the map function of view `name` emits at least one row.
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
}

/// Returns the `_id` of a document's JSON.
fn id_of(document: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Id {
        _id: String,
    }
    serde_json::from_str::<Id>(document).map(|document| document._id).unwrap_or_default()
}
