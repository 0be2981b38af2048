//! Notices between nodes: which databases have changed.
//!
//! A node gathers the numbers of databases for a few milliseconds and sends one message for many commits, on a
//! connection of its own and never within a commit. A lost notice only causes a delay: the layers above also poll the
//! records of watched databases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::connections::Connections;
use super::errors::text;

/// How long numbers are gathered before a message is sent.
const GATHER: Duration = Duration::from_millis(3);
/// The most numbers in one message, which must be shorter than 8,000 bytes. If there are more, it says [`ANY`].
const NUMBERS: usize = 300;
/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(500);
/// A connection without notices for this time is tested.
const SILENCE: Duration = Duration::from_secs(10);
/// In a message: any database may have changed.
const ANY: &str = "*";

type Hear = Arc<dyn Fn(&[u64]) + Send + Sync>;

/// The notices of this node.
pub(super) struct Notices {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    /// This node's name in messages, so that it ignores its own.
    name: String,
    moved: Mutex<BTreeSet<u64>>,
    news: Notify,
    hear: Mutex<Option<Hear>>,
}

impl Notices {
    /// Starts the sender; nothing is received before [`Notices::listen`].
    pub fn start(connections: Connections, handle: &Handle) -> Notices {
        let name = format!("{:x}", super::slot::random());
        let inner = Inner { connections, name, moved: Mutex::default(), news: Notify::new(), hear: Mutex::default() };
        let inner = Arc::new(inner);
        let sender = inner.clone();
        handle.spawn(async move { sender.send_all().await });
        Notices { inner }
    }

    /// Queues a notice that this node's commits have changed these databases. Returns at once.
    pub fn tell(&self, moved: &[u64]) {
        self.inner.moved.lock().extend(moved);
        self.inner.news.notify_one();
    }

    /// Calls `hear` with the numbers of databases that other nodes have changed, or with none if notices may have been
    /// lost. Replaces the previous listener.
    pub fn listen(&self, hear: Hear, handle: &Handle) {
        if self.inner.hear.lock().replace(hear).is_none() {
            let listener = self.inner.clone();
            handle.spawn(async move { listener.hear_all().await });
        }
    }
}

impl Inner {
    fn channel(&self) -> String {
        format!("settee_{}", self.connections.address.schema.name())
    }

    async fn send_all(&self) {
        let sql = "select pg_notify($1, $2)";
        loop {
            self.news.notified().await;
            tokio::time::sleep(GATHER).await;
            let moved = std::mem::take(&mut *self.moved.lock());
            let text = message(&self.name, &moved);
            if let Err(error) = self.connections.rows(sql, vec![Box::new(self.channel()), Box::new(text)]).await {
                tracing::debug!("a notice to other nodes was not sent: {error}");
            }
        }
    }

    async fn hear_all(&self) {
        loop {
            if let Err(error) = self.hear_some().await {
                tracing::debug!("notices of other nodes are not heard: {}", text(&error));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Listens on one connection until it ends.
    async fn hear_some(&self) -> Result<(), tokio_postgres::Error> {
        let (client, mut connection) = self.connections.hosts.connect().await?;
        let (send, mut messages) = mpsc::unbounded_channel();
        let driver = async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notice) = message
                    && send.send(notice).is_err()
                {
                    return;
                }
            }
        };
        let given_up = self.connections.given_up();
        let listen = async {
            client.batch_execute(&format!("listen \"{}\"", self.channel())).await?;
            self.tell_above(&[]);
            loop {
                match tokio::time::timeout(SILENCE, messages.recv()).await {
                    Ok(Some(notice)) => self.heard(notice.payload()),
                    Ok(None) => return Ok(()),
                    Err(_) => drop(client.simple_query("").await?),
                }
            }
        };
        tokio::select! {
            ended = listen => ended,
            () = driver => Ok(()),
            () = given_up => Ok(()),
        }
    }

    fn heard(&self, text: &str) {
        let mut words = text.split(' ');
        if words.next() == Some(&self.name) {
            return;
        }
        let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        self.tell_above(&numbers.unwrap_or_default());
    }

    fn tell_above(&self, numbers: &[u64]) {
        let hear = self.hear.lock().clone();
        if let Some(hear) = hear {
            hear(numbers);
        }
    }
}

fn message(name: &str, moved: &BTreeSet<u64>) -> String {
    let mut text = name.to_owned();
    if moved.len() > NUMBERS {
        return format!("{text} {ANY}");
    }
    for number in moved {
        text.push(' ');
        text.push_str(&number.to_string());
    }
    text
}
