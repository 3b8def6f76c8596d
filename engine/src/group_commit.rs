//! Group commit: one sync for all who wait, led by one of them.
//!
//! Whoever waits for a sync and has a thread of its own may lead it; who comes meanwhile takes a place in the queue.
//! When the sync is through, those whom it has covered are woken, and if others are left the lead is *handed* to one
//! of them, rather than left to whoever comes first:
//!
//! ```text
//!            try_lead                 done: nobody is left
//!     FREE ────────────▶ LED ──────────────────────────────▶ FREE
//!                         ▲ │ done: somebody is left
//!                try_lead │ ▼
//!                      HANDED (to one place) ── leave ──▶ handed on, or FREE
//! ```
//!
//! With a free lead, the first to be woken would sync again at once, for itself and for those who came during the last
//! sync, while all others are still on their way: two half groups take turns. For the same reason a leader first
//! [`gather`](GroupCommit::gather)s: those whom the last sync covered were woken a moment ago, and those who will append
//! again are about to (PostgreSQL's `commit_delay` is the same idea; here the group that is waited for is the last one,
//! and nobody waits who was alone). bench/README.md has what either is worth.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::types::Offset;
use crate::wait::Ticket;

/// The states of the lead; any other value is the number of the place that it was handed to.
const FREE: u64 = u64::MAX;
const LED: u64 = u64::MAX - 1;

/// Those who wait for a sync, and which of them makes it.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    /// Becomes [`LED`] by an exchange, and anything else only under the queue's lock.
    lead: AtomicU64,
    queue: Mutex<BTreeMap<u64, Place>>,
    /// How many are in the queue, and how many of them cannot lead. Changed under its lock.
    waiting: AtomicUsize,
    followers: AtomicUsize,
    /// How many the last sync was for, its leader among them.
    last_group: AtomicUsize,
}

#[derive(Debug)]
struct Place {
    up_to: Offset,
    waker: Waker,
    can_lead: bool,
}

impl GroupCommit {
    pub(crate) fn new() -> Self {
        GroupCommit {
            lead: AtomicU64::new(FREE),
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            followers: AtomicUsize::new(0),
            last_group: AtomicUsize::new(0),
        }
    }

    /// Takes the lead if it is free, or was handed to this place. [`done`](Self::done) must follow.
    pub(crate) fn try_lead(&self, ticket: &Ticket) -> bool {
        let take = |from| self.lead.compare_exchange(from, LED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if take(FREE) {
            return true;
        }
        let Some(number) = ticket.number().filter(|number| take(*number)) else { return false };
        // It is awake, and will know by itself what the sync covers.
        self.count(self.queue.lock().unwrap().remove(&number).as_ref(), -1);
        true
    }

    /// Takes or renews a place among those who wait for a sync up to an offset. The caller must look again at what it
    /// waits for, and whether it [`may_lead`](Self::may_lead), *after* this returns, and only then sleep.
    pub(crate) fn register(&self, ticket: &mut Ticket, up_to: Offset, waker: &Waker, can_lead: bool) {
        let number = ticket.take_number();
        let mut queue = self.queue.lock().unwrap();
        let before = queue.insert(number, Place { up_to, waker: waker.clone(), can_lead });
        self.count(before.as_ref(), -1);
        self.count(queue.get(&number), 1);
    }

    fn count(&self, place: Option<&Place>, by: isize) {
        let Some(place) = place else { return };
        self.waiting.fetch_add(by as usize, Ordering::Relaxed);
        if !place.can_lead {
            self.followers.fetch_add(by as usize, Ordering::SeqCst);
        }
    }

    /// Called with the lead, before a sync: lets those come along for whom the last one was, for as long as
    /// `is_worth_it` says.
    pub(crate) fn gather(&self, is_worth_it: impl Fn() -> bool) {
        // The leader is one of them. (One that took a free lead while it had a place is counted on both sides, here and
        // in `done`.)
        let expected = self.last_group.load(Ordering::Relaxed).saturating_sub(1);
        while self.waiting.load(Ordering::Relaxed) < expected && is_worth_it() {
            std::thread::yield_now();
        }
    }

    /// Whether somebody waits who cannot lead: whatever is published meanwhile needs a sync by the background.
    pub(crate) fn has_followers(&self) -> bool {
        self.followers.load(Ordering::SeqCst) != 0
    }

    /// Whether [`try_lead`](Self::try_lead) is worth a try.
    pub(crate) fn may_lead(&self, ticket: &Ticket) -> bool {
        let lead = self.lead.load(Ordering::SeqCst);
        lead == FREE || Some(lead) == ticket.number()
    }

    /// Gives a place back, and hands the lead on if it was handed here. Harmless if there is no such place. `true` if
    /// somebody is left who cannot lead, and nobody to do it: they need a sync by other means.
    pub(crate) fn leave(&self, ticket: &mut Ticket) -> bool {
        let Some(number) = ticket.number() else { return false };
        let mut queue = self.queue.lock().unwrap();
        self.count(queue.remove(&number).as_ref(), -1);
        if self.lead.load(Ordering::SeqCst) != number {
            return false;
        }
        let next = self.hand_on(&queue);
        let stranded = next.is_none() && !queue.is_empty();
        drop(queue);
        if let Some(waker) = next {
            waker.wake();
        }
        stranded
    }

    /// The sync is through and has covered everything below `reached`: wakes those who waited for that and hands the
    /// lead on. As for [`leave`](Self::leave), `true` if somebody is left whom nobody leads.
    pub(crate) fn done(&self, reached: Offset) -> bool {
        let mut covered = Vec::new();
        let mut queue = self.queue.lock().unwrap();
        queue.retain(|_, place| {
            let waits = place.up_to > reached;
            if !waits {
                covered.push(place.waker.clone());
                self.count(Some(place), -1);
            }
            waits
        });
        self.last_group.store(covered.len() + 1, Ordering::Relaxed);
        let next = self.hand_on(&queue);
        let stranded = next.is_none() && !queue.is_empty();
        drop(queue);
        // The next leader last: whoever is covered has a head start to append again before the next sync begins.
        covered.into_iter().chain(next).for_each(Waker::wake);
        stranded
    }

    /// Wakes everybody, because there will be no sync: it failed, or the log is closed. The lead, if this thread has it,
    /// is free again; a lead that was handed to somebody stays theirs until they leave.
    pub(crate) fn wake_all(&self, leads: bool) {
        let mut queue = self.queue.lock().unwrap();
        let woken = std::mem::take(&mut *queue);
        self.waiting.store(0, Ordering::Relaxed);
        self.followers.store(0, Ordering::SeqCst);
        if leads {
            self.lead.store(FREE, Ordering::SeqCst);
        }
        drop(queue);
        woken.into_values().for_each(|place| place.waker.wake());
    }

    /// Decides who leads next, under the lock.
    fn hand_on(&self, queue: &BTreeMap<u64, Place>) -> Option<Waker> {
        let next = queue.iter().find(|(_, place)| place.can_lead);
        self.lead.store(next.map_or(FREE, |(number, _)| *number), Ordering::SeqCst);
        next.map(|(_, place)| place.waker.clone())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Somebody who waits.
    #[derive(Default)]
    struct Waiting {
        ticket: Ticket,
        bell: Arc<Bell>,
    }

    impl Waiting {
        fn at(commit: &GroupCommit, up_to: i64, can_lead: bool) -> Waiting {
            let mut waiting = Waiting::default();
            waiting.wait(commit, up_to, can_lead);
            waiting
        }
        fn wait(&mut self, commit: &GroupCommit, up_to: i64, can_lead: bool) {
            commit.register(&mut self.ticket, Offset::new(up_to), &self.bell.clone().into(), can_lead);
        }
        fn rings(&self) -> usize {
            self.bell.0.load(Ordering::SeqCst)
        }
    }

    /// The covered are woken, one of the others leads next, and whoever comes before it has woken up is too late to.
    #[test]
    fn the_lead_is_handed_to_one_who_waits() {
        let commit = GroupCommit::new();
        assert!(commit.try_lead(&Ticket::default()));
        let covered = [1, 2, 3].map(|at| Waiting::at(&commit, at, true));
        let mut later = [4, 5].map(|at| Waiting::at(&commit, at, true));
        assert!(later.iter().all(|other| !commit.try_lead(&other.ticket)), "somebody is at it");
        assert!(!commit.done(Offset::new(3)));
        assert_eq!(covered.map(|one| one.rings()), [1, 1, 1]);
        assert_eq!(later.each_ref().map(Waiting::rings), [1, 0], "nobody is woken for nothing");

        assert!(!commit.try_lead(&Ticket::default()), "it was handed to another");
        assert!(!commit.may_lead(&later[1].ticket) && commit.may_lead(&later[0].ticket));
        assert!(commit.try_lead(&later[0].ticket));
        assert!(!commit.done(Offset::new(5)));
        assert_eq!(later.each_ref().map(Waiting::rings), [1, 1], "who leads is awake");
        assert!(later.iter_mut().all(|one| !commit.leave(&mut one.ticket)));
        assert!(commit.try_lead(&Ticket::default()), "nobody waits, so it is free");
    }

    /// A leader waits for as many as the last sync was for, and no longer than it is told; who was alone waits for nobody.
    #[test]
    fn a_leader_gathers_those_of_the_last_sync() {
        let commit = GroupCommit::new();
        let gathers = || {
            let looks = std::cell::Cell::new(0);
            commit.gather(|| looks.replace(looks.get() + 1) < 3);
            looks.get()
        };
        assert!(commit.try_lead(&Ticket::default()));
        assert_eq!(gathers(), 0);
        let mut others = [1, 1].map(|at| Waiting::at(&commit, at, true));
        assert!(!commit.done(Offset::new(1)));

        assert!(commit.try_lead(&Ticket::default()));
        assert_eq!(gathers(), 4, "nobody comes");
        others[0].wait(&commit, 2, true);
        assert_eq!(gathers(), 4, "one is still on its way");
        others[1].wait(&commit, 3, true);
        assert_eq!(gathers(), 0, "all are here");
        assert!(!commit.done(Offset::new(2)));
        assert!(commit.try_lead(&others[1].ticket));
        assert_eq!(gathers(), 4, "two were covered, and the leader has no place");
        assert!(!commit.done(Offset::new(3)));
        assert!(commit.try_lead(&Ticket::default()));
        assert_eq!(gathers(), 0, "who was alone waits for nobody");
    }

    /// Whoever goes away with the lead hands it on; those who cannot lead are never handed it, and are not forgotten.
    #[test]
    fn a_lead_that_is_given_back_is_handed_on() {
        let commit = GroupCommit::new();
        assert!(commit.try_lead(&Ticket::default()));
        let mut future = Waiting::at(&commit, 9, false);
        let mut threads = [9, 9].map(|at| Waiting::at(&commit, at, true));
        assert!(!commit.done(Offset::new(1)));
        assert_eq!(threads.each_ref().map(Waiting::rings), [1, 0]);
        assert!(!commit.leave(&mut threads[0].ticket));
        assert_eq!(threads[1].rings(), 1, "handed on");
        assert!(commit.leave(&mut threads[1].ticket), "the future is left, and nobody leads");
        assert_eq!(future.rings(), 0);
        assert!(commit.try_lead(&Ticket::default()), "the background can");
        assert!(commit.has_followers());
        assert!(!commit.done(Offset::new(9)));
        assert_eq!(future.rings(), 1);
        assert!(!commit.has_followers());
        assert!(!commit.leave(&mut future.ticket), "long gone: harmless");
    }

    /// A failure wakes everybody once, and leaves nobody with a lead that will not be used.
    #[test]
    fn a_failure_wakes_everybody() {
        let commit = GroupCommit::new();
        assert!(commit.try_lead(&Ticket::default()));
        let mut all = [(1, true), (2, true), (3, false)].map(|(at, lead)| Waiting::at(&commit, at, lead));
        assert!(!commit.done(Offset::ZERO));
        assert!(commit.try_lead(&all[0].ticket));
        commit.wake_all(true);
        assert_eq!(all.each_ref().map(Waiting::rings), [1, 1, 1]);
        assert!(commit.may_lead(&Ticket::default()));
        // Woken while the lead was on its way to it: it still has it, and hands it on.
        assert!(commit.try_lead(&Ticket::default()));
        all[0].wait(&commit, 1, true);
        all[1].wait(&commit, 2, true);
        assert!(!commit.done(Offset::ZERO));
        commit.wake_all(false);
        assert!(!commit.try_lead(&Ticket::default()));
        assert!(!commit.leave(&mut all[0].ticket));
        assert!(commit.try_lead(&Ticket::default()));
    }
}

/// What loom walks: waiters who append, wait and leave; whatever the order, each is covered by a sync that began after
/// its append, and nobody sleeps for ever.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as Counter;
    use loom::thread;
    use std::task::Wake;

    struct Bell(loom::sync::Notify);

    impl Wake for Bell {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.notify();
        }
    }

    struct Log {
        commit: GroupCommit,
        appended: Counter,
        synced: Counter,
    }

    impl Log {
        fn new() -> Arc<Log> {
            Arc::new(Log { commit: GroupCommit::new(), appended: Counter::new(0), synced: Counter::new(0) })
        }

        fn append_and_wait(&self) {
            let up_to = self.appended.fetch_add(1, Ordering::SeqCst) + 1;
            let bell = std::sync::Arc::new(Bell(loom::sync::Notify::new()));
            let waker = Waker::from(bell.clone());
            let mut ticket = Ticket::default();
            let is_synced = || self.synced.load(Ordering::SeqCst) >= up_to;
            while !is_synced() {
                if self.commit.try_lead(&ticket) {
                    self.synced.store(self.appended.load(Ordering::SeqCst), Ordering::SeqCst);
                    self.commit.done(Offset::new(self.synced.load(Ordering::SeqCst) as i64));
                    continue;
                }
                self.commit.register(&mut ticket, Offset::new(up_to as i64), &waker, true);
                if is_synced() || self.commit.may_lead(&ticket) {
                    continue;
                }
                bell.0.wait();
            }
            self.commit.leave(&mut ticket);
        }
    }

    #[test]
    fn everybody_is_covered() {
        let mut bounded = loom::model::Builder::new();
        bounded.preemption_bound = Some(3);
        bounded.check(|| {
            let log = Log::new();
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let log = log.clone();
                    thread::spawn(move || log.append_and_wait())
                })
                .collect();
            log.append_and_wait();
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(log.synced.load(Ordering::SeqCst), 3);
            assert!(log.commit.may_lead(&Ticket::default()), "the lead is free when nobody waits");
        });
    }

    /// Somebody comes, is perhaps handed the lead, and goes away without using it.
    #[test]
    fn who_goes_away_strands_nobody() {
        let mut bounded = loom::model::Builder::new();
        bounded.preemption_bound = Some(3);
        bounded.check(|| {
            let log = Log::new();
            let fickle = {
                let log = log.clone();
                thread::spawn(move || {
                    let up_to = log.appended.fetch_add(1, Ordering::SeqCst) + 1;
                    let mut ticket = Ticket::default();
                    log.commit.register(&mut ticket, Offset::new(up_to as i64), Waker::noop(), true);
                    log.commit.leave(&mut ticket);
                })
            };
            let other = {
                let log = log.clone();
                thread::spawn(move || log.append_and_wait())
            };
            log.append_and_wait();
            other.join().unwrap();
            fickle.join().unwrap();
            assert!(log.commit.may_lead(&Ticket::default()));
        });
    }
}
