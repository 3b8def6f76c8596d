//! Zstandard through its C library, in one shot both ways: the output buffer is the window, so a frame's header
//! cannot make the library allocate one (up to 128 MiB), and the bound on the output is the bound on everything.

use zstd::zstd_safe::{self, CCtx, DCtx};

use super::{Stop, Unpacked};

/// A block holds at most 128 KiB and takes at least three bytes and one.
const RATIO_MAX: usize = (128 << 10) / 4;

/// Compresses `plain` behind what `out` holds.
pub(super) fn pack(
    state: &mut Option<CCtx<'static>>,
    level: Option<i32>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let context = state.get_or_insert_with(CCtx::create);
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(plain.len()), 0);
    let level = level.unwrap_or(zstd_safe::CLEVEL_DEFAULT);
    let result = context.compress(&mut out[start..], plain, level);
    let len = result.map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
    out.truncate(start + len);
    Ok(())
}

/// Decompresses all frames of `packed`.
pub(super) fn unpack(
    state: &mut Option<DCtx<'static>>,
    packed: &[u8],
    out: &mut Unpacked<'_>,
) -> Result<(), Stop> {
    let context = state.get_or_insert_with(DCtx::create);
    let possible = packed.len().saturating_mul(RATIO_MAX);
    // Frames of streaming writers, Java's among them, do not say how long they are: guess, and guess higher.
    let said = zstd_safe::get_frame_content_size(packed).ok().flatten();
    let mut wanted =
        said.map_or(packed.len().saturating_mul(8), |len| len as usize).clamp(4096, possible.max(4096));
    loop {
        let room = out.at_most(wanted);
        let all = room.len() < wanted;
        match context.decompress(room, packed) {
            Ok(made) => return out.made(made),
            Err(code)
                if zstd_safe::is_error_kind(
                    code,
                    zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall,
                ) =>
            {
                if all {
                    return Err(Stop::TooLarge);
                }
                if wanted >= possible {
                    return Err(Stop::flaw(
                        "a zstd frame that can be as long as it is",
                        zstd_safe::get_error_name(code),
                    ));
                }
                wanted = wanted.saturating_mul(4).min(possible);
            }
            Err(code) => return Err(Stop::flaw("a zstd frame", zstd_safe::get_error_name(code))),
        }
    }
}
