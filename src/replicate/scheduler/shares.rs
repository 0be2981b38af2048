//! Fair shares: which of the waiting jobs runs next (Kay and Lauder, "A Fair Share Scheduler"; CouchDB's
//! `couch_replicator_share`).
//!
//! Jobs are charged for the time that they ran. A job's priority is a number: the lowest runs next. It grows with
//! what the jobs of the same `_replicator` database (or of the same user) have used, with how many they are, and
//! shrinks with the shares of the database. All priorities decay, so that no job waits for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::settings::Settings;

/// What remains of a usage after a round.
const USAGE: f64 = 0.5;
/// What remains of a priority after a round.
const PRIORITY: f64 = 0.98;

/// A job's place in the queue, as of a round. It decays with each round that follows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Priority {
    value: f64,
    round: u64,
}

/// What the jobs of one database, or of one user, have used.
#[derive(Debug, Default)]
struct Account {
    jobs: u64,
    /// Microseconds in the past rounds, decayed.
    usage: f64,
    /// Microseconds in this round.
    charges: f64,
}

/// The accounts of all jobs.
#[derive(Debug, Default)]
pub struct Shares {
    round: u64,
    accounts: HashMap<Arc<str>, Account>,
}

impl Shares {
    /// A job was added. Returns its priority: that of a job which has run for a round.
    pub fn added(&mut self, key: &Arc<str>, settings: &Settings) -> Priority {
        self.accounts.entry(key.clone()).or_default().jobs += 1;
        self.raised(Priority { value: 0.0, round: self.round }, key, settings)
    }

    /// A job was removed.
    pub fn removed(&mut self, key: &str) {
        if let Some(account) = self.accounts.get_mut(key) {
            account.jobs = account.jobs.saturating_sub(1);
        }
    }

    /// Charges a job that has run for `time` in this round.
    pub fn charge(&mut self, key: &Arc<str>, time: Duration) {
        self.accounts.entry(key.clone()).or_default().charges += time.as_micros() as f64;
    }

    /// Begins the next round. Afterwards, raise the priorities of the jobs that run.
    pub fn next_round(&mut self) {
        self.round += 1;
        for account in self.accounts.values_mut() {
            account.usage = (account.usage * USAGE).trunc() + account.charges;
            account.charges = 0.0;
        }
        self.accounts.retain(|_, account| account.jobs > 0 || account.usage > 0.0);
    }

    /// The priority of a job that ran in the last round.
    pub fn raised(&self, priority: Priority, key: &str, settings: &Settings) -> Priority {
        let (usage, jobs) = self.accounts.get(key).map_or((0.0, 0), |account| (account.usage, account.jobs));
        let shares = settings.shares_of(key) as f64;
        let more = (usage * jobs as f64 / (shares * shares)).trunc();
        Priority { value: self.now(priority) + more, round: self.round }
    }

    /// The value of a priority in this round, decayed.
    pub fn now(&self, priority: Priority) -> f64 {
        let rounds = self.round.saturating_sub(priority.round);
        priority.value * PRIORITY.powi(i32::try_from(rounds).unwrap_or(i32::MAX))
    }

    /// The order of waiting jobs, the first to run first. Independent of the round in which it is computed: all
    /// priorities decay by the same factor.
    pub fn rank(&self, priority: Priority) -> u64 {
        // log2(value / factor^round), ordered. The value is scaled up by what the rounds have taken, so that
        // ranks of different rounds compare. Zero is the lowest rank.
        if priority.value < 1.0 {
            return 0;
        }
        let log = priority.value.log2() - (priority.round as f64) * PRIORITY.log2();
        (log * 1024.0) as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn more_shares_run_earlier_and_more_siblings_later() {
        let settings = Settings { shares: [("rich".to_owned(), 200)].into(), ..Settings::default() };
        let mut shares = Shares::default();
        let (rich, poor, big) = (key("rich"), key("poor"), key("big"));
        let mut of = |key: &Arc<str>| shares.added(key, &settings);
        let [rich_job, poor_job, big_job] = [of(&rich), of(&poor), of(&big)];
        for _ in 0..9 {
            of(&big);
        }
        for key in [&rich, &poor, &big] {
            shares.charge(key, MINUTE);
        }
        shares.next_round();
        let raised = |priority, key: &str| shares.raised(priority, key, &settings);
        let rich = raised(rich_job, &rich);
        let poor = raised(poor_job, &poor);
        let big = raised(big_job, &big);
        assert_eq!(shares.now(poor), 6000.0, "the example of CouchDB's documentation");
        assert_eq!(shares.now(rich), 1500.0);
        assert_eq!(shares.now(big), 60_000.0);
        assert!(shares.rank(rich) < shares.rank(poor) && shares.rank(poor) < shares.rank(big));
    }

    #[test]
    fn a_job_that_waits_moves_to_the_front() {
        let settings = Settings::default();
        let mut shares = Shares::default();
        let key = key("db");
        let waiting = shares.added(&key, &settings);
        shares.charge(&key, MINUTE);
        shares.next_round();
        let waiting = shares.raised(waiting, &key, &settings);
        let before = shares.now(waiting);
        for _ in 0..10 {
            shares.charge(&key, MINUTE);
            shares.next_round();
        }
        assert!(shares.now(waiting) < before);
        let ran = shares.raised(Priority { value: before, round: 1 }, &key, &settings);
        assert!(shares.rank(waiting) < shares.rank(ran), "a job that ran meanwhile runs later");
    }

    #[test]
    fn accounts_are_forgotten_when_their_usage_has_decayed() {
        let settings = Settings::default();
        let mut shares = Shares::default();
        let key = key("db");
        shares.added(&key, &settings);
        shares.charge(&key, MINUTE);
        shares.removed(&key);
        shares.next_round();
        assert_eq!(shares.accounts.len(), 1, "a job that is removed and added again does not run for free");
        for _ in 0..30 {
            shares.next_round();
        }
        assert!(shares.accounts.is_empty());
    }
}
