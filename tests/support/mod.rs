//! What the promises' tests share: chance from a seed, a simulated disk, a clock that is told the time, and a small
//! world that holds them together. One seed is one run: nothing here asks the machine for time or randomness, and
//! nothing iterates in an order that could differ from one run to the next.
#![allow(dead_code, unused_imports)] // each test binary uses its part

use girok_engine::{Chance, SeededChance};

mod sim_disk;
mod sim_world;

pub use sim_disk::{Faults, Op, SimDisk};
pub use sim_world::{SimClock, SimWorld};

/// Random choices from a seed.
#[derive(Debug)]
pub struct Rng(SeededChance);

impl Rng {
    /// The choices that `seed` begins.
    pub fn new(seed: u64) -> Self {
        Rng(SeededChance::new(seed))
    }

    /// 64 random bits.
    pub fn bits(&self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        // The high half of a product is uniform enough for tests, and has no branch on the value drawn.
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// An index below `n`; 0 if `n` is 0.
    pub fn index(&self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// A number in `from..=to`.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True with probability `p`.
    pub fn chance(&self, p: f64) -> bool {
        // 53 bits are what an f64 holds exactly.
        ((self.bits() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    /// One of them.
    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// `n` random bytes.
    pub fn bytes(&self, n: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..n.div_ceil(8)).flat_map(|_| self.bits().to_le_bytes()).collect();
        bytes.truncate(n);
        bytes
    }
}
