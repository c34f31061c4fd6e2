//! Logging: what goes to stderr, and in which form.

/// Settings of the log, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `tracing` filter directives, such as `info` or `tidegate::uplink=debug,info`; `RUST_LOG` overrides it.
    pub level: String,
    /// Form of the lines.
    pub format: Format,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Journal under systemd, pretty on a terminal, plain lines elsewhere.
    Auto,
    /// For people: colours where stderr is a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
    /// For the journal: no time stamp, syslog priority in front (`<4>`).
    Journal,
}
