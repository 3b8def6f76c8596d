//! Kafka's variable-length integers: zigzag, then seven bits a byte, lowest first (as in Protocol Buffers).
//!
//! Most numbers in a record are one byte long (key lengths, deltas), so that case is inlined and the rest is a call.
//! Longer encodings than needed are accepted, as Kafka accepts them; bits that do not fit the type are not.

/// Takes an `i32` off the front. `None` if the bytes end too early or say more than 32 bits.
#[inline(always)]
pub(crate) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let (&first, rest) = bytes.split_first()?;
    let raw = if first < 0x80 {
        *bytes = rest;
        first as u32
    } else {
        // Two bytes reach to 16,383 before zigzag, which covers the lengths and deltas of ordinary records.
        match rest.split_first() {
            Some((&second, rest)) if second < 0x80 => {
                *bytes = rest;
                (first & 0x7f) as u32 | (second as u32) << 7
            }
            _ => take_long(bytes, u32::BITS)? as u32,
        }
    };
    Some((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Takes an `i64` off the front. `None` if the bytes end too early or say more than 64 bits.
#[inline(always)]
pub(crate) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let (&first, rest) = bytes.split_first()?;
    let raw = if first < 0x80 {
        *bytes = rest;
        first as u64
    } else {
        take_long(bytes, u64::BITS)?
    };
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn take_long(bytes: &mut &[u8], bits: u32) -> Option<u64> {
    let mut raw = 0u64;
    let mut shift = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let part = (byte & 0x7f) as u64;
        // The last byte may carry fewer than seven bits.
        if bits - shift < 7 && part >> (bits - shift) != 0 {
            return None;
        }
        raw |= part << shift;
        shift += 7;
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(raw);
        }
        if shift >= bits {
            return None;
        }
    }
    None
}

/// How many bytes `value` takes.
#[inline(always)]
pub(crate) fn len(value: i64) -> usize {
    let raw = zigzag(value);
    if raw < 0x80 { 1 } else { (64 + 6 - raw.leading_zeros() as usize) / 7 }
}

/// Small numbers of either sign become small numbers. An `i32` sign-extended to `i64` becomes the same.
#[inline(always)]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Fills a slice from the front. Whoever makes it has worked out how long the slice must be; one that is too short
/// panics.
pub(crate) struct Filler<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) at: usize,
}

impl Filler<'_> {
    #[inline(always)]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, value: i64) {
        let mut raw = zigzag(value);
        while raw >= 0x80 {
            self.byte(raw as u8 | 0x80);
            raw >>= 7;
        }
        self.byte(raw as u8);
    }

    /// Without a length.
    #[inline(always)]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// With its length in front; −1 for null.
    #[inline(always)]
    pub(crate) fn field(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                self.put(bytes.len() as i64);
                self.raw(bytes);
            }
            None => self.put(-1),
        }
    }
}

/// How long [`Filler::field`] makes it.
#[inline(always)]
pub(crate) fn field_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => len(bytes.len() as i64) + bytes.len(),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(value: i64) -> Vec<u8> {
        let mut bytes = [0; 10];
        let mut filler = Filler { bytes: &mut bytes, at: 0 };
        filler.put(value);
        let len = filler.at;
        bytes[..len].to_vec()
    }

    #[test]
    fn the_edges_are_kafkas() {
        // From Kafka's own ByteUtilsTest: value and its bytes.
        let known: &[(i64, &[u8])] = &[
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 1]),
            (8191, &[0xfe, 0x7f]),
            (i32::MAX as i64, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN as i64, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ];
        for (value, bytes) in known {
            assert_eq!(put(*value), *bytes);
            assert_eq!(len(*value), bytes.len());
            assert_eq!(take_i64(&mut &bytes[..]), Some(*value));
            if let Ok(small) = i32::try_from(*value) {
                assert_eq!(take_i32(&mut &bytes[..]), Some(small));
            }
        }
    }

    #[test]
    fn too_long_and_too_short_are_refused() {
        assert_eq!(take_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x10][..]), None, "a 33rd bit");
        assert_eq!(take_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]), None, "six bytes");
        assert_eq!(take_i32(&mut &[0x80][..]), None, "cut");
        assert_eq!(take_i64(&mut &[0xff; 11][..]), None, "eleven bytes");
        assert_eq!(take_i64(&mut &[][..]), None, "nothing");
    }

    proptest! {
        #[test]
        fn what_was_put_is_taken(value: i64, after: u8) {
            let mut bytes = put(value);
            bytes.push(after);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert_eq!(rest, &[after][..]);
            let small = value as i32;
            prop_assert_eq!(put(small as i64).len(), len(small as i64));
            prop_assert_eq!(take_i32(&mut &put(small as i64)[..]), Some(small));
        }
    }
}
