//! The real binary on a data folder.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::client::Client;

pub struct Server {
    child: Child,
    pub address: String,
}

/// `SETTEE_BIN` names another binary than the one that was built with the test.
fn binary() -> Command {
    let own = || env!("CARGO_BIN_EXE_settee").into();
    let mut command = Command::new(std::env::var_os("SETTEE_BIN").unwrap_or_else(own));
    command.env_clear().env("COUCHDB_USER", "admin").env("COUCHDB_PASSWORD", "secret");
    command
}

impl Server {
    /// Starts and waits until it answers. `Err`: it ended instead, with these words.
    pub fn start(data: &Path, engine: &str) -> Result<Server, String> {
        Server::launch(data, engine, &[])
    }

    fn launch(data: &Path, engine: &str, settings: &[(&str, &str)]) -> Result<Server, String> {
        let mut command = binary();
        command.envs(settings.iter().copied());
        command.args(["serve", "--bind", "127.0.0.1:0", "--log", "info", "--log-format", "json", "--store", engine]);
        command.arg("--data").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("the server can be started");
        let mut server = Server { child, address: String::new() };
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
                // Somebody has to read the log on.
                std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
                return Ok(server);
            }
            said.push_str(&line);
        }
    }

    /// The same with settings from the environment.
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

    pub fn client(&self) -> Client {
        Client::connect(&self.address).expect("the server listens")
    }

    /// Ends it as `kill -9` does. It must not have ended by itself before.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("it is our child");
        assert!(ended.is_none(), "the server ended by itself: {ended:?}");
        self.child.kill().expect("it can be killed");
        let _ = self.child.wait();
    }

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

/// Runs `settee check`; its words, if it finds anything.
pub fn check(data: &Path) -> Result<(), String> {
    let output = binary().arg("check").arg("--data").arg(data).output().expect("the check can be started");
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}
