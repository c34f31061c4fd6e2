//! The values of a [`Section`]: every getter checks, notes what is wrong, and goes on with the default.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use ::config::Value;

use super::{
    nearest::nearest,
    problem::Severity,
    section::{Section, Text},
    show::{self, as_list, as_number, as_switch, as_text},
};
use crate::{
    named_file::{self, Content},
    units::{format_duration, format_size, parse_duration, parse_size},
};

/// Longest keep alive that MQTT can say: 65 535 s.
const MAX_KEEP_ALIVE: Duration = Duration::from_secs(65_535);

impl Section<'_> {
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

    /// A keep alive: whole seconds, or zero for `none`.
    pub(super) fn keep_alive(&self, key: &str, default: Duration, none: &str) -> Duration {
        let keep_alive = self.duration(key, default, Duration::ZERO..=MAX_KEEP_ALIVE);
        if keep_alive.subsec_nanos() != 0 {
            self.refuse(key, format!("expected whole seconds from \"1s\" to \"18h12m15s\", or \"0s\" for {none}"));
        }
        keep_alive
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
            Err(error) => self.refuse_file(key, &path, &error),
        }
        Some(path)
    }

    /// The text of a value that comes from the environment.
    fn environment_text<'v>(&self, value: &'v Value) -> Option<&'v str> {
        as_text(value).filter(|_| self.checks.origins.of(value).is_some_and(|(origin, _)| origin.is_environment))
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
