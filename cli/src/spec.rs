//! Words of the command line that stand for more: partitions, moments, places in a log.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use girok::{Girok, Timestamp, TopicPartition};

use crate::fail::{Fail, Result};

/// `TOPIC` or `TOPIC:0,2,5-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub topic: String,
    /// Sorted; `None` for all.
    pub partitions: Option<Vec<i32>>,
}

impl FromStr for TopicSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => Ok(TopicSpec { topic: text.into(), partitions: None }),
            Some((topic, list)) => {
                Ok(TopicSpec { topic: topic.into(), partitions: Some(parse_partitions(list)?.0) })
            }
        }
    }
}

/// `0,2,5-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions(pub Vec<i32>);

/// Reads a list of partitions.
pub fn parse_partitions(text: &str) -> Result<Partitions, String> {
    // No topic has more; a range that is longer is a slip of the finger.
    const MAX: i32 = 1_000_000;
    let wrong = || format!("expected partitions like 0,2,5-7, found {text:?}");
    let number = |text: &str| text.parse::<i32>().ok().filter(|n| (0..MAX).contains(n)).ok_or_else(wrong);
    let mut list = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => list.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(wrong());
                }
                list.extend(first..=last);
            }
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(Partitions(list))
}

impl TopicSpec {
    /// The partitions that are meant, in order.
    pub fn resolve(&self, girok: &Girok) -> Result<Vec<TopicPartition>> {
        let count = girok.admin().describe_topics(&[&self.topic])?[0].partitions;
        let numbers = self.partitions.clone().unwrap_or_else(|| (0..count).collect());
        if let Some(missing) = numbers.iter().find(|number| **number >= count) {
            return Err(Fail::usage(format!(
                "partition {missing} of {}: the topic has partitions 0 to {}",
                self.topic,
                count - 1
            )));
        }
        let topic: std::sync::Arc<str> = self.topic.as_str().into();
        Ok(numbers.into_iter().map(|number| TopicPartition::new(topic.clone(), number)).collect())
    }
}

/// A place in each partition of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Beginning,
    End,
    Offset(i64),
    /// So many records before the end.
    BeforeEnd(i64),
    Time(Timestamp),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected beginning, end, an offset, -N (the last N records of each partition) or @TIME, found \
                 {text:?}"
            )
        };
        match text {
            "beginning" | "earliest" => return Ok(Place::Beginning),
            "end" | "latest" => return Ok(Place::End),
            _ => {}
        }
        if let Some(time) = text.strip_prefix('@') {
            return parse_time(time).map(Place::Time);
        }
        match text.parse::<i64>() {
            Ok(offset) if offset < 0 => Ok(Place::BeforeEnd(offset.checked_neg().ok_or_else(wrong)?)),
            Ok(offset) => Ok(Place::Offset(offset)),
            Err(_) => Err(wrong()),
        }
    }
}

/// A moment: milliseconds since 1970, a date (`2026-11-23`, `2026-11-23T06:15:00Z`, with an offset, with a fraction), or
/// how long ago (`-90s`, `-15m`, `-2h`, `-7d`).
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "expected milliseconds since 1970, a date such as 2026-11-23 or 2026-11-23T06:15:00Z, or how long ago, \
             such as -15m, found {text:?}"
        )
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Timestamp::from_millis).map_err(|_| wrong());
    }
    if let Some(ago) = text.strip_prefix('-') {
        let (number, unit) = ago.split_at(ago.len() - ago.chars().last().map_or(0, char::len_utf8));
        let ms: i64 = match unit {
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let ago = number.parse::<i64>().ok().filter(|n| *n >= 0).and_then(|n| n.checked_mul(ms));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        return Ok(Timestamp::from_millis((now - ago.ok_or_else(wrong)?).max(0)));
    }
    date(text).map(Timestamp::from_millis).ok_or_else(wrong)
}

/// RFC 3339, and a day alone, as milliseconds since 1970.
fn date(text: &str) -> Option<i64> {
    let field = |text: &str, digits: usize, range: std::ops::RangeInclusive<i64>| -> Option<i64> {
        let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|n| plain && range.contains(n))
    };
    let (day, time) = match text.split_once(['T', 't', ' ']) {
        Some((day, time)) => (day, Some(time)),
        None => (text, None),
    };
    let mut parts = day.split('-');
    let (year, month, day) = (
        field(parts.next()?, 4, 1970..=9999)?,
        field(parts.next()?, 2, 1..=12)?,
        field(parts.next()?, 2, 1..=31)?,
    );
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
    if parts.next().is_some() || day > length {
        return None;
    }
    // Days since 1970 by counting from a March, so that the leap day comes last (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let Some(time) = time else { return Some(days * 86_400_000) };

    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(at);
    let zone_minutes = match zone {
        "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let minutes = field(hours, 2, 0..=23)? * 60 + field(minutes, 2, 0..=59)?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = clock.split(':');
    let hours = field(parts.next()?, 2, 0..=23)?;
    let minutes = field(parts.next()?, 2, 0..=59)?;
    let seconds = parts.next().map_or(Some(0), |seconds| field(seconds, 2, 0..=59))?;
    if parts.next().is_some() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(days * 86_400_000 + ((hours * 60 + minutes - zone_minutes) * 60 + seconds) * 1000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_lists_and_ranges() {
        assert_eq!(parse_partitions("5-7,0,2,6").unwrap().0, [0, 2, 5, 6, 7]);
        assert_eq!("orders:1".parse(), Ok(TopicSpec { topic: "orders".into(), partitions: Some(vec![1]) }));
        assert_eq!("orders".parse(), Ok(TopicSpec { topic: "orders".into(), partitions: None }));
        for bad in ["", "a", "1,", "3-1", "-1", "0-99999999"] {
            assert!(parse_partitions(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_are_numbers_dates_or_how_long_ago() {
        for (text, ms) in [
            ("1700000000000", 1_700_000_000_000),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
            ("2023-11-14 22:13:20.1239Z", 1_700_000_000_123),
            ("2023-12-31T23:59Z", 1_704_067_140_000),
        ] {
            assert_eq!(parse_time(text), Ok(Timestamp::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "-",
            "-m",
            "-5",
            "-5y",
            "2023-02-29",
            "2023-13-01",
            "2023-11-14T25:00:00Z",
            "now",
            "2023-11-14T22:13",
            "-é",
            "2023-11-14Té",
        ] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
        let (ago, now) = (parse_time("-1h").unwrap(), parse_time("-0s").unwrap());
        assert!((3_600_000..3_610_000).contains(&(now.as_millis() - ago.as_millis())));
    }

    #[test]
    fn places_are_words_offsets_and_times() {
        assert_eq!("beginning".parse(), Ok(Place::Beginning));
        assert_eq!("latest".parse(), Ok(Place::End));
        assert_eq!("41".parse(), Ok(Place::Offset(41)));
        assert_eq!("-10".parse(), Ok(Place::BeforeEnd(10)));
        assert_eq!("@5".parse(), Ok(Place::Time(Timestamp::from_millis(5))));
        assert!("start".parse::<Place>().is_err());
    }
}
