//! Sizes, durations and moments as people write them, and which characters are not for their eyes.
//!
//! Sizes: `"64KiB"`, `"1.5GiB"`, `"200MB"` (decimal), `"512B"`, or bytes without a unit. Durations: `"250ms"`, `"30s"`, `"5m"`,
//! `"7d"`, `"1h30m"`; only zero goes without a unit. What [`format_size`] and [`format_duration`] write is read back as it was.

use std::time::{Duration, SystemTime};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Longest duration that can be written: 100 years, so that adding it to any point in time cannot overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(36_500 * 24 * 3600);

/// Most digits of one number: 20 make every `u64`, and more could overflow the arithmetic below.
const MAX_DIGITS: usize = 20;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Units of a duration with their length in milliseconds, longest first.
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Why a text is no size or no duration; the message says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing that could be a number where one must be.
    #[error("does not begin with a number (right: `{0}`)")]
    NoNumber(&'static str),
    /// A number that needs a unit has none.
    #[error("has no unit (right: `{0}s`, `{0}ms`, `{0}m`, `{0}h` or `{0}d`)")]
    NoUnit(String),
    /// A unit that is none of ours.
    #[error("has the unknown unit `{unit}`; known are {known}")]
    UnknownUnit {
        /// What was written.
        unit: String,
        /// All units there are.
        known: &'static str,
    },
    /// `K`, `M`, `G`, which some read as 1000 and some as 1024.
    #[error("has the unit `{0}`, which can mean two things: write `{0}iB` (1024) or `{0}B` (1000)")]
    Ambiguous(char),
    /// `30m1h`, `1h1h`.
    #[error("has its units out of order or twice (right: `1h30m`)")]
    Order,
    /// A fraction of the smallest unit.
    #[error("is not a whole number of {0}")]
    NotWhole(&'static str),
    /// More than can be meant.
    #[error("is too large (at most {0})")]
    TooLarge(&'static str),
}

/// Reads a size; gives bytes. Units are read without regard to case.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let too_large = || UnitError::TooLarge("16777215TiB");
    let (number, rest) = Number::take(text.trim()).ok_or(UnitError::NoNumber("64KiB"))?.map_err(|()| too_large())?;
    let unit = rest.trim();
    let factor = match SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err(unknown_size_unit(unit)),
    };
    let bytes = number.times(factor).ok_or(UnitError::NotWhole("bytes"))?;
    u64::try_from(bytes).map_err(|_| too_large())
}

fn unknown_size_unit(unit: &str) -> UnitError {
    let mut letters = unit.chars();
    match (letters.next().map(|letter| letter.to_ascii_uppercase()), letters.next()) {
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), None) => UnitError::Ambiguous(letter),
        _ => UnitError::UnknownUnit { unit: shorten(unit), known: "B, KiB, MiB, GiB, TiB, KB, MB, GB, TB" },
    }
}

/// Reads a duration; gives whole milliseconds, at most [`MAX_DURATION`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let too_large = || UnitError::TooLarge("36500d");
    let mut rest = text.trim();
    let mut total: u128 = 0;
    let mut next_unit = 0;
    loop {
        let (number, tail) = Number::take(rest).ok_or(UnitError::NoNumber("30s"))?.map_err(|()| too_large())?;
        let tail = tail.trim_start();
        let end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, after) = tail.split_at(end);
        if unit.is_empty() && after.is_empty() && next_unit == 0 {
            return if number.digits == 0 { Ok(Duration::ZERO) } else { Err(UnitError::NoUnit(shorten(rest))) };
        }
        let Some(index) = DURATIONS.iter().position(|(name, _)| *name == unit) else {
            return Err(UnitError::UnknownUnit { unit: shorten(unit), known: "ms, s, m, h, d" });
        };
        if index < next_unit {
            return Err(UnitError::Order);
        }
        next_unit = index + 1;
        total += number.times(DURATIONS[index].1).ok_or(UnitError::NotWhole("milliseconds"))?;
        rest = after.trim_start();
        if rest.is_empty() {
            break;
        }
    }
    let duration = Duration::from_millis(u64::try_from(total).map_err(|_| too_large())?);
    if duration > MAX_DURATION { Err(too_large()) } else { Ok(duration) }
}

/// Writes a size in the largest unit that divides it: `64KiB`, `200MB`, `1000001B`.
pub fn format_size(bytes: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZES.iter().find(whole).copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// Writes a duration: `250ms`, `1h30m`, `7d`. What is shorter than a millisecond is cut.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut out = String::new();
    for (unit, factor) in DURATIONS {
        let count = rest / u128::from(factor);
        if count > 0 {
            out.push_str(&count.to_string());
            out.push_str(unit);
            rest %= u128::from(factor);
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// A decimal number without sign: `digits / 10^decimals`.
struct Number {
    digits: u128,
    decimals: u32,
}

impl Number {
    /// Takes a number off the front. `None`: there is none. `Some(Err)`: it has too many digits.
    fn take(text: &str) -> Option<Result<(Self, &str), ()>> {
        let (whole, rest) = take_digits(text);
        let (fraction, rest) = match rest.strip_prefix('.').map(take_digits) {
            Some((fraction, rest)) if !fraction.is_empty() => (fraction, rest),
            Some(_) => return None,
            None => ("", rest),
        };
        if whole.is_empty() {
            return None;
        }
        if whole.len() + fraction.len() > MAX_DIGITS {
            return Some(Err(()));
        }
        let digits = whole.bytes().chain(fraction.bytes()).fold(0, |n, digit| n * 10 + u128::from(digit - b'0'));
        let decimals = u32::try_from(fraction.len()).expect("a number has at most MAX_DIGITS digits");
        Some(Ok((Self { digits, decimals }, rest)))
    }

    /// The number times a factor, if that is a whole number. Cannot overflow: 20 digits and 40 bits make 107 bits.
    fn times(&self, factor: u64) -> Option<u128> {
        let product = self.digits * u128::from(factor);
        let divisor = 10_u128.pow(self.decimals);
        product.is_multiple_of(divisor).then(|| product / divisor)
    }
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn shorten(text: &str) -> String {
    text.chars().take(16).collect()
}

/// UTC with milliseconds; `None` for a clock before 1970 or beyond the year 9999, which RFC 3339 cannot say.
pub fn rfc3339(time: SystemTime) -> Option<String> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    rfc3339_of_unix_ms(i64::try_from(since.as_millis()).ok()?)
}

/// The same of milliseconds since 1970; `None` beyond the years 0 to 9999.
pub fn rfc3339_of_unix_ms(unix_ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000)).ok()?;
    let seconds = time.format(&Rfc3339).ok()?;
    Some(format!("{}.{:03}Z", seconds.strip_suffix('Z')?, unix_ms.rem_euclid(1000)))
}

/// Bytes for people, to two digits or so, in the unit that suits: `1.4MiB`. Not to be read back: see [`format_size`] for that.
pub fn short_size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            let decimals = usize::from(unit != "B" && size < 10.0 && size.fract() > 0.05);
            return format!("{size:.decimals$}{unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1}TiB")
}

/// Control characters, line ends of Unicode, and characters that turn the direction of writing: what strangers say is shown without them.
pub fn rules_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        let table = [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            (" 64 kib ", 65_536),
            ("2GiB", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("200MB", 200_000_000),
            ("1kB", 1000),
            ("1TiB", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_for_people_have_the_unit_that_suits() {
        let table = [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (64 << 20, "64MiB"),
            ((117 << 20) + 5, "117MiB"),
            (4 << 30, "4GiB"),
            (5 << 40, "5.0TiB"),
        ];
        assert!(table.iter().all(|(bytes, expected)| short_size(*bytes) == *expected));
    }

    #[test]
    fn wrong_sizes_say_what_would_be_right() {
        let message = |text| parse_size(text).unwrap_err().to_string();
        assert_eq!(message("lots"), "does not begin with a number (right: `64KiB`)");
        assert_eq!(message("-1"), "does not begin with a number (right: `64KiB`)");
        assert_eq!(message("4G"), "has the unit `G`, which can mean two things: write `GiB` (1024) or `GB` (1000)");
        assert_eq!(message("4 bits"), "has the unknown unit `bits`; known are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB");
        assert_eq!(message("0.5B"), "is not a whole number of bytes");
        assert_eq!(message("18446744073709551616"), "is too large (at most 16777215TiB)");
        assert_eq!(message(&"9".repeat(100)), "is too large (at most 16777215TiB)");
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        let table = [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("1.5s", 1500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m 2s 1ms", 5_402_001),
            ("7d", 604_800_000),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn wrong_durations_say_what_would_be_right() {
        let message = |text| parse_duration(text).unwrap_err().to_string();
        assert_eq!(message("30"), "has no unit (right: `30s`, `30ms`, `30m`, `30h` or `30d`)");
        assert_eq!(message(""), "does not begin with a number (right: `30s`)");
        assert_eq!(message("1.s"), "does not begin with a number (right: `30s`)");
        assert_eq!(message("5min"), "has the unknown unit `min`; known are ms, s, m, h, d");
        assert_eq!(message("30m1h"), "has its units out of order or twice (right: `1h30m`)");
        assert_eq!(message("1s1s"), "has its units out of order or twice (right: `1h30m`)");
        assert_eq!(message("0.1ms"), "is not a whole number of milliseconds");
        assert_eq!(message("36501d"), "is too large (at most 36500d)");
    }

    proptest! {
        #[test]
        fn every_size_is_read_back_as_it_was_written(bytes in any::<u64>(), shift in 0..64_u32) {
            let bytes = (bytes >> shift) << (shift / 2);
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn every_duration_is_read_back_as_it_was_written(millis in 0..=36_500_u64 * 86_400_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_reading_panic(text in "[0-9.]{0,25}[a-zA-Z µ-]{0,4}[0-9.]{0,25}\\PC{0,4}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }

    #[test]
    fn times_have_milliseconds_and_a_clock_gone_mad_has_none() {
        let at =
            |seconds, ms| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(ms));
        assert_eq!(at(0, 0).unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1_795_257_690, 290).unwrap(), "2026-11-21T10:41:30.290Z");
        assert_eq!(at(400_000_000_000, 0), None);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
