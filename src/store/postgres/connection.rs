//! A connection from the pool, while it is used.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{ClientWrapper, Object};

/// A connection from the pool. Dropping it returns it to the pool, unless a call on it has no answer yet or a transaction
/// is open, for example because its task has panicked: then the connection is closed, and the server ends what runs on it.
pub(super) struct Connection {
    /// `None` once it is closed.
    object: Option<Object>,
    /// A call has been sent and has not been answered.
    runs: AtomicBool,
    /// A transaction is open between calls.
    holds: AtomicBool,
}

impl Connection {
    pub fn new(object: Object) -> Connection {
        Connection { object: Some(object), runs: AtomicBool::new(false), holds: AtomicBool::new(false) }
    }

    /// Notes that a call is sent, or that it has been answered.
    pub fn set_runs(&self, runs: bool) {
        self.runs.store(runs, Ordering::SeqCst);
    }

    /// Notes that a transaction begins that is open between calls, or that it has ended.
    pub fn set_holds(&self, holds: bool) {
        self.holds.store(holds, Ordering::SeqCst);
    }

    /// Closes the connection, because its state is unknown.
    pub fn close(mut self) {
        self.object.take().map(Object::take);
    }

    /// The connection as the pool knows it.
    pub fn object(&self) -> &Object {
        self.object.as_ref().expect("a connection is there until it is dropped")
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.runs.load(Ordering::SeqCst) || self.holds.load(Ordering::SeqCst) {
            self.object.take().map(Object::take);
        }
    }
}
