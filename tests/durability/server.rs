//! Runs the real binary on a data folder.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::client::Client;

/// A running server; killed on drop.
pub struct Server {
    child: Child,
    pub address: String,
    /// What it has logged until it listened.
    pub said: String,
}

/// The binary built with the test, or the one that `SETTEE_BIN` names.
fn binary() -> Command {
    // `secret`, hashed with one step: a debug build takes seconds for as many as are usual.
    const SECRET: &str = "-pbkdf2:sha256-e2f453c3d64af57c60af04dd3d182a4c5fa5259e8ce98d8f514eead79a6c1ff3,\
                          5eed5a175eed5a175eed5a175eed5a17,1";
    let own = || env!("CARGO_BIN_EXE_settee").into();
    let mut command = Command::new(std::env::var_os("SETTEE_BIN").unwrap_or_else(own));
    command.env_clear().env("COUCHDB_USER", "admin").env("COUCHDB_PASSWORD", SECRET);
    command
}

impl Server {
    /// Starts the server and waits until it listens. If it exits instead, returns its log as the error.
    pub fn start(data: &Path, engine: &str) -> Result<Server, String> {
        Server::launch(data, engine, &[])
    }

    fn launch(data: &Path, engine: &str, settings: &[(&str, &str)]) -> Result<Server, String> {
        let mut command = binary();
        command.envs(settings.iter().copied());
        command.args(["serve", "--bind", "127.0.0.1:0", "--log", "info", "--log-format", "json"]);
        if !engine.is_empty() {
            command.args(["--store", engine]);
        }
        command.arg("--data").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("the server can be started");
        let mut server = Server { child, address: String::new(), said: String::new() };
        let mut log = BufReader::new(server.child.stderr.take().expect("its log is piped"));
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if log.read_line(&mut line).unwrap_or(0) == 0 {
                return Err(said);
            }
            let told = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
            if let Some(address) = told["address"].as_str() {
                server.address = address.to_owned();
                server.said = said;
                // Keep reading the log, so that the pipe does not fill up and block the server.
                std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
                return Ok(server);
            }
            said.push_str(&line);
        }
    }

    /// As [`Server::start`], with settings from the environment.
    #[allow(dead_code, reason = "only the hostile tests use it")]
    pub fn start_with(data: &Path, engine: &str, settings: &[(&str, &str)]) -> Result<Server, String> {
        Server::launch(data, engine, settings)
    }

    /// Bytes of memory that its process takes.
    #[allow(dead_code, reason = "only the hostile tests use it")]
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says what it takes");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// Calls of `write` that its process has made, to files and connections.
    #[allow(dead_code, reason = "only the hostile tests use it")]
    pub fn writes(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).expect("it runs");
        let calls = io.lines().find_map(|line| line.strip_prefix("syscw:")).expect("it says how many");
        calls.trim().parse().expect("a number")
    }

    /// Connects a new client.
    pub fn client(&self) -> Client {
        Client::connect(&self.address).expect("the server listens")
    }

    /// Kills the server with SIGKILL. Panics if it had already exited.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("it is our child");
        assert!(ended.is_none(), "the server ended by itself: {ended:?}");
        self.child.kill().expect("it can be killed");
        let _ = self.child.wait();
    }

    /// The most memory that it has had, in megabytes. `None`: the system does not report it.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
    }

    /// Asks the server to end, and waits for it. Whether it ended well.
    pub fn stop(mut self) -> bool {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it can be signalled");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `settee check`. Returns its output as the error if it reports anything.
pub fn check(data: &Path) -> Result<(), String> {
    let output = binary().arg("check").arg("--data").arg(data).output().expect("the check can be started");
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

impl Server {
    /// As [`Server::start`], with the engine that the folder has.
    pub fn start_any(data: &Path) -> Result<Server, String> {
        Server::start(data, "")
    }

    /// The id of its process.
    #[allow(dead_code, reason = "for the hostile tests")]
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

/// Runs the binary; whether it succeeded, and all it said.
pub fn run(arguments: &[&str]) -> (bool, String) {
    let output = binary().args(arguments).output().expect("it can be started");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
