//! Comparing two or more ways of doing one thing on a machine that is never quiet.
//!
//! Rounds of each way alternate, so that whatever else the machine is doing hits all of them. What is reported is
//! the median over rounds, and the median of the *ratios within a round*: two neighbours in time share their
//! weather, two absolute figures from different minutes do not.

use hdrhistogram::Histogram;
use std::time::Duration;

/// The middle value. 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// One figure per way and round.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    ways: Vec<(String, Vec<f64>)>,
}

impl Rounds {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds this round's figure of one way. Every way must be recorded once in every round.
    pub fn record(&mut self, way: &str, figure: f64) {
        match self.ways.iter_mut().find(|(name, _)| name == way) {
            Some((_, figures)) => figures.push(figure),
            None => self.ways.push((way.to_string(), vec![figure])),
        }
    }

    /// The ways, in the order they were first recorded.
    pub fn ways(&self) -> impl Iterator<Item = &str> {
        self.ways.iter().map(|(name, _)| name.as_str())
    }

    /// The median figure of one way.
    pub fn median(&self, way: &str) -> f64 {
        median(self.figures(way))
    }

    /// The median over rounds of `way / other`.
    pub fn ratio(&self, way: &str, other: &str) -> f64 {
        let ratios: Vec<f64> =
            self.figures(way).iter().zip(self.figures(other)).map(|(a, b)| a / b).collect();
        median(&ratios)
    }

    /// The middle half of `way / other` over rounds: how far to trust [`Rounds::ratio`].
    pub fn ratio_spread(&self, way: &str, other: &str) -> (f64, f64) {
        let mut ratios: Vec<f64> =
            self.figures(way).iter().zip(self.figures(other)).map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        match ratios.len() {
            0 => (0.0, 0.0),
            n => (ratios[n / 4], ratios[(3 * n / 4).min(n - 1)]),
        }
    }

    fn figures(&self, way: &str) -> &[f64] {
        self.ways.iter().find(|(name, _)| name == way).map_or(&[], |(_, figures)| figures)
    }
}

/// How long single operations took, to three digits.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

impl Times {
    /// Nothing timed yet.
    pub fn new() -> Self {
        Times(Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("ten minutes to three digits"))
    }

    /// Adds one operation.
    #[inline]
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    /// Adds another's operations.
    pub fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("the same digits");
    }

    /// Microseconds at a quantile from 0 to 1.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest, in microseconds.
    pub fn max_micros(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// Whether what was timed mostly waited for a processor: the median is far from the fastest. A sync of 150 µs takes
    /// 4 ms when some other program computes on every core, because whoever sleeps for the disk is not scheduled before
    /// the next tick. One thread suffers that once per operation, sixteen suffer it together, and so a ratio between
    /// them says nothing.
    pub fn is_starved(&self) -> bool {
        self.micros(0.5) > 4.0 * self.micros(0.01)
    }

    /// How many operations.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand operations of 1 to 1,000 µs: quantiles, maximum and count are theirs, to three digits.
    #[test]
    fn quantiles_are_those_of_what_was_timed() {
        let [mut odd, mut even] = [Times::new(), Times::new()];
        for us in 1..=1000 {
            let times = if us % 2 == 1 { &mut odd } else { &mut even };
            times.record(Duration::from_micros(us));
        }
        assert_eq!((odd.count(), even.count()), (500, 500));
        let near = |found: f64, expected: f64| {
            assert!((found / expected - 1.0).abs() < 0.003, "{found} µs, expected {expected}");
        };
        near(odd.max_micros(), 999.0);
        odd.add(&even);
        assert_eq!((odd.count(), even.count()), (1000, 500));
        near(odd.micros(0.5), 500.0);
        near(odd.micros(0.99), 990.0);
        near(odd.micros(0.999), 999.0);
        near(odd.max_micros(), 1000.0);
        assert_eq!((Times::new().count(), Times::new().max_micros()), (0, 0.0));
    }
}
