//! Adds index definitions to design documents and removes them (CouchDB's `mango_httpd` and `mango_crud`).

use std::sync::Arc;

use serde_json::Value;

use super::indexes;
use crate::blocking::blocking;
use crate::db::{Database, Found, Incoming, Mode, Source, Validate, Wanted};
use crate::error::{Error, Result};
use crate::query::mango::error::mango;
use crate::query::mango::planner::{Index, NewIndex, remove_from};

/// How often an edit of a design document is tried when it conflicts with concurrent edits.
const ATTEMPTS: usize = 5;

/// Stores an index definition. Returns `false` if it exists already.
pub async fn create_index(database: &Arc<Database>, new: NewIndex, validate: &dyn Validate) -> Result<bool> {
    if new.partitioned == Some(true) && !database.is_partitioned() {
        return Err(Error::BadRequest("partitioned option cannot be true in a non-partitioned database.".into()));
    }
    let design = new.design.clone();
    edit(database, &design, validate, |existing| {
        Ok(match new.add_to(existing)? {
            Some(body) => Change::Write(body),
            None => Change::Nothing,
        })
    })
    .await
}

/// Removes an index, and its design document if nothing else is left in it.
///
/// # Errors
/// [`Error::Missing`] if there is no such index.
pub async fn delete_index(
    database: &Arc<Database>,
    design: &str,
    kind: &str,
    name: &str,
    validate: &dyn Validate,
) -> Result<()> {
    let design = design_id(design);
    let all = read_indexes(database).await?;
    if !all.iter().any(|index| names(index, &design) && index.kind() == kind && index.name == name) {
        return Err(Error::Missing);
    }
    remove(database, &design, &[name.to_owned()], validate).await
}

/// Removes all indexes of each design document. Returns one result per document, with its id.
pub async fn bulk_delete(
    database: &Arc<Database>,
    designs: &[String],
    validate: &dyn Validate,
) -> Result<Vec<(String, Result<()>)>> {
    let mut results = Vec::with_capacity(designs.len());
    for design in designs {
        let design = design_id(design);
        let all = read_indexes(database).await?;
        let found: Vec<String> =
            all.into_iter().filter(|index| names(index, &design)).map(|index| index.name).collect();
        let result = if found.is_empty() {
            Err(Error::NotFound("missing".into()))
        } else {
            remove(database, &design, &found, validate).await
        };
        results.push((design, result));
    }
    Ok(results)
}

fn names(index: &Index, design: &str) -> bool {
    index.design.as_deref() == Some(design)
}

fn design_id(name: &str) -> String {
    if name.starts_with("_design/") { name.to_owned() } else { format!("_design/{name}") }
}

async fn read_indexes(database: &Arc<Database>) -> Result<Vec<Index>> {
    let database = database.clone();
    blocking(move || indexes(&database)).await
}

async fn remove(database: &Arc<Database>, design: &str, all: &[String], validate: &dyn Validate) -> Result<()> {
    edit(database, design, validate, |existing| {
        let mut body = existing.cloned().ok_or(Error::Missing)?;
        for name in all {
            match remove_from(&body, name)? {
                Some(left) => body = left,
                None => return Ok(Change::Delete),
            }
        }
        Ok(Change::Write(body))
    })
    .await?;
    Ok(())
}

/// What to do with a design document.
enum Change {
    Nothing,
    Write(Value),
    Delete,
}

/// Reads a design document, changes it and writes it back; retries on a conflict. `change` receives the body
/// without `_` members, or `None` if there is no document. Returns `false` if there was nothing to write.
async fn edit(
    database: &Arc<Database>,
    design: &str,
    validate: &dyn Validate,
    change: impl Fn(Option<&Value>) -> Result<Change>,
) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let (reader, id) = (database.clone(), design.to_owned());
        let found = blocking(move || match reader.find(&id, Wanted::Winner) {
            Ok(found) => Ok(Some(found)),
            Err(Error::Missing | Error::Deleted) => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
        let body = found.as_ref().map(body_of).transpose()?;
        let (json, deleted) = match change(body.as_ref())? {
            Change::Nothing => return Ok(false),
            Change::Write(body) => (body.to_string(), false),
            Change::Delete => ("{}".to_owned(), true),
        };
        let attachments = match &found {
            Some(found) if !deleted => {
                let stub = |name: &String| (name.clone(), Source::Stub { revpos: None });
                found.body.attachments.iter().map(|attachment| stub(&attachment.name)).collect()
            }
            _ => Vec::new(),
        };
        let edit = Incoming {
            id: design.to_owned(),
            parent: found.map(|found| found.revision),
            path: (0, Vec::new()),
            deleted,
            json,
            attachments,
        };
        match database.update(vec![edit], Mode::Interactive, validate).await?.pop() {
            Some(Err(Error::Conflict)) => continue,
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => return Ok(true),
        }
    }
    Err(mango("error_saving_ddoc", "Encountered a conflict while saving the design document."))
}

fn body_of(found: &Found) -> Result<Value> {
    crate::json::read(&found.body.json)
        .map_err(|error| Error::Damaged(format!("the body of document {}: {error}", found.id)))
}
