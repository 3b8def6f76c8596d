//! Snappy blocks, in the framing of Java's `SnappyOutputStream` (which is not Snappy's own framing format):
//!
//! ```text
//! 82 'SNAPPY' 00 | version, i32 = 1 | oldest reader, i32 = 1 | length, i32 | block | length, i32 | block ...
//! ```
//!
//! Kafka's clients and tools read nothing else, so that is what is written. Some producers send one bare block; that
//! is read too.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Stop, Unpacked};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const VERSION: [u8; 4] = 1i32.to_be_bytes();
/// As `SnappyOutputStream` has it.
const BLOCK_BYTES: usize = 32 << 10;
/// The best a block can do: three bytes that copy sixty-four.
const RATIO_MAX: usize = 22;

/// Compresses `plain` behind what `out` holds.
pub(super) fn pack(state: &mut Option<Encoder>, plain: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let encoder = state.get_or_insert_with(Encoder::new);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION);
    out.extend_from_slice(&VERSION);
    for block in plain.chunks(BLOCK_BYTES) {
        let start = out.len();
        out.resize(start + 4 + max_compress_len(block.len()), 0);
        let len = encoder.compress(block, &mut out[start + 4..]).map_err(|error| error.to_string())?;
        out[start..start + 4].copy_from_slice(&(len as i32).to_be_bytes());
        out.truncate(start + 4 + len);
    }
    Ok(())
}

/// Decompresses framed blocks, or one bare block.
pub(super) fn unpack(packed: &[u8], out: &mut Unpacked<'_>) -> Result<(), Stop> {
    if !packed.starts_with(&MAGIC) {
        return unpack_block(packed, out);
    }
    let mut rest = packed;
    while !rest.is_empty() {
        // Java's reader allows streams one after the other.
        if rest.starts_with(&MAGIC) {
            match rest.get(8..12) {
                Some(version) if version >= &VERSION[..] && rest.len() >= 16 => rest = &rest[16..],
                _ => {
                    return Err(Stop::flaw(
                        "a snappy stream of version 1 or later",
                        "another version, or its end",
                    ));
                }
            }
            continue;
        }
        let (len, after) =
            rest.split_first_chunk::<4>().ok_or(Stop::flaw("the length of a snappy block", "the end"))?;
        let len = i32::from_be_bytes(*len);
        let (block, after) = usize::try_from(len)
            .ok()
            .and_then(|len| after.split_at_checked(len))
            .ok_or_else(|| Stop::flaw("a snappy block that ends with the batch or before", len))?;
        unpack_block(block, out)?;
        rest = after;
    }
    Ok(())
}

fn unpack_block(block: &[u8], out: &mut Unpacked<'_>) -> Result<(), Stop> {
    let len = decompress_len(block).map_err(|error| Stop::flaw("a snappy block", error))?;
    if len / RATIO_MAX > block.len() {
        return Err(Stop::flaw("a snappy block that can be as long as it says", len));
    }
    let room = out.exactly(len)?;
    let made = Decoder::new().decompress(block, room).map_err(|error| Stop::flaw("a snappy block", error))?;
    out.made(made)
}
