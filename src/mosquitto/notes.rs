//! What became of each line of a mosquitto.conf: every line has a word in the end.

use std::path::PathBuf;

use serde::Serialize;

use super::reader::Line;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Became {
    /// It is in the new configuration.
    Carried,
    /// Tidegate does so by itself, or has no use for it.
    NotNeeded,
    /// It is carried over, or nearly, and something is different.
    Differs,
    /// It could not be carried over.
    Lost,
}

impl Became {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::NotNeeded => "not needed",
            Self::Differs => "differs",
            Self::Lost => "LOST",
        }
    }
}

/// What became of one line, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What stands there, without secrets, shortened.
    pub text: String,
    /// What became of it.
    pub became: Became,
    /// Where to, or why not, and what to do.
    pub said: String,
}

/// Longest text of a line that is shown.
const SHOWN_CHARS: usize = 100;

/// Keys whose values are secrets.
const SECRETS: [&str; 5] = ["password", "remote_password", "bridge_psk", "bridge_identity", "local_password"];

/// Keys that sound like it, and have a path behind them.
const PATHS: [&str; 1] = ["password_file"];

/// All lines, and what was said of each.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) lines: Vec<Line>,
    said: Vec<Vec<(Became, String)>>,
}

impl Book {
    pub(super) fn new(lines: Vec<Line>) -> Self {
        Self { said: vec![Vec::new(); lines.len()], lines }
    }

    /// Says what became of a line; of several words the worst counts.
    pub(super) fn say(&mut self, line: usize, became: Became, said: impl Into<String>) {
        self.said[line].push((became, said.into()));
    }

    pub(super) fn value(&self, line: usize) -> &str {
        &self.lines[line].value
    }

    /// Where a line stands: `mosquitto.conf:12`.
    pub(super) fn place(&self, line: usize) -> String {
        let line = &self.lines[line];
        let name = line.file.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}:{}", line.number)
    }

    /// A line as it may be shown.
    pub(super) fn shown(&self, line: usize) -> String {
        let Line { key, value, .. } = &self.lines[line];
        let is_secret = SECRETS.contains(&key.as_str())
            || key.starts_with("auth_opt_")
            || key.starts_with("plugin_opt_")
            // A misspelt `remote_password` has a password behind it all the same.
            || key.to_ascii_lowercase().contains("pass") && !PATHS.contains(&key.as_str());
        let value = if is_secret { "(secret)" } else { value };
        let text = format!("{key} {value}");
        let clean = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c });
        clean.take(SHOWN_CHARS).collect()
    }

    /// The words on all lines. One of which nobody had anything to say is lost.
    pub(super) fn notes(&self) -> Vec<Note> {
        let of = |at: usize| {
            let mut said = self.said[at].clone();
            said.sort_by_key(|(became, _)| std::cmp::Reverse(*became));
            let became = said.first().map_or(Became::Lost, |(became, _)| *became);
            let mut texts: Vec<String> = said.into_iter().map(|(_, text)| text).collect();
            texts.dedup();
            let unknown = "neither Tidegate nor its importer knows this setting; see mosquitto.conf(5) for what it did";
            let said = if texts.is_empty() { unknown.to_owned() } else { texts.join("; ") };
            Note { file: self.lines[at].file.clone(), line: self.lines[at].number, text: self.shown(at), became, said }
        };
        (0..self.lines.len()).map(of).collect()
    }
}
