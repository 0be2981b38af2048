//! A socket in the data folder through which `settee backup` asks the running server, which holds the folder, for a backup.
//! Who may open the folder's files may use it; nothing is asked over the network.
//!
//! The client writes `backup\n`; the answer is a backup (see `archive`), or nothing if the server cannot make one. On
//! `count\n` it is the number of documents that there are, in digits.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;

use super::survey::Survey;
use crate::db::Databases;

/// A client that takes nothing for so long is given up: a backup's last pass holds writers.
const PATIENCE: Duration = Duration::from_secs(30);

fn socket(folder: &Path) -> PathBuf {
    folder.join("control")
}

/// Listens in the data folder, for as long as the task lives. A folder in which no socket can be made is served without.
pub async fn listen(folder: PathBuf, databases: Arc<Databases>) {
    let path = socket(&folder);
    // The folder is locked: a socket that is there was left by a server that was killed.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("no backups from this server while it runs: {} cannot be made: {error}", path.display());
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
                tracing::warn!("a backup was not finished: {error}");
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
    tracing::info!("a backup begins");
    let (count, documents) = super::backup(databases, &mut stream, &mut |_| {}).map_err(io::Error::other)?;
    tracing::info!(databases = count, documents, "a backup is done");
    Ok(())
}

/// A backup from the server that has `folder` open. `None` if none has.
pub fn ask(folder: &Path) -> io::Result<Option<UnixStream>> {
    request(folder, "backup\n")
}

/// How many documents the server that has `folder` open will put into a backup, if it tells soon.
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
