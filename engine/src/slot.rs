//! A shared value that readers take without a lock while somebody replaces it.
//!
//! This is where `crossbeam`'s epochs work: a reader pins only long enough to clone an `Arc`, and a replaced `Arc`
//! is let go once no pin can see it. What the value itself holds (a mapping, a list of segments) then lives as long
//! as its last clone.
//!
//! Each log has epochs of its own. With one collector for the whole process, when a mapping went would depend on what
//! other logs' threads have pinned, and a seed of the simulated world would not be a day that can be lived again.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::epoch::{self, Atomic, Collector, Guard, LocalHandle, Owned};

/// The epochs that one log's slots share. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epochs(Collector);

thread_local! {
    /// This thread's places in the epochs of the logs that it uses, the last used first.
    static PLACES: RefCell<Vec<LocalHandle>> = const { RefCell::new(Vec::new()) };
}

/// A thread that uses more logs than this takes its place anew now and then; a place that is left costs nothing but
/// that.
const PLACES_MAX: usize = 16;

impl Epochs {
    /// Keeps what this log's slots hold now from being freed until the guard goes.
    pub(crate) fn pin(&self) -> Guard {
        // While the thread ends, or while a value is let go inside this very call, there may be no list to look at.
        let known = PLACES.try_with(|places| {
            let places = places.try_borrow().ok()?;
            let place = places.iter().find(|place| *place.collector() == self.0)?;
            Some(place.pin())
        });
        known.ok().flatten().unwrap_or_else(|| self.take_place())
    }

    #[cold]
    fn take_place(&self) -> Guard {
        let place = self.0.register();
        let guard = place.pin();
        let _ = PLACES.try_with(|places| {
            let Ok(mut list) = places.try_borrow_mut() else { return };
            list.insert(0, place);
            let left = if list.len() > PLACES_MAX { list.pop() } else { None };
            drop(list);
            // Outside the borrow: with the last place of a closed log goes what its slots had replaced.
            drop(left);
        });
        guard
    }

    /// Turns the epoch on, if no pin is in the way, and lets go of what is old enough.
    pub(crate) fn turn(&self) {
        self.pin().flush();
    }

    /// Lets go of everything that was replaced, if no pin is in the way, and of this thread's place: the log is gone.
    pub(crate) fn leave(&self) {
        // Two turns make what was just replaced old enough; each then frees a few of those that wait, and there are never
        // many, because every replacement is a turn itself.
        for _ in 0..16 {
            self.turn();
        }
        let place = PLACES.try_with(|places| {
            let mut list = places.try_borrow_mut().ok()?;
            let at = list.iter().position(|place| *place.collector() == self.0)?;
            Some(list.remove(at))
        });
        drop(place);
    }
}

/// A place that holds a shared value, or none.
pub(crate) struct Slot<T> {
    value: Atomic<Arc<T>>,
    epochs: Epochs,
}

impl<T: Send + Sync + 'static> Slot<T> {
    pub(crate) fn new(epochs: &Epochs, value: Option<Arc<T>>) -> Self {
        Slot { value: value.map_or_else(Atomic::null, Atomic::new), epochs: epochs.clone() }
    }

    /// What is there now.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let guard = self.epochs.pin();
        let shared = self.value.load(Ordering::Acquire, &guard);
        // SAFETY: the pointer was stored by `new` or `put` and is destroyed only after every pin of these epochs that
        // could have loaded it, this one included, has ended.
        unsafe { shared.as_ref() }.cloned()
    }

    /// Puts another value there; the slot's own reference to the old one, which is returned, is let go once nobody can
    /// be looking at it.
    pub(crate) fn put(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let guard = self.epochs.pin();
        let old = match value {
            Some(value) => self.value.swap(Owned::new(value), Ordering::AcqRel, &guard),
            None => self.value.swap(epoch::Shared::null(), Ordering::AcqRel, &guard),
        };
        // SAFETY: as in `get`.
        let taken = unsafe { old.as_ref() }.cloned();
        if !old.is_null() {
            // SAFETY: the swap made it unreachable for later pins of the same epochs, and each pointer is swapped out
            // once.
            unsafe { guard.defer_destroy(old) };
            // A mapping or a descriptor hangs on it: do not let it wait for the garbage of many other swaps.
            guard.flush();
        }
        taken
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else can load from here any more.
        let pointer = unsafe { self.value.load(Ordering::Relaxed, epoch::unprotected()) };
        if !pointer.is_null() {
            // SAFETY: as above; the pointer is owned by this slot alone.
            drop(unsafe { pointer.into_owned() });
        }
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers and a replacer at once: every value read is one that was put, and none is freed under a reader.
    #[test]
    fn values_outlive_their_readers() {
        let slot = Arc::new(Slot::new(&Epochs::default(), Some(Arc::new(vec![0u64; 64]))));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let value = slot.get().unwrap();
                        assert!(value.iter().all(|v| *v == value[0]));
                    }
                });
            }
            for i in 1..5_000 {
                slot.put(Some(Arc::new(vec![i; 64])));
            }
        });
        slot.put(None);
        assert!(slot.get().is_none());
    }

    /// When a value goes is decided by its own epochs: what other logs' threads have pinned delays nothing, and with one
    /// thread it is the same moment every time.
    #[test]
    fn other_logs_delay_nothing() {
        let others = Epochs::default();
        let _held = others.pin();
        for _ in 0..2 * PLACES_MAX {
            let epochs = Epochs::default();
            let slot = Slot::new(&epochs, Some(Arc::new(7)));
            let value = slot.put(None).unwrap();
            assert_eq!(Arc::strong_count(&value), 2, "the slot's own reference waits for pins to end");
            epochs.leave();
            assert_eq!(Arc::strong_count(&value), 1, "nobody had pinned");
        }
        assert!(PLACES.with(|places| places.borrow().len()) <= 1, "closed logs leave no places behind");
    }

    /// A thread that is looking keeps the value, however often the others turn.
    #[test]
    fn a_pin_of_its_own_epochs_keeps_a_value() {
        let epochs = Epochs::default();
        let slot = Slot::new(&epochs, Some(Arc::new(7)));
        let (pinned, go) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let held = epochs.pin();
                pinned.wait();
                go.wait();
                drop(held);
            });
            pinned.wait();
            let value = slot.put(None).unwrap();
            for _ in 0..1000 {
                epochs.turn();
            }
            assert_eq!(Arc::strong_count(&value), 2);
            go.wait();
        });
    }
}
