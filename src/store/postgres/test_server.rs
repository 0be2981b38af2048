//! A PostgreSQL server for one test: made in a temporary folder, reached through a socket there, and gone with the test.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Address, Options, Shared, open};

/// A running server. Dropping it stops it.
pub(crate) struct TestServer {
    pub folder: TempDir,
    child: Option<Child>,
    bin: PathBuf,
    pub user: (u32, u32),
    /// Settings of the command line.
    settings: Vec<String>,
}

/// The folder with the programs of the newest PostgreSQL where Debian installs it, or else in `PATH`.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").exists());
    found.pop().map(|(_, bin)| bin).or_else(in_path)
}

/// The user that runs the server, which refuses to be root.
fn user() -> (u32, u32) {
    if !rustix::process::geteuid().is_root() {
        return (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    of("postgres").or_else(|| of("nobody")).expect("a user that is not root")
}

impl TestServer {
    /// Starts a server. Where PostgreSQL is not installed, prints a message and returns `None`; in CI, panics.
    pub fn start() -> Option<TestServer> {
        TestServer::with(&[])
    }

    /// As [`TestServer::start`], with these settings (`name=value`).
    pub fn with(settings: &[&str]) -> Option<TestServer> {
        let Some(bin) = binaries() else {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI must have PostgreSQL (apt: postgresql)");
            println!("skipped: PostgreSQL is not installed");
            return None;
        };
        let server = TestServer::empty(bin, settings);
        let mut make = server.command("initdb");
        make.args(["--no-sync", "--auth=trust", "--username=settee", "--encoding=UTF8", "--locale=C", "-D"]);
        let made = make.arg(server.data()).output().expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(server.run())
    }

    fn empty(bin: PathBuf, settings: &[&str]) -> TestServer {
        let (folder, user) = (tempfile::tempdir().unwrap(), user());
        std::os::unix::fs::chown(folder.path(), Some(user.0), Some(user.1)).unwrap();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        TestServer { folder, child: None, bin, user, settings }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.uid(self.user.0).gid(self.user.1).current_dir(self.folder.path()).env("LC_ALL", "C");
        if let Some(port) = self.settings.iter().find_map(|setting| setting.strip_prefix("port=")) {
            command.env("PGPORT", port);
        }
        command
    }

    /// Enables TLS on the server, with this certificate.
    pub fn use_tls(&self, certificate: &str, key: &str) {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = self.data().join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&file, Some(self.user.0), Some(self.user.1)).unwrap();
        }
        self.sql("alter system set ssl = on");
        self.sql("select pg_reload_conf()");
        let until = Instant::now() + Duration::from_secs(30);
        while self.sql("show ssl") != "on" {
            assert!(Instant::now() < until, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn run(mut self) -> TestServer {
        self.resume();
        self
    }

    /// Starts the server again.
    pub fn resume(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        // The shell stops the server when this process has ended, even after a crash.
        let mut command = self.command("postgres");
        let program = command.get_program().to_owned();
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\" <&- & server=$!; read -r _; kill -QUIT $server; wait $server", "sh"]).arg(program);
        shell.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        for setting in ["listen_addresses=", "max_connections=100", "shared_buffers=32MB"] {
            shell.args(["-c", setting]);
        }
        for setting in &self.settings {
            shell.args(["-c", setting]);
        }
        command = shell;
        command.uid(self.user.0).gid(self.user.1).current_dir(self.folder.path()).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut begin = self.log().len();
        self.child = Some(command.spawn().expect("PostgreSQL starts"));
        let until = Instant::now() + Duration::from_secs(60);
        while !self.psql("select 1").status.success() {
            let log = self.log();
            assert!(Instant::now() < until, "PostgreSQL did not start: {log}");
            if log.get(begin..).is_some_and(|said| said.contains("pre-existing shared memory block")) {
                // A process of a killed server has not ended yet.
                drop(self.child.take().map(|mut child| (drop(child.stdin.take()), child.wait())));
                begin = log.len();
                self.child = Some(command.spawn().expect("PostgreSQL starts"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the server has written to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        let mut psql = self.command("psql");
        psql.args(["-h"])
            .arg(self.folder.path())
            .args(["-U", "settee", "-d", "postgres", "-X", "-q", "-t", "-A", "-c"]);
        psql.arg(sql).output().expect("psql runs")
    }

    /// Runs SQL as the owner and returns what it prints.
    pub fn sql(&self, sql: &str) -> String {
        let done = self.psql(sql);
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Runs SQL that must fail, for example because another connection cancels it.
    pub fn refused(&self, sql: &str) {
        assert!(!self.psql(sql).status.success(), "{sql}");
    }

    /// The id of the server's main process.
    fn process(&self) -> i32 {
        let lines = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        lines.lines().next().unwrap().trim().parse().unwrap()
    }

    /// Kills the server's main process. Its child processes notice that by themselves, except for `frozen`, which goes on
    /// holding its locks until then.
    pub fn crash_around(&self, frozen: i32) {
        signal(frozen, rustix::process::Signal::STOP);
        signal(self.process(), rustix::process::Signal::KILL);
    }

    /// Ends the server and its connections as a crash would.
    pub fn kill(&mut self) {
        signal(self.process(), rustix::process::Signal::KILL);
        // Its child processes notice by themselves.
        drop(self.child.take().map(|mut child| (drop(child.stdin.take()), child.wait())));
    }

    /// A standby of this server, which commits wait for if `synchronous_standby_names` names it.
    pub fn standby(&self, name: &str) -> TestServer {
        let standby = TestServer::empty(self.bin.clone(), &[]);
        let mut copy = standby.command("pg_basebackup");
        let from = format!("host={} user=settee application_name={name}", self.folder.path().display());
        copy.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "-d", &from, "-D"]).arg(standby.data());
        let copied = copy.output().expect("pg_basebackup runs");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        standby.run()
    }

    /// The part of a URL that names this server as a host.
    pub fn host(&self) -> String {
        self.folder.path().display().to_string().replace('/', "%2F")
    }

    /// The address of a schema on this server.
    pub fn url(&self, schema: &str) -> String {
        format!("postgres://settee@{}/postgres?schema={schema}", self.host())
    }

    pub fn address(&self, schema: &str) -> Address {
        Address::read(&self.url(schema), &|_| None).unwrap()
    }

    /// Opens a node's store on this server.
    pub fn open(&self, schema: &str) -> Shared {
        open(self.address(schema), &Options::default()).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }
}

/// Sends a signal to a process of the server.
pub(crate) fn signal(process: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(process).unwrap(), signal).unwrap();
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}
