//! `io_uring`, where it pays: many syncs (or allocations) in one submission, and a write linked to its sync.
//!
//! The ring is probed at its first use, because containers often forbid it, and once refused it is not asked again.
//! Every call waits for all that it submitted before it returns, so the kernel never holds a buffer or a descriptor
//! of ours beyond the call. It is guarded by a mutex and stands off the append path: its callers wait for a medium.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::Tally;
use super::system::RingUse;

/// How many operations one submission carries. A longer list takes several.
const ENTRIES: usize = 128;

/// The kernel writes no more than this in one call; a longer write would be a short one, and break its link.
const LINKED_BYTES_MAX: usize = 0x7fff_f000;

/// How a linked write and sync ended.
#[derive(Debug)]
pub(super) enum Linked {
    /// All of it is written and synced.
    Synced,
    /// This many bytes are written and nothing is synced: the caller does the rest. 0 where there is no ring.
    Written(usize),
    /// The write or the sync failed.
    Failed(io::Error),
}

/// The process's ring, or the reason why there is none.
pub(super) struct Ring {
    state: Mutex<State>,
}

/// What became of a list of operations.
struct Done {
    /// As the kernel gives them: a number, or an error number below zero; `None` for what it never took.
    results: Vec<Option<i32>>,
    /// Whether the kernel took a submission in more than one piece, which breaks links without saying so.
    split: bool,
}

enum State {
    Untried,
    Refused(String),
    Ready { ring: Box<IoUring>, process: rustix::process::Pid },
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring")
    }
}

impl Ring {
    pub(super) fn new(allowed: RingUse) -> Self {
        let state = match allowed {
            RingUse::Auto => State::Untried,
            RingUse::Never => State::Refused("switched off by RingUse::Never".into()),
        };
        Ring { state: Mutex::new(state) }
    }

    /// Why there is no ring, or `None` if there is one.
    pub(super) fn refused(&self) -> Option<String> {
        match &*self.ready() {
            State::Refused(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// The state, probed. Never `Untried`.
    fn ready(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave operations behind (see `run`), so a poisoned mutex guards a sound ring.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Untried => {
                *state = match probe() {
                    Ok(ring) => State::Ready { ring: Box::new(ring), process: rustix::process::getpid() },
                    Err(e) => State::Refused(e.to_string()),
                };
            }
            // The queues are memory shared with the parent: a child that touched them would mix up both.
            State::Ready { process, .. } if *process != rustix::process::getpid() => {
                *state = State::Refused("this process was forked from the one that opened the ring".into());
            }
            _ => {}
        }
        state
    }

    /// `fdatasync` of all of them. `None` without a ring; a result that is `None` was never begun.
    pub(super) fn sync_all(
        &self,
        fds: &[BorrowedFd<'_>],
        tally: &Tally,
    ) -> Option<Vec<Option<io::Result<()>>>> {
        let entries = fds.iter().map(|fd| sync_entry(*fd)).collect();
        // SAFETY: the descriptors are borrowed for this call, and there are no buffers.
        #[allow(unsafe_code)]
        let done = unsafe { self.run(entries, tally) }?;
        let results: Vec<_> = done.results.into_iter().map(outcome).collect();
        let synced = results.iter().filter(|r| matches!(r, Some(Ok(())))).count() as u64;
        Tally::add(&tally.syncs, synced);
        Tally::add(&tally.ring_syncs, synced);
        Some(results)
    }

    /// `fallocate` of all the ranges (from, length). As [`Ring::sync_all`].
    pub(super) fn allocate_all(
        &self,
        ranges: &[(BorrowedFd<'_>, u64, u64)],
        tally: &Tally,
    ) -> Option<Vec<Option<io::Result<()>>>> {
        let entries = ranges
            .iter()
            .map(|(fd, at, len)| opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), *len).offset(*at).build())
            .collect();
        // SAFETY: as in `sync_all`.
        #[allow(unsafe_code)]
        let done = unsafe { self.run(entries, tally) }?;
        Some(done.results.into_iter().map(outcome).collect())
    }

    /// A write whose completion starts the sync.
    pub(super) fn write_and_sync(&self, fd: BorrowedFd<'_>, from: &[u8], at: u64, tally: &Tally) -> Linked {
        if from.len() > LINKED_BYTES_MAX {
            return Linked::Written(0);
        }
        let write = opcode::Write::new(types::Fd(fd.as_raw_fd()), from.as_ptr(), from.len() as u32)
            .offset(at)
            .build()
            .flags(squeue::Flags::IO_LINK);
        // SAFETY: descriptor and buffer are borrowed for this call.
        #[allow(unsafe_code)]
        let Some(done) = (unsafe { self.run(vec![write, sync_entry(fd)], tally) }) else {
            return Linked::Written(0);
        };
        // Taken in two pieces, the pair was not linked: the sync may have run before the write.
        let sync = done.results[1].filter(|_| !done.split);
        let linked = judge(done.results[0], sync, from.len());
        match &linked {
            Linked::Synced => {
                Tally::add(&tally.written_bytes, from.len() as u64);
                Tally::add(&tally.syncs, 1);
                Tally::add(&tally.ring_syncs, 1);
            }
            Linked::Written(done) => Tally::add(&tally.written_bytes, *done as u64),
            Linked::Failed(_) => {}
        }
        linked
    }

    /// Submits the entries, at most [`ENTRIES`] at a time, and waits until all that the kernel took have completed.
    /// `None` without a ring.
    ///
    /// # Safety
    /// Descriptors and buffers in the entries stay valid until this returns.
    #[allow(unsafe_code)]
    unsafe fn run(&self, mut entries: Vec<squeue::Entry>, tally: &Tally) -> Option<Done> {
        let mut state = self.ready();
        let State::Ready { ring, .. } = &mut *state else { return None };
        let mut done = Done { results: vec![None; entries.len()], split: false };
        for (number, entry) in entries.iter_mut().enumerate() {
            entry.set_user_data(number as u64);
        }
        for chunk in entries.chunks(ENTRIES) {
            // SAFETY: what the entries refer to is valid until we return, and the loop below does not end before
            // every operation the kernel took has completed.
            let pushed = unsafe { ring.submission().push_multiple(chunk) };
            if pushed.is_err() {
                *state = State::Refused("its submission queue was not empty between calls".into());
                return Some(done);
            }
            Tally::add(&tally.ring_submissions, 1);
            let mut completed = 0;
            let mut broken = None;
            loop {
                for completion in ring.completion() {
                    if let Some(slot) = done.results.get_mut(completion.user_data() as usize) {
                        *slot = Some(completion.result());
                    }
                    completed += 1;
                }
                let waiting = ring.submission().len();
                let in_flight = chunk.len() - waiting - completed;
                match broken {
                    // The kernel refuses to be asked, but what it took it still completes (by its own threads; the
                    // completions reach us with the next switch into the kernel). Leaving now would give it a
                    // buffer that is no longer there.
                    Some(_) if in_flight > 0 => std::thread::sleep(std::time::Duration::from_micros(50)),
                    Some(why) => {
                        *state = State::Refused(why);
                        return Some(done);
                    }
                    None if completed == chunk.len() => break,
                    None => match ring.submit_and_wait(1) {
                        Ok(_) => {
                            done.split |=
                                !(ring.submission().is_empty() || ring.submission().len() == waiting)
                        }
                        Err(e) => match e.raw_os_error().map(Errno::from_raw_os_error) {
                            // Interrupted, or short of memory or queue for a moment: ask again.
                            Some(Errno::INTR | Errno::AGAIN | Errno::BUSY) => std::thread::yield_now(),
                            _ => broken = Some(e.to_string()),
                        },
                    },
                }
            }
        }
        Some(done)
    }
}

fn sync_entry(fd: BorrowedFd<'_>) -> squeue::Entry {
    opcode::Fsync::new(types::Fd(fd.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build()
}

/// Whether an operation ended before it began, so that doing it again is not doing it twice.
fn never_ran(result: i32) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::CANCELED].iter().any(|e| result == -e.raw_os_error())
}

/// The result of a sync or an allocation; `None` if it must be asked for again.
fn outcome(result: Option<i32>) -> Option<io::Result<()>> {
    match result? {
        n if never_ran(n) => None,
        n if n < 0 => Some(Err(io::Error::from_raw_os_error(-n))),
        _ => Some(Ok(())),
    }
}

/// What a linked pair's two results mean. The kernel cancels the sync when the write was short or failed, so a sync
/// that ran covers a whole write; a sync canceled for another reason is asked for again.
fn judge(write: Option<i32>, sync: Option<i32>, len: usize) -> Linked {
    let written = match write {
        None => return Linked::Written(0),
        Some(n) if never_ran(n) => return Linked::Written(0),
        Some(n) if n < 0 => return Linked::Failed(io::Error::from_raw_os_error(-n)),
        Some(n) => n as usize,
    };
    match outcome(sync) {
        Some(Err(e)) => Linked::Failed(e),
        Some(Ok(())) if written == len => Linked::Synced,
        _ => Linked::Written(written),
    }
}

/// Makes a ring and sends one operation through it: some sandboxes allow the setting up and forbid the use.
fn probe() -> io::Result<IoUring> {
    let mut ring: IoUring = IoUring::builder().dontfork().build(ENTRIES as u32)?;
    let mut supported = io_uring::Probe::new();
    ring.submitter().register_probe(&mut supported)?;
    for (name, code) in [
        ("fsync", opcode::Fsync::CODE),
        ("write", opcode::Write::CODE),
        ("fallocate", opcode::Fallocate::CODE),
        ("nop", opcode::Nop::CODE),
    ] {
        if !supported.is_supported(code) {
            return Err(io::Error::other(format!("this kernel's io_uring does not know {name}")));
        }
    }
    // SAFETY: a no-op refers to no memory and no descriptor.
    #[allow(unsafe_code)]
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(|_| io::Error::other("a new ring has no room for one operation"))?;
    loop {
        match ring.submit_and_wait(1) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => break,
        }
    }
    let result = ring.completion().next().map(|completion| completion.result());
    match result {
        Some(0..) => Ok(ring),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("the ring returned without a completion")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short write breaks its link: the sync comes back canceled, and the rest is the caller's.
    #[test]
    fn a_broken_link_leaves_the_rest_to_the_caller() {
        let canceled = -Errno::CANCELED.raw_os_error();
        assert!(matches!(judge(Some(4096), Some(0), 4096), Linked::Synced));
        assert!(matches!(judge(Some(1000), Some(canceled), 4096), Linked::Written(1000)));
        assert!(matches!(judge(Some(0), Some(canceled), 4096), Linked::Written(0)));
    }

    /// An error of the write or of the sync is the pair's; what never ran is not an error.
    #[test]
    fn errors_pass_and_what_never_ran_is_asked_again() {
        let [canceled, full, bad] = [Errno::CANCELED, Errno::NOSPC, Errno::IO].map(|e| -e.raw_os_error());
        let failed = |linked| match linked {
            Linked::Failed(e) => e.raw_os_error().map(|n| -n),
            other => panic!("expected a failure, found {other:?}"),
        };
        assert_eq!(failed(judge(Some(full), Some(canceled), 10)), Some(full));
        assert_eq!(failed(judge(Some(10), Some(bad), 10)), Some(bad));
        assert!(matches!(judge(Some(10), Some(canceled), 10), Linked::Written(10)));
        assert!(matches!(judge(Some(canceled), Some(canceled), 10), Linked::Written(0)));
        assert!(matches!(judge(None, None, 10), Linked::Written(0)));
        assert!(outcome(Some(canceled)).is_none() && outcome(Some(0)).unwrap().is_ok());
    }

    /// The name of the variable that makes this binary the child of the scene below.
    const CHILD: &str = "GIROK_TEST_RING_CHILD";

    /// The kernel really does break the link: a write that a limit on the size of files cuts short comes back with
    /// what it wrote, and its sync with `ECANCELED`. In a child, because the limit is the whole process's.
    #[test]
    fn a_short_write_cancels_its_sync() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        use std::os::fd::AsFd;

        let Some(path) = std::env::var_os(CHILD) else {
            let dir = tempfile::tempdir().unwrap();
            let scene = "disk::ring::tests::a_short_write_cancels_its_sync";
            // The shell ignores SIGXFSZ for its child: safe Rust has no way to.
            let told = std::process::Command::new("sh")
                .args(["-c", "trap '' XFSZ; exec \"$0\" \"$1\" --exact --nocapture"])
                .arg(std::env::current_exe().unwrap())
                .arg(scene)
                .env(CHILD, dir.path().join("limited"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&told.stdout);
            assert!(told.status.success(), "{text}{}", String::from_utf8_lossy(&told.stderr));
            assert!(text.contains("1 passed"), "the child ran no scene: {text}");
            print!("{text}");
            return;
        };
        let ring = Ring::new(RingUse::Auto);
        if let Some(why) = ring.refused() {
            println!("io_uring is refused here ({why}): nothing to break");
            return;
        }
        let file = std::fs::File::create(path).unwrap();
        let limit = Rlimit { current: Some(10_000), maximum: getrlimit(Resource::Fsize).maximum };
        setrlimit(Resource::Fsize, limit).unwrap();
        let bytes = [7; 12_000];
        let fd = types::Fd(file.as_raw_fd());
        let write = opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).offset(0).build();
        let pair = vec![write.flags(squeue::Flags::IO_LINK), sync_entry(file.as_fd())];
        // SAFETY: file and buffer outlive the call.
        #[allow(unsafe_code)]
        let done = unsafe { ring.run(pair, &Tally::default()) }.unwrap();
        assert!(!done.split);
        assert_eq!(done.results, [Some(10_000), Some(-Errno::CANCELED.raw_os_error())]);
    }

    /// A ring that is switched off does nothing and says why.
    #[test]
    fn a_refused_ring_says_why() {
        let ring = Ring::new(RingUse::Never);
        assert!(ring.refused().unwrap().contains("Never"));
        assert!(ring.sync_all(&[], &Tally::default()).is_none());
    }
}
