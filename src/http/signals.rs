//! SIGTERM and SIGINT: the first drains, a second one ends at once, and the end comes in any case.
//!
//! Signals are waited for on a thread of their own, from before the store is opened (the system withholds from process 1 of
//! a container what it does not catch). So they are heard while every other thread is busy, or waits for a reader of the
//! log who does not read, and while the server restarts.

use std::io;
use std::process;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::app::App;

/// How long the rest of the way out may take after the drain: threads at work, the store. Then the process ends without.
const WAY_OUT: Duration = Duration::from_secs(4);

/// Hears of signals, for as long as the process lives.
#[derive(Default)]
pub struct Signals(Mutex<State>);

#[derive(Default)]
struct State {
    asked: bool,
    app: Option<Arc<App>>,
}

impl Signals {
    /// Catches them from now on. Until there is somebody to [`stop`](Signals::stop), one ends the process at once:
    /// nothing is at work.
    ///
    /// # Errors
    /// Those of the system; then signals do what they do by default.
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

    /// Whom a signal stops from now on; at once if one has come before.
    pub fn stop(&self, app: Arc<App>) {
        let mut state = self.0.lock();
        if state.asked {
            app.shutdown.begin();
        }
        state.app = Some(app);
    }

    async fn listen(&self, mut terminate: Signal, mut interrupt: Signal) {
        either(&mut terminate, &mut interrupt).await;
        let Some(drain) = self.begin() else { process::exit(0) };
        // Nothing is logged here: who reads the log may be what keeps us.
        let _ = tokio::time::timeout(drain + WAY_OUT, either(&mut terminate, &mut interrupt)).await;
        thread::spawn(|| process::exit(1));
        // Unless the process is on its way out already, and stuck there.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }

    /// Begins to stop. The time that requests at work are given; `None` if nothing serves yet.
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
