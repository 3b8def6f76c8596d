//! What the benches share: where they write, what they write, how they compare, and the machine's own limits.
//!
//! A number means nothing without the machine's own beside it, taken in the same minute: so every bench puts one of
//! the [`limits`] next to what it measures and reports the [ratio](versus::Ratios) of the two. Rounds alternate, so
//! that a noisy neighbour disturbs both alike.
//!
//! In the order a bench uses them: [`place`] finds a directory on a real file system and warms the machine's memory,
//! [`payload`] makes bytes that are the same on every run, [`region`] holds the files the limits write to, [`limits`]
//! is what the machine can do, [`engine`] is Girok's engine ready to be measured, and
//! [`stats`] and [`versus`] compare.
#![allow(clippy::cast_precision_loss, clippy::missing_panics_doc)]

pub mod engine;
pub mod limits;
pub mod payload;
pub mod place;
pub mod region;
pub mod stats;
pub mod versus;
