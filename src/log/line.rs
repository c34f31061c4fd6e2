//! One line of the log: what a call of `tracing` said, with its texts cut to a bound, before it has a form.

use std::{
    fmt::{self, Debug, Write as _},
    time::SystemTime,
};

use tracing::{
    Event, Level, Metadata,
    field::{Field, Visit},
};

/// Most bytes of a message or of the text of one field; the rest is cut.
pub(super) const TEXT_MAX: usize = 1024;

/// What stands where something was cut.
const CUT: &str = "…";

/// A line before it has a form.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    /// The module that says it.
    pub(super) target: &'static str,
    /// Where that stands in the source, for the journal.
    pub(super) source: Option<(&'static str, u32)>,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
    /// Where this line stands for many.
    pub(super) repeated: Option<Repeated>,
}

/// How many lines a line stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeated {
    pub(super) times: u64,
    /// In so many seconds.
    pub(super) over_s: u64,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
}

impl Line {
    /// What an event says.
    pub(super) fn of(event: &Event<'_>, time: SystemTime) -> Self {
        let mut line = Self::bare(event.metadata(), time);
        event.record(&mut line);
        line
    }

    fn bare(metadata: &Metadata<'static>, time: SystemTime) -> Self {
        Self {
            time,
            level: *metadata.level(),
            target: metadata.target(),
            source: metadata.file().zip(metadata.line()),
            message: String::new(),
            fields: Vec::new(),
            repeated: None,
        }
    }

    /// Bytes of memory that it takes, near enough for a bound.
    pub(super) fn weight(&self) -> usize {
        let text = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Bool(_) => 0,
        };
        let fields = self.fields.iter().map(|(_, value)| size_of::<(&str, Value)>() + text(value));
        size_of::<Self>() + self.message.len() + fields.sum::<usize>()
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(text(format_args!("{value}"))));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Value::Text(text(format_args!("{value:?}"))));
    }
}

/// What is written, up to the bound: a stranger's megabyte is not even built.
fn text(what: fmt::Arguments<'_>) -> String {
    let mut bounded = Bounded(String::new());
    if bounded.write_fmt(what).is_err() {
        bounded.0.push_str(CUT);
    }
    bounded.0
}

/// Fails once it is full.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_MAX - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(text(format_args!("{}", "a".repeat(TEXT_MAX))).len(), TEXT_MAX);
        let long = text(format_args!("x{}", "é".repeat(TEXT_MAX)));
        assert_eq!(long, format!("x{}…", "é".repeat((TEXT_MAX - 1) / 2)));
    }
}
