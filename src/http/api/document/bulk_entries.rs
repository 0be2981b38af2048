//! The entries of a bulk request and the rows of its answer.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::body_writer;
use crate::blocking::blocking;
use crate::db::{AT_ONCE, Database, Found, Opened, Within};
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result, wire};
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// One entry of `_bulk_get`'s `docs`.
pub(crate) enum Asked {
    For { id: String, revision: Option<Revision>, since: Option<Vec<Revision>> },
    Wrong { id: Value, rev: Value, word: Cow<'static, str>, reason: String },
}

pub(crate) fn asked(entry: &Value, partitioned: bool) -> Asked {
    let wrong = |id: Value, rev: Value, word: &'static str, reason: &str| Asked::Wrong {
        id,
        rev,
        word: word.into(),
        reason: reason.to_owned(),
    };
    let Some(entry) = entry.as_object() else {
        return wrong(Value::Null, Value::Null, "bad_request", "document must be a JSON object");
    };
    let id = match entry.get("id") {
        None | Some(Value::Null) => {
            return wrong(Value::Null, Value::Null, "bad_request", "document id missed");
        }
        Some(Value::String(id)) => id.clone(),
        Some(other) => {
            return wrong(other.clone(), Value::Null, "illegal_docid", "Document id must be a string");
        }
    };
    if let Err(error) = crate::db::check_document_id(&id, partitioned)
        && !id.starts_with("_local/")
    {
        return wrong(id.into(), Value::Null, "illegal_docid", &error.to_string());
    }
    let revision = match entry.get("rev") {
        None | Some(Value::Null) => None,
        Some(Value::String(rev)) => match rev.parse() {
            Ok(revision) => Some(revision),
            Err(_) => return wrong(id.into(), rev.as_str().into(), "bad_request", "Invalid rev format"),
        },
        Some(other) => return wrong(id.into(), other.clone(), "bad_request", "Invalid rev format"),
    };
    let since = match entry.get("atts_since") {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) => {
            let parsed: Option<Vec<Revision>> = list.iter().map(|rev| rev.as_str()?.parse().ok()).collect();
            match parsed {
                Some(list) => Some(list),
                None => {
                    let rev = revision.map_or(Value::Null, |revision: Revision| revision.to_string().into());
                    return wrong(id.into(), rev, "bad_request", "Invalid rev format");
                }
            }
        }
        Some(other) => return wrong(id.into(), other.clone(), "bad_request", "att_since value must be array of revs."),
    };
    Asked::For { id, revision, since }
}

/// What `_bulk_get` found for one entry.
pub(crate) type Answers = Vec<std::result::Result<Found, Value>>;

/// One entry's id, how its attachments are wanted, and what it asks wrongly.
pub(crate) struct Entry {
    pub id: Value,
    pub since: Option<Vec<Revision>>,
    /// Set where the entry itself is wrong: the error object.
    pub wrong: Option<Value>,
    /// Answers that are not loaded yet.
    rest: Option<Opened>,
}

/// Reads the entries of a `_bulk_get` a page at a time.
pub(crate) struct Pages {
    pub(crate) database: Arc<Database>,
    pub(crate) eyes: Eyes,
    pub(crate) latest: bool,
    pub(crate) asked: VecDeque<Asked>,
}

impl Pages {
    pub async fn next(&mut self, out: &mut Sender) -> Result<Option<Vec<(Entry, Answers)>>> {
        let mut room = AT_ONCE;
        while !self.asked.is_empty() {
            out.load(body_writer::cost(room)).await;
            match self.load(room).await? {
                Within::Fits(rows) => {
                    out.loaded(body_writer::cost_of(rows.iter().flat_map(|(_, answers)| answers.iter().flatten())));
                    return Ok(Some(rows));
                }
                Within::Large(bytes) => room = bytes,
            }
        }
        Ok(None)
    }

    async fn load(&mut self, room: u64) -> Result<Within<Vec<(Entry, Answers)>>> {
        let page: Vec<Asked> = self.asked.drain(..PAGE.min(self.asked.len())).collect();
        let (database, eyes, latest) = (self.database.clone(), self.eyes.clone(), self.latest);
        let (rows, rest): (_, Vec<Asked>) = blocking(move || {
            let wanted: Vec<(String, Option<Revision>)> = page
                .iter()
                .filter_map(|asked| match asked {
                    Asked::For { id, revision, .. } => Some((id.clone(), revision.clone())),
                    Asked::Wrong { .. } => None,
                })
                .collect();
            let mut found = match database.bulk_get(&wanted, latest, room)? {
                Within::Fits(found) => found.into_iter(),
                Within::Large(bytes) => return Ok((Within::Large(bytes), page)),
            };
            let mut rows = Vec::with_capacity(page.len());
            let mut page = page.into_iter();
            while let Some(asked) = page.next() {
                rows.push(match asked {
                    Asked::Wrong { id, rev, word, reason } => {
                        let wrong = json!({"id": id, "rev": rev, "error": word, "reason": reason});
                        (Entry { id, since: None, wrong: Some(wrong), rest: None }, Vec::new())
                    }
                    Asked::For { id, revision, since } => {
                        let Some((answers, rest)) = found.next() else {
                            // Large ones: the rest comes with the next page.
                            let rest = std::iter::once(Asked::For { id, revision, since }).chain(page).collect();
                            return Ok((Within::Fits(rows), rest));
                        };
                        let answers = answers.into_iter().map(|answer| told(&eyes, &id, answer)).collect();
                        (Entry { id: id.into(), since, wrong: None, rest }, answers)
                    }
                });
            }
            Ok((Within::Fits(rows), Vec::new()))
        })
        .await?;
        for asked in rest.into_iter().rev() {
            self.asked.push_front(asked);
        }
        Ok(rows)
    }

    /// More answers of an entry that has many large ones; none at its end.
    pub async fn rest(&mut self, entry: &mut Entry, out: &mut Sender) -> Result<Answers> {
        let Some(mut opened) = entry.rest.take() else { return Ok(Vec::new()) };
        let mut room = AT_ONCE;
        let (opened, group) = loop {
            out.load(body_writer::cost(room)).await;
            let database = self.database.clone();
            let (back, group) = blocking(move || {
                let group = opened.next(&database, room)?;
                Ok((opened, group))
            })
            .await?;
            match group {
                Within::Fits(group) => break (back, group),
                Within::Large(bytes) => (opened, room) = (back, bytes),
            }
        };
        out.loaded(body_writer::cost_of(group.iter().flatten()));
        let id = entry.id.as_str().unwrap_or("");
        let answers: Answers = group.into_iter().map(|answer| told(&self.eyes, id, answer.map_err(Some))).collect();
        entry.rest = (!answers.is_empty()).then_some(opened);
        Ok(answers)
    }
}

/// An answer as its reader gets it.
fn told(
    eyes: &Eyes,
    id: &str,
    answer: std::result::Result<Found, Option<Revision>>,
) -> std::result::Result<Found, Value> {
    match answer {
        Ok(found) => eyes.see(found).map_err(|error| {
            let failure = Failure::Domain(error);
            let (_, word, reason) = wire(&failure);
            json!({"id": id, "rev": "undefined", "error": word, "reason": reason})
        }),
        Err(missing) => {
            let rev = missing.map_or_else(|| "undefined".to_owned(), |rev| rev.to_string());
            Err(json!({"id": id, "rev": rev, "error": "not_found", "reason": "missing"}))
        }
    }
}

/// Documents read at once by `_bulk_get`.
const PAGE: usize = 64;
