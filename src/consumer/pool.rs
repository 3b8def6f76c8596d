//! Buffers for inflated batches: few, bounded, and used again.
//!
//! The pool keeps a reference of its own to every buffer it gave out. One that nobody else holds any more is free, so
//! records give their buffer back by being dropped, on whatever thread, and nothing is done about it.

use std::sync::Arc;

/// At most so many buffers wait to be used again.
const BUFFERS_MAX: usize = 8;
/// A buffer that had to grow beyond this is not kept.
const BUFFER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Arc<Vec<u8>>>,
}

impl Pool {
    /// An empty buffer that nobody else holds. Fill it and [`share`](Self::share) it.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        for held in &mut self.buffers {
            if let Some(free) = Arc::get_mut(held) {
                let mut buffer = std::mem::take(free);
                buffer.clear();
                return buffer;
            }
        }
        Vec::new()
    }

    /// Shares a filled buffer, and keeps it for later if it is one of few and not too large.
    pub(crate) fn share(&mut self, buffer: Vec<u8>) -> Arc<Vec<u8>> {
        let is_kept = buffer.capacity() <= BUFFER_BYTES_MAX;
        for held in &mut self.buffers {
            if let Some(free) = Arc::get_mut(held) {
                *free = buffer;
                let shared = held.clone();
                if !is_kept {
                    *held = Arc::default();
                }
                return shared;
            }
        }
        let shared = Arc::new(buffer);
        if is_kept && self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(shared.clone());
        }
        shared
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.capacity()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer comes back when the last who held it lets go, and not before.
    #[test]
    fn what_is_dropped_is_used_again() {
        let mut pool = Pool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[7; 1000]);
        let address = buffer.as_ptr();
        let shared = pool.share(buffer);
        let other = pool.take();
        assert_ne!(other.as_ptr(), address, "it is still held");
        drop(shared);
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    /// However many are held, and however large one was, the pool keeps a bounded amount.
    #[test]
    fn the_pool_is_bounded() {
        let mut pool = Pool::default();
        let held: Vec<_> = (0..100).map(|_| pool.share(vec![1; 1 << 20])).collect();
        drop(held);
        assert!(pool.bytes() <= BUFFERS_MAX << 20);
        let giant = pool.share(vec![0; BUFFER_BYTES_MAX + 1]);
        drop(giant);
        assert!(pool.bytes() <= BUFFERS_MAX << 20);
    }
}
