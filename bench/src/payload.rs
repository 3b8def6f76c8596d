//! Bytes to write: the same on every run, and honest about how well they compress.
//!
//! A generator that repeats itself flatters every compressor and every deduplicating disk, so there are two kinds:
//! random bytes, which no codec can shrink, and words drawn from a small vocabulary, which shrink to about a third as
//! log lines do. Both come from a seed.

/// How well the bytes compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not at all.
    Random,
    /// As log lines do.
    Words,
}

/// A small generator of numbers (xorshift64*), one seed, one sequence.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts a sequence. Any seed will do.
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// `len` bytes of a kind, from a seed.
///
/// ```
/// use girok_bench::payload::{Kind, bytes};
/// assert_eq!(bytes(Kind::Words, 7, 100), bytes(Kind::Words, 7, 100));
/// assert_ne!(bytes(Kind::Random, 7, 100), bytes(Kind::Random, 8, 100));
/// ```
pub fn bytes(kind: Kind, seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        match kind {
            Kind::Random => out.extend_from_slice(&numbers.next_u64().to_le_bytes()),
            Kind::Words => {
                let word = WORDS[numbers.below(WORDS.len() as u64) as usize];
                out.extend_from_slice(word.as_bytes());
                out.push(b' ');
                if numbers.below(4) == 0 {
                    out.extend_from_slice(numbers.below(100_000).to_string().as_bytes());
                    out.push(b' ');
                }
            }
        }
    }
    out.truncate(len);
    out
}

const WORDS: [&str; 32] = [
    "GET",
    "POST",
    "status=200",
    "status=404",
    "host=web",
    "host=db",
    "level=info",
    "level=warn",
    "took_ms=",
    "bytes=",
    "user=",
    "path=/orders",
    "path=/items",
    "path=/health",
    "cpu=",
    "memory=",
    "disk=sda",
    "disk=sdb",
    "read",
    "write",
    "queue",
    "retry",
    "timeout",
    "connected",
    "closed",
    "region=eu",
    "region=us",
    "zone=a",
    "zone=b",
    "partition=",
    "offset=",
    "lag=",
];
