//! The interface to systemd: listening sockets that systemd has opened (`sd_listen_fds(3)`), and notices that the
//! server is ready or stops (`sd_notify(3)`). Written by hand because both are a few lines.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

/// The first file descriptor that systemd hands over.
const FIRST: RawFd = 3;
/// Sockets at most; a service has one or two.
const MOST: usize = 16;

/// Listening sockets that systemd has opened. They stay open while the server restarts, so that no connection is
/// refused meanwhile.
#[derive(Debug, Default)]
pub struct Sockets {
    plain: Vec<TcpListener>,
    tls: Vec<TcpListener>,
}

impl Sockets {
    /// Takes over the sockets that the environment describes. Sockets with the name `tls` or `https`
    /// (`FileDescriptorName=`) are for TLS. Call it once, before the process opens files.
    ///
    /// # Errors
    /// A sentence for the user, if something other than a TCP socket was handed over.
    pub fn take(variable: &dyn Fn(&str) -> Option<String>) -> Result<Sockets, String> {
        let mut sockets = Sockets::default();
        for (at, name) in described(variable, std::process::id())?.into_iter().enumerate() {
            let descriptor = FIRST + at as RawFd;
            // SAFETY: `LISTEN_PID` names this process, so that systemd has opened this descriptor for it; nothing
            // else in the process uses it, and this function is called once.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            let socket = TcpListener::from(owned);
            let usable = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
                .map_err(Into::into)
                .and_then(|()| socket.local_addr())
                .and_then(|_| socket.set_nonblocking(true));
            usable.map_err(|error| format!("LISTEN_FDS: the socket {descriptor} is not a TCP socket: {error}"))?;
            if matches!(name.as_str(), "tls" | "https") { &mut sockets.tls } else { &mut sockets.plain }.push(socket);
        }
        Ok(sockets)
    }

    /// The sockets for plain HTTP, or for TLS; clones, because the server takes new ones after a restart of its own.
    pub(super) fn clones(&self, tls: bool) -> std::io::Result<Vec<TcpListener>> {
        if tls { &self.tls } else { &self.plain }.iter().map(TcpListener::try_clone).collect()
    }
}

/// The names of the sockets that are handed over to the process `own`.
fn described(variable: &dyn Fn(&str) -> Option<String>, own: u32) -> Result<Vec<String>, String> {
    let is_for_us = variable("LISTEN_PID").and_then(|pid| pid.parse::<u32>().ok()) == Some(own);
    let Some(count) = variable("LISTEN_FDS").filter(|_| is_for_us) else { return Ok(Vec::new()) };
    let count = count.parse::<usize>().ok().filter(|count| *count <= MOST);
    let count = count.ok_or_else(|| format!("LISTEN_FDS is not a number from 0 to {MOST}"))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    Ok((0..count).map(|_| names.next().unwrap_or_default()).collect())
}

/// Sends the state of the service to systemd, if it has asked for that.
#[derive(Debug, Clone)]
pub struct Notify {
    socket: Option<OsString>,
}

impl Notify {
    /// `socket`: the variable `NOTIFY_SOCKET`.
    pub fn new(socket: Option<OsString>) -> Notify {
        Notify { socket: socket.filter(|socket| !socket.is_empty()) }
    }

    /// The server accepts connections.
    pub fn ready(&self) {
        self.send("READY=1\n");
    }

    /// The server stops.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    fn send(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send_to(socket, state.as_bytes()) {
            tracing::warn!("sending `{}` to systemd failed: {error}", state.trim_end());
        }
    }
}

fn send_to(socket: &OsString, state: &[u8]) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let datagram = UnixDatagram::unbound()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return datagram.send_to_addr(state, &address).map(drop);
    }
    datagram.send_to(state, socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_taken_only_if_they_are_for_this_process() {
        let described = |rows: &[(&str, &str)]| {
            let variable =
                |name: &str| rows.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            super::described(&variable, 7)
        };
        let ours = ("LISTEN_PID", "7");
        for (rows, names) in [
            (&[][..], Ok(vec![])),
            (&[("LISTEN_FDS", "1")], Ok(vec![])),
            (&[("LISTEN_PID", "8"), ("LISTEN_FDS", "1")], Ok(vec![])),
            (&[ours, ("LISTEN_FDS", "1")], Ok(vec![String::new()])),
            (&[ours, ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http:tls")], Ok(vec!["http".into(), "tls".into()])),
            (&[ours, ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http")], Ok(vec!["http".into(), String::new()])),
            (&[ours, ("LISTEN_FDS", "x")], Err("LISTEN_FDS is not a number from 0 to 16".to_owned())),
            (&[ours, ("LISTEN_FDS", "99999")], Err("LISTEN_FDS is not a number from 0 to 16".to_owned())),
        ] {
            assert_eq!(described(rows), names, "{rows:?}");
        }
    }

    #[test]
    fn states_go_to_the_socket_that_systemd_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        Notify::new(Some(path.into_os_string())).ready();
        let mut text = [0; 64];
        let length = heard.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\n");
        Notify::new(None).stopping();
        Notify::new(Some(OsString::new())).stopping();
    }
}
