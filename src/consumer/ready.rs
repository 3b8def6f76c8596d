//! Which of a consumer's partitions may have something to read, as one bit each.
//!
//! A partition that was found empty registers one waker with the log and is not looked at again until that waker sets
//! its bit. So a poll costs what is readable, not what is assigned: with a thousand partitions and one busy producer it
//! looks at sixteen words and one partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use girok_engine::wait::Waiters;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ready {
    words: Box<[AtomicU64]>,
    /// The consumer, when it sleeps.
    pub(crate) sleeper: Arc<Sleeper>,
}

/// Where a consumer sleeps, and who may wake it. Lives as long as the consumer; assignments come and go.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    pub(crate) waiters: Waiters,
    /// Somebody called `wake`; the next poll says so.
    woken: AtomicBool,
}

impl Sleeper {
    pub(crate) fn wake_by_user(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.waiters.wake_all();
    }

    pub(crate) fn take_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }
}

impl Ready {
    /// All of `count` may be readable.
    pub(crate) fn new(count: usize, sleeper: Arc<Sleeper>) -> Arc<Self> {
        let words = (0..count.div_ceil(64)).map(|word| {
            let here = (count - word * 64).min(64);
            AtomicU64::new(if here == 64 { u64::MAX } else { (1 << here) - 1 })
        });
        Arc::new(Ready { words: words.collect(), sleeper })
    }

    pub(crate) fn set(&self, index: usize) {
        self.words[index / 64].fetch_or(1 << (index % 64), Ordering::SeqCst);
    }

    pub(crate) fn clear(&self, index: usize) {
        self.words[index / 64].fetch_and(!(1 << (index % 64)), Ordering::SeqCst);
    }

    /// The first from `from` on, round the end and up to before `from`.
    #[inline]
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        let count = self.words.len();
        let (first, bit) = (from / 64, from % 64);
        for step in 0..=count {
            let at = (first + step) % count.max(1);
            let mut word = self.words.get(at)?.load(Ordering::Acquire);
            if step == 0 {
                word &= u64::MAX << bit;
            } else if step == count {
                word &= !(u64::MAX << bit);
            }
            if word != 0 {
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }

    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        self.words.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// What the log wakes when partition `index` may have become readable.
    pub(crate) fn waker(self: &Arc<Self>, index: usize) -> Waker {
        Waker::from(Arc::new(SetBit { ready: self.clone(), index }))
    }
}

struct SetBit {
    ready: Arc<Ready>,
    index: usize,
}

impl Wake for SetBit {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.set(self.index);
        self.ready.sleeper.waiters.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits are found in turn, from any start, over any number of words.
    #[test]
    fn everybody_has_a_turn() {
        for count in [1, 63, 64, 65, 200] {
            let ready = Ready::new(count, Arc::default());
            let mut at = 0;
            for round in 0..3 {
                for expected in 0..count {
                    let found = ready.next(at).unwrap();
                    assert_eq!(found, expected, "{count} partitions, round {round}");
                    at = (found + 1) % count;
                }
            }
            (0..count).for_each(|index| ready.clear(index));
            assert_eq!((ready.next(count / 2), ready.any()), (None, false));
            ready.set(count / 3);
            assert_eq!(ready.next(count / 2), Some(count / 3));
        }
    }

    /// A consumer without partitions has nothing ready.
    #[test]
    fn nothing_is_nothing() {
        assert_eq!(Ready::new(0, Arc::default()).next(0), None);
    }
}
