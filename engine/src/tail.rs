//! The end of a log, where appenders meet: reserve, copy, publish.
//!
//! Two cursors, each one word, each a pair (records, bytes) relative to the segment:
//!
//! ```text
//!   published            reserved        allocated       limit
//!       │                    │               │              │
//! ══════╪════╤═══════╤═══════╪───────────────┼──────────────┤
//!  seen │done│copying│ done  │ free, on disk │ not yet on   │
//!       └────┴───────┴───────┘               │ disk         │
//! ```
//!
//! *Reserving* is a compare-and-swap on `reserved` that never passes the allocated end. Between reserving and
//! publishing stands only a copy. *Publishing* marks the reservation done and then moves `published` over every done
//! neighbour, whoever made it: nobody waits for another's copy, and a reader never sees a gap.
//!
//! Done marks live in a ring of words, one for each 64 bytes of a window behind `published`. A reservation is at
//! least 64 bytes, so two of them never share a cell; what it holds is where the reservation starting in that cell
//! ends, and an end at or before `published` is a mark from an earlier lap. An appender that would pass the window
//! waits: that is the bound on what may be in flight behind one stalled copy.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// A pair of counts in one word: records in the upper half, bytes in the lower. Both at most 2³¹ − 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mark(u64);

impl Mark {
    pub(crate) fn new(records: u32, bytes: u32) -> Self {
        debug_assert!(records <= LIMIT && bytes <= LIMIT);
        Mark((records as u64) << 32 | bytes as u64)
    }
    pub(crate) fn records(self) -> u32 {
        (self.0 >> 32) as u32
    }
    pub(crate) fn bytes(self) -> u32 {
        self.0 as u32
    }
}

/// Kafka's bound on both counts, and ours: 2³¹ − 1.
pub(crate) const LIMIT: u32 = i32::MAX as u32;

/// The top bit of the byte count, which no position can have: no more reservations here.
const CLOSED: u64 = 1 << 31;

/// Bytes of log for each cell of the ring; no reservation is smaller.
pub(crate) const GRAIN: u32 = 64;

/// A mark that one thread at a time moves forward and all may read.
#[derive(Debug)]
pub(crate) struct Cursor(CachePadded<AtomicU64>);

impl Cursor {
    pub(crate) fn new(at: Mark) -> Self {
        Cursor(CachePadded::new(AtomicU64::new(at.0)))
    }
    /// What is below the mark happened before this returns.
    pub(crate) fn get(&self) -> Mark {
        Mark(self.0.load(Ordering::Acquire))
    }
    pub(crate) fn set(&self, mark: Mark) {
        self.0.store(mark.0, Ordering::SeqCst);
    }
}

/// Why a reservation was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The file must grow first; room is needed up to this byte.
    NeedsRoom { end: u32 },
    /// The segment is full: seal it.
    SegmentFull,
    /// Too much is in flight behind somebody's unfinished copy.
    WindowFull,
    /// No more reservations here: look up the active segment again.
    Closed,
}

/// Room for one batch: `start.bytes()..end.bytes()`, and the offsets from `start.records()`. To be published.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an unpublished reservation hides everything behind it from readers"]
pub(crate) struct Reservation {
    pub(crate) start: Mark,
    pub(crate) end: Mark,
}

/// The two cursors, the ring between them and the bounds ahead.
#[derive(Debug)]
pub(crate) struct Tail {
    reserved: CachePadded<AtomicU64>,
    published: Arc<Cursor>,
    /// What the window counts from: `published`, or what has left the ring of a written region.
    behind: Arc<Cursor>,
    allocated: AtomicU32,
    limit: u32,
    window: u32,
    /// Nothing larger than the window fits, not even alone: the window is a buffer.
    bounded: bool,
    ring: Box<[AtomicU64]>,
}

impl Tail {
    /// A tail that goes on where `published` stands. `limit` bytes is where the segment must seal; `window` bytes
    /// may be in flight behind `behind` (rounded up to a power of two of at least 64 grains). If it is not `published`
    /// that is behind, the window is a buffer, and a larger batch has to go to another segment with a larger one.
    pub(crate) fn new(
        published: Arc<Cursor>,
        behind: Arc<Cursor>,
        allocated: u32,
        limit: u32,
        window: u32,
    ) -> Self {
        let cells = (window / GRAIN).max(if cfg!(loom) { 4 } else { 64 }).next_power_of_two();
        let at = published.get();
        Tail {
            reserved: CachePadded::new(AtomicU64::new(at.0)),
            bounded: !Arc::ptr_eq(&published, &behind),
            published,
            behind,
            allocated: AtomicU32::new(allocated.min(LIMIT)),
            limit: limit.min(LIMIT),
            window: cells * GRAIN,
            ring: (0..cells).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Takes room for `records` records in `bytes` bytes, or says why not. Never blocks.
    pub(crate) fn reserve(&self, records: u32, bytes: u32) -> Result<Reservation, Refusal> {
        assert!(bytes >= GRAIN, "a batch of {bytes} bytes is smaller than any batch can be");
        let mut seen = self.reserved.load(Ordering::Relaxed);
        loop {
            if seen & CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            let start = Mark(seen);
            let end = start.bytes() as u64 + bytes as u64;
            let last = start.records() as u64 + records as u64;
            if end > self.limit as u64 || last > LIMIT as u64 || (self.bounded && bytes > self.window) {
                return Err(Refusal::SegmentFull);
            }
            let end = end as u32;
            if end > self.allocated.load(Ordering::Acquire) {
                return Err(Refusal::NeedsRoom { end });
            }
            // This load also orders the copy after whoever used the window's earlier lap. A batch larger than the
            // window passes alone.
            let behind = self.behind.get().bytes();
            // (A stale `start` may lie behind `behind`; then the exchange fails and it is looked at again.)
            if end.saturating_sub(behind) > self.window && behind != start.bytes() {
                return Err(Refusal::WindowFull);
            }
            let end = Mark::new(last as u32, end);
            match self.reserved.compare_exchange_weak(seen, end.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Reservation { start, end }),
                Err(now) => seen = now,
            }
        }
    }

    /// Marks the copy done and publishes every done neighbour. `true` if readers can see more than before.
    pub(crate) fn publish(&self, done: Reservation) -> bool {
        // Either this thread sees that its predecessor has published, or the predecessor sees this mark: both store
        // first and load second, in one total order. (loom treats SeqCst accesses as weaker than they are, so there
        // the order comes from fences.)
        self.cell(done.start).store(done.end.0, Ordering::SeqCst);
        order();
        let mut moved = false;
        loop {
            let at = self.published.0.load(Ordering::SeqCst);
            let next = self.cell(Mark(at)).load(Ordering::SeqCst);
            if Mark(next).bytes() <= Mark(at).bytes() {
                return moved;
            }
            if self.published.0.compare_exchange(at, next, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                moved = true;
                order();
            }
        }
    }

    fn cell(&self, at: Mark) -> &AtomicU64 {
        &self.ring[(at.bytes() / GRAIN) as usize & (self.ring.len() - 1)]
    }

    /// Where the segment must seal.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// How far reservations may go.
    pub(crate) fn allocated(&self) -> u32 {
        self.allocated.load(Ordering::Acquire)
    }

    /// The file now reaches to `end`. One grower at a time.
    pub(crate) fn grown_to(&self, end: u32) {
        self.allocated.store(end.min(LIMIT), Ordering::Release);
    }

    /// What readers may see.
    pub(crate) fn published(&self) -> Mark {
        self.published.get()
    }

    /// Where the next reservation would begin.
    pub(crate) fn reserved(&self) -> Mark {
        Mark(self.reserved.load(Ordering::Acquire) & !CLOSED)
    }

    /// No reservation from now on. Returns where the last one ends; copies may still be going on.
    pub(crate) fn close(&self) -> Mark {
        Mark(self.reserved.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED)
    }

    /// Whether it is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.reserved.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Closed, and every copy published: the file may be cut here. `None` while a reservation is open.
    pub(crate) fn settled(&self) -> Option<Mark> {
        let end = self.reserved.load(Ordering::Acquire);
        let published = self.published.get();
        (end & CLOSED != 0 && end & !CLOSED == published.0).then_some(published)
    }

    /// Takes back [`close`](Self::close) when what was to follow could not be done. Only by who closed it.
    pub(crate) fn reopen(&self) {
        self.reserved.fetch_and(!CLOSED, Ordering::AcqRel);
    }
}

#[inline]
fn order() {
    if cfg!(loom) {
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn tail(allocated: u32, limit: u32, window: u32) -> Tail {
        let start = Arc::new(Cursor::new(Mark::new(0, 0)));
        Tail::new(start.clone(), start, allocated, limit, window)
    }

    /// A stalled copy hides what is behind it, and hides nothing once it is done.
    #[test]
    fn whoever_finishes_publishes_all_finished_neighbours() {
        let tail = tail(4096, 4096, 4096);
        let first = tail.reserve(1, 100).unwrap();
        let second = tail.reserve(2, 100).unwrap();
        let third = tail.reserve(3, 100).unwrap();

        assert!(!tail.publish(third));
        assert!(!tail.publish(second));
        assert_eq!(tail.published(), Mark::new(0, 0));
        assert!(tail.publish(first));
        assert_eq!(tail.published(), Mark::new(6, 300));
    }

    /// Room, window and limit are three different refusals, and none of them moves a cursor.
    #[test]
    fn a_refusal_says_what_is_missing() {
        let t = tail(200, 1000, 4096);
        let first = t.reserve(1, 150).unwrap();
        assert_eq!(t.reserve(1, 100), Err(Refusal::NeedsRoom { end: 250 }));
        assert_eq!(t.reserve(1, 900), Err(Refusal::SegmentFull));
        t.grown_to(1000);
        assert_eq!(t.reserve(LIMIT, 100), Err(Refusal::SegmentFull));
        assert!(t.publish(first));
        assert_eq!(t.close(), Mark::new(1, 150));
        assert_eq!(t.reserve(1, 100), Err(Refusal::Closed));
        assert_eq!(t.settled(), Some(Mark::new(1, 150)));

        let t = tail(1 << 20, 1 << 20, 4096);
        let stalled = t.reserve(1, 100).unwrap();
        let mut done = Vec::new();
        while let Ok(r) = t.reserve(1, 100) {
            done.push(r);
        }
        assert_eq!(t.reserve(1, 100), Err(Refusal::WindowFull));
        assert_eq!(done.len(), 39, "a window of 4096 bytes holds 40 batches of 100");
        done.into_iter().for_each(|r| assert!(!t.publish(r)));
        assert!(t.publish(stalled));
        assert_eq!(t.published(), Mark::new(40, 4000));
        // Larger than the window, alone in flight: let through.
        let large = t.reserve(1, 100_000).unwrap();
        assert!(t.publish(large));
    }

    /// The ring is used round and round; marks of earlier laps are never mistaken for new ones.
    #[test]
    fn laps_do_not_mix() {
        let tail = tail(LIMIT, LIMIT, 4096);
        let mut held: Option<Reservation> = None;
        for lap in 0..10_000u32 {
            let next = tail.reserve(1, 64 + lap % 700).unwrap();
            if let Some(before) = held.take() {
                if lap % 3 == 0 {
                    assert!(!tail.publish(next));
                    assert!(tail.publish(before));
                } else {
                    assert!(tail.publish(before));
                    held = Some(next);
                }
            } else {
                held = Some(next);
            }
        }
        if let Some(last) = held {
            tail.publish(last);
        }
        assert_eq!(tail.published(), tail.reserved());
    }

    /// Many threads, one tail: every byte is published once, in order, and nothing is left over.
    #[test]
    fn threads_meet_at_the_tail() {
        let tail = Arc::new(tail(LIMIT, LIMIT, 8192));
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let tail = tail.clone();
                scope.spawn(move || {
                    for i in 0..20_000u32 {
                        loop {
                            match tail.reserve(1, 64 + (i * 7 + thread) % 300) {
                                Ok(r) => {
                                    tail.publish(r);
                                    break;
                                }
                                Err(Refusal::WindowFull) => std::thread::yield_now(),
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(tail.published().records(), 80_000);
        assert_eq!(tail.published(), tail.reserved());
    }
}

/// What loom walks: every interleaving of two or three appenders with a reader, a sealer, a cut or a waiter.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::wait::{Ticket, Waiters};
    use loom::cell::UnsafeCell;
    use loom::thread;

    /// A region whose cells loom watches for races: one per grain.
    struct Region {
        tail: Tail,
        bytes: Vec<UnsafeCell<u32>>,
    }

    impl Region {
        fn new(grains: u32, limit: u32) -> Arc<Self> {
            let start = Arc::new(Cursor::new(Mark::new(0, 0)));
            Arc::new(Region {
                tail: Tail::new(start.clone(), start, grains * GRAIN, limit, grains * GRAIN),
                bytes: (0..grains).map(|_| UnsafeCell::new(0)).collect(),
            })
        }

        fn append(&self, value: u32) -> Result<bool, Refusal> {
            let room = self.tail.reserve(1, GRAIN)?;
            #[allow(unsafe_code)]
            // SAFETY: loom's cell; the reservation is exclusive, and loom fails the test if it is not.
            self.bytes[(room.start.bytes() / GRAIN) as usize].with_mut(|p| unsafe { *p = value });
            Ok(self.tail.publish(room))
        }

        fn read_published(&self) -> Vec<u32> {
            let end = self.tail.published().bytes() / GRAIN;
            #[allow(unsafe_code)]
            // SAFETY: loom's cell; below the published mark nobody writes, and loom fails the test if they do.
            (0..end).map(|i| self.bytes[i as usize].with(|p| unsafe { *p })).collect()
        }
    }

    /// Two appenders and a reader: what is published is wholly written, and in the end nothing is unpublished.
    #[test]
    fn published_is_written() {
        loom::model(|| {
            let region = Region::new(4, 4 * GRAIN);
            let appenders: Vec<_> = (1..=2)
                .map(|value| {
                    let region = region.clone();
                    thread::spawn(move || region.append(value).unwrap())
                })
                .collect();
            assert!(region.read_published().iter().all(|&v| v != 0));
            appenders.into_iter().for_each(|t| {
                t.join().unwrap();
            });
            let mut all = region.read_published();
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
        });
    }

    /// A sealer against an appender: the reservation is before the seal or refused; after the seal settles, the cut
    /// (a write to every cell past the end) races with nobody.
    #[test]
    fn seal_then_cut() {
        loom::model(|| {
            let region = Region::new(3, 3 * GRAIN);
            let other = {
                let region = region.clone();
                thread::spawn(move || region.append(7))
            };
            let end = region.tail.close();
            if let Some(settled) = region.tail.settled() {
                assert_eq!(settled, end);
                for grain in settled.bytes() / GRAIN..3 {
                    #[allow(unsafe_code)]
                    // SAFETY: loom's cell; settled means no reservation is open, and loom checks it.
                    region.bytes[grain as usize].with_mut(|p| unsafe { *p = 0 });
                }
            }
            match other.join().unwrap() {
                Ok(_) => assert_eq!(end.records(), 1),
                Err(refusal) => assert_eq!((refusal, end.records()), (Refusal::Closed, 0)),
            }
            assert_eq!(region.tail.settled(), Some(end));
        });
    }

    /// A reader that found nothing and registered is woken by the publish, whatever the order.
    #[test]
    fn a_waiter_is_woken() {
        use std::task::{Wake, Waker};
        struct Bell(loom::sync::Notify);
        impl Wake for Bell {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.notify();
            }
        }
        loom::model(|| {
            let region = Region::new(2, 2 * GRAIN);
            let waiters = Arc::new(Waiters::new());
            let appender = {
                let (region, waiters) = (region.clone(), waiters.clone());
                thread::spawn(move || {
                    if region.append(9).unwrap() {
                        waiters.wake_after_seq_cst();
                    }
                })
            };
            let bell = std::sync::Arc::new(Bell(loom::sync::Notify::new()));
            let waker = Waker::from(bell.clone());
            let mut ticket = Ticket::default();
            while region.tail.published().records() == 0 {
                waiters.register(&mut ticket, &waker);
                if region.tail.published().records() != 0 {
                    break;
                }
                bell.0.wait();
            }
            waiters.leave(&mut ticket);
            assert_eq!(region.read_published(), [9]);
            appender.join().unwrap();
        });
    }
}
