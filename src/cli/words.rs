//! Figures of the gateway's JSON in words for people.

use std::fmt::Write as _;

use serde_json::Value;

/// A text, `-` where there is none.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Bytes in the unit that suits: `1.4MiB`.
pub(super) fn size(value: &Value) -> String {
    let mut size = value.as_f64().unwrap_or(0.0);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            let decimals = usize::from(unit != "B" && size < 10.0);
            return format!("{size:.decimals$}{unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1}TiB")
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

/// A rate: `12.5/s`.
pub(super) fn rate(value: &Value) -> String {
    format!("{:.1}/s", value.as_f64().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
