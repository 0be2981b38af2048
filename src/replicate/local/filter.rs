//! The filter of a replication whose source is a database here.

use std::sync::Arc;

use serde_json::{Value, json};

use super::blocking::blocking;
use super::failure::failure;
use crate::db::{Database, Wanted};
use crate::error::{Error, Result};
use crate::query::changes_filter::{Filter, FilterFunction, ViewFunction};
use crate::query::design;
use crate::query::mango::selector::Selector;
use crate::query::script::{Design, RequestContext, RequestParts, request_object};
use crate::replicate::access::Access;
use crate::replicate::failure::Failure;
use crate::replicate::parameters::{self, Parameters};

/// Makes the filter that the parameters name.
///
/// # Errors
/// `BadRequest`: the name or the selector is wrong. `FilterFetch`: there is no such function.
pub(super) async fn of(
    access: &dyn Access,
    database: &Arc<Database>,
    parameters: &Parameters,
) -> std::result::Result<Filter, Failure> {
    match &parameters.filter {
        parameters::Filter::None => Ok(Filter::All),
        parameters::Filter::DocIds(ids) => Ok(Filter::DocIds(Arc::new(ids.iter().cloned().collect()))),
        parameters::Filter::Selector(selector) => match Selector::parse(selector) {
            Ok(selector) => Ok(Filter::Selector(Arc::new(selector))),
            Err(error) => Err(Failure::BadRequest(error.to_string())),
        },
        parameters::Filter::Named(name) => named(access, database, name, &parameters.query_params).await,
    }
}

async fn named(
    access: &dyn Access,
    database: &Arc<Database>,
    name: &str,
    query: &[(String, String)],
) -> std::result::Result<Filter, Failure> {
    let scripts = access.scripts().clone();
    match name {
        "_design" => Ok(Filter::Design),
        "_view" => {
            let view = query.iter().find(|(name, _)| name == "view").map_or("", |(_, view)| view);
            let Some((of, view)) = view.split_once('/').filter(|(_, view)| !view.contains('/')) else {
                return Err(Failure::BadRequest("`view` must be of the form `designname/viewname`".into()));
            };
            let design = open(database, of, ["views", view]).await?;
            Ok(Filter::Script(Box::new(ViewFunction { scripts, design, name: view.to_owned() })))
        }
        _ if name.starts_with('_') => Err(Failure::BadRequest("unknown builtin filter name".into())),
        _ => {
            let Some((of, function)) = name.split_once('/').filter(|(_, function)| !function.contains('/')) else {
                return Err(Failure::BadRequest("`filter` must be of the form `designname/filtername`".into()));
            };
            let design = open(database, of, ["filters", function]).await?;
            let user = access.user_json(database.name());
            let request = request(database, query, &user)?;
            let function = FilterFunction { scripts, design, name: function.to_owned(), request, user };
            Ok(Filter::Script(Box::new(function)))
        }
    }
}

/// Loads the design document with the function at `path`.
async fn open(database: &Arc<Database>, name: &str, path: [&str; 2]) -> std::result::Result<Arc<Design>, Failure> {
    let (of, name) = (database.clone(), name.to_owned());
    let [section, function] = path.map(str::to_owned);
    let found = blocking(move || design::with_function(&of, &name, [&section, &function])).await;
    found.map_err(|error| match error {
        Error::Missing | Error::Deleted | Error::NotFound(_) => {
            Failure::FilterFetch(format!("the design document of the filter: {error}"))
        }
        other => other.into(),
    })
}

/// Reads the design document of a filter function of the database `name`.
///
/// # Errors
/// The database cannot be read.
pub(crate) async fn filter_code(
    access: &dyn Access,
    name: &str,
    design: &str,
) -> std::result::Result<Option<Value>, Failure> {
    let database = access.readable(name).map_err(|error| failure(name, error))?;
    let id = format!("_design/{design}");
    let read = blocking(move || match database.find(&id, Wanted::Winner) {
        Ok(found) => Ok(Some(found.body.json)),
        Err(Error::Missing | Error::Deleted) => Ok(None),
        Err(error) => Err(error),
    });
    let text = read.await.map_err(|error| failure(name, error))?;
    Ok(text.and_then(|text| crate::json::read(&text).ok()))
}

/// The request object that a filter function receives: that of a `_changes` request with these parameters.
fn request(database: &Database, query: &[(String, String)], user: &str) -> Result<String> {
    let path = [database.name().to_owned(), "_changes".to_owned()];
    let info = database.info();
    let about = json!({
        "db_name": database.name(),
        "update_seq": database.wire_sequence(info.sequence, info.histories.mark()),
        "doc_count": info.documents,
        "doc_del_count": info.deleted,
    });
    let parts = RequestParts {
        method: "GET",
        requested_path: &path,
        path: &path,
        raw_path: "",
        query,
        ..RequestParts::default()
    };
    request_object(
        &parts,
        &RequestContext {
            info: &about.to_string(),
            uuid: &database.clock().uuid(),
            id: None,
            user,
            security: &database.security(),
        },
    )
}
