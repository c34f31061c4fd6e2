//! Logging: what goes to stderr or into the journal, and in which form.
//!
//! A line is a constant message with fields:
//!
//! | field | what |
//! | --- | --- |
//! | `client`, `address`, `user`, `topic`, `filter` | of a local client: client id, where it comes from, who it is, what it wanted; chosen by strangers |
//! | `listener`, `uplink`, `downlink`, `stream`, `file` | the thing of the configuration that the line is about |
//! | `session` | the number of a session in the store |
//! | `reason` | why, a word of a closed list, the same as in the metric of the fact |
//! | `step` | how far it got: of a connection `DNS`, `TCP`, `TLS`, `CONNECT` |
//! | `error` | why, in words for people; may quote what a stranger or an upstream said |
//! | `problem` | what is wrong with a configuration, with file and key |
//! | `state` | the line tells how a thing is from now on: `connected`, `disconnected`, `suspended`, .. |
//! | `url`, `bind`, `path` | where: of an upstream, of a listener, of a file |
//! | `seq`, `id` | which message of a stream, which dead letter |
//! | names that end in `_s`, `_ms`, `_bytes` | figures, with their unit; others count what they are called after (`messages`, `lost`) |
//! | `repeated`, `over_s` | how many lines this one stands for, and in how many seconds they came |
//!
//! No payload and no secret is ever a field. What strangers say is cut (1 KiB) and escaped, so that it can neither begin a line of its own nor
//! rule a terminal.
//!
//! What repeats is counted (`storms`), and who logs never waits for who reads (`queue`). The forms are in `render` and `output`:
//! `json` is one flat object a line (`time`, `level`, `target`, `message`, the fields with their types); `pretty` is for people; `journal` makes every field a
//! field of the journal. `auto` is the journal where stderr goes there, `pretty` elsewhere, with colours on a terminal.
//!
//! A panic is a line like any other, with the word `panicked`; `RUST_BACKTRACE` brings the usual report as well.

mod layer;
mod line;
mod output;
mod queue;
mod render;
mod storms;

use std::{
    env, io,
    io::IsTerminal as _,
    panic,
    path::Path,
    sync::{Arc, OnceLock},
};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload};

use self::{
    layer::Log,
    output::{Journal, SOCKET, Stderr},
    queue::Shared,
    render::Form,
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
    /// The journal where stderr goes there, pretty elsewhere.
    Auto,
    /// For people: colours where stderr is a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
    /// Entries of the journal with fields; where there is none, lines on stderr with a syslog priority in front (`<4>`).
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

/// What runs once logging has started.
struct Running {
    shared: Arc<Shared>,
    filter: reload::Handle<EnvFilter, Registry>,
    /// `RUST_LOG` holds, whatever the configuration says.
    overridden: bool,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

/// Starts logging for the whole process; the first call wins, later ones (in tests) change nothing.
pub fn init(settings: &Settings) {
    let rust_log = env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let (chosen, complaint) = filter(&settings.level, rust_log.as_deref());
    let overridden = rust_log.is_some() && complaint.is_none();
    let shared = match start(settings.format) {
        Ok(shared) => shared,
        // Without a thread nothing else would start either; the gateway says so itself, if it can.
        Err(error) => return complain(&format!("tidegate: no log, for its thread does not start: {error}\n")),
    };
    let (chosen, handle) = reload::Layer::new(chosen);
    let subscriber = Registry::default().with(chosen).with(Log::new(Arc::clone(&shared)));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return;
    }
    let _ = RUNNING.set(Running { shared, filter: handle, overridden });
    tell_panics();
    if let Some(error) = complaint {
        tracing::warn!(error, "RUST_LOG ignored");
    }
}

/// From now on these directives hold. Gives whether they do: `RUST_LOG` overrides them, and without [`init`] there is no log.
pub fn set_level(directives: &str) -> bool {
    let Some(running) = RUNNING.get() else { return false };
    let Ok(filter) = EnvFilter::try_new(directives) else { return false };
    !running.overridden && running.filter.reload(filter).is_ok()
}

/// Writes what is held back, because what comes next is another matter: the program begins to stop.
pub fn settle() {
    if let Some(running) = RUNNING.get() {
        running.shared.settle();
    }
}

/// Writes what is still held back or waiting, for at most some seconds: the last that a program does with its log.
pub fn finish() {
    if let Some(running) = RUNNING.get() {
        running.shared.finish();
    }
}

/// Lines that nobody took and that are lost, since the start.
pub fn lost_lines() -> u64 {
    RUNNING.get().map_or(0, |running| running.shared.lost())
}

/// A panic becomes a line of the log, so that it cannot wait for a stderr that stands still, and has the form of the others.
fn tell_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let said = info.payload();
        let error = said.downcast_ref::<&str>().copied().or_else(|| said.downcast_ref::<String>().map(String::as_str));
        let place = info.location().map(ToString::to_string);
        let error = error.unwrap_or("no words");
        tracing::error!(error, place, thread = std::thread::current().name(), "panicked: a bug in the gateway");
        if env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0") {
            report(info);
        }
    }));
}

fn start(format: Format) -> io::Result<Arc<Shared>> {
    match resolve(format, stderr_is_journal(), io::stderr().is_terminal()) {
        Lines::Journal => match Journal::open(Path::new(SOCKET)) {
            Ok(journal) => Shared::start(journal),
            Err(_) => Shared::start(Stderr(Form::Prefixed)),
        },
        Lines::Stderr(form) => Shared::start(Stderr(form)),
    }
}

fn complain(text: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

/// Whether stderr goes to the journal: systemd names it in `JOURNAL_STREAM` by device and inode, and whoever redirected
/// stderr since then inherited the variable (systemd.exec(5)).
pub(crate) fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// `RUST_LOG` if it is there and right, else the configured level; and what is wrong with `RUST_LOG`.
fn filter(level: &str, rust_log: Option<&str>) -> (EnvFilter, Option<String>) {
    let configured = || EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVEL));
    match rust_log.map(EnvFilter::try_new) {
        None => (configured(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (configured(), Some(error.to_string())),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Lines {
    Journal,
    Stderr(Form),
}

fn resolve(format: Format, under_journal: bool, terminal: bool) -> Lines {
    match format {
        Format::Json => Lines::Stderr(Form::Json),
        Format::Journal => Lines::Journal,
        Format::Auto if under_journal => Lines::Journal,
        Format::Pretty | Format::Auto => Lines::Stderr(Form::Text { colours: terminal }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(resolve(Format::Auto, false, true), Lines::Stderr(Form::Text { colours: true }));
        assert_eq!(resolve(Format::Auto, false, false), Lines::Stderr(Form::Text { colours: false }));
        assert_eq!(resolve(Format::Json, true, true), Lines::Stderr(Form::Json));
    }

    #[test]
    fn a_wrong_rust_log_is_reported_and_the_configured_level_holds() {
        let (kept, complaint) = filter("debug", Some("[[["));
        assert_eq!((kept.to_string().as_str(), complaint.is_some()), ("debug", true));
        let (kept, complaint) = filter("debug", Some("warn"));
        assert_eq!((kept.to_string().as_str(), complaint), ("warn", None));
    }
}
