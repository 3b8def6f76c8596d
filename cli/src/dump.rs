//! `girok dump`: batches and records as they lie in the files, ours or a broker's.
//!
//! The text is that of `kafka-dump-log --print-data-log --deep-iteration`, line for line, so that eyes and scripts that know
//! the one can read the other; where a file does not end with its last batch, a line says so. Files are read in
//! pieces and nothing is locked, so it works beside the process that has the directory open.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use girok_coordinator::records::describe;
use girok_engine::batch::{Batch, Control, Header, Record, decompress};
use girok_engine::inspect::{Directory, End, PartitionFolder, Segment};
use girok_engine::kafka_files::segment_file;
use serde_json::{Value, json};

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, bytes_json};
use crate::progress::{Progress, Unit};

const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Prints batches and records of segment files (N.log, and the N.cut-B that recovery puts aside), of index files, of partition
/// folders, and of whole directories. What is not found as it is named is looked for in --dir: `girok dump orders-0`.
///
/// The text is that of kafka-dump-log. With --json there is one object a line: `type` is "batch", "record" or "end", and
/// records have `offset`. Keys and values of __consumer_offsets are decoded. Exit code 1 if a batch's checksum is wrong or
/// something is there that is no batch; not for the end of a newest segment, which may be being written.
#[derive(Args)]
pub struct Dump {
    /// Files, partition folders or directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Batches only, without their records
    #[arg(long, short)]
    batches: bool,
    /// Decode keys and values as those of __consumer_offsets, wherever they are
    #[arg(long)]
    offsets_decoder: bool,
    /// No compressed batch may become larger than this
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    max_decompressed: usize,
}

/// A segment and what is known about it.
struct Source {
    segment: Segment,
    /// As the lines name it: folder and file.
    name: String,
    is_offsets: bool,
    is_newest: bool,
}

impl Dump {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let mut damaged = 0u64;
        for path in &self.paths {
            let path = if path.exists() { path.clone() } else { global.dir().join(path) };
            if path.is_dir() {
                let segments = PartitionFolder::open(&path)?.segments()?;
                if !segments.is_empty() {
                    damaged += self.folder(&PartitionFolder::open(&path)?, out)?;
                    continue;
                }
                let folders = Directory::open(&path)?.partitions()?;
                let is_folder = girok_engine::kafka_files::partition_folder(&file_name(&path)).is_some();
                if folders.is_empty() && !is_folder {
                    return Err(Fail::usage(format!(
                        "{}: expected a segment file, a partition's folder or a directory of those, found a folder with \
                         neither",
                        path.display()
                    )));
                }
                for folder in folders {
                    damaged += self.folder(&folder, out)?;
                }
            } else {
                damaged += self.file(&path, out)?;
            }
        }
        match damaged {
            0 => Ok(()),
            n => Err(Fail::Found(format!(
                "{n} damaged place{}: `girok verify` names them all, and docs/format.md says what each means",
                if n == 1 { "" } else { "s" }
            ))),
        }
    }

    fn is_offsets(&self, topic: &str) -> bool {
        self.offsets_decoder || topic == OFFSETS_TOPIC
    }

    fn folder(&self, folder: &PartitionFolder, out: &mut Out) -> Result<u64> {
        let segments = folder.segments()?;
        let count = segments.len();
        let mut damaged = 0;
        for (number, segment) in segments.into_iter().enumerate() {
            let name = short_name(segment.path());
            let is_offsets = self.is_offsets(folder.name().topic());
            damaged +=
                self.segment(&Source { segment, name, is_offsets, is_newest: number + 1 == count }, out)?;
        }
        Ok(damaged)
    }

    fn file(&self, path: &Path, out: &mut Out) -> Result<u64> {
        let name = file_name(path);
        match segment_file(&name) {
            Some((base, ending @ ("index" | "timeindex"), _)) => {
                index(path, base.get(), ending == "timeindex", out)?;
                return Ok(0);
            }
            Some((_, ending @ ("txnindex" | "snapshot"), _)) => {
                return Err(Fail::usage(format!(
                    "{}: a broker's .{ending} file is not read; give segment and index files",
                    path.display()
                )));
            }
            _ => {}
        }
        let segment = Segment::open(path)?;
        let folder = path.parent().map(file_name).unwrap_or_default();
        let topic = folder.rsplit_once('-').map_or("", |(topic, _)| topic);
        let newest =
            path.parent().and_then(|folder| PartitionFolder::open(folder).ok()?.segments().ok()?.pop());
        let is_newest = newest.is_none_or(|newest| newest.base_offset() <= segment.base_offset());
        let is_offsets = self.is_offsets(topic);
        self.segment(&Source { segment, name: short_name(path), is_offsets, is_newest }, out)
    }

    /// Prints a segment; how many places in it are damaged.
    fn segment(&self, source: &Source, out: &mut Out) -> Result<u64> {
        if !out.json {
            out.line(format!("Dumping {}", source.name))?;
            if let Some(base) = source.segment.base_offset() {
                out.line(format!("Log starting offset: {base}"))?;
            }
        }
        let mut damaged = 0;
        // Nobody needs a bar beside what they read.
        let progress = (!std::io::stdout().is_terminal())
            .then(|| Progress::new("dumping", Unit::Bytes, source.segment.bytes()));
        let mut batches = source.segment.batches()?;
        let (mut plain, mut line) = (Vec::new(), String::new());
        while let Some(found) = batches.next()? {
            let batches_at = found.position + found.batch.bytes().len() as u64;
            let header = found.batch.header();
            let valid = found.batch.check_crc().is_ok();
            damaged += u64::from(!valid);
            if out.json {
                out.object(&batch_json(&source.name, &header, found.position, valid))?;
            } else {
                line.clear();
                batch_line(&header, found.position, valid, &mut line);
                out.line(&line)?;
            }
            // Records of a batch whose checksum is wrong are anybody's guess.
            if self.batches || !valid {
                continue;
            }
            if let Err(why) = self.records(source, &found.batch, &mut plain, out)? {
                damaged += 1;
                self.bad_batch(source, found.position, &why, out)?;
            }
            out.look()?;
            if let Some(progress) = &progress {
                progress.at(batches_at);
            }
        }
        damaged += u64::from(self.end(source, batches.end(), out)?);
        Ok(damaged)
    }

    /// Prints a batch's records; the inner error is what is wrong with them.
    fn records(
        &self,
        source: &Source,
        batch: &Batch<'_>,
        plain: &mut Vec<u8>,
        out: &mut Out,
    ) -> Result<Result<(), String>> {
        let image = match batch.header().is_compressed() {
            false => *batch,
            true => {
                if let Err(error) = decompress(batch, plain, self.max_decompressed) {
                    return Ok(Err(error.to_string()));
                }
                match Batch::parse(plain) {
                    Ok(image) => image,
                    Err(flaw) => return Ok(Err(flaw.to_string())),
                }
            }
        };
        let mut line = Vec::new();
        for record in image.records() {
            let record = match record {
                Ok(record) => record,
                Err(flaw) => return Ok(Err(flaw.to_string())),
            };
            if out.json {
                match record_json(source, &batch.header(), &record) {
                    Ok(object) => out.object(&object)?,
                    Err(why) => return Ok(Err(why)),
                }
            } else {
                line.clear();
                if let Err(why) = record_line(source, &batch.header(), &record, &mut line) {
                    return Ok(Err(why));
                }
                line.push(b'\n');
                out.bytes(&line)?;
            }
        }
        Ok(Ok(()))
    }

    fn bad_batch(&self, source: &Source, position: u64, why: &str, out: &mut Out) -> Result<()> {
        if out.json {
            return out.object(&json!({
                "type": "flaw", "file": source.name, "position": position, "flaw": why,
            }));
        }
        out.line(format!("The records of the batch at byte {position} cannot be read: {why}"))
    }

    /// Says what stands behind the last batch; whether that is damage.
    fn end(&self, source: &Source, end: Option<&End>, out: &mut Out) -> Result<bool> {
        let (at, bytes, flaw) = match end {
            None | Some(End::Whole) => return Ok(false),
            Some(End::Zeros { at, bytes }) => (*at, *bytes, None),
            Some(End::Unreadable { at, bytes, flaw }) => (*at, *bytes, Some(flaw)),
        };
        if out.json {
            out.object(&json!({
                "type": "end", "file": source.name, "position": at, "bytes": bytes,
                "what": if flaw.is_some() { "unreadable" } else { "zeros" },
                "flaw": flaw.map(ToString::to_string),
            }))?;
        } else {
            out.line(match flaw {
                None => format!("From byte {at} on: {bytes} zeros, which is room that is reserved"),
                Some(flaw) => format!("From byte {at} on: {bytes} bytes that are no batch: {flaw}"),
            })?;
        }
        Ok(flaw.is_some() && !source.is_newest)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Folder and file.
fn short_name(path: &Path) -> String {
    match path.parent().map(file_name).filter(|folder| !folder.is_empty()) {
        Some(folder) => format!("{folder}/{}", file_name(path)),
        None => file_name(path),
    }
}

fn batch_line(header: &Header, position: u64, valid: bool, line: &mut String) {
    let horizon = match header.delete_horizon() {
        Some(time) => format!("OptionalLong[{time}]"),
        None => "OptionalLong.empty".into(),
    };
    let _ = write!(
        line,
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: {horizon} position: {position} \
         {}: {} size: {} magic: 2 compresscodec: {} crc: {} isvalid: {valid}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
        header.timestamp_type(),
        header.max_timestamp,
        header.size(),
        codec(header),
        header.crc,
    );
}

fn codec(header: &Header) -> String {
    header.codec().map_or_else(|flaw| format!("unknown ({})", flaw.found), |codec| codec.to_string())
}

fn batch_json(file: &str, header: &Header, position: u64, valid: bool) -> Value {
    json!({
        "type": "batch",
        "file": file,
        "position": position,
        "baseOffset": header.base_offset.get(),
        "lastOffset": header.last_offset().get(),
        "count": header.record_count,
        "baseSequence": header.base_sequence,
        "lastSequence": header.last_sequence(),
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "partitionLeaderEpoch": header.partition_leader_epoch,
        "isTransactional": header.is_transactional(),
        "isControl": header.is_control(),
        "deleteHorizonMs": header.delete_horizon().map(|time| time.as_millis()),
        "timestampType": header.timestamp_type().to_string(),
        "maxTimestamp": header.max_timestamp.as_millis(),
        "size": header.size(),
        "compressCodec": codec(header),
        "crc": header.crc,
        "isValid": valid,
    })
}

fn sequence(header: &Header, record: &Record<'_>) -> i64 {
    match header.base_sequence {
        -1 => -1,
        base => i64::from(base) + (record.offset() - header.base_offset),
    }
}

fn length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

fn record_line(
    source: &Source,
    header: &Header,
    record: &Record<'_>,
    line: &mut Vec<u8>,
) -> Result<(), String> {
    let mut names = Vec::new();
    for field in record.headers() {
        names.push(field.map_err(|flaw| flaw.to_string())?.key().into_owned());
    }
    let head = format!(
        "| offset: {} {}: {} keySize: {} valueSize: {} sequence: {} headerKeys: [{}]",
        record.offset(),
        header.timestamp_type(),
        record.timestamp(),
        length(record.key()),
        length(record.value()),
        sequence(header, record),
        names.join(","),
    );
    line.extend_from_slice(head.as_bytes());
    if header.is_control() {
        let control = match Control::of(record).map_err(|flaw| flaw.to_string())? {
            marker @ (Control::Commit { coordinator_epoch } | Control::Abort { coordinator_epoch }) => {
                format!(" endTxnMarker: {marker} coordinatorEpoch: {coordinator_epoch}")
            }
            Control::Other(kind) => format!(" controlType: {kind}"),
        };
        line.extend_from_slice(control.as_bytes());
        return Ok(());
    }
    if let (true, Some(key)) = (source.is_offsets, record.key()) {
        let described = describe(record.offset(), key, record.value());
        line.extend_from_slice(format!(" key: {}", described.key).as_bytes());
        if let Some(payload) = described.payload {
            line.extend_from_slice(format!(" payload: {payload}").as_bytes());
        }
        return Ok(());
    }
    for (what, bytes) in [(" key: ", record.key()), (" payload: ", record.value())] {
        if let Some(bytes) = bytes {
            line.extend_from_slice(what.as_bytes());
            line.extend_from_slice(bytes);
        }
    }
    Ok(())
}

fn record_json(source: &Source, header: &Header, record: &Record<'_>) -> Result<Value, String> {
    let mut headers = Vec::new();
    for field in record.headers() {
        let field = field.map_err(|flaw| flaw.to_string())?;
        headers.push(json!({ "key": field.key(), "value": bytes_json(field.value()) }));
    }
    let mut object = json!({
        "type": "record",
        "file": source.name,
        "offset": record.offset().get(),
        "timestampType": header.timestamp_type().to_string(),
        "timestamp": record.timestamp().as_millis(),
        "keySize": length(record.key()),
        "valueSize": length(record.value()),
        "sequence": sequence(header, record),
        "headers": headers,
    });
    if header.is_control() {
        match Control::of(record).map_err(|flaw| flaw.to_string())? {
            marker @ (Control::Commit { coordinator_epoch } | Control::Abort { coordinator_epoch }) => {
                object["endTxnMarker"] = marker.to_string().into();
                object["coordinatorEpoch"] = coordinator_epoch.into();
            }
            Control::Other(kind) => object["controlType"] = kind.into(),
        }
        return Ok(object);
    }
    match (source.is_offsets, record.key()) {
        (true, Some(key)) => {
            // What Kafka's tool prints is JSON, but for sentences about what it cannot read.
            let read = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            let described = describe(record.offset(), key, record.value());
            object["key"] = read(&described.key);
            object["value"] = match (record.value(), described.payload) {
                (None, _) | (_, None) => Value::Null,
                (_, Some(payload)) => read(&payload),
            };
        }
        _ => {
            object["key"] = bytes_json(record.key());
            object["value"] = bytes_json(record.value());
        }
    }
    Ok(object)
}

/// Prints the entries of an index file.
fn index(path: &Path, base: i64, is_time: bool, out: &mut Out) -> Result<()> {
    let doing = format!("reading {}", path.display());
    let mut file = std::fs::File::open(path).map_err(Fail::io(&doing))?;
    if !out.json {
        out.line(format!("Dumping {}", short_name(path)))?;
    }
    let size = if is_time { 12 } else { 8 };
    let mut room = vec![0; size * 4096];
    let mut had = 0;
    loop {
        let got = file.read(&mut room[had..]).map_err(Fail::io(&doing))?;
        if got == 0 {
            break;
        }
        had += got;
        let whole = had - had % size;
        for entry in room[..whole].chunks_exact(size) {
            let number = |bytes: &[u8]| bytes.iter().fold(0i64, |n, byte| n << 8 | i64::from(*byte));
            let (first, last) = entry.split_at(size - 4);
            let (name, shown, offset) = match is_time {
                true => ("timestamp", number(first), base + number(last)),
                false => ("position", number(last), base + number(first)),
            };
            if out.json {
                out.object(
                    &json!({ "type": "index", "file": short_name(path), name: shown, "offset": offset }),
                )?;
            } else if is_time {
                out.line(format!("timestamp: {shown} offset: {offset}"))?;
            } else {
                out.line(format!("offset: {offset} position: {shown}"))?;
            }
        }
        room.copy_within(whole..had, 0);
        had -= whole;
    }
    Ok(())
}
