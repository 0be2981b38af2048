//! What the server did in the last hour and the last day: samples of its counters, in memory, for the charts of the
//! console. They cost a request nothing: a job reads the counters every ten seconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use super::metrics::{BOUNDS_MS, Metrics, Times};

/// Milliseconds between two samples of the last hour: the interval of the job that takes samples.
pub const HOUR_STEP: u64 = 10_000;
/// Milliseconds between two samples of the last day.
const DAY_STEP: u64 = 300_000;

/// The samples. About 60 KB when both periods are full.
pub struct History {
    hour: Mutex<Series>,
    day: Mutex<Series>,
}

/// A period of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Hour,
    Day,
}

/// What happened in one step, and how much there was at its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The end of the step, in milliseconds since 1970.
    pub at: u64,
    /// Requests that ended.
    pub requests: u64,
    pub errors_4xx: u64,
    pub errors_5xx: u64,
    /// Times of requests in milliseconds, without feeds, which wait. The percentiles are interpolated in the buckets of
    /// the histogram. `None` if there was no request.
    pub latency_mean_ms: Option<f64>,
    pub latency_p95_ms: Option<f64>,
    pub latency_p99_ms: Option<f64>,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Bytes of the store on disk.
    pub disk: u64,
    /// Open connections.
    pub connections: i64,
    /// Clients of `_changes` that wait.
    pub feeds: i64,
    /// Bytes of response bodies, before compression.
    pub bytes_sent: u64,
}

/// The counters at one moment.
#[derive(Clone, Default)]
struct Counters {
    requests: u64,
    errors_4xx: u64,
    errors_5xx: u64,
    bytes_sent: u64,
    times: Times,
}

struct Series {
    step: u64,
    most: usize,
    before: Counters,
    /// The end of the last step.
    last: u64,
    samples: VecDeque<Sample>,
}

impl Counters {
    fn read(metrics: &Metrics) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            requests: of(&metrics.requests) + of(&metrics.aborted_requests),
            errors_4xx: of(&metrics.client_errors),
            errors_5xx: of(&metrics.server_errors),
            bytes_sent: of(&metrics.sent_bytes),
            times: metrics.times_without_feeds(),
        }
    }
}

impl History {
    /// An empty history that begins at `now`, in milliseconds since 1970.
    pub fn new(now: u64) -> History {
        let series = |step, most| {
            let before = Counters::default();
            Mutex::new(Series { step, most, before, last: now, samples: VecDeque::new() })
        };
        History { hour: series(HOUR_STEP, 360), day: series(DAY_STEP, 288) }
    }

    /// Takes a sample at `now`.
    pub fn record(&self, now: u64, metrics: &Metrics, memory: u64, disk: u64) {
        let counters = Counters::read(metrics);
        for series in [&self.hour, &self.day] {
            let mut series = series.lock();
            // The clock may be set back, and the job may be early by a little.
            if now >= series.last && now - series.last < series.step - HOUR_STEP / 2 {
                continue;
            }
            let sample = sample(now, &series.before, &counters, metrics, memory, disk);
            series.before = counters.clone();
            series.last = now;
            series.samples.push_back(sample);
            while series.samples.len() > series.most {
                series.samples.pop_front();
            }
        }
    }

    /// The step of a period in milliseconds, and its samples, oldest first.
    pub fn samples(&self, period: Period) -> (u64, Vec<Sample>) {
        let series = match period {
            Period::Hour => &self.hour,
            Period::Day => &self.day,
        };
        let series = series.lock();
        (series.step, series.samples.iter().cloned().collect())
    }
}

fn sample(now: u64, before: &Counters, after: &Counters, metrics: &Metrics, memory: u64, disk: u64) -> Sample {
    let times = after.times.since(&before.times);
    Sample {
        at: now,
        requests: after.requests.saturating_sub(before.requests),
        errors_4xx: after.errors_4xx.saturating_sub(before.errors_4xx),
        errors_5xx: after.errors_5xx.saturating_sub(before.errors_5xx),
        latency_mean_ms: mean(&times),
        latency_p95_ms: percentile(&times, 0.95),
        latency_p99_ms: percentile(&times, 0.99),
        memory,
        disk,
        connections: metrics.open_connections.value(),
        feeds: metrics.clients_requesting_changes.value(),
        bytes_sent: after.bytes_sent.saturating_sub(before.bytes_sent),
    }
}

/// Rounded to a hundredth.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn mean(times: &Times) -> Option<f64> {
    let count: u64 = times.buckets.iter().sum();
    (count > 0).then(|| rounded(times.total_us as f64 / 1000.0 / count as f64))
}

/// The time that this share of the requests did not exceed, as if the times of a bucket were spread evenly. A time in the
/// last bucket, which has no upper bound, counts as the bound below it, or as the mean of all times if that is longer.
fn percentile(times: &Times, share: f64) -> Option<f64> {
    let count: u64 = times.buckets.iter().sum();
    if count == 0 {
        return None;
    }
    let wanted = share * count as f64;
    let mut before = 0.0;
    let mut low = 0.0;
    for (index, bucket) in times.buckets.iter().enumerate() {
        let Some(bound) = BOUNDS_MS.get(index) else { break };
        let (bound, bucket) = (*bound as f64, *bucket as f64);
        if bucket > 0.0 && before + bucket >= wanted {
            return Some(rounded(low + (bound - low) * (wanted - before) / bucket));
        }
        before += bucket;
        low = bound;
    }
    Some(mean(times).map_or(low, |mean| mean.max(low)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn count(metrics: &Metrics, status: u16, millis: u64, is_feed: bool) {
        metrics.count("GET", status, Duration::from_millis(millis), 10, true, is_feed);
    }

    #[test]
    fn a_sample_has_what_happened_in_its_step() {
        let (history, metrics) = (History::new(0), Metrics::default());
        for status in [200, 200, 404, 503] {
            count(&metrics, status, 3, false);
        }
        count(&metrics, 200, 60_000, true);
        history.record(10_000, &metrics, 7, 8);
        history.record(20_000, &metrics, 9, 8);
        let (step, samples) = history.samples(Period::Hour);
        assert_eq!((step, samples.len()), (10_000, 2));
        let first = &samples[0];
        assert_eq!((first.at, first.requests, first.errors_4xx, first.errors_5xx), (10_000, 5, 1, 1));
        assert_eq!((first.latency_mean_ms, first.bytes_sent, first.memory), (Some(3.0), 50, 7), "without the feed");
        let second = &samples[1];
        assert_eq!((second.requests, second.latency_mean_ms, second.latency_p95_ms, second.memory), (0, None, None, 9));
        assert_eq!(history.samples(Period::Day).1, []);
        for step in 3..=60 {
            history.record(step * 10_000, &metrics, 0, 0);
        }
        let (step, samples) = history.samples(Period::Day);
        let seen: Vec<_> = samples.iter().map(|sample| (sample.at, sample.requests)).collect();
        assert_eq!((step, seen), (300_000, vec![(300_000, 5), (600_000, 0)]));
    }

    #[test]
    fn memory_is_bounded_and_a_clock_set_back_does_no_harm() {
        let (history, metrics) = (History::new(1_000_000_000), Metrics::default());
        for step in 0..1000 {
            history.record(step * 300_000, &metrics, 0, 0);
        }
        assert_eq!(history.samples(Period::Hour).1.len(), 360);
        assert_eq!(history.samples(Period::Day).1.len(), 288);
    }

    #[test]
    fn percentiles_lie_in_their_bucket() {
        let times = |buckets: &[(usize, u64)]| {
            let mut times = Times::default();
            for (index, count) in buckets {
                times.buckets[*index] = *count;
            }
            times
        };
        for (buckets, share, wanted) in [
            (&[][..], 0.95, None),
            (&[(0, 100)], 0.5, Some(0.5)),
            (&[(0, 90), (4, 10)], 0.95, Some(15.0)),
            (&[(0, 1), (11, 99)], 0.95, Some(5000.0)),
            (&[(3, 1)], 0.99, Some(9.95)),
        ] {
            assert_eq!(percentile(&times(buckets), share), wanted, "{buckets:?} {share}");
        }
        let slow = Times { total_us: 20_000_000, ..times(&[(11, 1)]) };
        assert_eq!(percentile(&slow, 0.95), Some(20_000.0), "never below the mean of requests that all are slow");
    }
}
