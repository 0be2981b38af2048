//! New connections that are cut before they can be used, as by a pooler or a server that restarts.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use tempfile::TempDir;

use super::*;

/// When a new connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// As soon as it is made.
    AtOnce,
    /// Instead of an answer to its first message.
    Unanswered,
    /// After the answer that the server shuts down.
    ShutDown,
    /// When it asks for the timeline of the server.
    BeforeTimeline,
    /// When it sends its settings.
    BeforeSettings,
}

/// The answer of a server that shuts down: a fatal error.
fn shuts_down() -> Vec<u8> {
    let fields = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P01"), (b'M', "shuts down")];
    let mut text: Vec<u8> =
        fields.iter().flat_map(|(kind, value)| [&[*kind], value.as_bytes(), &[0]].concat()).collect();
    text.push(0);
    [b"E", &(text.len() as u32 + 4).to_be_bytes()[..], &text].concat()
}

/// Stands before a server, and cuts the next connections.
struct Cutter {
    folder: TempDir,
    cuts: Arc<parking_lot::Mutex<Vec<Cut>>>,
}

impl Cutter {
    fn before(server: &TestServer) -> Cutter {
        const SOCKET: &str = ".s.PGSQL.5432";
        let (folder, cuts) = (tempfile::tempdir().unwrap(), Arc::<parking_lot::Mutex<Vec<Cut>>>::default());
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let (target, next) = (server.folder.path().join(SOCKET), cuts.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                let (server, cut) = (UnixStream::connect(&target).unwrap(), next.lock().pop());
                std::thread::spawn(move || pass(client, server, cut));
            }
        });
        Cutter { folder, cuts }
    }

    fn url(&self, schema: &str) -> String {
        let host = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://settee@{host}/postgres?schema={schema}&pool_size=2")
    }
}

/// Passes on what both sides say, until the connection is to be cut. Dropping the streams closes it.
fn pass(mut client: UnixStream, mut server: UnixStream, cut: Option<Cut>) {
    if cut == Some(Cut::AtOnce) {
        return;
    }
    let (mut back, mut answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut answers, &mut back).map(drop));
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = client.read(&mut buffer).unwrap_or(0);
        said.extend_from_slice(&buffer[..read]);
        let has = |words: &str| said.windows(words.len()).any(|window| window == words.as_bytes());
        let ends = match cut {
            None | Some(Cut::AtOnce) => false,
            Some(Cut::Unanswered) => true,
            Some(Cut::ShutDown) => {
                client.write_all(&shuts_down()).unwrap();
                true
            }
            Some(Cut::BeforeTimeline) => has("pg_walfile_name"),
            Some(Cut::BeforeSettings) => has("statement_timeout"),
        };
        if read == 0 || ends || server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for stream in [client, server] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn a_read_is_repeated_while_new_connections_are_cut() {
    let Some(server) = TestServer::start() else { return };
    let cutter = Cutter::before(&server);
    let url = cutter.url("cut");
    let opened = open(super::super::Address::read(&url, &|_| None).unwrap(), &Options::default()).unwrap();
    write_numbers(&*opened.store);
    let is_watched = "select count(*) from pg_stat_activity where query = 'show transaction_read_only'";
    until("the server is watched, on a connection of its own", || server.sql(is_watched) == "1");
    for cut in [Cut::AtOnce, Cut::Unanswered, Cut::ShutDown, Cut::BeforeTimeline, Cut::BeforeSettings] {
        const CUTS: usize = 3;
        *cutter.cuts.lock() = vec![cut; CUTS];
        opened.probe().asked.store(0, Ordering::SeqCst);
        // The connection of the pool.
        server.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'settee' \
             and query <> 'show transaction_read_only'",
        );
        assert_eq!(opened.store.get(&key(7, "k")), Ok(Some(b"7".to_vec())), "{cut:?}");
        assert_eq!(cutter.cuts.lock().len(), 0, "{cut:?}: all were cut");
        let asked = opened.probe().asked.load(Ordering::SeqCst);
        assert!((CUTS + 1..=CUTS + 2).contains(&asked), "{cut:?}: {asked}");
    }
}
