//! Creates what the first request requires: the first admin and the system databases.

use std::sync::Arc;

use crate::app::App;
use crate::blocking::blocking;
use crate::error::{self, Error};
use crate::policy::users_database::settle;

/// Makes the system databases of a single node, and the users' database's design document.
pub async fn settle_all(app: &Arc<App>) -> error::Result<()> {
    let settings = app.settings();
    let accounts = app.auth.settings().authentication_db.clone();
    if settings.flag("couchdb", "single_node") {
        let security = crate::app::default_security(app).to_string();
        for name in [accounts.as_str(), "_replicator"] {
            let (databases, security, name) = (app.databases.clone(), security.clone(), name.to_owned());
            match blocking(move || databases.create(&name, crate::db::CreateOptions::default(), Some(&security))).await
            {
                Ok(_) | Err(Error::DatabaseExists) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let databases = app.databases.clone();
    match blocking(move || databases.get(&accounts)).await {
        Ok(database) => settle(app, &database).await,
        Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
