//! LZ4 in its frame format (version 1.6.x of the specification), read and written block by block into the caller's
//! buffer: no window, no second copy, and no memory that a frame's header could ask for.
//!
//! ```text
//! 04 22 4d 18 | flags | block size | content size? | header check | block ... | 00 00 00 00 | content checksum?
//! block: length, u32 little-endian, high bit set if stored | bytes | checksum?
//! ```
//!
//! What is written is what Kafka's Java client writes: independent blocks of at most 64 KiB, no checksums (the batch
//! has one). What is read is any frame of that version without a dictionary, blocks that refer back included.

use lz4_flex::block::{self, CompressTable, DecompressError};

use super::{Stop, Unpacked};

const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
const BLOCK_BYTES: usize = 64 << 10;
const STORED: u32 = 1 << 31;
/// How far back a block may refer.
const WINDOW_BYTES: usize = 64 << 10;

const VERSION: u8 = 0b0100_0000;
const VERSION_BITS: u8 = 0b1100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 1;
const DICTIONARY: u8 = 1;

/// Compresses `plain` behind what `out` holds.
pub(super) fn pack(state: &mut Option<CompressTable>, plain: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let table = state.get_or_insert_with(CompressTable::default);
    let descriptor = [VERSION | INDEPENDENT, 4 << 4];
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&descriptor);
    out.push((xxh32(&descriptor) >> 8) as u8);
    for chunk in plain.chunks(BLOCK_BYTES) {
        let start = out.len() + 4;
        out.resize(start + block::get_maximum_output_size(chunk.len()), 0);
        let len = block::compress_into_with_table(chunk, &mut out[start..], table)
            .map_err(|error| error.to_string())?;
        let size = if len < chunk.len() {
            out.truncate(start + len);
            len as u32
        } else {
            out.truncate(start);
            out.extend_from_slice(chunk);
            chunk.len() as u32 | STORED
        };
        out[start - 4..start].copy_from_slice(&size.to_le_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

/// Decompresses one frame, which must be all there is.
pub(super) fn unpack(packed: &[u8], out: &mut Unpacked<'_>) -> Result<(), Stop> {
    let mut rest = Rest(packed);
    if rest.take::<4>()? != MAGIC {
        return Err(Stop::flaw("an LZ4 frame", "another magic number"));
    }
    let [flags, size_code] = rest.take()?;
    if flags & VERSION_BITS != VERSION || flags & RESERVED != 0 {
        return Err(Stop::flaw("an LZ4 frame of version 1", format_args!("flags {flags:#010b}")));
    }
    if flags & DICTIONARY != 0 {
        return Err(Stop::flaw("an LZ4 frame without a dictionary", "one that needs a dictionary"));
    }
    let block_max = match size_code {
        0x40 | 0x50 | 0x60 | 0x70 => 1usize << (8 + (size_code >> 4) * 2),
        other => return Err(Stop::flaw("an LZ4 block size code of 4 to 7", format_args!("{other:#04x}"))),
    };
    let content_size = if flags & CONTENT_SIZE != 0 { Some(u64::from_le_bytes(rest.take()?)) } else { None };
    let descriptor = &packed[4..packed.len() - rest.0.len()];
    let [check] = rest.take()?;
    if check != (xxh32(descriptor) >> 8) as u8 {
        return Err(Stop::flaw("the check of the LZ4 frame's header", format_args!("{check:#04x}")));
    }

    let start = out.len();
    loop {
        let size = u32::from_le_bytes(rest.take()?);
        if size == 0 {
            break;
        }
        let len = (size & !STORED) as usize;
        if len > block_max {
            return Err(Stop::flaw("an LZ4 block within the frame's block size", len));
        }
        let Some((bytes, after)) = rest.0.split_at_checked(len) else {
            return Err(Stop::flaw("a whole LZ4 block", format_args!("{} of {len} bytes", rest.0.len())));
        };
        rest.0 = after;
        if flags & BLOCK_CHECKSUM != 0 && u32::from_le_bytes(rest.take()?) != xxh32(bytes) {
            return Err(Stop::flaw("the checksum of an LZ4 block", "another"));
        }
        if size & STORED != 0 {
            out.exactly(len)?.copy_from_slice(bytes);
            out.made(len)?;
            continue;
        }
        // A byte of LZ4 stands for at most 255.
        let wanted = block_max.min(len.saturating_mul(255));
        let (before, room) = out.split(wanted);
        let tight = room.len() < wanted;
        let made = if flags & INDEPENDENT != 0 {
            block::decompress_into(bytes, room)
        } else {
            let window = &before[start..];
            let window = &window[window.len().saturating_sub(WINDOW_BYTES)..];
            block::decompress_into_with_dict(bytes, room, window)
        };
        match made {
            Ok(made) => out.made(made)?,
            Err(DecompressError::OutputTooSmall { .. }) if tight => return Err(Stop::TooLarge),
            Err(error) => return Err(Stop::flaw("an LZ4 block", error)),
        }
    }
    let content = &out.bytes()[start..];
    if content_size.is_some_and(|size| size != content.len() as u64) {
        return Err(Stop::flaw("the content size of the LZ4 frame", content.len()));
    }
    if flags & CONTENT_CHECKSUM != 0 && u32::from_le_bytes(rest.take()?) != xxh32(content) {
        return Err(Stop::flaw("the content checksum of the LZ4 frame", "another"));
    }
    if !rest.0.is_empty() {
        return Err(Stop::flaw(
            "the end of the batch after one LZ4 frame",
            format_args!("{} bytes", rest.0.len()),
        ));
    }
    Ok(())
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, rest) =
            self.0.split_first_chunk().ok_or(Stop::flaw("a whole LZ4 frame", "its end cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }
}

/// XXH32 with seed 0, the frame format's checksum.
fn xxh32(bytes: &[u8]) -> u32 {
    const P1: u32 = 0x9E37_79B1;
    const P2: u32 = 0x85EB_CA77;
    const P3: u32 = 0xC2B2_AE3D;
    const P4: u32 = 0x27D4_EB2F;
    const P5: u32 = 0x1656_67B1;
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let round =
        |lane: u32, input: u32| lane.wrapping_add(input.wrapping_mul(P2)).rotate_left(13).wrapping_mul(P1);

    let stripes = bytes.chunks_exact(16);
    let mut tail = stripes.remainder();
    let mut hash = if bytes.len() < 16 {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0u32.wrapping_sub(P1)];
        for stripe in stripes {
            for (lane, input) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
                *lane = round(*lane, word(input));
            }
        }
        let [a, b, c, d] = lanes;
        a.rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18))
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    while tail.len() >= 4 {
        hash = hash.wrapping_add(word(tail).wrapping_mul(P3)).rotate_left(17).wrapping_mul(P4);
        tail = &tail[4..];
    }
    for &byte in tail {
        hash = hash.wrapping_add((byte as u32).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(P2);
    hash = (hash ^ hash >> 13).wrapping_mul(P3);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the reference implementation.
    #[test]
    fn the_checksum_is_xxh32() {
        let known: [(&[u8], u32); 4] = [
            (b"", 0x02CC_5D05),
            (b"a", 0x550D_7456),
            (b"abc", 0x32D1_53FF),
            (b"Nobody inspects the spammish repetition", 0xE229_3B2F),
        ];
        for (bytes, hash) in known {
            assert_eq!(xxh32(bytes), hash, "{}", bytes.escape_ascii());
        }
    }

    /// A frame as another writer would make it: linked blocks, every checksum, the content's size.
    fn elaborate(plain: &[u8]) -> Vec<u8> {
        let mut frame = MAGIC.to_vec();
        frame.extend([VERSION | BLOCK_CHECKSUM | CONTENT_SIZE | CONTENT_CHECKSUM, 4 << 4]);
        frame.extend((plain.len() as u64).to_le_bytes());
        frame.push((xxh32(&frame[4..]) >> 8) as u8);
        for (n, chunk) in plain.chunks(BLOCK_BYTES).enumerate() {
            let window = &plain[(n * BLOCK_BYTES).saturating_sub(WINDOW_BYTES)..n * BLOCK_BYTES];
            let packed = block::compress_with_dict(chunk, window);
            frame.extend((packed.len() as u32).to_le_bytes());
            frame.extend(&packed);
            frame.extend(xxh32(&packed).to_le_bytes());
        }
        frame.extend([0; 4]);
        frame.extend(xxh32(plain).to_le_bytes());
        frame
    }

    #[test]
    fn linked_blocks_and_every_checksum_are_read() {
        let mut state = 1u32;
        let noise: Vec<u8> = (0..50_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        // The same noise again compresses only by referring back over block borders.
        let plain = [&noise[..], &noise[..], &noise[..], &noise[..]].concat();
        let frame = elaborate(&plain);
        assert!(frame.len() < 60_000, "the blocks do refer back: {}", frame.len());

        let mut out = vec![1, 2, 3];
        unpack(&frame, &mut Unpacked::new(&mut out, plain.len() + 3)).unwrap();
        assert!(out[3..] == plain);

        // Nothing in the frame may change unnoticed.
        for at in (0..frame.len()).step_by(97).chain(0..20).chain(frame.len() - 12..frame.len()) {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            let mut out = Vec::new();
            let result = unpack(&damaged, &mut Unpacked::new(&mut out, plain.len()));
            assert!(result.is_err(), "byte {at}");
        }
        let short = unpack(&frame, &mut Unpacked::new(&mut Vec::new(), plain.len() - 1));
        assert!(matches!(short, Err(Stop::TooLarge)), "{short:?}");
    }
}
