//! Waiting, without spinning and without a runtime.
//!
//! Whoever waits first registers a [`Waker`], looks once more, and only then sleeps; whoever changes something wakes
//! the registered. When nobody waits, a change costs one fence and one load. Blocking calls are thin loops over the
//! non-blocking ones with a waker that unparks the thread, so a simulated world and an async runtime drive the same
//! code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::sync::{AtomicUsize, Mutex, Ordering, fence};

/// Those who wait for one thing to change.
///
/// ```
/// use std::task::Poll;
/// use girok_engine::wait::{Ticket, Waiters, block_on};
/// let waiters = Waiters::new();
/// let mut ticket = Ticket::default();
/// let mut looks = 0;
/// let answer = block_on(None, |context| {
///     looks += 1;
///     if looks == 2 {
///         return Poll::Ready(42);
///     }
///     waiters.register(&mut ticket, context.waker());
///     waiters.wake_all(); // as another thread would, after its change
///     Poll::Pending
/// });
/// assert_eq!(answer, Some(42));
/// ```
#[derive(Debug, Default)]
pub struct Waiters {
    count: AtomicUsize,
    list: Mutex<BTreeMap<u64, Waker>>,
}

/// No two places anywhere have the same number, so a ticket given back at the wrong door takes nobody else's.
static NEXT_TICKET: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// A place among the [`Waiters`]; empty until first used. Give it back with [`Waiters::leave`].
///
/// ```
/// use std::task::Waker;
/// use girok_engine::wait::{Ticket, Waiters};
/// let (waiters, mut ticket) = (Waiters::new(), Ticket::default());
/// waiters.register(&mut ticket, Waker::noop());
/// assert!(waiters.any());
/// waiters.leave(&mut ticket);
/// assert!(!waiters.any());
/// ```
#[derive(Debug, Default)]
pub struct Ticket(Option<u64>);

impl Ticket {
    /// The place's number, if it ever had one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.0
    }

    /// The place's number, drawn now if it has none.
    pub(crate) fn take_number(&mut self) -> u64 {
        *self.0.get_or_insert_with(|| NEXT_TICKET.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

impl Waiters {
    /// Nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes or renews a place. The caller must look again at what it waits for *after* this returns, and only
    /// then sleep: a change made in between has either been seen by that look or wakes the waker.
    pub fn register(&self, ticket: &mut Ticket, waker: &Waker) {
        let mut list = self.list.lock().unwrap();
        match ticket.0.and_then(|id| list.get_mut(&id)) {
            Some(held) if held.will_wake(waker) => {}
            Some(held) => held.clone_from(waker),
            None => {
                list.insert(ticket.take_number(), waker.clone());
                self.count.store(list.len(), Ordering::SeqCst);
            }
        }
        drop(list);
        fence(Ordering::SeqCst);
    }

    /// Gives a place back. Harmless if it was woken meanwhile, or is a place among others.
    pub fn leave(&self, ticket: &mut Ticket) {
        if let Some(id) = ticket.0 {
            let mut list = self.list.lock().unwrap();
            if list.remove(&id).is_some() {
                self.count.store(list.len(), Ordering::SeqCst);
                ticket.0 = None;
            }
        }
    }

    /// Wakes everybody, to be called *after* the change is visible.
    pub fn wake_all(&self) {
        fence(Ordering::SeqCst);
        self.wake_after_seq_cst();
    }

    /// [`wake_all`](Self::wake_all) for a change made by a `SeqCst` store or exchange: saves the fence, because that
    /// change, this load, and the other side's store and fence already stand in one total order.
    pub(crate) fn wake_after_seq_cst(&self) {
        if cfg!(loom) {
            // loom treats SeqCst accesses as weaker than they are.
            fence(Ordering::SeqCst);
        }
        if self.count.load(Ordering::SeqCst) != 0 {
            self.wake_slow();
        }
    }

    #[cold]
    fn wake_slow(&self) {
        let woken = {
            let mut list = self.list.lock().unwrap();
            self.count.store(0, Ordering::SeqCst);
            std::mem::take(&mut *list)
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// Whether somebody waits.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }
}

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static THREAD_WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Runs a non-blocking call until it is ready or `timeout` has passed, sleeping in between. `None` is "not in time".
///
/// This is the one place where the engine blocks a thread; the time here is the machine's, never a test's.
pub fn block_on<T>(
    timeout: Option<Duration>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let deadline = timeout.map(|t| std::time::Instant::now().checked_add(t));
    THREAD_WAKER.with(|waker| {
        let mut context = Context::from_waker(waker);
        loop {
            if let Poll::Ready(value) = poll(&mut context) {
                return Some(value);
            }
            match deadline {
                None | Some(None) => thread::park(),
                Some(Some(at)) => {
                    let left = at.saturating_duration_since(std::time::Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    thread::park_timeout(left);
                }
            }
        }
    })
}
