//! The forms of a line on stderr: for people, with a syslog priority, JSON.

use std::{fmt::Write as _, time::SystemTime};

use serde_json::Value as Json;
use tracing::Level;

use super::line::{Line, Value};
use crate::units::{rfc3339, rules_a_terminal};

/// The forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people: time, level, module, message, fields; with colours where stderr is a terminal.
    Text { colours: bool },
    /// The journal keeps the time and takes the priority from the beginning of the line (`<4>`, sd-daemon(3)).
    Prefixed,
    /// One object a line.
    Json,
}

impl Form {
    /// Appends the line, with its end.
    pub(super) fn append(self, line: &Line, out: &mut String) {
        match self {
            Self::Text { colours } => text(line, colours, out),
            Self::Prefixed => {
                // Writing to a String cannot fail.
                let _ = write!(out, "<{}>{}: ", priority(line.level), line.target);
                saying(line, out);
            }
            Self::Json => json(line, out),
        }
        out.push('\n');
    }
}

/// The priorities of syslog(3); what tracing calls TRACE has none of its own there.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What the line says: message, fields, how often. One line, and nothing that a terminal obeys.
pub(super) fn saying(line: &Line, out: &mut String) {
    escape(&line.message, out);
    for (name, value) in &line.fields {
        let _ = write!(out, " {name}=");
        plain(value, out);
    }
    if let Some(repeated) = line.repeated {
        let _ = write!(out, " (repeated {} times in {} s)", repeated.times, repeated.over_s);
    }
}

fn text(line: &Line, colours: bool, out: &mut String) {
    let (dim, level, end) = if colours { ("\x1b[2m", colour(line.level), "\x1b[0m") } else { ("", "", "") };
    let _ =
        write!(out, "{dim}{}{end} {level}{:>5}{end} {dim}{}:{end} ", time(line.time), line.level.as_str(), line.target);
    saying(line, out);
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// A value as logfmt has it: texts of more than a word in quotes.
fn plain(value: &Value, out: &mut String) {
    let _ = match value {
        Value::Signed(number) => write!(out, "{number}"),
        Value::Unsigned(number) => write!(out, "{number}"),
        Value::Float(number) => write!(out, "{number}"),
        Value::Bool(word) => write!(out, "{word}"),
        Value::Text(text) if is_word(text) => write!(out, "{text}"),
        Value::Text(text) => {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                escape(c.encode_utf8(&mut [0; 4]), out);
            }
            out.push('"');
            Ok(())
        }
    };
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || matches!(c, '"' | '\\' | '=') || rules_a_terminal(c))
}

/// The text as a terminal may show it.
pub(super) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if rules_a_terminal(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
}

fn time(time: SystemTime) -> String {
    rfc3339(time).unwrap_or_else(|| "-".to_owned())
}

/// `time`, `level`, `target`, `message`, then the fields, flat, in this order.
fn json(line: &Line, out: &mut String) {
    let time = rfc3339(line.time).map_or(Json::Null, Json::String);
    let message = Json::from(line.message.as_str());
    let _ = write!(out, r#"{{"time":{time},"level":"{}","target":"{}","message":{message}"#, line.level, line.target);
    for (name, value) in &line.fields {
        let value = match value {
            Value::Text(text) => Json::from(text.as_str()),
            Value::Signed(number) => Json::from(*number),
            Value::Unsigned(number) => Json::from(*number),
            // What is no number is null.
            Value::Float(number) => Json::from(*number),
            Value::Bool(word) => Json::from(*word),
        };
        let _ = write!(out, r#","{name}":{value}"#);
    }
    if let Some(repeated) = line.repeated {
        let _ = write!(out, r#","repeated":{},"over_s":{}"#, repeated.times, repeated.over_s);
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::line::Repeated;

    fn line() -> Line {
        Line {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_257_690_290),
            level: Level::WARN,
            target: "tidegate::broker",
            source: Some(("src/x.rs", 7)),
            message: "client\nrefused".to_owned(),
            fields: vec![
                ("client", Value::Text("a \"b\"\u{1b}[2J\u{202e}".to_owned())),
                ("listener", Value::Text("sensors".to_owned())),
                ("users", Value::Unsigned(3)),
                ("ratio", Value::Float(f64::NAN)),
                ("ok", Value::Bool(false)),
            ],
            repeated: Some(Repeated { times: 12, over_s: 60 }),
        }
    }

    fn form(form: Form) -> String {
        let mut out = String::new();
        form.append(&line(), &mut out);
        out
    }

    const SAYING: &str = r#"client\nrefused client="a \"b\"\u{1b}[2J\u{202e}" listener=sensors users=3 ratio=NaN ok=false (repeated 12 times in 60 s)"#;

    #[test]
    fn a_line_is_one_line_and_rules_no_terminal() {
        let expected = format!("2026-11-21T10:41:30.290Z  WARN tidegate::broker: {SAYING}\n");
        assert_eq!(form(Form::Text { colours: false }), expected);
        assert_eq!(form(Form::Prefixed), format!("<4>tidegate::broker: {SAYING}\n"));
        let colours = form(Form::Text { colours: true });
        assert!(
            colours.starts_with("\u{1b}[2m2026-11-21T10:41:30.290Z\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m "),
            "{colours}"
        );
        assert!(colours.ends_with(&format!("{SAYING}\n")));
    }

    #[test]
    fn json_is_flat_and_typed() {
        let text = form(Form::Json);
        assert!(text.starts_with(r#"{"time":"2026-11-21T10:41:30.290Z","level":"WARN","target":"#), "{text}");
        assert_eq!(text.lines().count(), 1);
        let json: Json = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "time": "2026-11-21T10:41:30.290Z", "level": "WARN", "target": "tidegate::broker", "message": "client\nrefused",
            "client": "a \"b\"\u{1b}[2J\u{202e}", "listener": "sensors", "users": 3, "ratio": null, "ok": false,
            "repeated": 12, "over_s": 60,
        });
        assert_eq!(json, expected);
    }
}
