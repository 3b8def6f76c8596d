//! Time and chance for the simulated world, and the world itself: a disk, a clock and a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use girok_engine::{Clock, Env, Moment, SeededChance, Timestamp};

use super::{Rng, SimDisk};

/// A clock that is told the time. Both hands advance together; the wall can be set or jump by itself, as it does
/// when somebody corrects it.
#[derive(Debug)]
pub struct SimClock {
    nanos: AtomicU64,
    wall_ms: AtomicI64,
    /// Nanoseconds that the wall has not shown yet because it counts in milliseconds.
    rest: AtomicU64,
}

impl SimClock {
    /// At moment 0, on a day in November 2023.
    pub fn new() -> Self {
        SimClock {
            nanos: AtomicU64::new(0),
            wall_ms: AtomicI64::new(1_700_000_000_000),
            rest: AtomicU64::new(0),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let by = by.as_nanos() as u64;
        self.nanos.fetch_add(by, Ordering::SeqCst);
        let rest = self.rest.load(Ordering::SeqCst) + by;
        self.rest.store(rest % 1_000_000, Ordering::SeqCst);
        self.wall_ms.fetch_add((rest / 1_000_000) as i64, Ordering::SeqCst);
    }

    /// Moves the wall clock by this many milliseconds, back if negative; the monotonic one does not notice.
    pub fn jump_wall(&self, by_ms: i64) {
        self.wall_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Sets the wall clock.
    pub fn set_wall(&self, to: Timestamp) {
        self.wall_ms.store(to.as_millis(), Ordering::SeqCst);
    }
}

impl Default for SimClock {
    fn default() -> Self {
        SimClock::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.nanos.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.wall_ms.load(Ordering::SeqCst))
    }
}

/// A machine that lives from a seed.
///
/// The choices of the scene (`rng`), of the disk and of the engine come from three separate streams, so that a test
/// that draws once more does not change what the disk does.
#[derive(Debug)]
pub struct SimWorld {
    /// The seed it began with.
    pub seed: u64,
    /// The scene's own choices.
    pub rng: Rng,
    /// Its disk.
    pub disk: Arc<SimDisk>,
    /// Its clock.
    pub clock: Arc<SimClock>,
    chance: Arc<SeededChance>,
}

impl SimWorld {
    /// The world of this seed, before anything has happened.
    pub fn from_seed(seed: u64) -> Self {
        SimWorld {
            seed,
            rng: Rng::new(seed ^ 0x5CE4_E000_0000_0001),
            disk: Arc::new(SimDisk::new(seed ^ 0xD15C_0000_0000_0002)),
            clock: Arc::new(SimClock::new()),
            chance: Arc::new(SeededChance::new(seed ^ 0xC4A4_CE00_0000_0003)),
        }
    }

    /// What an engine that starts now takes from outside. Ask again after a death: the disk of the dead gives `EIO`.
    pub fn env(&self) -> Env {
        Env { disk: Arc::new(self.disk.mount()), clock: self.clock.clone(), chance: self.chance.clone() }
    }
}
