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
#[derive(Debug, Default)]
pub struct Waiters {
    count: AtomicUsize,
    list: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A place among the [`Waiters`]; empty until first used. Give it back with [`Waiters::leave`].
#[derive(Debug, Default)]
pub struct Ticket(Option<u64>);

impl Waiters {
    /// Nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes or renews a place. The caller must look again at what it waits for *after* this returns, and only
    /// then sleep: a change made in between has either been seen by that look or wakes the waker.
    pub fn register(&self, ticket: &mut Ticket, waker: &Waker) {
        let mut list = self.list.lock().unwrap();
        match ticket.0 {
            Some(id) if list.wakers.contains_key(&id) => {
                let held = list.wakers.get_mut(&id).expect("just looked");
                if !held.will_wake(waker) {
                    *held = waker.clone();
                }
            }
            _ => {
                let id = list.next;
                list.next += 1;
                list.wakers.insert(id, waker.clone());
                ticket.0 = Some(id);
                self.count.store(list.wakers.len(), Ordering::SeqCst);
            }
        }
        drop(list);
        fence(Ordering::SeqCst);
    }

    /// Gives a place back. Harmless if it was woken meanwhile.
    pub fn leave(&self, ticket: &mut Ticket) {
        if let Some(id) = ticket.0.take() {
            let mut list = self.list.lock().unwrap();
            list.wakers.remove(&id);
            self.count.store(list.wakers.len(), Ordering::SeqCst);
        }
    }

    /// Wakes everybody, to be called *after* the change is visible.
    pub fn wake_all(&self) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) != 0 {
            self.wake_slow();
        }
    }

    #[cold]
    fn wake_slow(&self) {
        let woken = {
            let mut list = self.list.lock().unwrap();
            self.count.store(0, Ordering::SeqCst);
            std::mem::take(&mut list.wakers)
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
