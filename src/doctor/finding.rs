//! What a check found: about what, how bad, and what to do. Plain words, no I/O.

use serde::Serialize;
use serde_json::Value;

/// What is looked at, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The configuration, and the files it names.
    Configuration,
    /// The running gateway, if there is one.
    Gateway,
    /// The data directory and its file system.
    Data,
    /// How fast the disk is.
    Disk,
    /// The addresses that the gateway listens on.
    Listeners,
    /// Certificates and keys.
    Tls,
    /// Every address of every uplink.
    Uplinks,
    /// The clock.
    Clock,
    /// Limits, memory, systemd's unit.
    System,
}

impl Check {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Configuration,
        Self::Gateway,
        Self::Data,
        Self::Disk,
        Self::Listeners,
        Self::Tls,
        Self::Uplinks,
        Self::Clock,
        Self::System,
    ];

    /// Its word on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Gateway => "gateway",
            Self::Data => "data",
            Self::Disk => "disk",
            Self::Listeners => "listeners",
            Self::Tls => "tls",
            Self::Uplinks => "uplinks",
            Self::Clock => "clock",
            Self::System => "system",
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Nothing is wrong; somebody may want to know.
    Note,
    /// The gateway works, and something will go wrong, or is surely not meant.
    Warning,
    /// Something does not work.
    Failed,
}

impl Grade {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at ...
    pub check: Check,
    /// ... exactly: a file, an address, a setting.
    pub subject: String,
    /// How bad it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// The figures behind it, for scripts.
    pub figures: Option<Value>,
}

impl Finding {
    /// A finding without advice.
    pub fn new(check: Check, grade: Grade, subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check, subject: subject.into(), grade, found: found.into(), advice: None, figures: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    /// The same with figures.
    #[must_use]
    pub fn with(self, figures: Value) -> Self {
        Self { figures: Some(figures), ..self }
    }
}

/// The findings of one check on their way together.
#[derive(Debug)]
pub(super) struct Notebook {
    check: Check,
    pub(super) findings: Vec<Finding>,
}

impl Notebook {
    pub(super) fn new(check: Check) -> Self {
        Self { check, findings: Vec::new() }
    }

    fn add(&mut self, grade: Grade, subject: &str, found: impl Into<String>) -> &mut Finding {
        self.findings.push(Finding::new(self.check, grade, subject, found));
        self.findings.last_mut().expect("one was pushed")
    }

    pub(super) fn ok(&mut self, subject: &str, found: impl Into<String>) -> &mut Finding {
        self.add(Grade::Ok, subject, found)
    }

    pub(super) fn note(&mut self, subject: &str, found: impl Into<String>) -> &mut Finding {
        self.add(Grade::Note, subject, found)
    }

    pub(super) fn warn(&mut self, subject: &str, found: impl Into<String>, advice: impl Into<String>) -> &mut Finding {
        let finding = self.add(Grade::Warning, subject, found);
        finding.advice = Some(advice.into());
        finding
    }

    pub(super) fn fail(&mut self, subject: &str, found: impl Into<String>, advice: impl Into<String>) -> &mut Finding {
        let finding = self.add(Grade::Failed, subject, found);
        finding.advice = Some(advice.into());
        finding
    }
}
