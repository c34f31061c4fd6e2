//! One table of the configuration: its keys, its place, and the notes of what is wrong with it.

use std::{
    cell::RefCell,
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use ::config::{Map, Value};

use super::{
    Reader,
    nearest::nearest,
    origin::Origins,
    problem::{Place, Problem, Severity},
    show::{self, as_list, as_table, as_text},
};

/// Most entries of one list; every message is compared with every stream, so more would be a mistake.
const MAX_ENTRIES: usize = 1000;

/// Where systemd hands secrets to services: a folder for each that has any (systemd.exec(5), LoadCredential=).
const CREDENTIALS: &str = "/run/credentials";

/// The merged layers while they are checked, and what was found wrong so far.
pub(super) struct Checks<'a> {
    pub(super) origins: &'a Origins,
    pub(super) problems: RefCell<Vec<Problem>>,
    /// Keys of every section, to say where a misplaced one belongs.
    pub(super) sections: &'a [(&'static str, &'static [&'static str])],
    /// For whom they are checked.
    pub(super) reader: Reader,
    /// Keys of the contract that this version does not have: path of the table without numbers, key.
    pub(super) later: &'a [(&'static str, &'static str)],
}

/// One table: `[store]`, an entry of `[[stream]]`, or an inline table such as `backoff`.
pub(super) struct Section<'a> {
    pub(super) checks: &'a Checks<'a>,
    fields: Option<&'a Map<String, Value>>,
    /// `stream`, whichever entry of `[[stream]]` it is.
    kind: String,
    /// `stream[2]`
    path: String,
    /// The value of its `name`, where it has one.
    pub(super) name: Option<String>,
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

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.fields?.get(key)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
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

    /// Like [`Section::refuse_with_hint`], for what may be right at another time.
    pub(super) fn refuse_for_now(&self, key: &str, expected: String, hint: String) {
        let (place, said) = (self.place_of(key), self.value(key).map(show::value));
        let (key, name) = (self.path_of(key), self.name.clone());
        let (severity, hint) = (Severity::Error, Some(hint));
        self.checks.push(Problem { severity, place, key, name, said, expected, hint, may_pass: true });
    }

    /// Notes an error with a file that the key names. Credentials that this process cannot see are none: systemd gives them to the
    /// service alone, while it runs, and not to its ExecReload=.
    pub(super) fn refuse_file(&self, key: &str, path: &Path, wrong: &str) {
        let path_text = path.display();
        if self.checks.reader == Reader::Onlooker && is_hidden_credential(path) {
            self.warn(
                key,
                format!("{path_text}: not looked at, for only the running service has it (LoadCredential=)"),
            );
        } else {
            self.refuse_unsaid(key, format!("{path_text}: {wrong}"));
        }
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
            may_pass: false,
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
        self.checks.push(Problem {
            severity,
            place,
            key,
            name,
            said: None,
            expected: expected.into(),
            hint: None,
            may_pass: false,
        });
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
            may_pass: false,
        });
    }
}

impl Checks<'_> {
    pub(super) fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn note(
        &self,
        severity: Severity,
        value: &Value,
        key: String,
        name: Option<String>,
        expected: String,
        hint: Option<String>,
    ) {
        let (place, said) = (self.origins.place(value), Some(show::value(value)));
        self.push(Problem { severity, place, key, name, said, expected, hint, may_pass: false });
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
        self.push(Problem {
            severity,
            place: self.origins.place(value),
            key,
            name,
            said: None,
            expected,
            hint,
            may_pass: false,
        });
    }
}

/// Whether systemd keeps a credential from this process.
fn is_hidden_credential(path: &Path) -> bool {
    let is_hidden = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
    path.starts_with(CREDENTIALS) && fs::File::open(path).is_err_and(|error| is_hidden(&error))
}
