//! The control socket: a Unix socket in the data folder, through which commands such as `settee backup` and
//! `settee livesync` reach the running server, because the server has the folder locked. Only the folder's owner
//! may connect; there is no network access.
//!
//! The client writes one line:
//!
//! ```text
//! backup   the server responds with a backup (see `archive`), or with nothing on an error
//! count    ... with the number of documents in decimal digits
//! rewrite  ... once the store is rewritten, with the bytes of its files before and after (`120000000 40000000`), or
//!          with a sentence that says why it was not
//! http     the connection continues as HTTP; its requests have the rights of a server admin
//! ```

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::survey::Survey;
use crate::db::Databases;
use crate::error::Result;

/// Timeout of a client that reads nothing. The last pass of a backup blocks writers, so it must not wait for
/// a client forever.
const PATIENCE: Duration = Duration::from_secs(30);
/// Open connections at most; more wait to be accepted.
const CONNECTIONS: usize = 16;
/// Bytes of the line that a client writes, at most.
const LINE: usize = 16;

fn socket(folder: &Path) -> PathBuf {
    folder.join("control")
}

/// What the server does for the clients of its control socket, beside backups.
pub trait Commands: Clone + Send + Sync + 'static {
    /// Serves a connection on which the client wants HTTP.
    fn serve_http(self, stream: tokio::net::UnixStream) -> impl Future<Output = ()> + Send;

    /// Rewrites the store. Returns the bytes of its files before and after; `None` if it has no files.
    fn rewrite_store(self) -> impl Future<Output = Result<Option<(u64, u64)>>> + Send;
}

/// Listens on the socket in the data folder until the task is dropped. A backup takes `turn`, which others who make
/// backups of this server take, too. If the socket cannot be created, logs a warning and returns.
pub async fn listen(folder: PathBuf, databases: Arc<Databases>, turn: Arc<Semaphore>, commands: impl Commands) {
    let path = socket(&folder);
    // This process has the folder locked, so an existing socket is a leftover of a killed server.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            let path = path.display();
            tracing::warn!(
                "commands cannot reach this server (backup, admin, livesync): creating {path} failed: {error}"
            );
            return;
        }
    };
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(connection) = connections.clone().acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (databases, commands, turns) = (databases.clone(), commands.clone(), turn.clone());
        tokio::spawn(async move {
            let _connection = connection;
            let Ok(Ok(asked)) = tokio::time::timeout(PATIENCE, line(&mut stream)).await else { return };
            match asked.as_str() {
                "http" => return commands.serve_http(stream).await,
                "rewrite" => {
                    let told = match commands.rewrite_store().await {
                        Ok(Some((before, after))) => format!("{before} {after}"),
                        Ok(None) => "the store of this server has no files of its own".into(),
                        Err(error) => error.to_string(),
                    };
                    return drop(stream.write_all(told.as_bytes()).await);
                }
                _ => {}
            }
            let Ok(turn) = turns.acquire_owned().await else { return };
            let answering = crate::blocking::spawn_blocking(move || {
                let _turn = turn;
                if let Err(error) = stream.into_std().and_then(|stream| answer(stream, &asked, &databases)) {
                    tracing::warn!("a backup failed: {error}");
                }
            });
            let _ = answering.await;
        });
    }
}

/// Reads the client's line, and not a byte more: what follows belongs to the protocol that the line names.
async fn line(stream: &mut tokio::net::UnixStream) -> io::Result<String> {
    let mut text = String::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(text),
            _ if text.len() == LINE => return Err(io::Error::other("the request is too long")),
            byte => text.push(char::from(byte)),
        }
    }
}

fn answer(mut stream: UnixStream, asked: &str, databases: &Arc<Databases>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match asked {
        "backup" => {}
        "count" => {
            let survey = Survey::of(&**databases.store()).map_err(io::Error::other)?;
            return write!(stream, "{}", survey.documents);
        }
        _ => return Err(io::Error::other("an unknown request")),
    }
    tracing::info!("a backup has started");
    let (count, documents) = super::backup(databases, &mut stream, &mut |_| {}).map_err(io::Error::other)?;
    tracing::info!(databases = count, documents, "a backup has finished");
    Ok(())
}

/// Requests a backup from the server that has `folder` open. Returns `None` if no server runs.
pub fn ask(folder: &Path) -> io::Result<Option<UnixStream>> {
    request(folder, "backup\n")
}

/// Opens an HTTP connection to the server that has `folder` open. Returns `None` if no server runs.
pub fn http(folder: &Path) -> io::Result<Option<UnixStream>> {
    request(folder, "http\n")
}

/// Asks the server that has `folder` open to rewrite its store, and waits until it has. Returns the bytes of its files before
/// and after, or why it was not rewritten. `None` if no server runs.
pub fn rewrite(folder: &Path) -> io::Result<Option<std::result::Result<(u64, u64), String>>> {
    let Some(mut stream) = request(folder, "rewrite\n")? else { return Ok(None) };
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    let sizes = told.split_once(' ').and_then(|(before, after)| Some((before.parse().ok()?, after.parse().ok()?)));
    Ok(Some(sizes.ok_or_else(|| if told.is_empty() { "the server has ended".into() } else { told })))
}

/// Asks the server that has `folder` open for the number of documents in a backup. Returns `None` if it does
/// not respond within 5 s.
pub fn count(folder: &Path) -> Option<u64> {
    let stream = request(folder, "count\n").ok()??;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut told = String::new();
    stream.take(20).read_to_string(&mut told).ok()?;
    told.parse().ok()
}

fn request(folder: &Path, what: &str) -> io::Result<Option<UnixStream>> {
    let mut stream = match UnixStream::connect(socket(folder)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.write_all(what.as_bytes())?;
    Ok(Some(stream))
}
