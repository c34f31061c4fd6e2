//! A problem with the configuration: where, what was said, what was expected, and what may have been meant.

use std::{cmp::Ordering, fmt};

use serde::Serialize;

/// Something in the configuration that is wrong, or surely not meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether the gateway would start all the same.
    pub severity: Severity,
    /// The file or environment variable; `None` where nothing was written at all.
    pub place: Option<Place>,
    /// Path of the key, such as `stream[2].when_full` (counted from 0, over all files together); empty for a whole file.
    pub key: String,
    /// Name of the listener, uplink or stream the key belongs to, where it has one.
    pub name: Option<String>,
    /// What was written there, shortened.
    pub said: Option<String>,
    /// What is wrong with it, or what was expected.
    pub expected: String,
    /// What may have been meant.
    pub hint: Option<String>,
    /// It lies outside of the files and may pass by itself, such as a name server that does not answer yet.
    #[serde(skip)]
    pub may_pass: bool,
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// Allowed, but surely a mistake.
    Warning,
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Path of the file, or `environment variable X`.
    pub source: String,
    /// Line in the file, counted from 1.
    pub line: Option<u32>,
}

/// The configuration is refused: all problems, errors and warnings, in the order of the files and lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused(pub Vec<Problem>);

impl Refused {
    /// Whether trying again later may help: every error is one that may pass by itself.
    pub fn may_pass(&self) -> bool {
        self.0.iter().filter(|problem| problem.severity == Severity::Error).all(|problem| problem.may_pass)
    }
}

impl Problem {
    /// Files and lines in order, errors before warnings on the same line.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        (&self.place, self.severity, &self.key).cmp(&(&other.place, other.severity, &other.key))
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

impl fmt::Display for Problem {
    /// `error: /etc/tidegate/tidegate.toml:12: stream[2].when_full (telemetry): "rejekt": expected ...; did you mean "reject"?`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.key)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        if let Some(said) = &self.said {
            write!(f, "{said}: ")?;
        }
        f.write_str(&self.expected)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.0.iter().filter(|problem| problem.severity == Severity::Error).count();
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        write!(f, "configuration refused: {errors} error{}", if errors == 1 { "" } else { "s" })
    }
}
