//! Very many clients that wait for one response each, on one thread. They read what comes and do little else, so that the
//! time until all have heard is the server's rather than theirs.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::{AUTHORIZATION, Ask, Outcome};

/// So many clients ask at the same time.
const AT_ONCE: usize = 256;
/// pouchdb-server sends the head of a response only with the first byte of the body: after this time, its clients count as
/// waiting without a head.
const NO_HEAD: Duration = Duration::from_millis(500);
/// The pause after each reading while all are to hear. A client for each connection would be on a machine of its own; these
/// share the cores with the server, and one that woke for each response would take as much of them as the server.
const PAUSE: Duration = Duration::from_millis(5);
/// The last chunk of a response.
const END: &[u8] = b"0\r\n\r\n";

pub struct Waiting {
    clients: Vec<Client>,
    ready: OwnedFd,
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Waiting {
    /// Opens `count` connections, sends `ask` on each, and returns when the server has begun to answer. Fails if that takes
    /// longer than until `end`.
    pub fn open(address: SocketAddr, ask: &Ask, signed_in: bool, count: usize, end: Instant) -> Outcome<Waiting> {
        let sign_in = if signed_in { format!("authorization: {AUTHORIZATION}\r\n") } else { String::new() };
        let request = format!("{} {} HTTP/1.1\r\nhost: bench\r\n{sign_in}\r\n", ask.method, ask.path);
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut waiting = Waiting { clients: Vec::with_capacity(count), ready };
        while waiting.clients.len() < count {
            let first = waiting.clients.len();
            for at in first..count.min(first + AT_ONCE) {
                let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                let mut stream = TcpStream::connect_timeout(&address, left)?;
                stream.write_all(request.as_bytes())?;
                stream.set_nonblocking(true)?;
                let data = epoll::EventData::new_u64(at as u64);
                epoll::add(&waiting.ready, &stream, data, epoll::EventFlags::IN)?;
                waiting.clients.push(Client { stream, received: Vec::new() });
            }
            let head = Instant::now() + NO_HEAD;
            while waiting.clients[first..].iter().any(|client| client.received.is_empty()) && Instant::now() < head {
                if waiting.read(head)? > 0 {
                    return Err("a longpoll ended before there was a change".into());
                }
            }
            if Instant::now() > end {
                return Err(format!("{first} of {count} longpolls waited in time").into());
            }
        }
        Ok(waiting)
    }

    /// Reads until all responses have ended, each with `word` in it. Returns when the last one ended.
    pub fn hear(mut self, word: &str, end: Instant) -> Outcome<Instant> {
        let mut ended = 0;
        while ended < self.clients.len() {
            ended += self.read(end)?;
            std::thread::sleep(PAUSE);
            if Instant::now() > end {
                return Err(format!("{ended} of {} longpolls heard of the change in time", self.clients.len()).into());
            }
        }
        let heard = Instant::now();
        for Client { received, .. } in self.clients {
            if !received.windows(word.len()).any(|window| window == word.as_bytes()) {
                let text = String::from_utf8_lossy(&received);
                return Err(format!("a longpoll ended without the change: {text:?}").into());
            }
        }
        Ok(heard)
    }

    /// Waits until `end` at most, and reads what has come. Returns how many responses ended with it.
    fn read(&mut self, end: Instant) -> Outcome<usize> {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
        let mut events = Vec::with_capacity(self.clients.len());
        epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&left))?;
        let mut buffer = [0; 4096];
        let mut ended = 0;
        for event in events {
            let client = &mut self.clients[event.data.u64() as usize];
            match client.stream.read(&mut buffer) {
                Ok(0) => return Err(format!("a server closed a longpoll after {} bytes", client.received.len()).into()),
                Ok(length) => client.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            ended += usize::from(client.received.ends_with(END));
        }
        Ok(ended)
    }
}
