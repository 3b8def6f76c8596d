//! One file of the log: what of it may be read, where its bytes are, and who may write the rest.
//!
//! A [`Segment`] is its cursors and its indexes; it is small and stays in memory as long as the partition lists it.
//! An [`Active`] is a segment open for appends: a region of address space over the file, and the [`Tail`] that hands
//! out room in it. A [`Mapped`] is what keeps bytes alive: everyone who reads holds one, and the memory goes with the
//! last of them, also when retention has long removed the file.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::backup::unshare;
use crate::batch::{Batch, HEADER_BYTES, Header, ValidBatch};
use crate::disk::{Access, Disk, File, Map, Open, read_full_at, write_all_at};
use crate::error::{Error, Result};
use crate::index::Indexes;
use crate::slot::{Epochs, Slot};
use crate::tail::{Cursor, Mark, Reservation, Tail};
use crate::types::Offset;
use std::sync::Mutex;

/// The name of a segment's file: twenty digits of base offset and an ending.
pub(crate) fn file_name(base: Offset, ending: &str) -> String {
    format!("{:020}.{ending}", base.get())
}

/// How many of something there are now, and what was replaced and still hangs about. Shared by a log and everything it
/// hands out.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// What the slots of this log pin.
    pub(crate) epochs: Epochs,
    /// Mappings alive, those held by views included.
    pub(crate) mappings: AtomicUsize,
    /// Bytes of mappings whose segment was removed while somebody still reads it.
    pub(crate) held_removed: AtomicU64,
    /// Segments open for appends, each with a descriptor.
    pub(crate) regions: AtomicUsize,
    /// Mappings that nobody will be given any more. Unmapping a large file takes long: the background does it, not the
    /// appender or reader whose pin happens to be the last.
    retired: Mutex<Vec<Arc<Mapped>>>,
    /// Allocations made for views that could not be borrowed (`read = copy`).
    pub(crate) copies: AtomicU64,
}

/// This many mappings may wait for the background; a log that nobody steps looks after them itself.
const RETIRED_MAX: usize = 32;

impl Gauges {
    fn retire(&self, mapped: Option<Arc<Mapped>>) {
        let Some(mapped) = mapped else { return };
        let full = {
            let mut retired = self.retired.lock().unwrap();
            retired.push(mapped);
            retired.len() > RETIRED_MAX
        };
        if full {
            self.unmap_retired();
        }
    }

    /// Unmaps what nobody holds any more. What somebody still holds goes with the last who does, or the next time.
    pub(crate) fn unmap_retired(&self) {
        let mut waiting = std::mem::take(&mut *self.retired.lock().unwrap());
        if waiting.is_empty() {
            return;
        }
        // Two turns make what was just replaced old enough, the third lets go of it, if no pin is in the way.
        for _ in 0..3 {
            self.epochs.turn();
        }
        waiting.retain(|mapped| Arc::strong_count(mapped) > 1);
        // More than that are views' business: each goes with the last of its own.
        if waiting.len() <= RETIRED_MAX {
            self.retired.lock().unwrap().append(&mut waiting);
        }
    }
}

impl Gauges {
    /// Frees all that was replaced: nobody is left who could look at it. (What waits to be freed may hold these gauges
    /// itself, and would keep itself alive for ever.)
    pub(crate) fn let_go(&self) {
        self.retired.lock().unwrap().clear();
        self.epochs.leave();
    }
}

/// A mapping of a segment, counted.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Map,
    gauges: Arc<Gauges>,
    /// Bytes to account as "held though removed" until dropped; 0 while the segment is listed.
    removed: AtomicU64,
}

impl Mapped {
    fn new(map: Map, gauges: &Arc<Gauges>) -> Arc<Self> {
        gauges.mappings.fetch_add(1, Ordering::Relaxed);
        Arc::new(Mapped { map, gauges: gauges.clone(), removed: AtomicU64::new(0) })
    }

    /// Bytes of address space.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    fn mark_removed(&self, bytes: u64) {
        if self.removed.swap(bytes, Ordering::Relaxed) == 0 {
            self.gauges.held_removed.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.gauges.mappings.fetch_sub(1, Ordering::Relaxed);
        self.gauges.held_removed.fetch_sub(*self.removed.get_mut(), Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
enum Keep {
    Nothing,
    Mapped(Arc<Mapped>),
    Copied(Arc<[u8]>),
}

/// Whole record batches, borrowed from the log. Holds its segment in memory by one reference count, whatever
/// happens to the segment's file; borrows neither the log nor a reader. [`Send`], [`Sync`] and cheap to clone.
///
/// The first batch may begin before the offset that was asked for: it is the batch that contains it.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// builder.append(Timestamp::from_millis(1), None, Some(b"one"), &[])?;
/// partition.append(&builder.finish()?)?;
/// partition.sync()?;
///
/// let view = partition.fetch(Offset::ZERO, &FetchBounds::default())?;
/// for batch in view.batches() {
///     for record in batch?.records() {
///         assert_eq!(record?.value(), Some(&b"one"[..]));
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct View {
    keep: Keep,
    start: usize,
    len: usize,
    from: Offset,
    next: Offset,
}

impl View {
    pub(crate) fn empty(at: Offset) -> Self {
        View { keep: Keep::Nothing, start: 0, len: 0, from: at, next: at }
    }

    /// The bytes: whole batches as they lie in the file.
    pub fn bytes(&self) -> &[u8] {
        match &self.keep {
            Keep::Nothing => &[],
            #[allow(unsafe_code)]
            // SAFETY: `start..start + len` lies below the published end of the segment when the view was made, so
            // nobody writes there any more; the file is never cut below that end while the directory lock is ours;
            // and `keep` keeps the mapping for as long as the slice.
            Keep::Mapped(mapped) => unsafe {
                std::slice::from_raw_parts(mapped.map.as_ptr().add(self.start), self.len)
            },
            Keep::Copied(bytes) => &bytes[self.start..self.start + self.len],
        }
    }

    /// The batches, in order.
    pub fn batches(&self) -> impl Iterator<Item = Result<Batch<'_>, crate::batch::Flaw>> {
        crate::batch::batches(self.bytes())
    }

    /// The offset that was asked for; records before it in the first batch are not meant.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// The offset to ask for next.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Deref for View {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes from offset {} to {})", self.len, self.from, self.next)
    }
}

const NOT_SEALED: u64 = u64::MAX;

/// One segment, listed by its partition.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    folder: Arc<Path>,
    gauges: Arc<Gauges>,
    /// Copied in whole, in order.
    pub(crate) published: Arc<Cursor>,
    /// In the page cache. The same as published where appenders copy into a mapping of the file.
    pub(crate) written: Arc<Cursor>,
    /// On the medium.
    pub(crate) synced: Cursor,
    /// The mark after which nothing will ever come, once decided.
    sealed: AtomicU64,
    /// Whether the folder was synced since the file was made.
    pub(crate) named: AtomicBool,
    /// What readers read from.
    reading: Slot<Mapped>,
    /// The bytes of a segment that compaction has replaced: its file's name means another file now.
    kept: OnceLock<Arc<Mapped>>,
    /// Bytes from the start that are known to be good.
    verified: AtomicU32,
    /// Bytes from here on were checked by this process before they were written.
    fresh_from: u32,
    /// Where offsets and times are; filled as far as somebody needed it.
    pub(crate) indexes: Mutex<Indexes>,
    /// Whether the indexes on disk are those of this segment, whole.
    pub(crate) indexes_saved: AtomicBool,
}

impl Segment {
    /// A segment that holds `end` already (nothing, if new), all of it on the medium. `buffered` segments are
    /// appended to through a ring, the others through a mapping.
    pub(crate) fn new(
        base: Offset,
        folder: Arc<Path>,
        gauges: Arc<Gauges>,
        end: Mark,
        verified: u32,
        indexes: Indexes,
        buffered: bool,
    ) -> Self {
        let published = Arc::new(Cursor::new(end));
        let written = if buffered { Arc::new(Cursor::new(end)) } else { published.clone() };
        let reading = Slot::new(&gauges.epochs, None);
        Segment {
            base,
            folder,
            gauges,
            published,
            written,
            synced: Cursor::new(end),
            sealed: AtomicU64::new(NOT_SEALED),
            named: AtomicBool::new(end != Mark::default()),
            reading,
            kept: OnceLock::new(),
            verified: AtomicU32::new(verified),
            fresh_from: end.bytes(),
            indexes: Mutex::new(indexes),
            indexes_saved: AtomicBool::new(false),
        }
    }

    pub(crate) fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(file_name(self.base, ending))
    }

    pub(crate) fn offset(&self, mark: Mark) -> Offset {
        self.base + mark.records() as i64
    }

    /// Nothing comes after `end`. Once.
    pub(crate) fn seal(&self, end: Mark) {
        self.sealed.store((end.records() as u64) << 32 | end.bytes() as u64, Ordering::Release);
    }

    /// Where it ends, if that is decided. Copies may still be going on below it.
    pub(crate) fn sealed_end(&self) -> Option<Mark> {
        match self.sealed.load(Ordering::Acquire) {
            NOT_SEALED => None,
            end => Some(Mark::new((end >> 32) as u32, end as u32)),
        }
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.published.get().bytes()
    }

    /// The mapping to read from, made now if there is none. Checks that the file is as long as it must be, because
    /// a page that is not there would be a SIGBUS.
    pub(crate) fn mapping(&self, disk: &dyn Disk) -> Result<Arc<Mapped>> {
        let end = self.written.get().bytes();
        // A mapping made while the segment was parked is shorter than what was appended since.
        if let Some(mapped) = self.reading.get().filter(|mapped| mapped.len() >= end as usize) {
            return Ok(mapped);
        }
        let path = self.path("log");
        let file = disk.open(&path, Open::Read);
        // Looked at after the file was opened: if nothing is kept now, the name still meant this segment then.
        if let Some(kept) = self.kept.get() {
            return Ok(kept.clone());
        }
        let file = file.map_err(|e| Error::io("opening", &path, e))?;
        self.check_length(&*file, end)?;
        let map = file.map(end as usize, Access::Read).map_err(|e| Error::io("mapping", &path, e))?;
        let mapped = Mapped::new(map, &self.gauges);
        self.gauges.retire(self.reading.put(Some(mapped.clone())));
        Ok(mapped)
    }

    /// Keeps these bytes for as long as anybody has the segment, because its file's name is about to mean another
    /// file. To be called before that happens.
    pub(crate) fn keep_bytes(&self, mapped: Arc<Mapped>) {
        // A second time (after a rename that failed) they are the same bytes.
        let _ = self.kept.set(mapped);
    }

    fn check_length(&self, file: &dyn File, end: u32) -> Result<()> {
        let path = self.path("log");
        let len = file.len().map_err(|e| Error::io("measuring", &path, e))?;
        if len < end as u64 {
            return Err(Error::corrupt(
                path,
                len,
                format!("a file of at least {end} bytes"),
                format!("the end of the file at {len}"),
                "somebody cut the file while it was not open; restore it from a backup, or let `girok close` cut \
                 the partition there",
            ));
        }
        Ok(())
    }

    /// Lets the mapping go; those who hold views keep it. The next reader maps anew.
    pub(crate) fn unmap(&self) {
        self.gauges.retire(self.reading.put(None));
    }

    /// The segment leaves the list; what views still hold of it counts from now on.
    pub(crate) fn forget(&self) {
        if let Some(mapped) = self.reading.get() {
            mapped.mark_removed(self.bytes() as u64);
        }
        self.gauges.retire(self.reading.put(None));
    }

    /// A view of whole batches. The caller knows that `start..end` is visible and at batch boundaries.
    pub(crate) fn view(&self, mapped: Arc<Mapped>, start: u32, end: u32, from: Offset, next: Offset) -> View {
        debug_assert!(end <= self.written.get().bytes() && end as usize <= mapped.map.len());
        View { keep: Keep::Mapped(mapped), start: start as usize, len: (end - start) as usize, from, next }
    }

    /// The same, read with checked calls into memory of its own.
    pub(crate) fn copy(&self, disk: &dyn Disk, start: u32, end: u32) -> Result<Arc<[u8]>> {
        let path = self.path("log");
        let source = self.source(disk)?;
        if let Source::File(file) = &source {
            self.check_length(&**file, end)?;
        }
        let mut bytes = vec![0; (end - start) as usize];
        let got = source.read(&mut bytes, start as u64).map_err(|e| Error::io("reading", &path, e))?;
        if got < bytes.len()
            && let Source::File(file) = &source
        {
            self.check_length(&**file, end)?;
        }
        self.gauges.copies.fetch_add(1, Ordering::Relaxed);
        Ok(bytes.into())
    }

    /// Where its bytes can be read with checked calls, whatever happens to the file's name from now on.
    pub(crate) fn source(&self, disk: &dyn Disk) -> Result<Source> {
        let path = self.path("log");
        let file = disk.open(&path, Open::Read);
        // As in `mapping`.
        if let Some(kept) = self.kept.get() {
            return Ok(Source::Kept(kept.clone(), self.written.get().bytes()));
        }
        file.map(Source::File).map_err(|e| Error::io("opening", path, e))
    }

    /// A view of a copy; `bytes` begin at a batch.
    pub(crate) fn copied(bytes: Arc<[u8]>, start: usize, end: usize, from: Offset, next: Offset) -> View {
        View { keep: Keep::Copied(bytes), start, len: end - start, from, next }
    }

    /// Borrows what lies below `end`, for walking; less if the mapping ends before, because it was made before the
    /// latest appends. Nothing is checked but the bounds.
    pub(crate) fn slice<'m>(&self, mapped: &'m Mapped, start: u32, end: u32) -> &'m [u8] {
        let end = end.min(self.written.get().bytes()).min(mapped.map.len() as u32);
        assert!(
            start <= end,
            "nobody has walked past {end}, the end of what is mapped and written, to {start}"
        );
        #[allow(unsafe_code)]
        // SAFETY: below the written mark nobody writes any more, and the mapping reaches there (taken into account); the file
        // does too: it was measured when it was mapped, or is being appended to, and is never cut below that mark.
        unsafe {
            std::slice::from_raw_parts(mapped.map.as_ptr().add(start as usize), (end - start) as usize)
        }
    }

    /// Whether `start..end` needs no check: this process made it, or somebody has checked it before.
    pub(crate) fn is_verified(&self, start: u32, end: u32) -> bool {
        start >= self.fresh_from || end <= self.verified.load(Ordering::Acquire)
    }

    /// Everything below is good.
    pub(crate) fn set_verified(&self, end: u32) {
        self.verified.fetch_max(end, Ordering::AcqRel);
    }

    pub(crate) fn verified(&self) -> u32 {
        let verified = self.verified.load(Ordering::Acquire);
        if verified >= self.fresh_from { self.bytes() } else { verified }
    }

    /// Checks the checksums of `bytes`, which begin at `start` and hold whole batches.
    pub(crate) fn verify(&self, bytes: &[u8], start: u32) -> Result<()> {
        self.verify_from(bytes, start, self.base, &[])
    }

    /// The same, and that no batch stands below `from`. `behind` is what follows `bytes`.
    ///
    /// Kafka's checksum leaves a batch's base offset out, but its neighbours know: offsets only grow, within the bounds
    /// of the segment. (A gap is no flaw here: compaction leaves some, Kafka's too, and of that nothing may be known.)
    pub(crate) fn verify_from(&self, bytes: &[u8], start: u32, from: Offset, behind: &[u8]) -> Result<()> {
        let (mut at, mut next) = (0, from.max(self.base));
        let end = self.offset(self.published.get());
        while at < bytes.len() {
            let batch = Batch::parse(&bytes[at..])
                .and_then(|batch| batch.check_crc().map(|()| batch))
                .map_err(|flaw| self.corrupt(start as u64 + (at + flaw.at) as u64, &flaw))?;
            let len = batch.bytes().len();
            let header = batch.header();
            let below = match bytes.get(at + len..).filter(|rest| !rest.is_empty()).unwrap_or(behind) {
                [] => end,
                rest => Header::parse(rest).map_or(end, |header| header.base_offset.min(end)),
            };
            if header.base_offset < next || header.next_offset() > below {
                let flaw = crate::batch::Flaw::new(
                    0,
                    format!("a batch between the offsets {next} and {below}"),
                    format_args!("{} to {}", header.base_offset, header.last_offset()),
                );
                return Err(self.corrupt(start as u64 + at as u64, &flaw));
            }
            next = header.next_offset();
            at += len;
        }
        let verified = self.verified.load(Ordering::Acquire);
        if start <= verified {
            self.set_verified(start + bytes.len() as u32);
        }
        Ok(())
    }

    /// A flaw in this segment, as an error that names the place.
    pub(crate) fn corrupt(&self, position: u64, flaw: &crate::batch::Flaw) -> Error {
        Error::corrupt(
            self.path("log"),
            position,
            flaw.expected.clone(),
            flaw.found.clone(),
            format!(
                "what comes before this place in the partition is not affected; restore the file from a backup, or \
                 delete_records past offset {} to go on without it",
                self.offset(self.published.get())
            ),
        )
    }

    /// Fills the indexes up to what is written, walking the batch headers that nobody has walked yet.
    pub(crate) fn catch_up(&self, mapped: &Mapped, indexes: &mut Indexes) -> Result<()> {
        let start = indexes.covered();
        if mapped.len() <= start as usize {
            return Ok(());
        }
        let bytes = self.slice(mapped, start, self.written.get().bytes());
        let mut at = 0;
        while at < bytes.len() {
            let header = Header::parse(&bytes[at..])
                .map_err(|flaw| self.corrupt(start as u64 + (at + flaw.at) as u64, &flaw))?;
            indexes.note(self.base, &header, start + at as u32);
            at += header.size();
        }
        Ok(())
    }
}

/// A segment's bytes, for reading in pieces.
#[derive(Debug)]
pub(crate) enum Source {
    /// Its file.
    File(Arc<dyn File>),
    /// What is kept of a segment that compaction has replaced, up to its end.
    Kept(Arc<Mapped>, u32),
}

impl Source {
    /// Reads until `into` is full or the bytes end.
    pub(crate) fn read(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Source::File(file) => read_full_at(&**file, into, at),
            Source::Kept(mapped, end) => {
                let len = (*end as u64).saturating_sub(at).min(into.len() as u64) as usize;
                assert!(at as usize + len <= mapped.len());
                #[allow(unsafe_code)]
                // SAFETY: a replaced segment was sealed, so nobody writes below its end any more; the mapping was made
                // for all of it and is kept by `self`; the file is never cut below that end.
                let bytes = unsafe { std::slice::from_raw_parts(mapped.map.as_ptr().add(at as usize), len) };
                into[..len].copy_from_slice(bytes);
                Ok(len)
            }
        }
    }
}

/// How appenders' bytes reach the file.
#[derive(Debug)]
enum Region {
    /// Straight into a shared mapping of it.
    Mapped(Arc<Mapped>),
    /// Into a ring of memory, from where whoever finds the writer idle writes it out in large pieces.
    Written { ring: Ring, writing: AtomicBool },
}

/// A segment open for appends.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) tail: Tail,
    pub(crate) file: Arc<dyn File>,
    region: Region,
    gauges: Arc<Gauges>,
    /// The mapping's pages are there up to this byte.
    faulted: AtomicU32,
    /// An appender that passes this byte wakes the background, to make more room ready.
    low_water: AtomicU32,
}

/// What it takes to open a segment for appends.
pub(crate) struct Opening<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) how: Open,
    /// The segment seals here.
    pub(crate) limit: u32,
    pub(crate) window: u32,
    /// `None`: straight into a mapping. `Some`: through a ring of that many bytes.
    pub(crate) buffer: Option<u32>,
}

impl Active {
    pub(crate) fn open(segment: Arc<Segment>, opening: &Opening<'_>) -> Result<Self> {
        let path = segment.path("log");
        let end = segment.published.get().bytes();
        if opening.how == Open::Write {
            // A checkpoint may have linked it while it was sealed, and recovery have made it the last one since.
            unshare(opening.disk, &path).map_err(|e| Error::io("copying", &path, e))?;
        }
        let file = opening.disk.open(&path, opening.how).map_err(|e| Error::io("opening", &path, e))?;
        segment.check_length(&*file, end)?;
        let limit = opening.limit.max(end);
        let map_error = |e| Error::io("mapping", &path, e);
        let gauges = segment.gauges.clone();
        // Whatever lies behind the end (room that was reserved and not used) goes: it must be zeros, and only a file
        // that is exactly as long as its data is known to have none of its own.
        let len = file.len().map_err(|e| Error::io("measuring", &path, e))?;
        if len > end as u64 {
            file.set_len(end as u64).map_err(|e| Error::io("cutting", &path, e))?;
        }
        let (region, window) = match opening.buffer {
            None => {
                let map = file.map(limit as usize, Access::Write).map_err(map_error)?;
                (Region::Mapped(Mapped::new(map, &gauges)), opening.window)
            }
            Some(bytes) => {
                let ring = Ring::new(bytes.min(limit.next_power_of_two()));
                let window = ring.len();
                (Region::Written { ring, writing: AtomicBool::new(false) }, window)
            }
        };
        // Readers read what appenders write: one mapping for both while it lasts, over all the address space.
        let reading = match &region {
            Region::Mapped(mapped) => mapped.clone(),
            Region::Written { .. } => {
                Mapped::new(file.map(limit as usize, Access::Read).map_err(map_error)?, &gauges)
            }
        };
        gauges.retire(segment.reading.put(Some(reading)));
        gauges.regions.fetch_add(1, Ordering::Relaxed);
        // What is appended from now on is not in the index files.
        segment.indexes_saved.store(false, Ordering::Release);
        let tail = Tail::new(segment.published.clone(), segment.written.clone(), end, limit, window);
        let (faulted, low_water) = (AtomicU32::new(end), AtomicU32::new(end));
        Ok(Active { segment, tail, file, region, gauges, faulted, low_water })
    }

    /// Copies a batch into its room. Nothing here can fail or panic.
    pub(crate) fn copy_in(&self, room: &Reservation, batch: &ValidBatch<'_>, epoch: i32) {
        let mut head = *batch.head();
        head[..8].copy_from_slice(&self.segment.offset(room.start).get().to_be_bytes());
        head[12..16].copy_from_slice(&epoch.to_be_bytes());
        let start = room.start.bytes();
        match &self.region {
            Region::Mapped(mapped) => {
                let body = batch.body();
                #[allow(unsafe_code)]
                // SAFETY: the reservation is this thread's alone, ends where the batch ends (it was made for
                // `batch.size()` bytes), and lies below `allocated`, to which the file reaches; the mapping spans the
                // limit. No reader looks above the published mark.
                unsafe {
                    let to = mapped.map.as_ptr().add(start as usize);
                    std::ptr::copy_nonoverlapping(head.as_ptr(), to, HEADER_BYTES);
                    std::ptr::copy_nonoverlapping(body.as_ptr(), to.add(HEADER_BYTES), body.len());
                }
            }
            Region::Written { ring, .. } => {
                ring.copy_in(start, &head);
                ring.copy_in(start + HEADER_BYTES as u32, batch.body());
            }
        }
    }

    /// Brings what is published to the page cache, if that is not done already. `true` if readers can see more.
    ///
    /// Whoever finds the writer idle writes; the others leave it to them, and the writer looks again before it goes.
    pub(crate) fn write_out(&self) -> io::Result<bool> {
        let Region::Written { ring, writing } = &self.region else { return Ok(false) };
        let mut moved = false;
        loop {
            if self.segment.written.get() == self.tail.published() {
                return Ok(moved);
            }
            if writing.swap(true, Ordering::SeqCst) {
                return Ok(moved);
            }
            let from = self.segment.written.get();
            let to = self.tail.published();
            let result = ring
                .pieces(from.bytes(), to.bytes(), |piece, at| write_all_at(&*self.file, piece, at as u64));
            if result.is_ok() && to != from {
                self.segment.written.set(to);
                moved = true;
            }
            writing.store(false, Ordering::SeqCst);
            result?;
        }
    }

    /// Whether bytes pass through a ring first, and how far they have come if so.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self.region, Region::Written { .. })
    }

    /// Whether an appender that came to `end` should wake the background. Once for each time it is set.
    pub(crate) fn passes_low_water(&self, end: u32) -> bool {
        end > self.low_water.load(Ordering::Relaxed)
            && self.low_water.swap(u32::MAX, Ordering::Relaxed) != u32::MAX
    }

    pub(crate) fn set_low_water(&self, at: u32) {
        self.low_water.store(at, Ordering::Relaxed);
    }

    /// How far pages were faulted in.
    pub(crate) fn faulted(&self) -> u32 {
        self.faulted.load(Ordering::Relaxed)
    }

    /// Faults pages in up to `to`, ahead of the appenders. `false` where there is nothing to fault or no way to.
    pub(crate) fn fault_in(&self, to: u32) -> bool {
        let Region::Mapped(mapped) = &self.region else { return false };
        let from = self.faulted.load(Ordering::Relaxed);
        let done = self.file.populate(&mapped.map, from as usize, (to - from) as usize).is_ok();
        if done {
            self.faulted.store(to, Ordering::Relaxed);
        }
        done
    }

    /// Reserves blocks, and fills them with zeros if they will be synced: a block that was written before costs half
    /// a sync. The pieces are small where stores go through the mapping, because a store dirties the whole folio that
    /// the first write made (docs/decisions/0001).
    pub(crate) fn reserve_blocks(&self, from: u32, to: u32, zeros: bool) -> io::Result<()> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        self.file.allocate(from as u64, (to - from) as u64)?;
        if !zeros {
            return Ok(());
        }
        let piece = if self.is_written() { ZEROS.len() } else { 16 << 10 };
        let mut at = from;
        while at < to {
            let len = piece.min((to - at) as usize);
            write_all_at(&*self.file, &ZEROS[..len], at as u64)?;
            at += len as u32;
        }
        Ok(())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.gauges.regions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory used round and round: byte `p` of the segment stands at `p` modulo the length.
struct Ring {
    bytes: Box<[std::cell::UnsafeCell<u8>]>,
}

#[allow(unsafe_code)]
// SAFETY: which thread may touch which bytes is decided by the tail: appenders write to their own reservations, the
// writer reads what is published and not yet written, and the window keeps the two from meeting a lap later.
unsafe impl Sync for Ring {}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} bytes)", self.bytes.len())
    }
}

impl Ring {
    fn new(bytes: u32) -> Self {
        let len = bytes.next_power_of_two().max(4096) as usize;
        Ring { bytes: (0..len).map(|_| std::cell::UnsafeCell::new(0)).collect() }
    }

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn copy_in(&self, at: u32, from: &[u8]) {
        let start = at as usize & (self.bytes.len() - 1);
        let first = from.len().min(self.bytes.len() - start);
        #[allow(unsafe_code)]
        // SAFETY: the caller's reservation, at most a ring long (the tail's window is the ring's length); both
        // pieces lie inside.
        unsafe {
            let to = self.bytes.as_ptr() as *mut u8;
            std::ptr::copy_nonoverlapping(from.as_ptr(), to.add(start), first);
            std::ptr::copy_nonoverlapping(from.as_ptr().add(first), to, from.len() - first);
        }
    }

    fn pieces(
        &self,
        from: u32,
        to: u32,
        mut write: impl FnMut(&[u8], u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let start = at as usize & (self.bytes.len() - 1);
            let len = ((to - at) as usize).min(self.bytes.len() - start);
            #[allow(unsafe_code)]
            // SAFETY: published and not yet written: nobody writes there before `written` has passed.
            let piece = unsafe { std::slice::from_raw_parts(self.bytes[start].get() as *const u8, len) };
            write(piece, at)?;
            at += len as u32;
        }
        Ok(())
    }
}
