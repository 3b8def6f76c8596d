//! What time it is for offsets that grow old: the wall clock, unless it jumps.
//!
//! Offsets expire by the wall clock, and wall clocks are set by people and by machines that lost their battery. A jump
//! of years must not cost every group its offsets, so time here never goes back, and a jump forward of more than an
//! hour counts only when the next check still sees it. Until then time goes on at the pace of the monotonic clock.

use std::time::Duration;

use girok_engine::{Moment, Timestamp};

use super::Now;

/// A forward jump beyond this needs a second witness.
const JUMP: Duration = Duration::from_hours(1);

/// The coordinator's idea of the wall clock, from check to check.
///
/// ```
/// use std::time::Duration;
/// use girok_coordinator::{ExpiryClock, Now};
/// use girok_engine::{Moment, Timestamp};
///
/// let at = |secs: u64, wall_ms| Now {
///     wall: Timestamp::from_millis(wall_ms),
///     now: Moment::from_nanos(0) + Duration::from_secs(secs),
/// };
/// let mut clock = ExpiryClock::since(Timestamp::from_millis(1_000));
/// clock = clock.look(at(0, 1_000)).clock;
/// // Ten minutes later the wall clock stands in another century: nobody believes it yet.
/// let seen = clock.look(at(600, 4_000_000_000_000));
/// assert_eq!((seen.held, seen.wall), (true, Timestamp::from_millis(601_000)));
/// // Ten more minutes, and it still does.
/// let seen = seen.clock.look(at(1200, 4_000_000_600_000));
/// assert_eq!((seen.held, seen.wall), (false, Timestamp::from_millis(4_000_000_600_000)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryClock {
    /// The latest timestamp of the log. It tells whether much time has passed, but nobody vouches for it: a commit
    /// may have been stamped while the clock stood wrong.
    hint: Timestamp,
    /// The latest time that is believed, and when that was.
    seen: Option<(Timestamp, Moment)>,
    /// A time that was too good to be true, waiting for the next check.
    jumped: Option<(Timestamp, Moment)>,
}

/// One look at an [`ExpiryClock`].
///
/// ```
/// use girok_coordinator::{ExpiryClock, ExpiryTime, Now};
/// use girok_engine::{Moment, Timestamp};
/// let wall = Timestamp::from_millis(1_000);
/// let now = Now { wall, now: Moment::from_nanos(0) };
/// let seen: ExpiryTime = ExpiryClock::since(wall).look(now);
/// assert_eq!((seen.wall, seen.held, seen.clock.seen()), (wall, false, wall));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryTime {
    /// The time to expire by.
    pub wall: Timestamp,
    /// Whether the wall clock has jumped and is not believed yet.
    pub held: bool,
    /// What to look at the next time.
    pub clock: ExpiryClock,
}

impl ExpiryClock {
    /// A clock that has not been looked at, over a log whose latest timestamp is `hint`.
    pub fn since(hint: Timestamp) -> Self {
        ExpiryClock { hint, seen: None, jumped: None }
    }

    /// The latest time that is believed; [`Timestamp::NONE`] before any is. Commits are stamped no earlier, or they
    /// would be born old after a clock was set back.
    pub fn seen(self) -> Timestamp {
        self.seen.map_or(Timestamp::NONE, |(seen, _)| seen)
    }

    /// What time it is now.
    pub fn look(self, now: Now) -> ExpiryTime {
        // Where the wall clock should stand, at the pace of the other one.
        let since = |(wall, at): (Timestamp, Moment)| after(wall, now.now.since(at));
        let expected = self.seen.map_or(self.hint, since);
        let nothing_known = self.seen.is_none() && self.hint < Timestamp::from_millis(0);
        let confirmed = self
            .jumped
            .map(since)
            .is_some_and(|jumped| now.wall <= after(jumped, JUMP) && after(now.wall, JUMP) >= jumped);
        if nothing_known || confirmed || now.wall <= after(expected, JUMP) {
            // While the wall clock stands behind what was seen, that is still the last that is known.
            let seen = self.seen.filter(|(seen, _)| *seen > now.wall).unwrap_or((now.wall, now.now));
            let clock = ExpiryClock { seen: Some(seen), jumped: None, ..self };
            return ExpiryTime { wall: seen.0, held: false, clock };
        }
        let seen = self.seen.map(|_| (expected, now.now));
        let clock = ExpiryClock { seen, jumped: Some((now.wall, now.now)), ..self };
        ExpiryTime { wall: expected, held: true, clock }
    }
}

fn after(wall: Timestamp, time: Duration) -> Timestamp {
    let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(wall.as_millis().saturating_add(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn at(minutes: u64, wall_ms: i64) -> Now {
        Now { wall: Timestamp::from_millis(wall_ms), now: Moment::from_nanos(minutes * 60_000_000_000) }
    }

    fn ms(wall: Timestamp) -> i64 {
        wall.as_millis()
    }

    /// A clock that is set back does not make offsets younger, and one that is set right again is believed.
    #[test]
    fn time_never_goes_back() {
        let clock = ExpiryClock::since(Timestamp::from_millis(10 * HOUR_MS));
        let seen = clock.look(at(0, 10 * HOUR_MS));
        let seen = seen.clock.look(at(10, 3 * HOUR_MS));
        assert_eq!((ms(seen.wall), seen.held), (10 * HOUR_MS, false));
        let seen = seen.clock.look(at(20, 10 * HOUR_MS + 1_200_000));
        assert_eq!((ms(seen.wall), seen.held), (10 * HOUR_MS + 1_200_000, false));
    }

    /// A jump that is gone at the next check never was.
    #[test]
    fn a_jump_needs_two_checks() {
        let clock = ExpiryClock::since(Timestamp::from_millis(HOUR_MS)).look(at(0, HOUR_MS)).clock;
        let seen = clock.look(at(10, 900 * HOUR_MS));
        assert_eq!((ms(seen.wall), seen.held), (HOUR_MS + 600_000, true));
        let seen = seen.clock.look(at(20, HOUR_MS + 1_200_000));
        assert_eq!((ms(seen.wall), seen.held), (HOUR_MS + 1_200_000, false));
        // Two jumps to different times do not confirm one another.
        let seen = seen.clock.look(at(30, 900 * HOUR_MS));
        assert!(seen.held);
        let seen = seen.clock.look(at(40, 5_000 * HOUR_MS));
        assert!(seen.held);
        let seen = seen.clock.look(at(50, 5_000 * HOUR_MS + 600_000));
        assert_eq!((ms(seen.wall), seen.held), (5_000 * HOUR_MS + 600_000, false));
    }

    /// A log may hold a timestamp from a clock that stood wrong. It does not make today later than it is.
    #[test]
    fn a_timestamp_from_the_future_is_not_believed() {
        let clock = ExpiryClock::since(Timestamp::from_millis(900 * HOUR_MS));
        let seen = clock.look(at(0, 10 * HOUR_MS));
        assert_eq!((ms(seen.wall), seen.held), (10 * HOUR_MS, false));
    }

    /// Weeks may have passed while nobody was running: believed, one check later.
    #[test]
    fn a_long_sleep_is_believed_at_the_second_check() {
        let clock = ExpiryClock::since(Timestamp::from_millis(HOUR_MS));
        let seen = clock.look(at(0, 500 * HOUR_MS));
        assert_eq!((ms(seen.wall), seen.held), (HOUR_MS, true));
        let seen = seen.clock.look(at(10, 500 * HOUR_MS + 600_000));
        assert_eq!((ms(seen.wall), seen.held), (500 * HOUR_MS + 600_000, false));
    }
}
