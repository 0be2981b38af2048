//! Leases of this node: background work that one node of a shared store does for all. On an embedded store this
//! node has every lease.
//!
//! A lease only saves double work. A node that was frozen may believe for a moment that it still has one, so all
//! work under a lease stays correct if two nodes do it at once.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::clock::Clock;
use crate::error::Result;
use crate::store::Store;

/// How long a lease lasts after its last renewal. After a node dies, nobody does its work for this long.
const TTL: Duration = Duration::from_secs(30);
/// The default of [`Leases::renewal`].
const RENEWAL: Duration = Duration::from_secs(10);

/// Takes leases for this node.
#[derive(Clone)]
pub struct Leases {
    store: Arc<dyn Store>,
    /// Unique to this process.
    owner: Arc<str>,
    ttl: Duration,
    /// The pause between two renewals, and between two attempts to take a lease that another node has.
    renewal: Duration,
}

/// A lease of this node, which renews itself until it is dropped.
pub struct Lease {
    /// `None` on an embedded store.
    renewing: Option<Renewing>,
}

/// The task that renews a lease, and gives it up when this is dropped.
struct Renewing {
    /// Becomes true when another node may have the lease.
    lost: watch::Receiver<bool>,
    _until: oneshot::Sender<()>,
}

impl Leases {
    /// Creates the leases of a process.
    pub fn new(store: Arc<dyn Store>, clock: &Clock) -> Leases {
        Leases { store, owner: clock.uuid().into(), ttl: TTL, renewal: RENEWAL }
    }

    async fn ask(&self, name: &str, ttl: Duration) -> Result<bool> {
        let (store, owner, name) = (self.store.clone(), self.owner.clone(), name.to_owned());
        blocking(move || Ok(store.lease(&name, &owner, ttl)?)).await
    }

    /// Takes a lease, unless another node has it.
    pub async fn take(&self, name: &str) -> Result<Option<Lease>> {
        if !self.store.is_shared() {
            return Ok(Some(Lease { renewing: None }));
        }
        let begun = Instant::now();
        if !self.ask(name, self.ttl).await? {
            return Ok(None);
        }
        let ((losing, lost), (until, dropped)) = (watch::channel(false), oneshot::channel());
        let (leases, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            renew(&leases, &name, begun, losing, dropped).await;
            // A failure: the lease ends by itself.
            let _ = leases.ask(&name, Duration::ZERO).await;
        });
        Ok(Some(Lease { renewing: Some(Renewing { lost, _until: until }) }))
    }

    /// Runs endless work while this node has the lease, and starts it again whenever it gets the lease again.
    pub async fn while_held<F: Future<Output = ()>>(&self, name: &str, work: impl Fn() -> F) {
        loop {
            let mut lease = self.wait(name).await;
            tokio::select! {
                () = work() => {}
                () = lease.lost() => tracing::warn!(name, "another node may do this work from now on"),
            }
            drop(lease);
            tokio::time::sleep(self.renewal).await;
        }
    }

    /// Waits until this node gets a lease.
    pub async fn wait(&self, name: &str) -> Lease {
        loop {
            match self.take(name).await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => tracing::warn!(name, %error, "the lease of a background job cannot be taken"),
            }
            tokio::time::sleep(self.renewal).await;
        }
    }
}

/// Renews a lease until it is dropped. Tells when another node has it, or may have it because no renewal has succeeded for
/// its time. A renewal that is under way is waited for: if it came after the lease is given up, nobody would have the lease.
async fn renew(
    leases: &Leases,
    name: &str,
    begun: Instant,
    losing: watch::Sender<bool>,
    mut dropped: oneshot::Receiver<()>,
) {
    let mut until = begun + leases.ttl;
    loop {
        tokio::select! {
            () = tokio::time::sleep(leases.renewal) => {}
            _ = &mut dropped => return,
        }
        let asked = Instant::now();
        let mut renewing = pin!(leases.ask(name, leases.ttl));
        // An answer that comes too late is as none.
        match tokio::time::timeout_at(until, &mut renewing).await {
            Ok(Ok(true)) => until = asked + leases.ttl,
            Ok(Err(_)) if Instant::now() + leases.renewal < until => {}
            Ok(Ok(false) | Err(_)) => break,
            Err(_) => {
                losing.send_replace(true);
                let _ = renewing.await;
                break;
            }
        }
    }
    losing.send_replace(true);
    let _ = dropped.await;
}

impl Lease {
    /// Returns when another node may have the lease. Cancel safe.
    pub async fn lost(&mut self) {
        let Some(Renewing { lost, .. }) = &mut self.renewing else { return std::future::pending().await };
        // An error: the renewal has ended.
        let _ = lost.wait_for(|lost| *lost).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::memory::Memory;
    use crate::store::shared_memory::{Calls, Cluster};

    /// A node whose leases last a minute by the clock of the store, and are renewed often.
    fn node(cluster: &Arc<Cluster>) -> Leases {
        let (ttl, renewal) = (Duration::from_secs(60), Duration::from_millis(5));
        Leases { ttl, renewal, ..Leases::new(cluster.node(), &Clock::system()) }
    }

    async fn until(holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time");
    }

    #[tokio::test]
    async fn one_node_works_and_the_next_takes_over_when_it_dies() {
        let clock = Clock::fixed(Duration::from_secs(1));
        let cluster = Cluster::new(clock.clone());
        let working = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let tasks = working.each_ref().map(|count| {
            let (leases, count) = (node(&cluster), count.clone());
            tokio::spawn(async move {
                let work = || async {
                    let _end = Counted::new(count.clone());
                    std::future::pending::<()>().await;
                };
                leases.while_held("work", work).await;
            })
        });
        let running = || working.each_ref().map(|count| count.load(Ordering::SeqCst));
        until(|| running() != [0, 0]).await;
        let first = usize::from(running() == [0, 1]);
        // Time passes, and the lease is renewed.
        for _ in 0..20 {
            clock.advance(Duration::from_secs(30));
            until(|| cluster.lease_end("work") == Some(clock.since_epoch() + Duration::from_secs(60))).await;
        }
        assert_eq!((running()[first], running()[1 - first]), (1, 0));
        tasks[first].abort();
        until(|| running()[1 - first] == 1).await;
        assert_eq!(running()[first], 0);
        tasks[1 - first].abort();
    }

    #[tokio::test]
    async fn a_node_that_loses_its_lease_stops() {
        let clock = Clock::fixed(Duration::from_secs(1));
        let cluster = Cluster::new(clock.clone());
        let slow = Leases { renewal: Duration::from_millis(200), ..node(&cluster) };
        let mut lease = slow.take("work").await.unwrap().unwrap();
        assert!(node(&cluster).take("work").await.unwrap().is_none());
        // It ends by the clock of the store, unless a renewal comes just then.
        let _other = loop {
            clock.advance(Duration::from_secs(60));
            if let Some(other) = node(&cluster).take("work").await.unwrap() {
                break other;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), lease.lost()).await.expect("it finds out");
    }

    #[tokio::test]
    async fn a_lease_that_is_given_up_during_a_renewal_is_free() {
        let cluster = Cluster::new(Clock::fixed(Duration::from_secs(1)));
        for _ in 0..20 {
            let lease = node(&cluster).wait("work").await;
            let before = cluster.lease_calls();
            cluster.set_lease_calls(Calls::Held);
            until(|| cluster.lease_calls() > before).await;
            drop(lease);
            tokio::task::yield_now().await;
            cluster.set_lease_calls(Calls::Answered);
            tokio::time::timeout(Duration::from_secs(20), node(&cluster).wait("work")).await.expect("it is free");
        }
    }

    #[tokio::test]
    async fn a_renewal_that_comes_too_late_leaves_the_lease_free() {
        let cluster = Cluster::new(Clock::fixed(Duration::from_secs(1)));
        let short = Leases { ttl: Duration::from_millis(100), ..node(&cluster) };
        let mut lease = short.wait("work").await;
        cluster.set_lease_calls(Calls::Held);
        let before = cluster.lease_calls();
        tokio::time::timeout(Duration::from_secs(20), lease.lost()).await.expect("no renewal was answered");
        drop(lease);
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        let begun = cluster.lease_calls() - before;
        cluster.set_lease_calls(Calls::Answered);
        assert!(begun <= 1, "it is given up before the renewal, which takes it again");
        tokio::time::timeout(Duration::from_secs(20), node(&cluster).wait("work")).await.expect("it is free");
    }

    #[tokio::test]
    async fn on_an_embedded_store_every_lease_is_held() {
        let leases = Leases::new(Arc::new(Memory::new()), &Clock::system());
        let mut first = leases.take("work").await.unwrap().unwrap();
        assert!(leases.take("work").await.unwrap().is_some());
        assert!(futures_util::FutureExt::now_or_never(first.lost()).is_none());
    }

    /// Counts itself while it lives.
    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn new(count: Arc<AtomicUsize>) -> Counted {
            count.fetch_add(1, Ordering::SeqCst);
            Counted(count)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
