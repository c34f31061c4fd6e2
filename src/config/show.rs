//! Values of the `config` crate by kind, and as one short line for a problem.

use ::config::{Map, Value, ValueKind};

/// Most characters shown of anything.
const MAX_SHOWN: usize = 60;

/// The text, if it is one.
pub(super) fn as_text(value: &Value) -> Option<&str> {
    if let ValueKind::String(text) = &value.kind { Some(text) } else { None }
}

/// The switch, if it is one.
pub(super) fn as_switch(value: &Value) -> Option<bool> {
    if let ValueKind::Boolean(yes) = value.kind { Some(yes) } else { None }
}

/// The whole number, if it is one.
pub(super) fn as_number(value: &Value) -> Option<i128> {
    if let ValueKind::I64(number) = value.kind {
        Some(number.into())
    } else if let ValueKind::U64(number) = value.kind {
        Some(number.into())
    } else {
        None
    }
}

/// The table, if it is one.
pub(super) fn as_table(value: &Value) -> Option<&Map<String, Value>> {
    if let ValueKind::Table(table) = &value.kind { Some(table) } else { None }
}

/// The list, if it is one.
pub(super) fn as_list(value: &Value) -> Option<&[Value]> {
    if let ValueKind::Array(list) = &value.kind { Some(list) } else { None }
}

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
