//! `tidegate export`: the messages of a stream as lines of JSON.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{
    complain,
    gateway::{Trouble, outcome, stream_name},
    print, progress,
    source::{Page, Range, Source, Where},
    words::printable_json,
};
use crate::admin::{PAGE_MESSAGES_MAX, Part};

/// Bytes written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes the messages of a stream as lines of JSON, for the day when the network never comes back.
///
/// One message a line, oldest first, with all that goes upstream, and its id and time: `tidegate import` gives them to another gateway, and
/// the upstream recognises them. What waits when it begins is written, each message once; nothing is taken out of the stream. Works on the data directory of a
/// stopped gateway, too. To take messages away for good: pause the stream, export, and when the file is safe purge it up to the last
/// number that was exported (`purge --to`): what came in meanwhile is not in the file, and stays.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    /// File to write; it appears when it is complete and on disk [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The first sequence number
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// The last sequence number
    #[arg(long, value_name = "SEQ", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// What was forwarded and is kept for replay, instead
    #[arg(long)]
    kept: bool,
    /// The dead letters of the stream, instead
    #[arg(long, conflicts_with_all = ["kept", "from", "to"])]
    dead: bool,
    #[command(flatten)]
    place: Where,
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    messages: u64,
    first: Option<u64>,
    last: Option<u64>,
    /// Of those that were there at the begin, as far as they are counted.
    left_meanwhile: u64,
    unreadable: u64,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    outcome(export(arguments))
}

fn export(arguments: &Arguments) -> Result<(), Trouble> {
    if arguments.from > arguments.to {
        return Err(anyhow!("--from {} is behind --to {}", arguments.from, arguments.to).into());
    }
    let mut source = arguments.place.open()?;
    source.must_know_ids()?;
    let tally = match &arguments.output {
        None => {
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
            let written = copy(arguments, &mut source, &mut out)
                .and_then(|tally| out.flush().map(|()| tally).map_err(Stop::Write));
            written.map_err(|stop| stop.at("stdout"))?
        }
        Some(path) => to_file(arguments, &mut source, path)?,
    };
    report(arguments, &source, &tally);
    match tally.unreadable {
        0 => Ok(()),
        lost => Err(anyhow!("the export is not complete: {lost} cannot be read any more").into()),
    }
}

/// Why an export ended early.
enum Stop {
    Read(anyhow::Error),
    Write(io::Error),
}

impl Stop {
    fn at(self, place: &str) -> anyhow::Error {
        match self {
            Self::Read(error) => error,
            Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                anyhow!("nobody reads {place} any more; the export is not complete")
            }
            Self::Write(error) => anyhow!("cannot write to {place}: {error}; the export is not complete"),
        }
    }
}

/// Beside it first, then in its place: a file of this name is always a whole one. What is no plain file is written as it is.
fn to_file(arguments: &Arguments, source: &mut Source, path: &Path) -> anyhow::Result<Tally> {
    let name = path.display().to_string();
    if path.metadata().is_ok_and(|known| !known.is_file()) {
        let file = OpenOptions::new().write(true).open(path).with_context(|| format!("cannot open {name}"))?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        let tally = copy(arguments, source, &mut out).map_err(|stop| stop.at(&name))?;
        out.flush().map_err(|error| Stop::Write(error).at(&name))?;
        return Ok(tally);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary =
        NamedTempFile::new_in(folder).with_context(|| format!("cannot make a file in {}", folder.display()))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temporary);
    let tally = copy(arguments, source, &mut out).map_err(|stop| stop.at(&name))?;
    let temporary = out.into_inner().map_err(|error| Stop::Write(error.into_error()).at(&name))?;
    let finish = || -> io::Result<()> {
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    };
    finish().map_err(|error| Stop::Write(error).at(&name))?;
    Ok(tally)
}

/// Writes page by page; what comes in after the first page is not part of it.
fn copy(arguments: &Arguments, source: &mut Source, out: &mut impl Write) -> Result<Tally, Stop> {
    let Arguments { stream, from, to, kept, dead, .. } = arguments;
    let part = match (kept, dead) {
        (_, true) => Part::Dead,
        (true, false) => Part::Kept,
        (false, false) => Part::Backlog,
    };
    let mut range = Range { part, from: *from, to: *to };
    let mut tally = Tally::default();
    let mut page = source.messages(stream, range, PAGE_MESSAGES_MAX).map_err(Stop::Read)?;
    let count = page.count;
    if part == Part::Backlog {
        range.to = range.to.min(page.end.saturating_sub(1));
    }
    let bar = progress::bar(count, "messages");
    loop {
        write_page(&page, range, out, &mut tally).map_err(Stop::Write)?;
        bar.set_position(tally.messages);
        match page.next.filter(|next| part == Part::Dead || *next <= range.to) {
            Some(next) => range.from = next,
            None => break,
        }
        page = source.messages(stream, range, PAGE_MESSAGES_MAX).map_err(Stop::Read)?;
    }
    bar.finish_and_clear();
    tally.left_meanwhile = count.unwrap_or(tally.messages).saturating_sub(tally.messages + tally.unreadable);
    Ok(tally)
}

fn write_page(page: &Page, range: Range, out: &mut impl Write, tally: &mut Tally) -> io::Result<()> {
    tally.unreadable += page.unreadable;
    for line in &page.messages {
        if range.part == Part::Backlog && line.sequence.is_some_and(|sequence| sequence > range.to) {
            continue;
        }
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")?;
        tally.messages += 1;
        tally.first = tally.first.or(line.sequence);
        tally.last = line.sequence;
    }
    Ok(())
}

/// Results are on stdout, if there is nothing else: the lines may be there.
fn report(arguments: &Arguments, source: &Source, tally: &Tally) {
    let Tally { messages, first, last, left_meanwhile, unreadable } = tally;
    let output = arguments.output.as_ref().map(|path| path.display().to_string());
    let text = if arguments.place.door.json {
        let answer: Value = json!({
            "stream": arguments.stream, "messages": messages, "first": first, "last": last,
            "left_meanwhile": left_meanwhile, "unreadable": unreadable, "file": output,
        });
        printable_json(&answer) + "\n"
    } else {
        words(arguments, source, tally, output.as_deref())
    };
    if output.is_some() { print(&text) } else { complain(&text) }
}

fn words(arguments: &Arguments, source: &Source, tally: &Tally, output: Option<&str>) -> String {
    let what = match (arguments.dead, arguments.kept) {
        (true, _) => "dead letters",
        (false, true) => "kept messages",
        (false, false) => "messages",
    };
    let numbers = match (tally.first, tally.last) {
        (Some(first), Some(last)) if !arguments.dead => format!(" ({first} to {last})"),
        _ => String::new(),
    };
    let to = output.map_or(String::new(), |path| format!(" to {path}"));
    let mut out =
        format!("{} {what} of {}{numbers} exported from {}{to}\n", tally.messages, arguments.stream, source.name());
    if tally.left_meanwhile > 0 {
        let _ = writeln!(
            out,
            "{} of those that were there when it began left meanwhile: forwarded, expired, dropped, dead or purged",
            tally.left_meanwhile
        );
    }
    if tally.unreadable > 0 {
        let _ = writeln!(out, "{} {what} cannot be read any more and are missing", tally.unreadable);
    }
    out
}
