//! The program: command line, log, data folder, server, signals, exit codes. No logic lives here.
//!
//! Exit codes: 0 a clean end, 1 a failure while starting or running, 2 a wrong setting.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program speaks before there is a log")]

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::app::{App, Recent};
use crate::audit;
use crate::audit::recent::Recorder;
use crate::audit::trail::Trail;
use crate::cli::admin_api::Connect;
use crate::cli::administer::administer;
use crate::cli::args::Command;
use crate::cli::health::ask_health;
use crate::cli::ini;
use crate::cli::offline::upkeep;
use crate::cli::sources::{self, Start};
use crate::cli::stores::Place;
use crate::clock::Clock;
use crate::log::Log;
use crate::log::plain::Plain;
use crate::log::terminal::Terminal;
use crate::maintain::control;
use crate::query::script;
use crate::server::local::LocalServer;
use crate::server::scratch;
use crate::server::signals::Signals;
use crate::server::start::{self, Options};
use crate::server::systemd::{Notify, Sockets};
use crate::store::blob::blobs::Blobs;
use crate::store::{self, Key, Store, postgres};

/// Runs the command that the arguments of the process ask for.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: a script worker has no settings, no log and no other thread.
    if std::env::args_os().nth(1).is_some_and(|first| first == script::WORKER) {
        return script::work();
    }
    // What is created is for its owner only: data, backups, keys and the audit log.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    match Command::read(std::env::args(), std::env::vars()) {
        Command::Say { text, code: 0 } => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Command::Say { text, code } => {
            eprint!("{text}");
            ExitCode::from(u8::try_from(code).unwrap_or(2))
        }
        Command::Health { at, data } => {
            told(ask_health(&at, &data).map(|()| true).map_err(|error| format!("{at} is not well: {error}")))
        }
        Command::Upkeep(work) => told(upkeep(work)),
        Command::Administer(work) => told(administer(work, &open_store)),
        Command::ImportConfig { file, to } => told(ini::import(&file, to.as_deref()).map(|()| true)),
        Command::Serve(settings) => {
            let recent = Recent::default();
            let log = Log::start(std::io::stderr(), recent.log.clone());
            let log = log.map_err(|error| format!("no thread for the log: {error}"));
            let ended = log.and_then(|log| {
                let ended = serve(*settings, &log, recent);
                let is_logged = tracing::enabled!(tracing::Level::ERROR);
                let ended = ended.inspect_err(|error| tracing::error!("{error}"));
                log.flush(Duration::from_secs(1));
                // Reported once: by the log or, without a log, here.
                ended.map_err(|error| if is_logged { String::new() } else { error })
            });
            told(ended.map(|()| true))
        }
    }
}

/// The exit code of a command: failure if it has found something wrong. Prints an error unless it is empty.
fn told(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            if !error.is_empty() {
                // Does not wait for a reader that no longer reads the standard error.
                let _ = writeln!(std::io::stderr(), "settee: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Opens the data of a stopped server, or a store that several servers share, for a command.
fn open_store(place: &Place, key: Option<Key>) -> Result<Connect, String> {
    let opened = place.open(key)?;
    let server = LocalServer::start(opened.store, opened.blobs)?;
    Ok(Box::new(move || server.connect()))
}

fn serve(settings: Start, log: &Log, recent: Recent) -> Result<(), String> {
    start_log(&settings, log.clone(), &recent)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let sockets = Sockets::take(&|name| std::env::var(name).ok())?;
    let notify = Notify::new(std::env::var_os("NOTIFY_SOCKET"));
    let signals = Signals::catch()
        .inspect_err(|error| tracing::warn!("signals cannot be caught ({error}): a stop will cut running requests"))
        .unwrap_or_default();
    let (store, blobs) = open(&settings)?;
    let indexes = match store.is_shared() {
        true => Some(scratch::open(&settings.scratch, settings.key.as_ref())?),
        false => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("settee")
        // At least two: see `blocking::reading`.
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)))
        .build()
        .map_err(|error| format!("no threads: {error}"))?;
    let ended = runtime.block_on(run(settings, (store, blobs), indexes, recent, &signals, &sockets, &notify));
    crate::blocking::runtime_ends();
    // All requests have been answered by now, or have had the whole time of the drain.
    runtime.shutdown_timeout(Duration::from_secs(2));
    signals.release();
    ended
}

/// Serves until a signal, and again after a restart was asked for.
async fn run(
    settings: Start,
    (store, blobs): Stores,
    indexes: Option<Arc<dyn Store>>,
    recent: Recent,
    signals: &Signals,
    sockets: &Sockets,
    notify: &Notify,
) -> Result<(), String> {
    loop {
        let options = Options {
            base: settings.base.clone(),
            sources: settings.sources.clone(),
            admins: settings.admins.clone(),
            store: store.clone(),
            indexes: indexes.clone(),
            blobs: blobs.clone(),
            clock: Clock::system(),
            recent: recent.clone(),
            backup_key: settings.key.clone(),
        };
        let start::Prepared { app, made_admin } = start::prepare(options).await.map_err(|error| error.to_string())?;
        let bind = match settings.bind {
            Some(bind) => bind,
            None => persisted_bind(&app)?,
        };
        let listening = start::listen_on(app.clone(), bind, sockets).await.map_err(|error| error.to_string());
        if let Some((name, password)) = made_admin {
            // Also if the port is taken: the admin is stored, and nobody else knows the password. The link is then left
            // out: another program listens there, and must not get the password.
            let link = listening.as_ref().ok().map(|running| start::link(running.address));
            show_admin(link.as_deref(), &name, &password);
        }
        let running = listening?;
        let tls = running.secure_address.map(tracing::field::display);
        if running.address.ip().is_unspecified() {
            tracing::info!("listening on all interfaces of this machine");
        }
        let link = start::link(running.address);
        tracing::info!(address = %running.address, tls, data = %settings.data.display(), "settee is ready: {link}");
        signals.stop(app.clone());
        let has_folder = settings.store.as_deref() != Some("memory") && claim_folder(&settings);
        let control = has_folder.then(|| tokio::spawn(listen_to_commands(settings.data.clone(), app.clone())));
        notify.ready();
        wait_for_end(&app, running, notify).await?;
        control.inspect(|control| control.abort());
        if !app.shutdown.is_restart() {
            tracing::info!("settee has stopped");
            return Ok(());
        }
        tracing::info!("settee restarts");
    }
}

/// Waits until the server ends, after a signal or because a restart was asked for, and has finished its requests.
async fn wait_for_end(app: &App, running: start::Running, notify: &Notify) -> Result<(), String> {
    let stopped = running.stopped();
    tokio::pin!(stopped);
    let early = tokio::select! {
        biased;
        () = app.shutdown.begun() => None,
        ended = stopped.as_mut() => Some(ended),
    };
    if !app.shutdown.is_restart() {
        notify.stopping();
    }
    tracing::info!("stopping: requests at work are finished, new ones are refused");
    match early {
        Some(ended) => ended,
        None => stopped.await,
    }
    .map_err(|error| error.to_string())
}

/// The address that was set over HTTP, or the default.
fn persisted_bind(app: &App) -> Result<SocketAddr, String> {
    let bind = sources::bind_of(&app.settings())?;
    if bind != sources::DEFAULT_BIND {
        tracing::warn!(
            "listening on {bind} because chttpd/bind_address and chttpd/port were set over HTTP; --bind, SETTEE_BIND and \
             the settings file override them"
        );
    }
    Ok(bind)
}

/// Whether this server may put its control socket into the data folder. With PostgreSQL the folder may not exist yet,
/// so it is created; and no other server may use it.
fn claim_folder(settings: &Start) -> bool {
    settings.postgres.is_none()
        || std::fs::create_dir_all(&settings.data).is_ok()
            && control::http(&settings.data).is_ok_and(|other| other.is_none())
}

/// Serves commands such as `settee backup` and `settee livesync`.
async fn listen_to_commands(data: PathBuf, app: Arc<App>) {
    let databases = app.databases.clone();
    let turn = app.backups.turn().clone();
    control::listen(data, databases, turn, Owner(app)).await;
}

/// What the owner of the data folder may ask of the server.
#[derive(Clone)]
struct Owner(Arc<App>);

impl control::Commands for Owner {
    async fn serve_http(self, stream: tokio::net::UnixStream) {
        start::serve_owner(self.0, stream).await;
    }

    async fn rewrite_store(self) -> crate::error::Result<Option<(u64, u64)>> {
        self.0.rewrite_store().await
    }
}

/// The ordered map, and the attachments beside it.
type Stores = (Arc<dyn Store>, Arc<dyn Blobs>);

fn open(settings: &Start) -> Result<Stores, String> {
    if settings.store.as_deref() == Some("memory") {
        tracing::warn!("the store is in memory: everything is gone when the server stops");
        if settings.key.is_some() {
            tracing::warn!("the encryption key is not used: memory is not encrypted");
        }
        return Ok((Arc::new(store::memory::Memory::new()), Arc::new(store::MemoryBlobs::new())));
    }
    if let Some(address) = &settings.postgres {
        return open_database(address, settings.key.clone());
    }
    let engine = settings.store.as_deref().map(str::parse).transpose()?;
    let options = store::Options { engine, key: settings.key.clone(), ..store::Options::default() };
    let opened = store::open_with(&settings.data, options).map_err(|error| error.to_string())?;
    Ok((opened.store, opened.blobs))
}

/// Opens the store of a database server, and logs the settings that can lose an acknowledged write.
fn open_database(address: &postgres::Address, key: Option<Key>) -> Result<Stores, String> {
    let options = postgres::Options { key, ..postgres::Options::default() };
    let opened = postgres::open(address.clone(), &options).map_err(|error| error.to_string())?;
    for warning in &opened.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!("the store is {address}: {}", opened.about);
    Ok((opened.store, opened.blobs))
}

fn start_log(settings: &Start, log: Log, recent: &Recent) -> Result<(), String> {
    use tracing_subscriber::filter::{LevelFilter, filter_fn};
    use tracing_subscriber::fmt;
    use tracing_subscriber::prelude::*;
    let filter = crate::log::filter::parse(&settings.log).map_err(|error| {
        format!("the log level `{}` is none of off, error, warn, info, debug, trace: {error}", settings.log)
    })?;
    let is_terminal = std::io::stderr().is_terminal();
    let log = fmt::layer().with_writer(log).with_ansi(is_terminal);
    let log = match settings.log_format.as_str() {
        "json" => log.json().flatten_event(true).boxed(),
        "auto" if !is_terminal => log.event_format(Plain::default()).boxed(),
        _ => log.event_format(Terminal::default()).boxed(),
    };
    let trail = settings.audit.clone().map(|place| {
        let file = place.file.display().to_string();
        recent.audit.load(&place.file);
        Trail::open(place).map_err(|error| format!("the audit file {file} cannot be opened: {error}"))
    });
    let recorder = Recorder { recent: recent.audit.clone(), trail: trail.transpose()? };
    let events = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
    // Without the hint, events of the most verbose level would be built, then dropped: sled has several in each read.
    let is_event = filter_fn(|about| about.target() == audit::TARGET).with_max_level_hint(LevelFilter::INFO);
    let events = events.with_writer(recorder).with_filter(is_event);
    tracing_subscriber::registry().with(log.with_filter(filter)).with(events).init();
    Ok(())
}

/// Every waiting client is an open file: takes as many as the system grants.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// To the standard output and not to the log, which is kept and read by others.
fn show_admin(url: Option<&str>, name: &str, password: &str) {
    let mut out = std::io::stdout();
    let open = |url| format!("    open      {url}\n    try       curl -u {name}:{password} {url}_all_dbs\n");
    let _ = writeln!(
        out,
        "\nThere was no admin, so this one was made. Its password is shown only now:\n\n    name      {name}\n    \
         password  {password}\n{}",
        url.map_or_else(String::new, open)
    );
    let _ = out.flush();
}
