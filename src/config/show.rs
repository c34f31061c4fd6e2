//! What was said, in one short line for a problem.

use ::config::{Value, ValueKind};

/// Most characters shown of anything.
const MAX_SHOWN: usize = 60;

/// A text as it would be written in TOML, shortened, control characters escaped.
pub(super) fn text(text: &str) -> String {
    format!("{:?}", shorten(text))
}

/// A value as it would be written, shortened.
pub(super) fn value(value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::String(string) => text(string),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(list) => format!("a list of {}", list.len()),
        ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_) => shorten(&value.to_string()),
    }
}

/// The first characters of a text.
pub(super) fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// A key as it is shown in a path: as it is if it is a plain one, else with control characters escaped, shortened.
pub(super) fn key(key: &str) -> String {
    shorten(key).escape_debug().to_string()
}
