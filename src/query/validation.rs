//! The hook with which design documents refuse edits (`validate_doc_update`), and the validation of design
//! documents themselves.
//!
//! Like CouchDB's `couch_db:validate_doc_update`: the form of a design document is checked, and its writer
//! must be an admin of the database; `_local` documents are never validated; every other document is passed
//! to all `validate_doc_update` functions of the database, also if an admin or a replication writes it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::design;
use super::mango::selector::Selector;
use super::script::{Design, Scripts};
use crate::db::{Database, Guard, Proposal, Terms, Validate};
use crate::error::{Error, Result};

/// Edits per script job. A larger job has less overhead; smaller jobs let the threads share a large request.
const BATCH: usize = 64;

/// The user who edits, as one database sees them.
pub struct Editor {
    /// `userCtx` as JSON.
    pub user: String,
    /// Whether the client is signed in. A refusal is a 403 if it is, else a 401.
    pub signed_in: bool,
    /// Whether the user may write design documents.
    pub admin: bool,
}

/// The hook for the edits of one user.
pub struct Validation {
    pub scripts: Scripts,
    /// Returns the user as the given database sees them.
    pub editor: Box<dyn Fn(&Database) -> Editor + Send + Sync>,
}

impl Validate for Validation {
    fn applies(&self, database: &Database) -> bool {
        // If the validators are not known yet, ask for proposals: validating them loads the validators.
        design::known_validators(database).is_none_or(|validators| !validators.is_empty())
    }

    fn terms(&self, _: &Database) -> Terms {
        Terms::default()
    }

    fn guard(&self, _: &Arc<Database>) -> Option<Box<dyn Guard>> {
        None
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>> {
        Box::pin(self.verdicts(database, proposals))
    }
}

impl Validation {
    async fn verdicts(&self, database: &Arc<Database>, proposals: Vec<Proposal>) -> Vec<Result<()>> {
        let editor = (self.editor)(database);
        let mut verdicts: Vec<Result<()>> = Vec::with_capacity(proposals.len());
        let mut documents = Vec::new();
        for (at, proposal) in proposals.into_iter().enumerate() {
            verdicts.push(if proposal.id.starts_with("_design/") {
                self.design(database, &editor, &proposal).await
            } else {
                if !proposal.id.starts_with("_local/") {
                    documents.push((at, (proposal.new, proposal.old)));
                }
                Ok(())
            });
        }
        if documents.is_empty() {
            return verdicts;
        }
        let of = database.clone();
        let validators = match crate::blocking::blocking(move || design::validators(&of)).await {
            Ok(validators) => validators,
            Err(error) => {
                documents.iter().for_each(|(at, _)| verdicts[*at] = Err(error.clone()));
                return verdicts;
            }
        };
        if validators.is_empty() {
            return verdicts;
        }
        documents.retain(|(at, (new, old))| {
            let verdict = matched(&validators.selectors, new, old.as_deref());
            let fits = verdict.is_ok();
            if !fits {
                verdicts[*at] = verdict;
            }
            fits
        });
        if validators.scripts.is_empty() {
            return verdicts;
        }
        let (places, documents): (Vec<usize>, Vec<_>) = documents.into_iter().unzip();
        let answers = self.run_scripts(&validators.scripts, documents, &editor.user, &database.security()).await;
        for (place, answer) in places.into_iter().zip(answers) {
            verdicts[place] = answer;
        }
        verdicts
    }

    /// Calls all `validate_doc_update` functions for each document (its new and its old JSON). Returns one verdict per
    /// document: if several functions refuse it, the first one's reason counts.
    async fn run_scripts(
        &self,
        designs: &Arc<Vec<Arc<Design>>>,
        documents: Vec<(String, Option<String>)>,
        user: &str,
        security: &str,
    ) -> Vec<Result<()>> {
        let documents = Arc::new(documents);
        // Start all jobs before awaiting the first.
        let mut jobs = Vec::new();
        for start in (0..documents.len()).step_by(BATCH) {
            let range = start..documents.len().min(start + BATCH);
            jobs.push(self.scripts.validate_all(designs, &documents, range, user, security));
        }
        let mut answers = Vec::with_capacity(documents.len());
        for job in jobs {
            match job.await {
                Ok(batch) => answers.extend(batch),
                Err(error) => {
                    answers.extend(std::iter::repeat_n(Err(error), BATCH.min(documents.len() - answers.len())))
                }
            }
        }
        answers
    }

    async fn design(&self, database: &Database, editor: &Editor, proposal: &Proposal) -> Result<()> {
        if !editor.admin {
            let reason = "You are not a db or server admin.".to_owned();
            return Err(if editor.signed_in { Error::Forbidden(reason) } else { Error::Unauthorized(reason) });
        }
        design::check(&self.scripts, database.number(), &proposal.new, database.is_partitioned()).await
    }
}

/// Returns an error unless the edit matches all selectors.
fn matched(selectors: &[Result<Selector>], new: &str, old: Option<&str>) -> Result<()> {
    if selectors.is_empty() {
        return Ok(());
    }
    let text = format!("{{\"newDoc\":{new},\"oldDoc\":{}}}", old.unwrap_or("null"));
    // An edit that is nested too deeply to be parsed is refused too.
    let invalid = || Error::Forbidden("document is not valid".into());
    let edit = serde_json::from_str(&text).map_err(|_| invalid())?;
    for selector in selectors {
        let selector = selector.as_ref().map_err(Error::clone)?;
        if !selector.matches(&edit) {
            return Err(invalid());
        }
    }
    Ok(())
}
