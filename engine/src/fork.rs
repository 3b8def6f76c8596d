//! Is this still the process that opened the directory? Asked on every call, so it must cost one load.
//!
//! The kernel helps: a page under `MADV_WIPEONFORK` reads as zeros in a child. The opener writes its process id there
//! and every handle remembers it; in a child the page no longer says so, until the child opens a directory of its own
//! and writes its own id. Where there is no such page (kernels before 4.14), the process id is asked for each time.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The process a handle belongs to, as [`Log::process`](crate::Log::process) tells it. Cheap to copy and to ask.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// assert!(log.process().is_current(), "this is no fork");
/// assert_eq!(log.process().id(), std::process::id());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Process {
    id: u32,
    page: Option<&'static AtomicU64>,
}

impl Process {
    /// This one.
    pub(crate) fn current() -> Self {
        static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
        let id = std::process::id();
        let page = *PAGE.get_or_init(wiped_on_fork);
        if let Some(page) = page {
            page.store(id as u64, Ordering::Relaxed);
        }
        Process { id, page }
    }

    /// Whether the caller runs in it, and not in a fork of it.
    #[inline]
    pub fn is_current(&self) -> bool {
        match self.page {
            Some(page) => page.load(Ordering::Relaxed) == self.id as u64,
            None => std::process::id() == self.id,
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// A word that a forked child finds zeroed. Never freed: there is one for each process.
fn wiped_on_fork() -> Option<&'static AtomicU64> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    let len = rustix::param::page_size();
    // SAFETY: a new anonymous mapping at an address of the kernel's choosing touches nothing that is there.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
            .ok()?
    };
    // SAFETY: the page was mapped above and nobody has written to it yet.
    unsafe { madvise(page, len, Advice::LinuxWipeOnFork).ok()? };
    // SAFETY: mapped for good, page-aligned, zeroed, and touched through this atomic only.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handle knows its own process, and another's it does not take for its own.
    #[test]
    fn a_process_knows_itself() {
        let here = Process::current();
        assert!(here.is_current());
        assert_eq!(here.id(), std::process::id());
        let elsewhere = Process { id: here.id + 1, page: here.page };
        assert!(!elsewhere.is_current());
        let without_page = Process { page: None, ..here };
        assert!(without_page.is_current());
    }
}
