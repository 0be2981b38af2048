//! `settee replicate`: copies a database to another, each of them on a server or in the data folder of a server that
//! is stopped.
//!
//! The engine is that of the server (`replicate`). It acts as an admin of the folder, and does not run the
//! validation functions of a target in a folder, as a restored backup does not.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{LOCATION, SERVER};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::other_server::{Heard, another_answers, is_error, nothing_answers};
use super::progress_bar::{Bar, Unit};
use super::stores::{has_entries, no_data_folder};
use crate::clock::Clock;
use crate::db::{AllowAll, CreateOptions, Database, Databases, Incoming, Mode};
use crate::error::Result;
use crate::net::http_client::{self, HttpClient, Versions, empty};
use crate::query::script::Scripts;
use crate::replicate::parameters::parse;
use crate::replicate::{
    Access, Basic, Completed, Context, Counters, Endpoint, Failure, Limits, Network, Outcome, Parameters, Pending,
    Progress, RemoteEndpoint, Replication, ReplicationId, run,
};
use crate::rev::Revision;
use crate::store::blob::blobs::Blobs;
use crate::store::{self, Key, Options};

/// How often the progress is shown.
const REFRESH: Duration = Duration::from_millis(200);
/// The limits of the request by which a failure is explained.
const LOOK: http_client::Limits = http_client::Limits { time: Duration::from_secs(10), bytes: 16 << 20 };
/// Part of the replication ids, so that each run finds the checkpoints of the last one.
const ID: &str = "settee replicate";

/// What the command line asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    /// A URL, which may have a password in it, or the name of a database in the data folder.
    pub source: String,
    pub target: String,
    pub continuous: bool,
    pub create_target: bool,
    pub data: PathBuf,
    pub key: Option<Key>,
    /// Trusted authorities beside the public ones.
    pub ca_file: Option<PathBuf>,
    /// The URL of a proxy, which may have a password in it.
    pub proxy: Option<String>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Asked")
            .field("data", &self.data)
            .field("continuous", &self.continuous)
            .finish_non_exhaustive()
    }
}

/// Runs the command. Returns true if everything was replicated.
pub fn replicate(asked: Asked) -> std::result::Result<bool, String> {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN);
    // A test has one already.
    let _ = subscriber.without_time().with_target(false).try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.map_err(|error| format!("no threads: {error}"))?;
    let done = runtime.block_on(replicate_on(asked));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn replicate_on(asked: Asked) -> std::result::Result<bool, String> {
    let proxy = asked.proxy.as_deref().map(parse::proxy).transpose();
    let proxy = proxy.map_err(|wrong| format!("--proxy: {}", wrong.reason()))?;
    let endpoint = |text: &str| endpoint(text).map(|endpoint| endpoint.through(proxy.clone()));
    let (source, target) = (endpoint(&asked.source)?, endpoint(&asked.target)?);
    let is_local = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Local { .. });
    if asked.continuous && is_local(&source) {
        return Err("--continuous needs a source that is a URL: nobody else writes to a folder meanwhile".into());
    }
    let tls =
        crate::net::tls::client_config(asked.ca_file.as_deref()).map_err(|wrong| format!("--ca-file: {wrong}"))?;
    let folder = match is_local(&source) || is_local(&target) {
        true => Folder::open(&asked.data, asked.key)?,
        false => Folder::scratch()?,
    };
    let context = Context {
        access: Arc::new(folder),
        // The user of this command can reach every address without it.
        network: Arc::new(Network::new(tls.clone(), || true)),
        clock: Clock::system(),
        server_uuid: ID.into(),
    };
    let mut parameters = Parameters::new(source, target);
    (parameters.continuous, parameters.create_target) = (asked.continuous, asked.create_target);
    let progress = Progress::new();
    let outcome = match pass(&context, parameters.clone(), &progress).await {
        Ok(outcome) => outcome,
        Err(failure) => return Err(explained(&failure, &parameters, &tls).await),
    };
    let counters = progress.counters();
    say(&counters, &outcome);
    Ok(counters.doc_write_failures == 0)
}

async fn pass(context: &Context, parameters: Parameters, progress: &Progress) -> std::result::Result<Outcome, Failure> {
    let id = ReplicationId::of(context, &parameters).await?;
    let (replication, stop) = (Replication { id, parameters }, CancellationToken::new());
    watched(run(context, &replication, progress, &stop), progress, &stop).await
}

/// A failure, and below it what answers at the URLs, if that is no database server.
async fn explained(failure: &Failure, parameters: &Parameters, tls: &Arc<ClientConfig>) -> String {
    let mut text = failure.to_string();
    for endpoint in [&parameters.source, &parameters.target] {
        if let Endpoint::Remote(remote) = endpoint
            && let Some(why) = unusable(remote, tls).await
        {
            text += "\nsettee: ";
            text += &why;
        }
    }
    text
}

/// Says that no settee or CouchDB answers at a URL. `None`: one answers, perhaps with an error.
async fn unusable(remote: &RemoteEndpoint, tls: &Arc<ClientConfig>) -> Option<String> {
    let client = HttpClient::guarded(tls.clone(), Arc::new(|_| true), Versions::Http1, remote.proxy.as_ref());
    let mut request = http::Request::new(empty());
    *request.uri_mut() = remote.url.clone();
    let answer = match client.fetch(request, LOOK).await {
        Ok(answer) => answer,
        // The failure names the cause, which may be the proxy.
        Err(_) if remote.proxy.is_some() => return None,
        Err(error) => return Some(nothing_answers(&remote.url.to_string(), &error)),
    };
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if is_error(&body) || body["db_name"].is_string() {
        return None;
    }
    let header = |name| answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let (server, location) = (header(SERVER), header(LOCATION));
    let heard = Heard {
        method: "GET",
        path: remote.url.path(),
        status: answer.status().as_u16(),
        server: server.as_deref(),
        location: location.as_deref(),
        body: answer.body(),
    };
    Some(another_answers(&format!("at {}", remote.url), &heard))
}

/// Runs a pass, shows how far it is, and stops it at Ctrl-C.
async fn watched<T>(pass: impl Future<Output = T>, progress: &Progress, stop: &CancellationToken) -> T {
    let bar = Bar::new(Unit::Changes, Some(0));
    let mut pass = std::pin::pin!(pass);
    let mut tick = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            done = &mut pass => return done,
            _ = tick.tick() => {
                let counters = progress.counters();
                let done = counters.changes_done;
                bar.extend_to(done + counters.changes_pending.unwrap_or(0));
                bar.show(&format!("{} documents written", counters.docs_written), done);
            }
            _ = tokio::signal::ctrl_c(), if !stop.is_cancelled() => stop.cancel(),
        }
    }
}

fn say(counters: &Counters, outcome: &Outcome) {
    let Counters { docs_written, doc_write_failures, missing_checked, missing_found, .. } = counters;
    let known = missing_checked.saturating_sub(*missing_found);
    println!("{docs_written} revisions copied, {known} were there already, {doc_write_failures} refused");
    match outcome {
        Outcome::Completed(Completed { no_changes: true, .. }) => println!("nothing was new"),
        Outcome::Completed(_) | Outcome::CaughtUp { .. } => {}
        Outcome::Stopped => println!("stopped; the same command goes on from here"),
    }
}

/// Reads a URL, or the name of a database.
fn endpoint(text: &str) -> std::result::Result<Endpoint, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        // The error would repeat a password.
        if text.contains('@') {
            return Err("a URL begins with http:// or https://".into());
        }
        crate::db::check_database_name(text).map_err(|error| error.to_string())?;
        return Ok(Endpoint::Local { name: text.to_owned() });
    };
    if !matches!(scheme, "http" | "https") {
        return Err(format!("{scheme}:// is neither http:// nor https://"));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let auth = user.map(|user| {
        let (username, password) = user.split_once(':').unwrap_or((user, ""));
        Basic { username: decoded(username), password: decoded(password) }
    });
    let path = path.trim_end_matches('/');
    if path.is_empty() || path.contains(['?', '#']) {
        return Err(format!("{scheme}://{host}/{path} is not the URL of a database"));
    }
    let url = format!("{scheme}://{host}/{path}");
    let parsed = url.parse().map_err(|_| format!("{url} is no URL"))?;
    Ok(Endpoint::Remote(Box::new(RemoteEndpoint { url: parsed, headers: http::HeaderMap::new(), auth, proxy: None })))
}

/// A data folder, with the rights of its owner.
struct Folder {
    databases: Arc<Databases>,
    scripts: Scripts,
    /// Where attachments between two other servers are meanwhile.
    _scratch: Option<Scratch>,
}

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn open(data: &Path, key: Option<Key>) -> std::result::Result<Folder, String> {
        if !has_entries(data) {
            return Err(format!(
                "{}\nFor a database on a server, give its URL: https://NAME:PASSWORD@HOST/DATABASE",
                no_data_folder(data)
            ));
        }
        let opened = store::open_existing(data, Options { key, ..Options::default() });
        Folder::of(opened.map_err(|error| error.to_string())?, None)
    }

    fn scratch() -> std::result::Result<Folder, String> {
        let path = std::env::temp_dir().join(format!("settee-replicate-{}", Clock::system().uuid()));
        let scratch = Scratch(path.clone());
        Folder::of(store::open(&path, None).map_err(|error| error.to_string())?, Some(scratch))
    }

    fn of(opened: store::Opened, scratch: Option<Scratch>) -> std::result::Result<Folder, String> {
        let databases = Databases::open(opened.store, opened.blobs, Clock::system());
        let databases = databases.map_err(|error| error.to_string())?;
        Ok(Folder { databases, scripts: Scripts::new(crate::query::script::Limits::default()), _scratch: scratch })
    }
}

impl Access for Folder {
    fn readable(&self, name: &str) -> Result<Arc<Database>> {
        self.databases.get(name)
    }

    fn writable(&self, name: &str) -> Result<Arc<Database>> {
        self.databases.get(name)
    }

    fn create<'a>(&'a self, name: &'a str, options: CreateOptions) -> Pending<'a, Result<()>> {
        Box::pin(async move { self.databases.create(name, options, None).map(|_| ()) })
    }

    fn write<'a>(
        &'a self,
        database: &'a Arc<Database>,
        edits: Vec<Incoming>,
    ) -> Pending<'a, Result<Vec<Result<Revision>>>> {
        Box::pin(database.update(edits, Mode::Replicated, &AllowAll))
    }

    /// Limits of requests do not apply: the command writes what the folder can hold.
    fn limits(&self) -> Limits {
        Limits { document: 256 << 20, depth: 10_000, id: crate::db::LONGEST_ID, attachment: u64::MAX }
    }

    fn user_json(&self, database: &str) -> String {
        crate::auth::UserCtx::server().to_script_json(database).to_string()
    }

    fn blobs(&self) -> &Arc<dyn Blobs> {
        self.databases.blobs()
    }

    fn scripts(&self) -> &Scripts {
        &self.scripts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_a_name() {
        let of = |text: &str| match endpoint(text) {
            Ok(Endpoint::Local { name }) => name,
            Ok(Endpoint::Remote(remote)) => {
                let auth = remote.auth.map_or("".into(), |auth| format!(" {}:{}", auth.username, auth.password));
                format!("{}{auth}", remote.url)
            }
            Err(wrong) => format!("wrong: {wrong}"),
        };
        for (text, wanted) in [
            ("notes", "notes"),
            ("http://a:5984/x/", "http://a:5984/x"),
            ("https://ann:p%40w:d@a/couch/x", "https://a/couch/x ann:p@w:d"),
            ("http://[::1]:1/x", "http://[::1]:1/x"),
            ("ftp://a/x", "wrong: ftp:// is neither http:// nor https://"),
            ("http://a", "wrong: http://a/ is not the URL of a database"),
            ("http://ann:secret@a/x?y", "wrong: http://a/x?y is not the URL of a database"),
        ] {
            assert_eq!(of(text), wanted, "{text}");
        }
        assert!(of("No Name").starts_with("wrong: Name:"));
    }

    #[test]
    fn a_folder_is_copied_within_itself() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let opened = store::open(&data, None).unwrap();
        let databases = Databases::open(opened.store, opened.blobs, Clock::system()).unwrap();
        let from = databases.create("from", CreateOptions::default(), None).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let edit = Incoming::created("a", json!({"x": 1}).to_string());
        runtime.block_on(from.update(vec![edit], Mode::Interactive, &AllowAll)).unwrap();
        // The runtime last: it waits for the writer, which holds the folder for a moment after its answer.
        drop((from, databases, runtime));
        let asked = Asked {
            source: "from".into(),
            target: "to".into(),
            continuous: false,
            create_target: true,
            data: data.clone(),
            key: None,
            ca_file: None,
            proxy: None,
        };
        assert_eq!(replicate(asked.clone()), Ok(true));
        assert_eq!(replicate(asked.clone()), Ok(true), "again");
        assert!(
            replicate(Asked { source: "none".into(), ..asked.clone() }).unwrap_err().contains("could not open none")
        );
        assert!(replicate(Asked { continuous: true, ..asked }).unwrap_err().contains("--continuous"));
        let opened = store::open(&data, None).unwrap();
        let databases = Databases::open(opened.store, opened.blobs, Clock::system()).unwrap();
        assert_eq!(databases.get("to").unwrap().info().documents, 1);
    }
}
