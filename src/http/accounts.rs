//! Where accounts meet documents: the users' database on its way in and out, and what every write asks of who writes.
//!
//! ```text
//! write   update ─> design document: admin of the database
//!                └> users' database: may_write ─> password hashed ─> db ─> validate (auth::users) ─> scripts
//! read    Eyes::see ─> whole document | its public part | not found | forbidden
//! ```

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value};

use super::app::App;
use super::audit::{self, By};
use super::failure::Result;
use crate::audit::{Event, Kind};
use crate::auth::authenticate::{MEMBERS, Upgrade};
use crate::auth::bounded::Bounded;
use crate::auth::password::Stored;
use crate::auth::users::{self, Visible, Writer};
use crate::auth::{Security, UserCtx, UserDocument, Users};
use crate::config::Live;
use crate::db::{Database, Databases, Found, Incoming, LONGEST_ID, Mode, Proposal, Source, Validate, Wanted, blocking};
use crate::error::{self, Error};
use crate::rev::Revision;

/// Accounts held in memory, those that are not there too.
const HELD: usize = 8192;
/// Bytes of an account that is held, about; a larger one is read each time. Names are sent by anybody, and users write what
/// they like into their documents.
const HELD_BYTES: usize = 4096;
/// Bytes of a name that is held although nobody has it.
const HELD_NAME: usize = 256;

/// The accounts: admins of the settings, documents of the users' database.
pub struct Accounts {
    config: Arc<Live>,
    databases: Arc<Databases>,
    /// By name; good while the users' database has not moved.
    held: Mutex<Bounded<String, (Place, Option<UserDocument>)>>,
    /// The users' database that was used last; held so that it stays open.
    used: RwLock<Option<Arc<Database>>>,
    /// Users whose hash is being written anew.
    upgrading: Mutex<HashSet<String>>,
}

/// Which database at which sequence.
pub type Place = (u64, u64);

impl Accounts {
    pub fn new(config: Arc<Live>, databases: Arc<Databases>) -> Accounts {
        Accounts {
            config,
            databases,
            held: Mutex::new(Bounded::new(HELD)),
            used: RwLock::default(),
            upgrading: Mutex::default(),
        }
    }

    /// How many accounts are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// The users' database that was used last, and its last sequence, which changes with every account. `None`: it was
    /// deleted, or no account was looked up yet. Does not touch the store.
    pub fn place(&self) -> Option<Place> {
        let used = self.used.read();
        used.as_ref().filter(|database| !database.is_gone()).map(|used| (used.number(), used.info().sequence))
    }

    /// The users' database, if there is one.
    pub fn database(&self) -> error::Result<Option<Arc<Database>>> {
        let settings = self.config.settings();
        let name = settings.get("chttpd_auth", "authentication_db").unwrap_or("_users");
        match self.databases.get(name) {
            Ok(database) => {
                if !self.used.read().as_ref().is_some_and(|used| Arc::ptr_eq(used, &database)) {
                    *self.used.write() = Some(database.clone());
                }
                Ok(Some(database))
            }
            Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Users for Accounts {
    fn admin(&self, name: &str) -> Option<String> {
        self.config.settings().admin(name).map(str::to_owned)
    }

    fn document(&self, name: &str) -> error::Result<Option<UserDocument>> {
        let Some(database) = self.database()? else { return Ok(None) };
        let id = users::id_of(name);
        if id.len() > LONGEST_ID {
            return Ok(None);
        }
        // The place is read before the document: what is held is never newer than it says.
        let place = (database.number(), database.info().sequence);
        let key = name.to_owned();
        if let Some((at, document)) = self.held.lock().get_mut(&key)
            && *at == place
        {
            return Ok(document.clone());
        }
        let document = match database.find(&id, Wanted::Winner) {
            Ok(found) => {
                let conflicted = found.tree.leaves().iter().filter(|leaf| !leaf.deleted).count() > 1;
                let mut members = members(&found.id, &found.body.json)?;
                members.retain(|member, _| MEMBERS.contains(&member.as_str()));
                Some(UserDocument { members, conflicted })
            }
            Err(Error::Missing | Error::Deleted | Error::NoDatabase) => None,
            Err(error) => return Err(error),
        };
        let is_small = match &document {
            None => name.len() <= HELD_NAME,
            Some(document) => name.len() + size(&document.members) <= HELD_BYTES,
        };
        if is_small {
            self.held.lock().insert(key, (place, document.clone()));
        }
        Ok(document)
    }
}

/// About what members take as text.
fn size(members: &Map<String, Value>) -> usize {
    serde_json::to_vec(members).map_or(usize::MAX, |text| text.len())
}

/// The members of a stored body.
fn members(id: &str, json: &str) -> error::Result<Map<String, Value>> {
    crate::json::read(json).map_err(|_| Error::Damaged(format!("the body of document {id}")))
}

fn is_users(app: &App, database: &Database) -> bool {
    app.auth.settings().authentication_db == database.name()
}

fn security_of(database: &Database) -> error::Result<Security> {
    let object = serde_json::from_str(&database.security());
    let object: Value = object.map_err(|_| Error::Damaged(format!("_security of {}", database.name())))?;
    Ok(Security::stored(&object))
}

/// Writes edits as who asks: all writing of documents by requests goes through here. One result per edit, in order.
pub async fn update(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    incoming: Vec<Incoming>,
    mode: Mode,
) -> Result<Vec<error::Result<Revision>>> {
    let user = by.standing.confirmed().await?;
    let by = By { user: &user, ..by };
    let accounts = is_users(app, database);
    if !accounts && incoming.iter().all(|edit| !edit.deleted) {
        return write(app, by, database, incoming, mode).await;
    }
    let edits: Vec<(bool, Option<String>)> =
        incoming.iter().map(|edit| (edit.deleted, accounts.then(|| edit.id.clone()))).collect();
    let results = write(app, by, database, incoming, mode).await?;
    let mut deletions = 0;
    for ((deleted, account), _) in edits.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        deletions += u64::from(*deleted);
        if let Some(id) = account {
            let detail = deleted.then_some("deleted");
            Event { subject: Some(id), detail, ..by.event(Kind::AccountChanged) }.record();
        }
    }
    audit::deleted(app, by, deletions);
    Ok(results)
}

async fn write(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    incoming: Vec<Incoming>,
    mode: Mode,
) -> Result<Vec<error::Result<Revision>>> {
    let user = by.user;
    let scripts = app.validate(user);
    let accounts = is_users(app, database);
    let touches_design = incoming.iter().any(|edit| edit.id.starts_with("_design/"));
    if !accounts && (!touches_design || user.is_server_admin()) {
        return Ok(database.update(incoming, mode, &Confirmed { by, then: &*scripts }).await?);
    }
    let security = security_of(database)?;
    let writer = Writer { user, security: &security };
    let mut results: Vec<Option<error::Result<Revision>>> = Vec::with_capacity(incoming.len());
    let mut edits = Vec::with_capacity(incoming.len());
    let mut passwords = 0;
    for mut edit in incoming {
        let allowed = if edit.id.starts_with("_design/") {
            security.check_admin(user)
        } else if accounts {
            match admit(&mut edit, writer, mode) {
                Ok(Some(body)) => {
                    passwords += 1;
                    set_password(app, &mut edit, body, writer, by.peer, passwords).await?
                }
                admitted => admitted.map(drop),
            }
        } else {
            Ok(())
        };
        match allowed {
            Ok(()) => {
                edits.push(edit);
                results.push(None);
            }
            Err(refused) => results.push(Some(Err(refused))),
        }
    }
    if passwords > 0 {
        by.standing.confirm(user).await?;
    }
    let mut written = match (edits.is_empty(), accounts) {
        (true, _) => Vec::new(),
        (false, true) => {
            let rules = Rules { user, security: &security, scripts: &*scripts };
            database.update(edits, mode, &Confirmed { by, then: &rules }).await?
        }
        (false, false) => database.update(edits, mode, &Confirmed { by, then: &*scripts }).await?,
    }
    .into_iter();
    let results = results.into_iter().map(|result| match result {
        Some(result) => result,
        None => written.next().unwrap_or(Err(Error::Conflict)),
    });
    Ok(results.collect())
}

/// Runs the rules of `then`, which may take seconds, and then checks that the user may still write.
pub struct Confirmed<'a> {
    pub by: By<'a>,
    pub then: &'a dyn Validate,
}

impl Validate for Confirmed<'_> {
    fn applies(&self, database: &Database) -> bool {
        self.then.applies(database)
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<error::Result<()>>> + Send + 'a>> {
        Box::pin(async move {
            let verdicts = self.then.validate(database, proposals).await;
            match self.by.standing.confirm(self.by.user).await {
                Ok(()) => verdicts,
                Err(refused) => verdicts.iter().map(|_| Err(refused.clone())).collect(),
            }
        })
    }
}

/// What is asked of one edit of the users' database before it has a revision. The members of one that has a password.
fn admit(edit: &mut Incoming, writer: Writer<'_>, mode: Mode) -> error::Result<Option<Map<String, Value>>> {
    users::may_write(&edit.id, writer)?;
    let nobody = writer.user.name.is_none() && !writer.security.is_admin(writer.user);
    if nobody && mode == Mode::Replicated {
        // A revision brought from elsewhere need not follow what is there: nobody could set a conflict beside an account.
        return Err(Error::Unauthorized("You are not authorized to access this db.".into()));
    }
    // A member's name may be written with escapes.
    if edit.deleted || !(edit.json.contains("\"password\"") || edit.json.contains('\\')) {
        return Ok(None);
    }
    let body = members(&edit.id, &edit.json)?;
    Ok(Some(body).filter(|body| body.get("password").is_some_and(|password| !password.is_null())))
}

/// Hashes the password of an edit, the `number`th of its request. Who is no admin sets one in a request (their own), and no
/// more in a minute than sign-ins: each costs as much. Fails as a whole when there were more.
async fn set_password(
    app: &Arc<App>,
    edit: &mut Incoming,
    body: Map<String, Value>,
    writer: Writer<'_>,
    peer: Option<IpAddr>,
    number: usize,
) -> Result<error::Result<()>> {
    if !writer.security.is_admin(writer.user) {
        if number > 1 {
            return Ok(Err(Error::Forbidden("Only admins may set more than one password in a request.".into())));
        }
        app.limits.sign_in(peer)?;
    }
    let settings = app.auth.settings();
    let clock = app.clock.clone();
    let hash = move || users::hash_password(&body, &settings.password, &settings.requirements, &clock);
    Ok(app.hash(hash).await.map(|hashed| {
        if let Some(hashed) = hashed {
            edit.json = Value::Object(hashed).to_string();
        }
    }))
}

/// The rules of the users' database, before those of its design documents.
struct Rules<'a> {
    user: &'a UserCtx,
    security: &'a Security,
    scripts: &'a dyn Validate,
}

impl Validate for Rules<'_> {
    fn applies(&self, _: &Database) -> bool {
        true
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<error::Result<()>>> + Send + 'a>> {
        Box::pin(async move {
            let mut verdicts = Vec::with_capacity(proposals.len());
            let mut rest = Vec::new();
            for proposal in proposals {
                let verdict = self.verdict(database, &proposal).await;
                if verdict.is_ok() {
                    rest.push(proposal);
                }
                verdicts.push(verdict);
            }
            if !rest.is_empty() && self.scripts.applies(database) {
                let mut scripted = self.scripts.validate(database, rest).await.into_iter();
                for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
                    *verdict = scripted.next().unwrap_or(Ok(()));
                }
            }
            verdicts
        })
    }
}

impl Rules<'_> {
    async fn verdict(&self, database: &Arc<Database>, proposal: &Proposal) -> error::Result<()> {
        if proposal.id.starts_with("_design/") || proposal.id.starts_with("_local/") {
            return Ok(());
        }
        let writer = Writer { user: self.user, security: self.security };
        let new = members(&proposal.id, &proposal.new)?;
        let old = proposal.old.as_deref().map(|old| members(&proposal.id, old)).transpose()?;
        // A deleted document is no account any more: what follows it is a new one.
        let old = old.filter(|old| old.get("_deleted") != Some(&Value::Bool(true)));
        if new.get("_deleted") == Some(&Value::Bool(true)) {
            return users::validate_delete(old.as_ref(), writer);
        }
        users::validate(&proposal.id, &new, old.as_ref(), writer)?;
        if self.security.is_admin(self.user) {
            return Ok(());
        }
        // The revision that a user extends may be an old or a losing one, with roles that an admin has since taken away:
        // what is in force counts too.
        let (database, id) = (database.clone(), proposal.id.clone());
        let winner = blocking(move || match database.find(&id, Wanted::Winner) {
            Ok(found) => Ok(Some(members(&id, &found.body.json)?)),
            Err(Error::Missing | Error::Deleted) => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
        match winner {
            Some(winner) => users::validate(&proposal.id, &new, Some(&winner), writer),
            None => Ok(()),
        }
    }
}

/// What a reader may see of the documents of one database.
#[derive(Clone)]
pub struct Eyes(Option<Arc<Limited>>);

struct Limited {
    user: UserCtx,
    security: Security,
    public_fields: Vec<String>,
}

impl Eyes {
    /// The reader's eyes on this database: unlimited but for the users' database and who does not administer it.
    pub fn of(app: &App, user: &UserCtx, database: &Database) -> error::Result<Eyes> {
        if user.is_server_admin() || !is_users(app, database) {
            return Ok(Eyes(None));
        }
        let security = security_of(database)?;
        if security.is_admin(user) {
            return Ok(Eyes(None));
        }
        let public_fields = app.auth.settings().public_fields.clone();
        Ok(Eyes(Some(Arc::new(Limited { user: user.clone(), security, public_fields }))))
    }

    /// Each as the reader sees it.
    pub fn see_all<M>(
        &self,
        all: Vec<std::result::Result<Found, M>>,
    ) -> error::Result<Vec<std::result::Result<Found, M>>> {
        let seen = all.into_iter().map(|one| match one {
            Ok(found) => self.see(found).map(Ok),
            Err(missing) => Ok(Err(missing)),
        });
        seen.collect()
    }

    /// The document as the reader sees it. `Missing`, `Forbidden`: not at all.
    pub fn see(&self, mut found: Found) -> error::Result<Found> {
        let Some(limited) = &self.0 else { return Ok(found) };
        match users::visible(&found.id, &limited.user, &limited.security)? {
            Visible::Whole => Ok(found),
            Visible::Public => {
                let body = members(&found.id, &found.body.json)?;
                let public = users::public_part(&body, &limited.public_fields)?;
                found.body.json = Value::Object(public).to_string();
                found.body.attachments.clear();
                Ok(found)
            }
        }
    }
}

/// Refuses changing the users' database's `_security` unless the settings allow it.
pub fn check_security_editable(app: &App, database: &Database) -> error::Result<()> {
    if is_users(app, database) && !app.auth.settings().users_db_security_editable {
        return Err(Error::Forbidden("You can't edit the security object of the user database.".into()));
    }
    Ok(())
}

/// Gives the users' database its design document, if this is one and it has none. Others see to it that it stays.
pub async fn settle(app: &Arc<App>, database: &Arc<Database>) -> error::Result<()> {
    if !is_users(app, database) {
        return Ok(());
    }
    let of = database.clone();
    if blocking(move || of.winner(users::DESIGN_ID)).await?.is_some() {
        return Ok(());
    }
    let edit = Incoming {
        id: users::DESIGN_ID.to_owned(),
        parent: None,
        path: (0, Vec::new()),
        deleted: false,
        json: Value::Object(users::design_document()).to_string(),
        attachments: Vec::<(String, Source)>::new(),
    };
    let written = database.update(vec![edit], Mode::Interactive, &crate::db::AllowAll).await?;
    match written.into_iter().next() {
        Some(Err(Error::Conflict)) | Some(Ok(_)) | None => Ok(()),
        Some(Err(error)) => Err(error),
    }
}

/// Makes the system databases of a single node, and the users' database's design document.
pub async fn settle_all(app: &Arc<App>) -> error::Result<()> {
    let settings = app.settings();
    let accounts = app.auth.settings().authentication_db.clone();
    if settings.flag("couchdb", "single_node") {
        let security = super::handlers::default_security(app).to_string();
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

/// How long a sign-in's upgrade waits, so that what the user came to write is not met by a conflict.
const UPGRADE_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// Writes a user's hash anew in the background, in today's scheme. The salt stays, and with it the user's sessions.
pub fn upgrade(app: &Arc<App>, wanted: Upgrade) {
    if !app.accounts.upgrading.lock().insert(wanted.name.clone()) {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        let name = wanted.name.clone();
        tokio::time::sleep(UPGRADE_AFTER).await;
        match upgrade_now(&app, wanted).await {
            Ok(()) => tracing::info!(user = name, "the stored password hash was upgraded"),
            // Somebody else has written the document: the next sign-in tries again.
            Err(Error::Conflict) => {}
            Err(error) => tracing::warn!(user = name, %error, "the stored password hash could not be upgraded"),
        }
        app.accounts.upgrading.lock().remove(&name);
    });
}

async fn upgrade_now(app: &Arc<App>, wanted: Upgrade) -> error::Result<()> {
    let Some(database) = app.accounts.database()? else { return Ok(()) };
    let (policy, clock, of) = (app.auth.settings().password.clone(), app.clock.clone(), database.clone());
    let shared = app.clone();
    let rehash = move || {
        let found = of.find(&users::id_of(&wanted.name), Wanted::Winner)?;
        let body = members(&found.id, &found.body.json)?;
        if body.get("salt").and_then(Value::as_str).unwrap_or("") != wanted.salt {
            return Err(Error::Conflict);
        }
        let salt = Some(wanted.salt).filter(|salt| !salt.is_empty());
        let stored = Stored::hash(&wanted.password, salt, &policy, &clock)?;
        shared.auth.rehashed(&wanted.name, &wanted.password, &stored);
        let json = Value::Object(users::with_hash(&body, &stored)).to_string();
        let attachments = found.body.attachments.iter();
        let attachments = attachments.map(|found| (found.name.clone(), Source::Stub { revpos: None })).collect();
        let parent = Some(found.revision);
        Ok(Incoming { id: found.id, parent, path: (0, Vec::new()), deleted: false, json, attachments })
    };
    let edit = app.hash(rehash).await?;
    let written = database.update(vec![edit], Mode::Interactive, &crate::db::AllowAll).await?;
    written.into_iter().next().unwrap_or(Err(Error::Conflict)).map(|_| ())
}
