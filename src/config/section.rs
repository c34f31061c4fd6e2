//! Reading one table of the configuration key by key: every getter checks, notes what is wrong, and goes on with the default.

use std::{cell::RefCell, ops::RangeInclusive, path::PathBuf, time::Duration};

use ::config::{Map, Value};

use super::{
    named_file::{self, Content},
    nearest::nearest,
    origin::Origins,
    problem::{Place, Problem, Severity},
    show::{self, as_list, as_number, as_switch, as_table, as_text},
};
use crate::units::{format_duration, format_size, parse_duration, parse_size};

/// Most entries of one list; every message is compared with every stream, so more would be a mistake.
const MAX_ENTRIES: usize = 1000;

/// The merged layers while they are checked, and what was found wrong so far.
pub(super) struct Checks<'a> {
    pub(super) origins: &'a Origins,
    pub(super) problems: RefCell<Vec<Problem>>,
    /// Keys of every section, to say where a misplaced one belongs.
    pub(super) sections: &'a [(&'static str, &'static [&'static str])],
    /// Keys of the contract that this version does not have: path of the table without numbers, key.
    pub(super) later: &'a [(&'static str, &'static str)],
}

/// One table: `[store]`, an entry of `[[stream]]`, or an inline table such as `backoff`.
pub(super) struct Section<'a> {
    checks: &'a Checks<'a>,
    fields: Option<&'a Map<String, Value>>,
    /// `stream`, whichever entry of `[[stream]]` it is.
    kind: String,
    /// `stream[2]`
    path: String,
    /// The value of its `name`, where it has one.
    name: Option<String>,
    place: Option<Place>,
}

/// Text with the place it was written, for problems that are found later.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) value: String,
    /// Path of the key with the place in the list: `stream[2].from[0]`.
    pub(super) key: String,
    pub(super) place: Option<Place>,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn root(checks: &'a Checks<'a>, value: &'a Value) -> Self {
        Self::new(checks, Some(value), String::new(), String::new())
    }

    fn new(checks: &'a Checks<'a>, value: Option<&'a Value>, kind: String, path: String) -> Self {
        let place = value.and_then(|value| checks.origins.place(value));
        let fields = value.and_then(as_table);
        let name = fields.and_then(|fields| as_text(fields.get("name")?)).map(show::key);
        Self { checks, fields, kind, path, name, place }
    }

    /// The table of this key, with nothing in it if there is none; its keys are checked against the known ones.
    pub(super) fn section(&self, key: &str, known: &[&str]) -> Section<'a> {
        let value = self.value(key);
        let mut section = Self::new(self.checks, value, self.path_of(key), self.path_of(key));
        section.name.clone_from(&self.name);
        if value.is_some() && section.fields.is_none() {
            self.refuse(key, format!("expected a table: `[{}]` and its keys below it", self.path_of(key)));
        }
        section.check_keys(known);
        section
    }

    /// The entries of a list of tables such as `[[listener]]`.
    pub(super) fn entries(&self, key: &str, known: &[&str]) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(entries) = as_list(value) else {
            let hint = as_table(value).map(|_| "two brackets, not one".to_owned());
            self.refuse_with_hint(key, format!("expected a list of tables: `[[{key}]]` once for each"), hint);
            return Vec::new();
        };
        if entries.len() > MAX_ENTRIES {
            self.refuse(key, format!("expected at most {MAX_ENTRIES}"));
            return Vec::new();
        }
        let read = |(index, value)| {
            let path = format!("{key}[{index}]");
            let entry = Self::new(self.checks, Some(value), key.to_owned(), path.clone());
            if entry.fields.is_none() {
                let expected = format!("expected a table: `[[{key}]]` and its keys below it");
                self.checks.note(Severity::Error, value, path, None, expected, None);
            }
            entry.check_keys(known);
            entry
        };
        entries.iter().enumerate().map(read).collect()
    }

    /// Reports every key that is not known.
    pub(super) fn check_keys(&self, known: &[&str]) {
        for (key, value) in self.fields.into_iter().flatten() {
            if !known.contains(&key.as_str()) {
                let (expected, hint) = self.unknown_key(key, known);
                let path = self.path_of(&show::key(key));
                self.checks.note_unsaid(Severity::Error, value, path, self.name.clone(), expected, hint);
            }
        }
    }

    fn unknown_key(&self, key: &str, known: &[&str]) -> (String, Option<String>) {
        if self.checks.later.contains(&(self.kind.as_str(), key)) {
            return ("not supported by this version".to_owned(), None);
        }
        let home = || {
            let mut homes = self.checks.sections.iter().filter(|(_, keys)| keys.contains(&key));
            Some(format!("`{key}` is a key of `{}`", homes.next()?.0)).filter(|_| homes.next().is_none())
        };
        let near = || nearest(key, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        let known = || Some(format!("known here: {}", known.join(", ")));
        ("unknown key".to_owned(), near().or_else(home).or_else(known))
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.place.clone()
    }

    /// Where the key was written, or else its table.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        self.value(key).map_or_else(|| self.place(), |value| self.checks.origins.place(value))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.fields?.get(key)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes an error at this key (or at the table, where the key is not there).
    pub(super) fn refuse(&self, key: &str, expected: impl Into<String>) {
        self.note(Severity::Error, key, expected.into(), None);
    }

    /// Like [`Section::refuse`], with what may have been meant.
    pub(super) fn refuse_with_hint(&self, key: &str, expected: impl Into<String>, hint: Option<String>) {
        self.note(Severity::Error, key, expected.into(), hint);
    }

    /// Like [`Section::refuse`], without repeating a value that may hold a secret.
    pub(super) fn refuse_unsaid(&self, key: &str, expected: impl Into<String>) {
        self.note_unsaid(Severity::Error, key, expected.into());
    }

    /// Notes something that is allowed but surely not meant.
    pub(super) fn warn(&self, key: &str, expected: impl Into<String>) {
        self.note_unsaid(Severity::Warning, key, expected.into());
    }

    fn note(&self, severity: Severity, key: &str, expected: String, hint: Option<String>) {
        match self.value(key) {
            Some(value) => self.checks.note(severity, value, self.path_of(key), self.name.clone(), expected, hint),
            None => self.note_unsaid(severity, key, expected),
        }
    }

    fn note_unsaid(&self, severity: Severity, key: &str, expected: String) {
        self.checks.push(Problem {
            severity,
            place: self.place_of(key),
            key: self.path_of(key),
            name: self.name.clone(),
            said: None,
            expected,
            hint: None,
        });
    }

    /// Notes an error at a text of this section.
    pub(super) fn refuse_text(&self, text: &Text, expected: impl Into<String>, hint: Option<String>) {
        self.note_text(Severity::Error, text, expected.into(), hint);
    }

    /// Like [`Section::refuse_text`], without repeating a text that may hold a secret.
    pub(super) fn refuse_text_unsaid(&self, text: &Text, expected: impl Into<String>) {
        let (place, key, name) = (text.place.clone(), text.key.clone(), self.name.clone());
        let severity = Severity::Error;
        self.checks.push(Problem { severity, place, key, name, said: None, expected: expected.into(), hint: None });
    }

    /// Notes a warning at a text of this section.
    pub(super) fn warn_text(&self, text: &Text, expected: impl Into<String>) {
        self.note_text(Severity::Warning, text, expected.into(), None);
    }

    fn note_text(&self, severity: Severity, text: &Text, expected: String, hint: Option<String>) {
        self.checks.push(Problem {
            severity,
            place: text.place.clone(),
            key: text.key.clone(),
            name: self.name.clone(),
            said: Some(show::text(&text.value)),
            expected,
            hint,
        });
    }

    /// A text that must be there.
    pub(super) fn required_text(&self, key: &str, expected: &str) -> Option<Text> {
        if !self.has(key) {
            self.refuse(key, format!("is missing; expected {expected}"));
        }
        self.text(key, expected)
    }

    /// A text.
    pub(super) fn text(&self, key: &str, expected: &str) -> Option<Text> {
        let value = self.value(key)?;
        let Some(text) = as_text(value).filter(|text| !text.is_empty()) else {
            self.refuse(key, format!("expected {expected}"));
            return None;
        };
        Some(Text { value: text.to_owned(), key: self.path_of(key), place: self.checks.origins.place(value) })
    }

    /// A list of texts; from the environment `a,b` or a TOML array. `None` where there is none, or no list.
    pub(super) fn texts(&self, key: &str, expected: &str) -> Option<Vec<Text>> {
        let value = self.value(key)?;
        let place = self.checks.origins.place(value);
        let at =
            |index: usize, value: String, place| Text { value, key: format!("{}[{index}]", self.path_of(key)), place };
        if let Some(text) = self.environment_text(value) {
            let texts = texts_from_environment(text).into_iter().enumerate();
            return Some(texts.map(|(index, text)| at(index, text, place.clone())).collect());
        }
        let Some(list) = as_list(value) else {
            let hint = as_text(value).map(|text| format!("write [{}]", show::text(text)));
            self.refuse_with_hint(key, format!("expected a list of {expected}"), hint);
            return None;
        };
        let mut texts = Vec::new();
        for (index, value) in list.iter().enumerate() {
            if let Some(text) = as_text(value) {
                texts.push(at(index, text.to_owned(), self.checks.origins.place(value)));
            } else {
                let (path, expected) = (format!("{}[{index}]", self.path_of(key)), format!("expected {expected}"));
                self.checks.note(Severity::Error, value, path, self.name.clone(), expected, None);
            }
        }
        Some(texts)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, words: &[(&str, T)]) -> T {
        let Some(value) = self.value(key) else { return default };
        let said = as_text(value);
        if let Some((_, chosen)) = words.iter().find(|(word, _)| Some(*word) == said) {
            return *chosen;
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let bare = show::value(value);
        let near = nearest(said.unwrap_or(&bare), words.iter().map(|(word, _)| *word));
        let hint = near.map(|near| format!("did you mean {near:?}?"));
        self.refuse_with_hint(key, format!("expected {}", known.join(" or ")), hint);
        default
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        let from_text = || match self.environment_text(value)?.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        if let Some(yes) = as_switch(value).or_else(from_text) {
            return yes;
        }
        let hint = as_text(value).filter(|text| ["true", "false"].contains(text)).map(|_| "without quotes".to_owned());
        self.refuse_with_hint(key, "expected true or false", hint);
        default
    }

    /// A whole number within bounds; `T` must be able to hold them.
    pub(super) fn integer<T: TryFrom<i64>>(&self, key: &str, default: T, bounds: RangeInclusive<i64>) -> T {
        let Some(value) = self.value(key) else { return default };
        let number = as_number(value).or_else(|| self.environment_text(value)?.trim().parse().ok());
        let within = |number: &i64| bounds.contains(number);
        if let Some(number) = number.and_then(|number| i64::try_from(number).ok()).filter(within) {
            return T::try_from(number).unwrap_or(default);
        }
        let hint = as_text(value).filter(|text| text.parse::<i64>().is_ok()).map(|_| "without quotes".to_owned());
        let expected = match *bounds.end() {
            i64::MAX => format!("expected a whole number, {} or more", bounds.start()),
            end => format!("expected a whole number from {} to {end}", bounds.start()),
        };
        self.refuse_with_hint(key, expected, hint);
        default
    }

    /// A size in bytes within bounds.
    pub(super) fn size(&self, key: &str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.value(key) else { return default };
        let size = match (as_text(value), as_number(value)) {
            (Some(text), _) => parse_size(text).map_err(|error| error.to_string()),
            (None, number) => number
                .and_then(|number| u64::try_from(number).ok())
                .ok_or_else(|| "expected a size such as \"64KiB\", or a number of bytes".to_owned()),
        };
        let within = |size: &u64| bounds.contains(size);
        let out_of_bounds = || match *bounds.end() {
            u64::MAX => format!("expected a size of at least {}", format_size(*bounds.start())),
            end => format!("expected a size from {} to {}", format_size(*bounds.start()), format_size(end)),
        };
        match size.and_then(|size| Some(size).filter(within).ok_or_else(out_of_bounds)) {
            Ok(size) => size,
            Err(expected) => {
                self.refuse(key, expected);
                default
            }
        }
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, key: &str, default: Duration, bounds: RangeInclusive<Duration>) -> Duration {
        let Some(value) = self.value(key) else { return default };
        let duration = match (as_text(value), as_number(value)) {
            (Some(text), _) => parse_duration(text).map_err(|error| error.to_string()),
            (None, Some(0)) => Ok(Duration::ZERO),
            (None, Some(number @ 1..)) => {
                Err(format!("expected a duration with its unit, such as \"{number}s\" or \"{number}ms\""))
            }
            (None, _) => Err("expected a duration such as \"30s\"".to_owned()),
        };
        let within = |duration: &Duration| bounds.contains(duration);
        let out_of_bounds = || {
            let (from, to) = (format_duration(*bounds.start()), format_duration(*bounds.end()));
            format!("expected a duration from \"{from}\" to \"{to}\"")
        };
        match duration.and_then(|duration| Some(duration).filter(within).ok_or_else(out_of_bounds)) {
            Ok(duration) => duration,
            Err(expected) => {
                self.refuse(key, expected);
                default
            }
        }
    }

    /// A path, relative to the folder of the file that names it; nothing is opened.
    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        let text = self.text(key, "a path")?;
        if text.value.contains('\0') {
            self.refuse(key, "expected a path; this has a NUL character in it");
            return None;
        }
        let folder = self.checks.origins.of(self.value(key)?).map(|(origin, _)| origin.folder.clone());
        Some(folder.unwrap_or_default().join(text.value))
    }

    /// A file that must be there, readable, and hold what its key says.
    pub(super) fn file(&self, key: &str, content: Content) -> Option<PathBuf> {
        let path = self.path(key)?;
        match named_file::check(&path, content) {
            Ok(None) => {}
            Ok(Some(warning)) => self.warn(key, format!("{}: {warning}", path.display())),
            Err(error) => self.refuse_unsaid(key, format!("{}: {error}", path.display())),
        }
        Some(path)
    }

    /// The text of a value that comes from the environment.
    fn environment_text<'v>(&self, value: &'v Value) -> Option<&'v str> {
        as_text(value).filter(|_| self.checks.origins.of(value).is_some_and(|(origin, _)| origin.is_environment))
    }
}

impl Checks<'_> {
    pub(super) fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn note(
        &self,
        severity: Severity,
        value: &Value,
        key: String,
        name: Option<String>,
        expected: String,
        hint: Option<String>,
    ) {
        let (place, said) = (self.origins.place(value), Some(show::value(value)));
        self.push(Problem { severity, place, key, name, said, expected, hint });
    }

    fn note_unsaid(
        &self,
        severity: Severity,
        value: &Value,
        key: String,
        name: Option<String>,
        expected: String,
        hint: Option<String>,
    ) {
        self.push(Problem { severity, place: self.origins.place(value), key, name, said: None, expected, hint });
    }
}

fn texts_from_environment(text: &str) -> Vec<String> {
    let array = text.trim().starts_with('[').then(|| format!("list = {text}"));
    let parsed = array.and_then(|array| toml::from_str::<toml::Table>(&array).ok());
    let list = parsed.as_ref().and_then(|table| table.get("list")?.as_array());
    let texts = list.and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>());
    let by_comma = || text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    texts.unwrap_or_else(by_comma)
}
