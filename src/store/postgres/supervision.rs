//! Watches the server from one connection of its own.
//!
//! A server that was frozen, or whose network was cut, leaves its connections open and says nothing: a call would wait for
//! ever. And a server that has been replaced may go on answering (see `hosts.rs`). In both cases all connections are given
//! up, so that the calls on them fail or are repeated elsewhere.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::connections::Connections;

/// The pause between two checks of the server.
const BEAT: Duration = Duration::from_secs(1);
/// A server that does not answer a check within this time is given up. A check reads nothing from a disk.
const SILENCE: Duration = Duration::from_secs(5);
/// The pause between two checks of the other hosts.
const LOOK: Duration = Duration::from_secs(3);

/// Watches for ever.
pub(super) async fn watch(connections: Connections) {
    tokio::join!(ask_on(&connections), look_around_on(&connections));
}

/// Asks the server regularly whether it still takes writes.
async fn ask_on(connections: &Connections) {
    let mut own = None;
    let mut timeline = 0;
    let mut is_silent = false;
    loop {
        tokio::time::sleep(BEAT).await;
        if own.is_none() {
            match tokio::time::timeout(SILENCE, connect(connections)).await {
                Ok(Some(client)) => (own, is_silent) = (Some(client), false),
                // No host accepts a connection: it is down, or has none left. The open connections may still work.
                Ok(None) => {}
                Err(_) => silence(connections, &mut is_silent),
            }
        }
        if let Some(client) = &own {
            match ask(client).await {
                Said::Writes => {}
                Said::Closed => own = None,
                Said::ReadsOnly => {
                    own = None;
                    connections.give_up("the database server takes no more writes");
                }
                Said::Nothing => {
                    own = None;
                    silence(connections, &mut is_silent);
                }
            }
        }
        let newest = connections.hosts.timeline();
        if timeline != 0 && newest > timeline {
            own = None;
            connections.give_up("another database server has taken over");
        }
        timeline = newest;
    }
}

/// Gives up a silent server, but only once, and from now on tries the next host first.
fn silence(connections: &Connections, is_silent: &mut bool) {
    if !std::mem::replace(is_silent, true) {
        connections.give_up("the database server does not answer");
    }
    connections.hosts.prefer_next();
}

/// Opens a connection outside the pool. `None`: no host accepts one.
async fn connect(connections: &Connections) -> Option<Client> {
    let (client, connection) = connections.hosts.connect().await.ok()?;
    tokio::spawn(async move { drop(connection.await) });
    Some(client)
}

enum Said {
    Writes,
    ReadsOnly,
    Closed,
    Nothing,
}

async fn ask(client: &Client) -> Said {
    match tokio::time::timeout(SILENCE, client.simple_query("show transaction_read_only")).await {
        Ok(Ok(messages)) => {
            let reads_only = |message: &SimpleQueryMessage| match message {
                SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
                _ => false,
            };
            if messages.iter().any(reads_only) { Said::ReadsOnly } else { Said::Writes }
        }
        Ok(Err(_)) => Said::Closed,
        Err(_) => Said::Nothing,
    }
}

/// Connects to the other hosts regularly: if one of them has taken over, its timeline is the highest from then on.
async fn look_around_on(connections: &Connections) {
    let hosts = &connections.hosts;
    if hosts.count() < 2 {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let before = hosts.timeline();
        for at in (0..hosts.count()).filter(|at| *at != hosts.preferred()) {
            if hosts.connect_to(at).await.is_ok() && hosts.timeline() > before {
                hosts.prefer(at);
                break;
            }
        }
    }
}
