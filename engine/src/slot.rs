//! A shared value that readers take without a lock while somebody replaces it.
//!
//! This is where `crossbeam`'s epochs work: a reader pins only long enough to clone an `Arc`, and a replaced `Arc`
//! is let go once no pin can see it. What the value itself holds (a mapping, a list of segments) then lives as long
//! as its last clone.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::epoch::{self, Atomic, Owned};

/// A place that holds a shared value, or none.
pub(crate) struct Slot<T>(Atomic<Arc<T>>);

impl<T: Send + Sync + 'static> Slot<T> {
    pub(crate) fn new(value: Option<Arc<T>>) -> Self {
        Slot(value.map_or_else(Atomic::null, Atomic::new))
    }

    /// What is there now.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let guard = epoch::pin();
        let shared = self.0.load(Ordering::Acquire, &guard);
        // SAFETY: the pointer was stored by `new` or `put` and is destroyed only after every pin that could have
        // loaded it, this one included, has ended.
        unsafe { shared.as_ref() }.cloned()
    }

    /// Puts another value there; the old one is let go once nobody can be looking at it.
    pub(crate) fn put(&self, value: Option<Arc<T>>) {
        let guard = epoch::pin();
        let old = match value {
            Some(value) => self.0.swap(Owned::new(value), Ordering::AcqRel, &guard),
            None => self.0.swap(epoch::Shared::null(), Ordering::AcqRel, &guard),
        };
        if !old.is_null() {
            // SAFETY: the swap made it unreachable for later pins, and each pointer is swapped out once.
            unsafe { guard.defer_destroy(old) };
            // A mapping or a descriptor hangs on it: do not let it wait for the garbage of many other swaps.
            guard.flush();
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else can load from here any more.
        let pointer = unsafe { self.0.load(Ordering::Relaxed, epoch::unprotected()) };
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
        let slot = Arc::new(Slot::new(Some(Arc::new(vec![0u64; 64]))));
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
}
