//! Design documents' functions in the way of a request: filters of feeds.

use std::sync::Arc;

use super::filter::Judge;
use crate::db::{Database, Wanted, blocking};
use crate::error::Error;
use crate::http::failure::Result;
use crate::http::{App, Request};

/// Opens a design document, and sees that it has the member at `path`.
async fn design(database: &Arc<Database>, name: &str, path: [&str; 2]) -> Result<crate::db::Found> {
    let (database, id) = (database.clone(), format!("_design/{name}"));
    let found = blocking(move || database.find(&id, Wanted::Winner)).await?;
    let body: serde_json::Value = serde_json::from_str(&found.body.json)
        .map_err(|_| Error::Damaged(format!("the body of document _design/{name}")))?;
    match body.get(path[0]).and_then(|section| section.get(path[1])) {
        Some(_) => Ok(found),
        None => {
            Err(Error::NotFound(format!("missing json key: {}", path[if body.get(path[0]).is_some() { 1 } else { 0 }]))
                .into())
        }
    }
}

/// `filter=design/function`.
pub async fn filter(
    _app: &Arc<App>,
    _request: &Request,
    database: &Arc<Database>,
    name: &str,
    function: &str,
) -> Result<Box<dyn Judge>> {
    design(database, name, ["filters", function]).await?;
    Err(Error::Script { word: "unknown_error".into(), reason: "filter functions do not run yet".into() }.into())
}

/// `filter=_view&view=design/view`.
pub async fn view_filter(_app: &Arc<App>, database: &Arc<Database>, name: &str, view: &str) -> Result<Box<dyn Judge>> {
    design(database, name, ["views", view]).await?;
    Err(Error::Script { word: "unknown_error".into(), reason: "view filters do not run yet".into() }.into())
}
