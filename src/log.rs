//! Logging: what goes to stderr, and in which form.
//!
//! A line is a constant message with fields. What can repeat goes through a [`Limited`] first, so that a flapping link
//! cannot fill a disk with its log. Under systemd the journal keeps the time, so lines there carry a syslog priority
//! (`<4>`, see sd-daemon(3)) instead of one of their own.

use std::{
    env, fmt, io,
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Default of `log.level`.
pub const DEFAULT_LEVEL: &str = "info";
/// Default of `log.format`.
pub const DEFAULT_FORMAT: Format = Format::Auto;
/// The words for `log.format`.
pub const FORMATS: [(&str, Format); 4] =
    [("auto", Format::Auto), ("pretty", Format::Pretty), ("json", Format::Json), ("journal", Format::Journal)];

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

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

/// Checks filter directives as `log.level` takes them.
///
/// Stricter than `tracing` itself, which reads a misspelt level (`inof`) as the name of a module and then logs nothing.
pub fn check_level(directives: &str) -> Result<(), String> {
    for directive in directives.split(',').map(str::trim) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("`{}` is no level", directive.escape_debug()));
        }
    }
    EnvFilter::try_new(directives).map(drop).map_err(|error| error.to_string())
}

/// Starts logging for the whole process; the first call wins, later ones (in tests) change nothing.
pub fn init(settings: &Settings) {
    let (filter, complaint) = filter(&settings.level, env::var("RUST_LOG").ok().as_deref());
    let started = match resolve(settings.format, env::var_os("JOURNAL_STREAM").is_some(), io::stderr().is_terminal()) {
        Lines::Journal => subscribe(filter).event_format(JournalFormat).try_init(),
        Lines::Json => subscribe(filter).json().try_init(),
        Lines::Pretty => subscribe(filter).with_ansi(io::stderr().is_terminal()).try_init(),
        Lines::Plain => subscribe(filter).with_ansi(false).try_init(),
    };
    if let (Ok(()), Some(complaint)) = (started, complaint) {
        tracing::warn!(reason = complaint, "RUST_LOG ignored");
    }
}

type Builder = tracing_subscriber::fmt::SubscriberBuilder<
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    EnvFilter,
    fn() -> io::Stderr,
>;

fn subscribe(filter: EnvFilter) -> Builder {
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr as fn() -> io::Stderr)
}

/// `RUST_LOG` if it is there and right, else the configured level; and what is wrong with `RUST_LOG`.
fn filter(level: &str, rust_log: Option<&str>) -> (EnvFilter, Option<String>) {
    let configured = || EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVEL));
    match rust_log.filter(|directives| !directives.is_empty()).map(EnvFilter::try_new) {
        None => (configured(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (configured(), Some(error.to_string())),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Lines {
    Journal,
    Json,
    Pretty,
    Plain,
}

fn resolve(format: Format, under_journal: bool, terminal: bool) -> Lines {
    match format {
        Format::Json => Lines::Json,
        Format::Journal => Lines::Journal,
        Format::Pretty => Lines::Pretty,
        Format::Auto if under_journal => Lines::Journal,
        Format::Auto if terminal => Lines::Pretty,
        Format::Auto => Lines::Plain,
    }
}

/// One line an event: `<6>target: message field=value`.
struct JournalFormat;

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // The priorities of syslog(3); what tracing calls TRACE has none of its own there.
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut line = String::new();
        context.format_fields(Writer::new(&mut line), event)?;
        // The journal begins a new entry at every line end, so one event stays one line.
        writeln!(out, "<{priority}>{}: {}", event.metadata().target(), line.replace('\n', " "))
    }
}

/// Lets the first few of many equal lines through, then one an interval with the number of those held back.
///
/// Pure: the caller says what time it is.
#[derive(Debug, Clone)]
pub struct Limited {
    burst: u32,
    interval: Duration,
    since: Option<Instant>,
    passed: u32,
    held_back: u64,
}

impl Limited {
    /// At most `burst` lines in each `interval`.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, since: None, passed: 0, held_back: 0 }
    }

    /// Whether to write this line. `Some(n)`: yes, and `n` before it were held back. `None`: no.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        let over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= self.interval);
        if over {
            self.since = Some(now);
            self.passed = 0;
        }
        if self.passed >= self.burst {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn levels_and_directives_are_checked() {
        for right in ["info", "WARN", "off", "info,tidegate::uplink=debug", "tidegate=trace, warn"] {
            assert_eq!(check_level(right), Ok(()), "{right}");
        }
        for wrong in ["inof", "", "info,", "tidegate=lots", "tidegate"] {
            assert!(check_level(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn auto_follows_the_surroundings() {
        assert_eq!(resolve(Format::Auto, true, true), Lines::Journal);
        assert_eq!(resolve(Format::Auto, false, true), Lines::Pretty);
        assert_eq!(resolve(Format::Auto, false, false), Lines::Plain);
        assert_eq!(resolve(Format::Json, true, true), Lines::Json);
    }

    #[test]
    fn a_wrong_rust_log_is_reported_and_the_configured_level_holds() {
        let (kept, complaint) = filter("debug", Some("[[["));
        assert_eq!((kept.to_string().as_str(), complaint.is_some()), ("debug", true));
        let (kept, complaint) = filter("debug", Some("warn"));
        assert_eq!((kept.to_string().as_str(), complaint), ("warn", None));
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_carry_a_priority_and_stay_one_line() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(JournalFormat).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "tidegate::uplink", uplink = "cloud", "connection\nlost");
            tracing::error!(target: "tidegate", "disk full");
        });
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written, "<4>tidegate::uplink: connection lost uplink=\"cloud\"\n<3>tidegate: disk full\n");
    }

    #[test]
    fn repeated_lines_are_held_back_and_counted() {
        let start = Instant::now();
        let mut limited = Limited::new(2, Duration::from_secs(10));
        assert_eq!(limited.pass(start), Some(0));
        assert_eq!(limited.pass(start), Some(0));
        assert_eq!(limited.pass(start), None);
        assert_eq!(limited.pass(start + Duration::from_secs(9)), None);
        assert_eq!(limited.pass(start + Duration::from_secs(10)), Some(2));
        assert_eq!(limited.pass(start + Duration::from_secs(10)), Some(0));
    }

    proptest! {
        #[test]
        fn every_line_passes_or_is_counted_later(steps in proptest::collection::vec(0..5_u64, 1..200)) {
            let mut now = Instant::now();
            let mut limited = Limited::new(3, Duration::from_secs(7));
            let (mut passed, mut reported) = (0, 0);
            for step in &steps {
                now += Duration::from_secs(*step);
                if let Some(held_back) = limited.pass(now) {
                    passed += 1;
                    reported += held_back;
                }
            }
            reported += limited.held_back;
            prop_assert_eq!(passed + reported, steps.len() as u64);
        }
    }
}
