//! gzip (RFC 1952) around raw deflate, so that the deflate state can be kept from one batch to the next: it is tens of
//! kilobytes, and making it anew costs more than most batches.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Stop, Unpacked};

/// No flags, no time, no name, "unknown" system, as `java.util.zip.GZIPOutputStream` has it.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

const HEAD_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Deflates `plain` behind what `out` holds.
pub(super) fn pack(
    state: &mut Option<Compress>,
    level: Option<i32>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let level = level.map_or(Compression::default(), |level| Compression::new(level as u32));
    let deflate = state.get_or_insert_with(|| Compress::new(level, false));
    deflate.reset();
    out.extend_from_slice(&HEAD);
    // Stored blocks of 64 KiB with five bytes of header each are the worst that deflate does.
    out.reserve(plain.len() + plain.len() / 1000 + 128);
    loop {
        let done = deflate.total_in() as usize;
        let status = deflate.compress_vec(&plain[done..], out, FlushCompress::Finish);
        match status.map_err(|error| error.to_string())? {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError => out.reserve(4096),
        }
    }
    out.extend_from_slice(&crc32fast::hash(plain).to_le_bytes());
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    Ok(())
}

/// Inflates all members of `packed`.
pub(super) fn unpack(
    state: &mut Option<Decompress>,
    mut packed: &[u8],
    out: &mut Unpacked<'_>,
) -> Result<(), Stop> {
    loop {
        packed = head(packed).ok_or(Stop::flaw("a gzip header", "something else"))?;
        let inflate = state.get_or_insert_with(|| Decompress::new(false));
        inflate.reset(false);
        let start = out.len();
        loop {
            let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
            let room = out.room(packed.len());
            // With no room left one more byte tells a stream that ends here from one that is too large.
            let mut probe = [0];
            let status = match room {
                [] => inflate.decompress(packed, &mut probe, FlushDecompress::None),
                room => inflate.decompress(packed, room, FlushDecompress::None),
            };
            let read = (inflate.total_in() - in_before) as usize;
            let made = (inflate.total_out() - out_before) as usize;
            out.made(made)?;
            packed = &packed[read..];
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(_) if read + made > 0 => {}
                Ok(_) => return Err(Stop::flaw("a whole deflate stream", "its end cut off")),
                Err(error) => return Err(Stop::flaw("a deflate stream", error)),
            }
        }
        let (trailer, rest) =
            packed.split_first_chunk::<8>().ok_or(Stop::flaw("a gzip trailer of 8 bytes", packed.len()))?;
        let plain = &out.bytes()[start..];
        let found = [crc32fast::hash(plain).to_le_bytes(), (plain.len() as u32).to_le_bytes()].concat();
        if found != trailer {
            return Err(Stop::flaw("the checksum and length of the gzip trailer", "others"));
        }
        if rest.is_empty() {
            return Ok(());
        }
        packed = rest;
    }
}

/// What follows the header, or `None` if it is none.
fn head(bytes: &[u8]) -> Option<&[u8]> {
    let (head, mut rest) = bytes.split_first_chunk::<10>()?;
    let flags = head[3];
    if head[..3] != HEAD[..3] || flags & RESERVED != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (len, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(u16::from_le_bytes(*len) as usize..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEAD_CRC != 0 {
        let (crc, after) = rest.split_first_chunk::<2>()?;
        let covered = &bytes[..bytes.len() - rest.len()];
        if *crc != (crc32fast::hash(covered) as u16).to_le_bytes() {
            return None;
        }
        rest = after;
    }
    Some(rest)
}
