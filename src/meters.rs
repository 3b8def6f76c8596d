//! Numbers for the `metrics` facade, told by the background every so often and never from a hot path.
//!
//! Producers and consumers count in a few relaxed words, once a batch or once a poll; [`Meters::publish`] hands those,
//! and the engine's [`Stats`](girok_engine::Stats), to whatever recorder the program installed. The crate's front page
//! lists the names.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use girok_engine::Moment;

use crate::core::Core;
use crate::error::Error;

/// One word that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) produced_records: Count,
    pub(crate) produced_batches: Count,
    pub(crate) produced_bytes: Count,
    pub(crate) failed_batches: Count,
    pub(crate) polls: Count,
    pub(crate) polled_records: Count,
    pub(crate) overtaken: Count,
    steps_failed: Count,
    last_failure: Mutex<Option<Error>>,
    interval: Option<Duration>,
    due: Mutex<Moment>,
}

impl Meters {
    pub(crate) fn new(interval: Option<Duration>, now: Moment) -> Self {
        let due = interval.map_or(now, |interval| now + interval);
        Meters { interval, due: Mutex::new(due), ..Meters::default() }
    }

    pub(crate) fn step_failed(&self, error: &Error) {
        self.steps_failed.add(1);
        *self.last_failure.lock().unwrap() = Some(error.clone());
    }

    pub(crate) fn last_failure(&self) -> Option<Error> {
        self.last_failure.lock().unwrap().clone()
    }

    /// Tells the recorder, if it is time.
    pub(crate) fn publish(&self, core: &Core, now: Moment, next: &mut Moment) {
        let Some(interval) = self.interval else { return };
        {
            let mut due = self.due.lock().unwrap();
            if now < *due {
                *next = (*next).min(*due);
                return;
            }
            *due = now + interval;
            *next = (*next).min(*due);
        }
        let stats = core.log.stats();
        let dir = core.log.dir().display().to_string();
        let gauge = |name: &'static str, value: f64| metrics::gauge!(name, "dir" => dir.clone()).set(value);
        let counter =
            |name: &'static str, value: u64| metrics::counter!(name, "dir" => dir.clone()).absolute(value);
        gauge("girok_topics", stats.topics as f64);
        gauge("girok_partitions", stats.partitions as f64);
        gauge("girok_partitions_live", stats.partitions_live as f64);
        gauge("girok_partitions_poisoned", stats.poisoned as f64);
        gauge("girok_regions", stats.regions as f64);
        gauge("girok_mappings", stats.mappings as f64);
        gauge("girok_log_bytes", stats.log_bytes as f64);
        gauge("girok_held_removed_bytes", stats.held_removed_bytes as f64);
        counter("girok_syncs_total", stats.disk.syncs);
        counter("girok_ring_submissions_total", stats.disk.ring_submissions);
        counter("girok_written_bytes_total", stats.disk.written_bytes);
        counter("girok_read_bytes_total", stats.disk.read_bytes);
        counter("girok_produced_records_total", self.produced_records.get());
        counter("girok_produced_batches_total", self.produced_batches.get());
        counter("girok_produced_bytes_total", self.produced_bytes.get());
        counter("girok_failed_batches_total", self.failed_batches.get());
        counter("girok_polls_total", self.polls.get());
        counter("girok_polled_records_total", self.polled_records.get());
        counter("girok_overtaken_total", self.overtaken.get());
        counter("girok_background_failures_total", self.steps_failed.get());
    }
}
