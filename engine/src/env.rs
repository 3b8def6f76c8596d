//! What comes from outside: time, chance and the disk.
//!
//! The engine asks for these and never reaches for them, so a test can hand in its own and live a whole day again
//! from a seed. Waiting is the fourth of the kind and has its own module, [`wait`](crate::wait).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::Disk;
use crate::types::Timestamp;

/// A moment on a clock that never goes back: nanoseconds since some start.
///
/// ```
/// use std::time::Duration;
/// use girok_engine::Moment;
/// let start = Moment::from_nanos(5);
/// assert_eq!((start + Duration::from_nanos(7)).since(start), Duration::from_nanos(7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// Wraps nanoseconds since the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Moment(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(time.as_nanos().min(u64::MAX as u128) as u64))
    }
}

/// Time. `now` orders things and never goes back; `wall` stamps records and may jump.
///
/// ```
/// use std::sync::Arc;
/// use girok_engine::{Clock, Env, Moment, Timestamp};
/// #[derive(Debug)]
/// struct AlwaysNoon;
/// impl Clock for AlwaysNoon {
///     fn now(&self) -> Moment { Moment::from_nanos(0) }
///     fn wall(&self) -> Timestamp { Timestamp::from_millis(43_200_000) }
/// }
/// let env = Env { clock: Arc::new(AlwaysNoon), ..Env::in_memory() };
/// assert_eq!(env.clock.wall(), Timestamp::from_millis(43_200_000));
/// ```
pub trait Clock: Send + Sync + fmt::Debug {
    /// The monotonic clock.
    fn now(&self) -> Moment;
    /// The wall clock.
    fn wall(&self) -> Timestamp;
}

/// Chance: topic ids and member ids need it, nothing else does.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use girok_engine::Chance;
/// #[derive(Debug, Default)]
/// struct Counting(AtomicU64);
/// impl Chance for Counting {
///     fn next_u64(&self) -> u64 { self.0.fetch_add(1, Ordering::Relaxed) }
/// }
/// let chance: &dyn Chance = &Counting::default();
/// assert_eq!((chance.next_u64(), chance.next_u64()), (0, 1));
/// ```
pub trait Chance: Send + Sync + fmt::Debug {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// The machine's clocks.
///
/// ```
/// use girok_engine::{Clock, SystemClock};
/// let clock = SystemClock::new();
/// let earlier = clock.now();
/// assert!(clock.now() >= earlier, "it never goes back");
/// ```
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        SystemClock { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::from_millis(since.as_millis() as i64)
    }
}

/// Random bits from a seed (SplitMix64). The same seed gives the same bits; threads share one stream.
///
/// ```
/// use girok_engine::{Chance, SeededChance};
/// let (one, other) = (SeededChance::new(7), SeededChance::new(7));
/// assert_eq!(one.next_u64(), other.next_u64());
/// assert_ne!(one.next_u64(), SeededChance::new(8).next_u64());
/// ```
#[derive(Debug)]
pub struct SeededChance {
    state: AtomicU64,
}

impl SeededChance {
    /// The stream that `seed` begins.
    pub fn new(seed: u64) -> Self {
        SeededChance { state: AtomicU64::new(seed) }
    }

    /// A stream seeded by the operating system.
    pub fn from_system() -> Self {
        // The standard library's hasher keys are drawn from the system's random source.
        use std::hash::{BuildHasher, Hasher};
        SeededChance::new(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }
}

impl Chance for SeededChance {
    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Env {
    /// This machine: its disk, its clocks, its chance.
    pub fn system() -> Self {
        Env {
            disk: Arc::new(crate::disk::SystemDisk::new()),
            clock: Arc::new(SystemClock::new()),
            chance: Arc::new(SeededChance::from_system()),
        }
    }

    /// This machine, but a disk in memory that is gone with the process: for tests and throw-away logs.
    pub fn in_memory() -> Self {
        Env { disk: Arc::new(crate::disk::MemoryDisk::new()), ..Env::system() }
    }
}

/// The three of them, handed to [`Log::open`](crate::Log::open).
///
/// ```
/// use std::sync::Arc;
/// use girok_engine::{Env, Log, LogConfig, SeededChance, TopicConfig};
/// let live = || {
///     let env = Env { chance: Arc::new(SeededChance::new(7)), ..Env::in_memory() };
///     Log::open(env, "/log", LogConfig::default())?.0.create_topic("orders", 1, TopicConfig::default())
/// };
/// assert_eq!(live()?, live()?, "the same seed, the same topic id");
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Env {
    /// Where bytes rest.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What nobody can know.
    pub chance: Arc<dyn Chance>,
}
