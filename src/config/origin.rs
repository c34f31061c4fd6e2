//! Where values come from, carried through the `config` crate in the one text that its values have for it.

use std::path::PathBuf;

use ::config::Value;

use super::problem::Place;

/// Index of a file or environment variable in [`Origins`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceId(usize);

/// A file or an environment variable.
#[derive(Debug)]
pub(super) struct Origin {
    /// How people call it.
    pub(super) label: String,
    /// Relative paths written there begin here: the file's folder; the working directory (empty) for the environment.
    pub(super) folder: PathBuf,
    /// Everything is text in the environment, so numbers, switches and lists are read from text there.
    pub(super) is_environment: bool,
}

/// All files and environment variables that were read.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<Origin>);

impl Origins {
    pub(super) fn add(&mut self, origin: Origin) -> SourceId {
        self.0.push(origin);
        SourceId(self.0.len() - 1)
    }

    pub(super) fn get(&self, id: SourceId) -> &Origin {
        &self.0[id.0]
    }

    /// What [`Value::origin`] says of a value.
    pub(super) fn encode(id: SourceId, line: Option<u32>) -> String {
        format!("{}:{}", id.0, line.unwrap_or(0))
    }

    /// Reads back what [`Origins::encode`] wrote; `None` for values that the program made itself.
    pub(super) fn of(&self, value: &Value) -> Option<(&Origin, Option<u32>)> {
        let (id, line) = value.origin()?.split_once(':')?;
        let line: u32 = line.parse().ok()?;
        Some((self.0.get(id.parse::<usize>().ok()?)?, (line > 0).then_some(line)))
    }

    pub(super) fn place(&self, value: &Value) -> Option<Place> {
        self.of(value).map(|(origin, line)| Place { source: origin.label.clone(), line })
    }
}
