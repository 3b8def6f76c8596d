//! Where the benches write, and how long they may take.
//!
//! `GIROK_BENCH_DIR` names the directory; without it the build directory is used, because `/tmp` is memory on many
//! machines and a sync into memory measures nothing. `GIROK_BENCH_SMOKE=1` makes every bench small enough to run in
//! seconds, which proves its answers and nothing about speed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whether only the answers are to be proved: asked for by the environment, or by `cargo bench -- --test`.
pub fn smoke() -> bool {
    std::env::var_os("GIROK_BENCH_SMOKE").is_some_and(|v| !v.is_empty() && v != "0")
        || std::env::args().any(|argument| argument == "--test")
}

/// Whether a row of that name is wanted: `cargo bench --bench append -- Synced` asks for those that say "Synced", as
/// with criterion.
pub fn wanted(name: &str) -> bool {
    let mut filters = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    filters.peek().is_none() || filters.any(|filter| name.contains(&filter))
}

/// The full size, or the small one in a smoke run.
pub fn sized<T>(full: T, small: T) -> T {
    if smoke() { small } else { full }
}

/// A fresh directory that goes away with its guard.
///
/// # Panics
/// If it cannot be made; a bench has nowhere else to go.
pub fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("GIROK_BENCH_DIR")
        .or_else(|| std::env::var_os("CARGO_TARGET_DIR"))
        .map_or_else(|| PathBuf::from("target"), PathBuf::from);
    fs::create_dir_all(&parent)
        .and_then(|()| tempfile::Builder::new().prefix("girok-bench-").tempdir_in(&parent))
        .unwrap_or_else(|e| panic!("{}: {e}; set GIROK_BENCH_DIR to a writable directory", parent.display()))
}

/// Touches `bytes` of memory and as much page cache, and gives both back.
///
/// A virtual machine that touches a page of its memory for the first time pays about ten times what a later touch
/// costs, because the host has to find the page. Without this the first thing measured is always the slowest.
pub fn warm(dir: &Path, bytes: usize) -> io::Result<()> {
    let chunk = vec![0xa5u8; 1 << 20];
    let mut memory: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes >> 20 {
        memory.push(chunk.clone());
    }
    drop(std::hint::black_box(memory));
    let path = dir.join("warm");
    let mut file = File::create(&path)?;
    for _ in 0..bytes >> 20 {
        file.write_all(&chunk)?;
    }
    drop(file);
    fs::remove_file(path)
}

/// Bytes written to the device that holds `dir`, by anybody, since the machine started. `None` where the kernel does
/// not say (a network or memory file system).
pub fn device_bytes_written(dir: &Path) -> Option<u64> {
    let device = fs::metadata(dir).ok()?.dev();
    let path = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    // The seventh field is sectors written, of 512 bytes whatever the device's own size is.
    fs::read_to_string(path).ok()?.split_ascii_whitespace().nth(6)?.parse::<u64>().ok().map(|s| s * 512)
}

/// Criterion as all benches use it: short in a smoke run.
pub fn criterion() -> criterion::Criterion {
    let criterion = criterion::Criterion::default();
    let criterion = if smoke() {
        criterion
            .sample_size(10)
            .warm_up_time(Duration::from_millis(20))
            .measurement_time(Duration::from_millis(50))
            .without_plots()
    } else {
        criterion.sample_size(20).measurement_time(Duration::from_secs(3))
    };
    criterion.configure_from_args()
}
