//! A disk in memory whose writes to logs stop at a gate, as those of a disk that hangs would; and what producers do then.

use std::any::Any;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Wake};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use girok::{
    Codec, Env, Error, Girok, LogConfig, Producer, ProducerRecord, RegionMode, Remedy, Timestamp,
    TopicConfig, TopicPartition,
};
use girok_engine::batch::BatchBuilder;
use girok_engine::disk::{Access, Counters, DirLock, Disk, Entry, File, LockError, Map, Open};

use crate::{LONG, poll_once, reader, run, values, written};

#[derive(Debug, Default)]
struct Gate {
    /// Whether it is closed, and how many stand before it.
    state: Mutex<(bool, usize)>,
    moved: Condvar,
}

impl Gate {
    fn set_closed(&self, closed: bool) {
        self.state.lock().unwrap().0 = closed;
        self.moved.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.moved.notify_all();
        while state.0 {
            state = self.moved.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    fn wait_for_somebody(&self) {
        let mut state = self.state.lock().unwrap();
        while state.1 == 0 {
            state = self.moved.wait_timeout(state, LONG).unwrap().0;
        }
    }
}

#[derive(Debug)]
struct GatedDisk(Arc<dyn Disk>, Arc<Gate>);

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn File>,
    gate: Option<Arc<Gate>>,
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let is_log = path.extension().is_some_and(|ending| ending == "log");
        let inner = self.0.open(path, how)?;
        Ok(Arc::new(GatedFile { inner, gate: is_log.then(|| self.1.clone()) }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(dir)
    }
    fn is_dir(&self, path: &Path) -> bool {
        self.0.is_dir(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.hard_link(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn sync_many(&self, files: &[&dyn File]) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync()).collect()
    }
    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DirLock>, LockError> {
        self.0.lock(path, holder)
    }
    fn maps_safely(&self, _: &Path) -> bool {
        false
    }
    fn counters(&self) -> Counters {
        self.0.counters()
    }
}

impl File for GatedFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(into, at)
    }
    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        self.inner.write_at(from, at)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(at, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn map(&self, len: usize, access: Access) -> io::Result<Map> {
        self.inner.map(len, access)
    }
    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Appends pass through a small buffer to a disk that hangs at will.
fn gated() -> (Girok, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let env = Env::in_memory();
    let env = Env { disk: Arc::new(GatedDisk(env.disk, gate.clone())), ..env };
    let config = LogConfig { region: RegionMode::Written, write_buffer_bytes: 8192, ..LogConfig::default() };
    let girok = Girok::builder().env(env).config(config).open("/log").unwrap();
    let config = TopicConfig { max_message_bytes: 4096, ..written() };
    girok.admin().create_topic("orders", 1, config).unwrap();
    // Open for appends before the disk hangs.
    girok.producer().build().unwrap().send(ProducerRecord::new("orders", "first")).unwrap().wait().unwrap();
    (girok, gate)
}

/// The disk hangs from now on, and one producer with it.
fn hang<'scope>(
    scope: &'scope Scope<'scope, '_>,
    girok: &Girok,
    gate: &Gate,
) -> ScopedJoinHandle<'scope, girok::Result<()>> {
    gate.set_closed(true);
    let stuck = girok.producer().linger(Duration::ZERO).build().unwrap();
    let thread = scope.spawn(move || stuck.send(ProducerRecord::new("orders", "stuck")).map(drop));
    gate.wait_for_somebody();
    thread
}

/// Fills the buffer before a disk that hangs.
fn fill(girok: &Girok) {
    let filler = girok.producer().linger(Duration::ZERO).max_block(Duration::ZERO).build().unwrap();
    while filler.send(ProducerRecord::new("orders", &[b'x'; 200])).map(drop).is_ok() {}
}

/// The disk hangs: one producer hangs with it, the others fill the buffer that there is, and then a send waits for as long
/// as `max_block` says and fails. What failed was not taken: when the disk goes on, everything that was taken is there,
/// once, and nothing else.
#[test]
fn a_disk_that_hangs_is_waited_for_so_long() {
    for linger in [Duration::ZERO, LONG] {
        let (girok, gate) = gated();
        std::thread::scope(|scope| {
            let thread = hang(scope, &girok, &gate);

            let wait = Duration::from_millis(50);
            let hasty = girok.producer().linger(linger).batch_size(500).max_block(wait).build().unwrap();
            let mut taken = 0;
            let failed = loop {
                let value = format!("{taken:0>200}");
                let begun = Instant::now();
                match hasty.send(ProducerRecord::new("orders", &value)) {
                    Ok(delivery) => drop(delivery),
                    Err(error) => {
                        assert!(begun.elapsed() >= wait);
                        break error;
                    }
                }
                taken += 1;
                assert!(taken < 1000, "the buffer has no bound");
            };
            assert!(matches!(failed, Error::Timeout { .. }), "{failed}");
            assert_eq!(failed.remedy(), Remedy::TryAgain);
            assert!(
                failed.to_string().contains("orders-0") && failed.to_string().contains("50 ms"),
                "{failed}"
            );

            gate.set_closed(false);
            thread.join().unwrap().unwrap();
            drop(hasty.send(ProducerRecord::new("orders", "again")).unwrap());
            hasty.flush().unwrap();
            let mut consumer = reader(&girok, 1);
            let mut seen = Vec::new();
            while seen.last().is_none_or(|text| text != "again") {
                seen.extend(values(&consumer.poll(LONG).unwrap()));
            }
            let expected: Vec<String> = (0..taken).map(|n| format!("{n:0>200}")).collect();
            assert_eq!(seen[..2], ["first", "stuck"]);
            assert!(seen[2..seen.len() - 1] == expected, "{} of {taken} with linger {linger:?}", seen.len());
        });
    }
}

/// A delivery that is awaited while the disk hangs is not ready, and is woken when the disk goes on.
#[test]
fn an_awaited_delivery_outwaits_a_disk_that_hangs() {
    let (girok, gate) = gated();
    std::thread::scope(|scope| {
        let thread = hang(scope, &girok, &gate);
        fill(&girok);

        // There is room in the open batch, and none for the batch.
        let producer = girok.producer().linger(LONG).build().unwrap();
        let first = producer.send(ProducerRecord::new("orders", &[b'x'; 200])).unwrap();
        let mut second = producer.send(ProducerRecord::new("orders", &[b'x'; 200])).unwrap();
        assert!(poll_once(&mut second).0.is_pending());
        assert_eq!(first.try_get().unwrap(), None);
        gate.set_closed(false);
        assert_eq!(run(second).unwrap().offset - run(first).unwrap().offset, 1);
        thread.join().unwrap().unwrap();
    });
}

/// Who is woken because a batch was appended may send from where it is woken.
#[test]
fn a_waker_may_send() {
    struct Sends(Producer, AtomicUsize);
    impl Wake for Sends {
        fn wake(self: Arc<Self>) {
            drop(self.0.send(ProducerRecord::new("orders", "from the waker")).unwrap());
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (girok, gate) = gated();
    std::thread::scope(|scope| {
        let thread = hang(scope, &girok, &gate);
        fill(&girok);

        let producer = girok.producer().linger(LONG).build().unwrap();
        let mut delivery = producer.send(ProducerRecord::new("orders", "waited for")).unwrap();
        let sends = Arc::new(Sends(producer.clone(), AtomicUsize::new(0)));
        let waker = sends.clone().into();
        assert!(Pin::new(&mut delivery).poll(&mut Context::from_waker(&waker)).is_pending());
        gate.set_closed(false);
        thread.join().unwrap().unwrap();
        // Whoever appends the batch, this call or a timer, wakes who waits for it.
        producer.flush().unwrap();
        assert!(delivery.wait().is_ok());
        let begun = Instant::now();
        while sends.1.load(Ordering::SeqCst) == 0 {
            assert!(begun.elapsed() < LONG, "nobody was woken");
            std::thread::yield_now();
        }
    });
}

/// A close refuses what comes after it at once, not only when it is through: who appends without a pause could keep it
/// waiting for ever.
#[test]
fn a_close_that_waits_takes_nothing_more() {
    let (girok, gate) = gated();
    let log = girok.log().clone();
    let partition = log.partition(&TopicPartition::new("orders", 0)).unwrap();
    std::thread::scope(|scope| {
        let sending = hang(scope, &girok, &gate);
        let closing = scope.spawn(|| log.close());
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(Timestamp::from_millis(1), None, Some(b"late"), &[]).unwrap();
        let begun = Instant::now();
        let refused = loop {
            match partition.try_append(&builder.finish().unwrap()) {
                Err(error @ girok_engine::Error::Closed { .. }) => break error,
                _ => assert!(begun.elapsed() < LONG, "a close that has begun still takes records"),
            }
            std::thread::yield_now();
        };
        assert!(refused.to_string().contains("/log"), "{refused}");
        assert!(!closing.is_finished(), "the disk still hangs");
        gate.set_closed(false);
        sending.join().unwrap().unwrap();
        closing.join().unwrap().unwrap();
    });
}
