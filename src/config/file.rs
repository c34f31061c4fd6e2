//! One TOML file, read into a layer of the configuration in which every value knows its file and line.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use ::config::{ConfigError, Map, Source, Value, ValueKind};
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    origin::{Origins, SourceId},
    problem::{Place, Problem, Severity},
    show, tree,
};
use crate::units::format_size;

/// Largest configuration file. Nobody writes that much, and a wrong path must not fill the memory.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;

/// Most syntax errors reported of one file: enough to see that it is no TOML at all.
const MAX_SYNTAX_ERRORS: usize = 10;

/// Lists that grow over the files instead of replacing each other: what `conf.d` is for.
pub(super) const LISTS: [&str; 3] = ["listener", "uplink", "stream"];

/// The content of one file, as a source for the `config` crate.
#[derive(Debug, Clone)]
pub(super) struct FileLayer {
    content: Value,
}

impl FileLayer {
    /// What is in the file, for a file that is no layer of the configuration.
    pub(super) fn content(&self) -> &Value {
        &self.content
    }
}

impl Source for FileLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        tree::collected(|cache| self.collect_to(cache))
    }

    /// Merges the file into the layers below: tables key by key, `[[listener]]`, `[[uplink]]` and `[[stream]]` are
    /// appended, everything else is replaced.
    fn collect_to(&self, cache: &mut Value) -> Result<(), ConfigError> {
        if let Some(tree) = tree::within(cache) {
            merge(tree, &self.content, true);
        }
        Ok(())
    }
}

fn merge(below: &mut Value, above: &Value, root: bool) {
    let (ValueKind::Table(below), ValueKind::Table(above)) = (&mut below.kind, &above.kind) else {
        *below = above.clone();
        return;
    };
    for (key, value) in above {
        match below.get_mut(key) {
            None => {
                below.insert(key.clone(), value.clone());
            }
            Some(present) => match (&mut present.kind, &value.kind) {
                (ValueKind::Array(list), ValueKind::Array(more)) if root && LISTS.contains(&key.as_str()) => {
                    list.extend(more.iter().cloned());
                }
                _ => merge(present, value, false),
            },
        }
    }
}

/// Reads a file of at most `max` bytes whole; the error is for people.
pub(super) fn read_text(path: &Path, max: u64) -> io::Result<String> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {}", format_size(max))));
    }
    String::from_utf8(bytes).map_err(|error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = right.split(|byte| *byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("is not UTF-8 (line {line})"))
    })
}

/// Parses the text of a file. With syntax errors there is no layer: half a file would bring a heap of false problems.
pub(super) fn parse(text: &str, source: SourceId, origins: &Origins, problems: &mut Vec<Problem>) -> Option<FileLayer> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
            let at = error.span().map_or(text.len(), |span| span.start);
            let (line, column) = lines.position(at);
            problems.push(Problem {
                severity: Severity::Error,
                place: Some(Place { source: origins.get(source).label.clone(), line: Some(line) }),
                key: String::new(),
                name: None,
                said: None,
                expected: format!("column {column}: not TOML: {}", error.message().replace('\n', ", ")),
                hint: None,
                may_pass: false,
            });
        }
        return None;
    }
    let mut reading = Reading { source, origins, lines: &lines, problems };
    let content = reading.table(table.get_ref(), 0, "");
    Some(FileLayer { content })
}

/// A file on its way from spanned TOML to values with an origin.
struct Reading<'a> {
    source: SourceId,
    origins: &'a Origins,
    lines: &'a Lines<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn table(&mut self, table: &DeTable<'_>, start: usize, path: &str) -> Value {
        let mut map = Map::new();
        for (key, value) in table {
            let path =
                if path.is_empty() { show::key(key.get_ref()) } else { format!("{path}.{}", show::key(key.get_ref())) };
            if let Some(value) = self.value(value, key.span().start, &path) {
                map.insert(key.get_ref().to_string(), value);
            }
        }
        self.located(start, ValueKind::Table(map))
    }

    /// `start` is where the key is, for that is the line people look for; list elements have their own.
    fn value(&mut self, value: &Spanned<DeValue<'_>>, start: usize, path: &str) -> Option<Value> {
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Boolean(yes) => ValueKind::Boolean(*yes),
            DeValue::Integer(number) => match integer(number) {
                Some(kind) => kind,
                None => return self.refuse(start, path, &number.to_string(), "the number is too large"),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(float) => ValueKind::Float(float),
                Err(_) => return self.refuse(start, path, number.as_str(), "the number cannot be read"),
            },
            DeValue::Datetime(date) => {
                return self.refuse(start, path, &date.to_string(), "no key takes a date");
            }
            DeValue::Array(list) => {
                let values = list.iter().enumerate();
                ValueKind::Array(
                    values.filter_map(|(i, v)| self.value(v, v.span().start, &format!("{path}[{i}]"))).collect(),
                )
            }
            DeValue::Table(table) => return Some(self.table(table, start, path)),
        };
        Some(self.located(start, kind))
    }

    fn located(&self, start: usize, kind: ValueKind) -> Value {
        Value::new(Some(&Origins::encode(self.source, Some(self.lines.position(start).0))), kind)
    }

    fn refuse(&mut self, start: usize, path: &str, said: &str, expected: &str) -> Option<Value> {
        let line = Some(self.lines.position(start).0);
        self.problems.push(Problem {
            severity: Severity::Error,
            place: Some(Place { source: self.origins.get(self.source).label.clone(), line }),
            key: path.to_owned(),
            name: None,
            said: Some(said.chars().take(60).collect()),
            expected: expected.to_owned(),
            hint: None,
            may_pass: false,
        });
        None
    }
}

fn integer(number: &DeInteger<'_>) -> Option<ValueKind> {
    let (text, radix) = (number.as_str(), number.radix());
    let signed = i64::from_str_radix(text, radix).ok().map(ValueKind::I64);
    signed.or_else(|| u64::from_str_radix(text, radix).ok().map(ValueKind::U64))
}

/// Finds line and column of a byte offset.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Line and column (in characters), both counted from 1.
    fn position(&self, offset: usize) -> (u32, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = self.text.as_bytes().get(start..offset.min(self.text.len())).unwrap_or_default();
        (u32::try_from(line).unwrap_or(u32::MAX), String::from_utf8_lossy(before).chars().count() + 1)
    }
}
