//! Ours against the machine's own limit, in alternating rounds, with the ratio in a table at the end.
//!
//! Criterion measures one thing for some seconds and then the next; on a machine with neighbours the two see different
//! weather. Here a round is one short run of each, in turns (limit first, then ours first), and the figure that counts
//! is the median of the rounds' ratios. A smoke run does one round and says that it is one.

use std::fmt::Write as _;

use crate::place;
use crate::stats::Rounds;

/// Comparisons made so far, to be printed together.
#[derive(Debug, Default)]
pub struct Ratios {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    aim: Option<f64>,
    rounds: Rounds,
    note: String,
    doubted: bool,
}

const LIMIT: &str = "limit";
const OURS: &str = "ours";

impl Ratios {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `limit` and `ours` in turns, `rounds` times each. Both are given the round's number and return a speed
    /// in `unit` (more is better). `aim` is the ratio we want to reach. Does nothing, and says so by `false`, for a row
    /// that is not [wanted](place::wanted).
    pub fn compare(
        &mut self,
        what: &str,
        unit: &'static str,
        aim: Option<f64>,
        rounds: usize,
        mut limit: impl FnMut(usize) -> f64,
        mut ours: impl FnMut(usize) -> f64,
    ) -> bool {
        if !place::wanted(what) {
            return false;
        }
        let mut figures = Rounds::new();
        for round in 0..place::sized(rounds, 1) {
            let (l, o) = if round % 2 == 0 {
                let l = limit(round);
                (l, ours(round))
            } else {
                let o = ours(round);
                (limit(round), o)
            };
            figures.record(LIMIT, l);
            figures.record(OURS, o);
        }
        self.rows.push(Row {
            what: what.into(),
            unit,
            aim,
            rounds: figures,
            note: String::new(),
            doubted: false,
        });
        true
    }

    /// Adds words to the comparison made last: a tail, a count of syncs.
    pub fn note(&mut self, note: impl Into<String>) {
        if let Some(row) = self.rows.last_mut() {
            row.note = note.into();
        }
    }

    /// The comparison made last was not a fair one (the note says why): its aim is not judged.
    pub fn doubt(&mut self) {
        if let Some(row) = self.rows.last_mut() {
            row.doubted = true;
        }
    }

    /// The table, as Markdown.
    pub fn table(&self) -> String {
        let mut out = String::new();
        if place::smoke() {
            out.push_str("(a smoke run: the answers are right, the figures mean nothing)\n\n");
        }
        out.push_str("| what | unit | the machine | Girok | ratio (middle half) | aim | |\n");
        out.push_str("|---|---|--:|--:|--:|--:|---|\n");
        for row in &self.rows {
            let ratio = row.rounds.ratio(OURS, LIMIT);
            let (low, high) = row.rounds.ratio_spread(OURS, LIMIT);
            let aim = row.aim.map_or(String::new(), |aim| {
                let verdict = match ratio {
                    _ if place::smoke() => "",
                    _ if row.doubted => ", not judged",
                    ratio if ratio >= aim => ", met",
                    _ => ", **missed**",
                };
                format!("{aim:.2}{verdict}")
            });
            let (limit, ours) = (figure(row.rounds.median(LIMIT)), figure(row.rounds.median(OURS)));
            let _ = writeln!(
                out,
                "| {} | {} | {limit} | {ours} | {ratio:.2} ({low:.2} to {high:.2}) | {aim} | {} |",
                row.what, row.unit, row.note,
            );
        }
        out
    }
}

/// Three digits, whatever the size.
fn figure(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ratio is taken within a round: weather that slows both alike does not show.
    #[test]
    fn weather_cancels_out() {
        let weather = |round: usize| [1.0, 0.2, 3.0, 0.5, 1.7][round % 5];
        let mut ratios = Ratios::new();
        if !ratios.compare("x", "MB/s", Some(0.7), 5, |r| 100.0 * weather(r), |r| 75.0 * weather(r)) {
            return; // the test runner was given a filter, which looks like ours
        }
        let table = ratios.table();
        assert!(table.contains("0.75 (0.75 to 0.75) | 0.70"), "{table}");
    }
}
