//! Figures of the gateway's JSON in words for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::units::{rules_a_terminal, short_size};

/// A text as a terminal may show it, `-` where there is none.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            printable(&other.to_string())
        }
    }
}

/// A text without anything that a terminal would obey: topics, client ids, payloads and what an upstream says come from anybody.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if rules_a_terminal(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// JSON as a terminal may show it. What is escaped in it already stays; the rest is in its texts only.
pub(super) fn printable_json(json: &Value) -> String {
    let escaped = |mut out: String, c: char| {
        if c != '\n' && rules_a_terminal(c) {
            // None of them is beyond the first 65 536 code points.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
        out
    };
    format!("{json:#}").chars().fold(String::new(), escaped)
}

/// Bytes in the unit that suits: `1.4MiB`.
pub(super) fn size(value: &Value) -> String {
    short_size(value.as_u64().unwrap_or(0))
}

/// Seconds in at most two units: `2h5m`; `-` where there are none.
pub(super) fn duration(value: &Value) -> String {
    let Some(seconds) = value.as_f64() else { return "-".to_owned() };
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    // No time to drain is longer than what this cuts.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let mut rest = seconds.round().clamp(0.0, 1e15) as u64;
    let mut out = String::new();
    let mut units = 0;
    for (unit, factor) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        let count = rest / factor;
        if (count > 0 || units == 1) && units < 2 {
            units += 1;
            if count > 0 {
                // Writing to a String cannot fail.
                let _ = write!(out, "{count}{unit}");
            }
        }
        rest %= factor;
    }
    out
}

/// Facts, one a line, under each other.
pub(super) fn facts_text(facts: &[(&str, String)]) -> String {
    facts.iter().fold(String::new(), |mut out, (name, fact)| {
        let _ = writeln!(out, "{name:12} {fact}");
        out
    })
}

/// A time of RFC 3339 without its fraction, zone and letters: `2026-11-21 10:40:30`.
pub(super) fn short_time(time: &str) -> String {
    printable(&time.chars().take(19).collect::<String>().replace('T', " "))
}

/// A rate: `12.5/s`.
pub(super) fn rate(value: &Value) -> String {
    format!("{:.1}/s", value.as_f64().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        let evil = "a\u{1b}[2J\r\n\u{9b}1m\u{7f}\u{202e}\tz";
        let plain = "a\\u{1b}[2J\\r\\n\\u{9b}1m\\u{7f}\\u{202e}\\tz";
        assert_eq!(text(&json!(evil)), plain);
        assert_eq!(text(&json!([evil])).chars().find(|c| rules_a_terminal(*c)), None);
        assert_eq!(printable("Süd/温度 🌡"), "Süd/温度 🌡");
        let document = json!({ "topic": evil, evil: 1 });
        let shown = printable_json(&document);
        assert_eq!(shown.chars().find(|c| *c != '\n' && rules_a_terminal(*c)), None);
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), document);
    }

    #[test]
    fn figures_are_short() {
        let table = [(json!(0), "0B"), (json!(1023), "1023B"), (json!(1536), "1.5KiB"), (json!(64 << 20), "64MiB")];
        assert!(table.iter().all(|(bytes, expected)| size(bytes) == *expected));
        let table = [
            (json!(null), "-"),
            (json!(0.25), "0.2s"),
            (json!(59.6), "1m"),
            (json!(3_661), "1h1m"),
            (json!(3_605), "1h"),
            (json!(90_000), "1d1h"),
            (json!(1e30), "11574074074d1h"),
        ];
        for (seconds, expected) in table {
            assert_eq!(duration(&seconds), expected, "{seconds}");
        }
    }
}
