//! SIGTERM and SIGINT: the first signal starts a graceful shutdown, a second one ends the process at once. If
//! the shutdown takes too long, the process ends without a second signal.
//!
//! A dedicated thread waits for the signals. It starts before the store is opened, because the kernel does
//! not deliver to process 1 of a container a signal for which it has no handler. The thread therefore reacts
//! while every other thread is busy or blocked on a log pipe that nobody reads, and while the server
//! restarts.

use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io, process, thread};

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;

/// How long the rest of the shutdown may take after requests are drained: joining threads, closing the store.
/// After that the process exits without waiting for them.
const WAY_OUT: Duration = Duration::from_secs(4);

/// The signal handler. Its thread runs until the process ends.
#[derive(Default)]
pub struct Signals(Mutex<State>);

#[derive(Default)]
struct State {
    asked: bool,
    app: Option<Arc<App>>,
}

impl Signals {
    /// Starts to handle the signals. Until [`stop`](Signals::stop) registers a server, a signal ends the
    /// process at once, because nothing is running yet.
    ///
    /// # Errors
    /// Those of the operating system. The signals then keep their default action.
    pub fn catch() -> io::Result<Arc<Signals>> {
        let signals = Arc::new(Signals::default());
        let (caught, outcome) = mpsc::sync_channel(1);
        let heard = signals.clone();
        thread::Builder::new().name("settee-signals".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(caught.send(Err(error))),
            };
            runtime.block_on(async {
                let both = signal(SignalKind::terminate())
                    .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
                match both {
                    Ok((terminate, interrupt)) => {
                        let _ = caught.send(Ok(()));
                        heard.listen(terminate, interrupt).await;
                    }
                    Err(error) => drop(caught.send(Err(error))),
                }
            });
        })?;
        outcome.recv().map_err(io::Error::other)??;
        Ok(signals)
    }

    /// Registers the server that a signal stops. If a signal has arrived already, the shutdown begins
    /// immediately.
    pub fn stop(&self, app: Arc<App>) {
        let mut state = self.0.lock();
        if state.asked {
            app.shutdown.begin();
        }
        state.app = Some(app);
    }

    /// Releases the server. Its thread lives as long as the process, and would keep the store open to the
    /// end: an engine that is not closed repairs its files at the next start.
    pub fn release(&self) {
        self.0.lock().app = None;
    }

    async fn listen(&self, mut terminate: Signal, mut interrupt: Signal) {
        either(&mut terminate, &mut interrupt).await;
        let Some(drain) = self.begin() else { process::exit(0) };
        // Nothing is logged here: a log pipe that nobody reads may be what blocks the shutdown.
        let _ = tokio::time::timeout(drain + WAY_OUT, either(&mut terminate, &mut interrupt)).await;
        thread::spawn(|| process::exit(1));
        // `exit` can hang if another thread is already inside `exit` and stuck there.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }

    /// Begins the shutdown. Returns how long running requests may take to finish, or `None` if no server is
    /// registered yet.
    fn begin(&self) -> Option<Duration> {
        let mut state = self.0.lock();
        state.asked = true;
        let app = state.app.as_ref()?;
        app.shutdown.begin();
        Some(app.drain_timeout())
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
