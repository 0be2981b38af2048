//! The control socket: a Unix socket in the data folder, through which `settee backup` requests a backup from
//! the running server, because the server has the folder locked. Only the folder's owner may connect; there
//! is no network access.
//!
//! The client writes `backup\n`, and the server responds with a backup (see `archive`), or with nothing on an
//! error. To `count\n` it responds with the number of documents in decimal digits.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;

use super::survey::Survey;
use crate::db::Databases;

/// Timeout of a client that reads nothing. The last pass of a backup blocks writers, so it must not wait for
/// a client forever.
const PATIENCE: Duration = Duration::from_secs(30);

fn socket(folder: &Path) -> PathBuf {
    folder.join("control")
}

/// Listens on the socket in the data folder until the task is dropped. If the socket cannot be created, logs
/// a warning and returns.
pub async fn listen(folder: PathBuf, databases: Arc<Databases>) {
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
            tracing::warn!("online backups are not available: creating {} failed: {error}", path.display());
            return;
        }
    };
    let one_at_a_time = Arc::new(tokio::sync::Semaphore::new(1));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = one_at_a_time.clone().acquire_owned().await else { return };
        let databases = databases.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if let Err(error) = stream.into_std().and_then(|stream| serve(stream, &databases)) {
                tracing::warn!("a backup failed: {error}");
            }
        });
    }
}

fn serve(mut stream: UnixStream, databases: &Arc<Databases>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut asked = String::new();
    BufReader::new(io::Read::take(&stream, 16)).read_line(&mut asked)?;
    match asked.as_str() {
        "backup\n" => {}
        "count\n" => {
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
