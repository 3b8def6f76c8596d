//! Progress bars: on stderr, when it is a terminal, for what takes longer than a second.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that shows itself after a second. May be told about progress from any thread.
pub struct Progress {
    what: &'static str,
    unit: Unit,
    total: u64,
    begun: Instant,
    bar: Mutex<Option<ProgressBar>>,
    is_terminal: bool,
}

/// What is counted.
#[derive(Clone, Copy)]
pub enum Unit {
    Bytes,
    Records,
}

impl Progress {
    /// Of `total` units; zero if nobody knows how many.
    pub fn new(what: &'static str, unit: Unit, total: u64) -> Self {
        Progress {
            what,
            unit,
            total,
            begun: Instant::now(),
            bar: Mutex::new(None),
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// So many units are done.
    pub fn at(&self, done: u64) {
        if !self.is_terminal || self.begun.elapsed() < Duration::from_secs(1) {
            return;
        }
        let mut bar = self.bar.lock().unwrap();
        bar.get_or_insert_with(|| self.show()).set_position(done);
    }

    fn show(&self) -> ProgressBar {
        let template = match (self.unit, self.total) {
            (Unit::Bytes, 0) => "{msg} {spinner} {bytes} ({bytes_per_sec})",
            (Unit::Records, 0) => "{msg} {spinner} {human_pos} records ({per_sec})",
            (Unit::Bytes, _) => "{msg} [{bar:30}] {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)",
            (Unit::Records, _) => "{msg} [{bar:30}] {human_pos}/{human_len} ({per_sec}, {eta} left)",
        };
        let bar = match self.total {
            0 => ProgressBar::new_spinner(),
            total => ProgressBar::new(total),
        };
        let style = ProgressStyle::with_template(template).expect("the templates above are right");
        bar.with_style(style.progress_chars("=> ")).with_message(self.what).with_elapsed(self.begun.elapsed())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get_mut().ok().and_then(Option::take) {
            bar.finish_and_clear();
        }
    }
}

/// Does something of which nobody knows how long it takes; after a second a sign of life is seen.
pub fn with_spinner<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let style =
                ProgressStyle::with_template("{msg} {spinner} {elapsed}").expect("the template is right");
            let bar = ProgressBar::new_spinner().with_style(style).with_message(what);
            bar.enable_steady_tick(Duration::from_millis(200));
            let _ = is_done.recv();
            bar.finish_and_clear();
        });
        // Dropped when the work is done, also if it panics.
        let _done = done;
        work()
    })
}
