//! The rules of the scheduler, by a clock of their own: the table is called with the time, and nothing waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{Ended, Job, JobUser, Origin, Run};
use super::table::{Now, Phase, Start, Table};
use super::*;
use crate::auth::UserCtx;
use crate::clock::Clock;
use crate::replicate::{
    Basic, Completed, Endpoint, Failure, Filter, Parameters, Progress, RemoteEndpoint, Replication, ReplicationId,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn job_of(id: &str, source: Endpoint, continuous: bool, origin: Origin) -> Job {
    let target = Endpoint::Local { name: format!("{id}-target") };
    let parameters = Parameters { continuous, ..Parameters::new(source, target) };
    let id_parts = ReplicationId { base: id.to_owned(), extension: String::new() };
    let user = JobUser { user: UserCtx::default(), acts_as: None };
    let replication = Arc::new(Replication { id: id_parts, parameters });
    Job { id: id.into(), replication, origin, user, added: 0, progress: Progress::new() }
}

fn local(name: &str) -> Endpoint {
    Endpoint::Local { name: name.to_owned() }
}

fn of_document(id: &str) -> Origin {
    Origin::Document { database: "_replicator".into(), id: id.into() }
}

/// A continuous job of a document; nothing here depends on where its source is.
fn continuous(id: &str) -> Job {
    job_of(id, local(&format!("{id}-source")), true, of_document(id))
}

fn once(id: &str) -> Job {
    job_of(id, local(&format!("{id}-source")), false, of_document(id))
}

fn crash() -> Ended {
    Ended::Crashed(Failure::Network("cut".into()))
}

fn completed() -> Ended {
    Ended::Completed(Completed { no_changes: true, members: serde_json::Map::new() })
}

/// A table with a clock.
struct World {
    table: Table,
    began: Instant,
    now: Duration,
    /// The passes that run.
    running: BTreeMap<JobId, Start>,
}

impl World {
    fn new(settings: Settings) -> World {
        let mut table = Table::default();
        table.configure(settings);
        World { table, began: Instant::now(), now: Duration::ZERO, running: BTreeMap::new() }
    }

    fn at(&self) -> Now {
        Now { instant: self.began + self.now, epoch: Duration::from_secs(1_000_000) + self.now }
    }

    fn add(&mut self, job: Job) {
        let now = self.at();
        self.table.add(Arc::new(job), now);
        self.step();
    }

    /// Starts what is due. Returns the jobs that were started.
    fn step(&mut self) -> Vec<JobId> {
        let now = self.at();
        let started = self.table.due(now);
        self.table.check();
        let ids = started.iter().map(|start| start.job.id.clone()).collect();
        for start in started {
            assert!(self.running.insert(start.job.id.clone(), start).is_none(), "an id runs once at a time");
        }
        ids
    }

    fn end(&mut self, id: &str, ended: Ended) {
        self.end_when(id, ended, true);
    }

    fn end_when(&mut self, id: &str, ended: Ended, has_changes: bool) {
        let start = self.running.remove(id).unwrap_or_else(|| panic!("{id} does not run"));
        let now = self.at();
        self.table.ended(&start.job.id, start.pass, &ended, now, |_| has_changes);
        self.table.check();
    }

    /// Ends the passes that were asked to stop.
    fn stop_those_told(&mut self) -> Vec<JobId> {
        let told = |start: &Start| start.stop.is_cancelled();
        let ids: Vec<JobId> =
            self.running.values().filter(|start| told(start)).map(|start| start.job.id.clone()).collect();
        for id in &ids {
            self.end(id, Ended::Stopped);
        }
        ids
    }

    /// Advances to the next time at which something is due, and starts it. Returns how long that took.
    fn next(&mut self) -> Option<(Duration, Vec<JobId>)> {
        let next = self.table.next_time()?;
        let wait = next.saturating_duration_since(self.at().instant);
        self.now += wait;
        Some((wait, self.step()))
    }

    fn running(&self) -> BTreeSet<&str> {
        self.running.keys().map(|id| &**id).collect()
    }

    fn is_asleep(&self, id: &str) -> bool {
        matches!(self.table.get(id).map(|row| &row.phase), Some(Phase::Asleep { .. }))
    }
}

#[test]
fn crashes_are_tried_again_later_and_later() {
    let mut world = World::new(Settings::default());
    world.add(continuous("a"));
    let mut waits = Vec::new();
    for _ in 0..13 {
        world.end("a", crash());
        let begun = world.now;
        while world.next().is_some_and(|(_, started)| started.is_empty()) {}
        waits.push((world.now - begun).as_secs());
    }
    assert_eq!(waits[..5], [30, 60, 120, 240, 480]);
    assert_eq!(waits[9..], [15_360, 30_720, 30_720, 30_720], "8.5 hours at most");
    let row = world.table.get("a").unwrap();
    assert_eq!(row.crashes, 13);
}

#[test]
fn a_job_that_waits_after_a_crash_is_tried_at_once_when_asked() {
    let mut world = World::new(Settings::default());
    world.add(continuous("a"));
    world.end("a", crash());
    assert_eq!(world.step(), Vec::<JobId>::new(), "it waits");
    world.table.retry("a");
    world.table.retry("unknown");
    world.table.check();
    assert_eq!(world.step(), ["a".into()]);
    world.table.retry("a");
    world.end("a", crash());
    assert_eq!(world.table.get("a").unwrap().crashes, 2, "the next wait is longer");
}

#[test]
fn a_run_of_two_minutes_ends_a_row_of_crashes() {
    let mut world = World::new(Settings::default());
    world.add(continuous("a"));
    for _ in 0..3 {
        world.end("a", crash());
        while world.next().is_some_and(|(_, started)| started.is_empty()) {}
    }
    world.now += 2 * MINUTE + SECOND;
    world.end("a", crash());
    assert_eq!(world.table.get("a").unwrap().crashes, 0);
    assert_eq!(world.step(), ["a".into()], "it is started again at once");
    world.end("a", crash());
    assert_eq!(world.table.get("a").unwrap().crashes, 1);
    assert_eq!(world.next().map(|(wait, _)| wait), Some(30 * SECOND));
}

#[tokio::test]
async fn a_job_of_a_request_ends_at_its_first_crash() {
    let mut world = World::new(Settings::default());
    world.add(job_of("a", local("s"), true, Origin::Request));
    let end = world.table.wait("a").unwrap();
    world.end("a", crash());
    assert!(matches!(end.await, Ok(Ended::Crashed(_))));
    assert!(world.table.get("a").is_none());
    assert!(world.table.wait("a").is_none());
}

#[tokio::test]
async fn whoever_waits_for_a_job_is_told_of_its_completion_its_crash_and_its_removal() {
    let mut world = World::new(Settings::default());
    for id in ["a", "b", "c"] {
        world.add(once(id));
    }
    let [a, b, c] = ["a", "b", "c"].map(|id| world.table.wait(id).unwrap());
    world.end("a", completed());
    world.end("b", crash());
    let now = world.at();
    world.table.remove("c", now);
    assert!(matches!(a.await, Ok(Ended::Completed(_))));
    assert!(matches!(b.await, Ok(Ended::Crashed(_))));
    assert!(matches!(c.await, Ok(Ended::Stopped)));
    assert!(world.table.get("a").is_none(), "a complete job is no longer there");
    assert!(world.table.get("b").is_some(), "a document's job is tried again");
}

#[test]
fn rounds_exchange_the_jobs_that_ran_longest() {
    let mut world = World::new(Settings { max_jobs: 3, max_churn: 2, ..Settings::default() });
    for id in ["a", "b", "c", "d", "e"] {
        world.add(continuous(id));
        world.now += SECOND;
    }
    assert_eq!(world.running(), ["a", "b", "c"].into());
    let (wait, started) = world.next().unwrap();
    assert!(started.is_empty() && wait > 50 * SECOND);
    assert_eq!(world.stop_those_told(), ["a".into(), "b".into()]);
    world.step();
    assert_eq!(world.running(), ["c", "d", "e"].into());
    world.next().unwrap();
    assert_eq!(world.stop_those_told().first().map(|id| &**id), Some("c"), "it has run longest now");
    world.step();
    assert!(world.running().is_superset(&["a", "b"].into()), "those that have waited longest run");
    let counts = world.table.counts();
    assert_eq!((counts.total, counts.running, counts.pending), (5, 3, 2));
}

#[test]
fn a_job_that_runs_once_is_not_stopped() {
    let mut world = World::new(Settings { max_jobs: 2, ..Settings::default() });
    for job in [once("a"), continuous("b"), continuous("c"), once("d")] {
        world.add(job);
        world.now += SECOND;
    }
    assert_eq!(world.running(), ["a", "b"].into());
    world.next().unwrap();
    assert_eq!(world.stop_those_told(), ["b".into()]);
    world.step();
    // Fewer slots: what is too much is stopped, but not what runs once.
    world.table.configure(Settings { max_jobs: 0, ..Settings::default() });
    world.next().unwrap();
    world.stop_those_told();
    assert!(world.running().contains("a"));
}

#[test]
fn without_others_that_wait_nothing_is_stopped() {
    let mut world = World::new(Settings { max_jobs: 3, ..Settings::default() });
    for id in ["a", "b", "c"] {
        world.add(continuous(id));
    }
    for _ in 0..5 {
        world.next().unwrap();
        assert!(world.stop_those_told().is_empty());
    }
}

#[test]
fn a_free_slot_is_used_at_once() {
    let mut world = World::new(Settings { max_jobs: 1, ..Settings::default() });
    world.add(once("a"));
    world.add(once("b"));
    assert_eq!(world.running(), ["a"].into());
    world.end("a", completed());
    assert_eq!(world.step(), ["b".into()]);
}

#[test]
fn a_job_that_has_read_everything_sleeps_until_its_source_has_a_commit() {
    let mut world = World::new(Settings { max_jobs: 1, ..Settings::default() });
    world.add(continuous("a"));
    world.end("a", Ended::CaughtUp { sequence: 5 });
    assert!(world.is_asleep("a"));
    assert_eq!(world.table.next_time(), None, "no timer runs for a job that sleeps");
    world.table.wake("other", |_| true);
    world.table.wake("a-source", |sequence| sequence < 5);
    assert!(world.step().is_empty(), "a commit that it has seen");
    world.add(continuous("b"));
    assert_eq!(world.running(), ["b"].into(), "a job that sleeps holds no slot");
    world.end("b", Ended::CaughtUp { sequence: 1 });
    world.table.wake("a-source", |sequence| sequence < 6);
    assert_eq!(world.step(), ["a".into()]);
    let events = world.table.get("a").unwrap().history.to_json();
    assert_eq!(events.as_array().unwrap().len(), 2, "it was added and started: {events}");
}

#[test]
fn a_job_that_sleeps_wakes_for_its_checkpoint() {
    let mut world = World::new(Settings::default());
    let job = continuous("a");
    job.progress.set_checkpoint_due(Some(Duration::from_secs(1_000_030)));
    world.add(job);
    world.end("a", Ended::CaughtUp { sequence: 5 });
    assert_eq!(world.next(), Some((30 * SECOND, vec!["a".into()])));
    world.table.get("a").unwrap().job.progress.set_checkpoint_due(None);
    world.end("a", Ended::CaughtUp { sequence: 5 });
    assert_eq!(world.table.next_time(), None);
}

#[test]
fn a_commit_during_a_pass_is_not_missed() {
    let mut world = World::new(Settings::default());
    world.add(continuous("a"));
    world.table.wake("a-source", |_| true);
    world.end_when("a", Ended::CaughtUp { sequence: 5 }, true);
    assert_eq!(world.step(), ["a".into()]);
    world.table.wake("a-source", |_| true);
    world.end_when("a", Ended::CaughtUp { sequence: 6 }, false);
    assert!(world.is_asleep("a"), "the pass has read the commit");
}

#[test]
fn a_removed_job_is_stopped_and_its_id_waits_for_the_end_of_the_pass() {
    let mut world = World::new(Settings::default());
    world.add(continuous("a"));
    let now = world.at();
    world.table.remove("a", now);
    let old = world.running.remove("a").unwrap();
    assert!(old.stop.is_cancelled());
    world.add(once("a"));
    assert!(world.running().is_empty(), "the earlier pass still runs");
    assert!(world.table.ended(&old.job.id, old.pass, &Ended::Stopped, now, |_| true).is_none());
    assert_eq!(world.step(), ["a".into()]);
    assert!(world.table.ended(&old.job.id, old.pass, &completed(), now, |_| true).is_none(), "an old pass");
    assert_eq!(world.running(), ["a"].into());
}

#[test]
fn a_job_is_started_again_only_if_it_has_changed() {
    let mut world = World::new(Settings::default());
    world.add(continuous("a"));
    world.add(continuous("a"));
    assert!(!world.running["a"].stop.is_cancelled());
    let mut changed = continuous("a");
    let parameters = Parameters { filter: Filter::DocIds(vec!["x".into()]), ..changed.replication.parameters.clone() };
    changed.replication = Arc::new(Replication { id: changed.replication.id.clone(), parameters });
    let now = world.at();
    world.table.add(Arc::new(changed), now);
    assert!(world.running["a"].stop.is_cancelled());
}

#[test]
fn the_history_keeps_the_newest_events() {
    let mut world = World::new(Settings { max_history: 4, ..Settings::default() });
    world.add(continuous("a"));
    for _ in 0..4 {
        world.end("a", crash());
        while world.next().is_some_and(|(_, started)| started.is_empty()) {}
    }
    let events = world.table.get("a").unwrap().history.to_json();
    let types: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["started", "crashed", "started", "crashed"]);
}

#[test]
fn jobs_of_databases_with_more_shares_run_more() {
    let shares = [("rich/_replicator".to_owned(), 400)].into();
    let mut world = World::new(Settings { max_jobs: 2, max_churn: 2, shares, ..Settings::default() });
    for id in ["a", "b", "c", "d"] {
        for owner in ["rich", "poor"] {
            let id = format!("{owner}-{id}");
            let origin = Origin::Document { database: format!("{owner}/_replicator").into(), id: id.as_str().into() };
            world.add(job_of(&id, local(&format!("{id}-source")), true, origin));
        }
    }
    let (mut rich, mut poor) = (0, 0);
    for _ in 0..200 {
        world.next().unwrap();
        world.stop_those_told();
        world.step();
        for id in world.running() {
            match id.starts_with("rich") {
                true => rich += 1,
                false => poor += 1,
            }
        }
    }
    assert!(rich > poor, "{rich} {poor}");
    assert!(poor > 40, "nothing waits for ever: {rich} {poor}");
}

#[test]
fn random_events_keep_the_queues_right() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_u64);
    let mut random = seed;
    let mut next = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    let mut world = World::new(Settings { max_jobs: 4, max_churn: 2, ..Settings::default() });
    for step in 0..20_000 {
        let id = format!("j{}", next(12));
        match next(9) {
            0 | 1 => world.add(if next(2) == 0 { continuous(&id) } else { once(&id) }),
            2 => {
                let now = world.at();
                let removed = world.table.remove(&id, now);
                if let (Some(job), true) = (removed, world.running.contains_key(&*id)) {
                    let start = world.running.remove(&job.id).unwrap();
                    world.table.ended(&start.job.id, start.pass, &Ended::Stopped, now, |_| true);
                }
            }
            3 => _ = world.table.wake(&format!("{id}-source"), |_| true),
            4 => world.now += SECOND * (next(100) as u32),
            5 => drop(world.next()),
            6 => drop(world.stop_those_told()),
            _ => {
                let Some(id) = world.running.keys().next().cloned() else { continue };
                let continuous = world.running[&id].job.is_continuous();
                let ended = match next(3) {
                    0 => crash(),
                    _ if continuous => Ended::CaughtUp { sequence: next(5) },
                    _ => completed(),
                };
                // A job that was replaced has two passes for a while; the first one ends first.
                world.end_when(&id, ended, next(2) == 0);
            }
        }
        // Replaced jobs: their earlier passes were asked to stop.
        let told: Vec<JobId> = world
            .running
            .iter()
            .filter(|(id, start)| {
                let is_current = matches!(
                    world.table.get(id).map(|row| &row.phase),
                    Some(Phase::Running(pass)) if pass.number == start.pass
                );
                !is_current
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in told {
            let start = world.running.remove(&id).unwrap();
            let now = world.at();
            world.table.ended(&id, start.pass, &Ended::Stopped, now, |_| true);
        }
        world.step();
        world.table.check();
        assert!(world.running.len() <= 4, "seed {seed}, step {step}");
    }
}

/// A runner whose passes end as the test says; others run until they are stopped.
#[derive(Default)]
struct Script {
    ends: Mutex<BTreeMap<JobId, Vec<Ended>>>,
    begun: Mutex<Vec<JobId>>,
}

impl Run for Script {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        stop: &'a CancellationToken,
    ) -> std::pin::Pin<Box<dyn Future<Output = Ended> + Send + 'a>> {
        self.begun.lock().push(job.id.clone());
        let end = self.ends.lock().get_mut(&job.id).and_then(Vec::pop);
        Box::pin(async move {
            assert_ne!(&*job.id, "panics", "a pass that panics");
            match end {
                Some(end) => end,
                None => {
                    stop.cancelled().await;
                    Ended::Stopped
                }
            }
        })
    }
}

#[tokio::test]
async fn the_driver_runs_jobs_and_reports_what_becomes_of_them() {
    let (scheduler, mut reports) = Scheduler::new(Clock::system(), Box::new(|_, _| true));
    let script = Arc::new(Script::default());
    script.ends.lock().insert("a".into(), vec![completed()]);
    script.ends.lock().insert("r".into(), vec![completed()]);
    let driver = tokio::spawn(scheduler.clone().drive(script.clone()));
    scheduler.add(once("a")).unwrap();
    scheduler.add(once("panics")).unwrap();
    scheduler.add(continuous("c")).unwrap();
    let end = scheduler.join(job_of("r", local("x"), false, Origin::Request), allow).unwrap().unwrap();
    assert!(matches!(end.await, Ok(Ended::Completed(_))));
    let mut told = BTreeMap::new();
    while told.len() < 2 {
        let report = reports.recv().await.unwrap();
        let is_crash = match report.what {
            What::Completed => false,
            What::Crashed(failure) => {
                assert!(failure.to_string().contains("a pass that panics"), "{failure}");
                true
            }
        };
        told.insert(report.job.id.clone(), is_crash);
    }
    assert_eq!(told, [("a".into(), false), ("panics".into(), true)].into());
    assert_eq!(scheduler.summary("panics").map(|summary| summary.state), Some(State::Crashing));
    assert_eq!(scheduler.tasks().len(), 1, "only the continuous job runs");
    assert!(scheduler.remove_of("c", &Origin::Request).is_none(), "that of a document");
    assert!(scheduler.remove_of("c", &of_document("c")).is_some());
    let counts = scheduler.counts();
    assert_eq!((counts.total, counts.crashing, counts.completions), (1, 1, 2));
    driver.abort();
}

fn allow(_: Option<&Job>, _: &dyn Fn() -> usize) -> Result<(), ()> {
    Ok(())
}

/// A continuous job of `_replicate`, with a password for its source.
fn of_request(user: &str, password: &str) -> Job {
    let source = Endpoint::Remote(Box::new(RemoteEndpoint {
        url: "http://h/db".parse().unwrap(),
        headers: http::HeaderMap::new(),
        auth: Some(Basic { username: "ann".into(), password: password.into() }),
        proxy: None,
    }));
    let user = UserCtx { name: Some(user.to_owned()), ..UserCtx::default() };
    Job { user: JobUser { user, acts_as: None }, ..job_of("r", source, true, Origin::Request) }
}

#[test]
fn a_request_joins_the_job_that_does_its_work_and_replaces_one_with_another_password() {
    let (scheduler, _reports) = Scheduler::new(Clock::system(), Box::new(|_, _| true));
    let password = || {
        let job = scheduler.job("r").unwrap();
        let Endpoint::Remote(remote) = &job.replication.parameters.source else { panic!("a remote source") };
        remote.auth.clone().unwrap().password
    };
    let mut first = scheduler.join(of_request("bob", "old"), allow).unwrap().unwrap();
    let job = scheduler.job("r").unwrap();
    let _same = scheduler.join(of_request("bob", "old"), allow).unwrap().unwrap();
    let _admin = scheduler.join(of_request("admin", "old"), allow).unwrap().unwrap();
    assert!(Arc::ptr_eq(&job, &scheduler.job("r").unwrap()), "the same work is not begun again");
    assert!(first.try_recv().is_err(), "it goes on");
    let with_roles = |roles: &[&str]| {
        let mut job = of_request("bob", "old");
        job.user.user.roles = roles.iter().map(|role| (*role).to_owned()).collect();
        job.user.user.handler = Some(crate::auth::Handler::Jwt);
        job
    };
    let _token = scheduler.join(with_roles(&["staff"]), allow).unwrap().unwrap();
    let of_token = scheduler.job("r").unwrap();
    assert!(!Arc::ptr_eq(&job, &of_token), "the rights of another token");
    let _token = scheduler.join(with_roles(&["staff"]), allow).unwrap().unwrap();
    assert!(Arc::ptr_eq(&of_token, &scheduler.job("r").unwrap()), "the same rights");
    assert!(matches!(first.try_recv(), Ok(Ended::Stopped)), "those who wait are told");
    let _new = scheduler.join(of_request("bob", "new"), allow).unwrap().unwrap();
    assert_eq!(password(), "new");
    let refused = scheduler.join(of_request("eve", "eves"), |known, begun| {
        assert_eq!((known.unwrap().user.user.name.as_deref(), begun()), (Some("bob"), 0));
        Err("no")
    });
    assert_eq!((refused.err(), password()), (Some("no"), "new".to_owned()), "nothing has changed");
    assert_eq!(scheduler.remove("r", |_| Err("no")).err(), Some("no"));
    assert!(scheduler.job("r").is_some());
    assert_eq!(scheduler.add(job_of("r", local("x"), true, of_document("d"))), Err(Origin::Request));
    assert_eq!(password(), "new", "a document does not take the job of a request over");
}

#[tokio::test]
async fn when_the_server_stops_passes_are_told() {
    let (scheduler, _reports) = Scheduler::new(Clock::system(), Box::new(|_, _| true));
    let script = Arc::new(Script::default());
    let driver = tokio::spawn(scheduler.clone().drive(script.clone()));
    scheduler.add(continuous("a")).unwrap();
    while script.begun.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    driver.abort();
    while scheduler.counts().stops == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(script.begun.lock().len(), 1, "it is not started again");
}
