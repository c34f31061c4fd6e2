//! `tidegate peek`: stored messages at a glance, or one payload as it is.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, value_parser};
use serde_json::json;

use super::{
    gateway::{Trouble, outcome, stream_name},
    print,
    source::{Page, Range, Source, Where},
    table::layout,
    words::{printable, short_time, size},
};
use crate::{admin::Part, record::Line};

/// Bytes of a payload that a table looks at.
const PREVIEW_BYTES: usize = 512;

/// Shows stored messages of a stream, oldest first; nothing is changed by it.
///
/// Without an option for it, those that wait; also of a stopped gateway.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    /// The first sequence number to look at
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// How many
    #[arg(short = 'n', value_name = "NUMBER", default_value = "10", value_parser = value_parser!(u32).range(1..=4096))]
    number: u32,
    /// Those that were forwarded and are kept for replay
    #[arg(long)]
    kept: bool,
    /// The payload of this one, as it is, and nothing else
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["from", "number", "json"])]
    payload: Option<u64>,
    /// File for the payload
    #[arg(short, long, value_name = "FILE", requires = "payload")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    outcome(arguments.place.open().and_then(|source| match arguments.payload {
        Some(sequence) => payload(arguments, source, sequence),
        None => list(arguments, source),
    }))
}

fn list(arguments: &Arguments, mut source: Source) -> Result<(), Trouble> {
    let Arguments { stream, from, number, kept, place, .. } = arguments;
    let part = if *kept { Part::Kept } else { Part::Backlog };
    let page = source.messages(stream, Range { part, from: *from, to: u64::MAX }, *number as usize)?;
    let answer = json!({
        "stream": stream, "head": page.head, "end": page.end, "count": page.count, "unreadable": page.unreadable,
        "messages": page.messages, "next": page.next,
    });
    place.door.show(&answer, |_| words(arguments, &page));
    Ok(())
}

fn words(arguments: &Arguments, page: &Page) -> String {
    let what = if arguments.kept { "kept messages" } else { "messages wait" };
    if page.messages.is_empty() {
        let from = if arguments.from > 0 { format!(" from {} on", arguments.from) } else { String::new() };
        return format!("no {what} in {}{from}\n", arguments.stream);
    }
    let rows: Vec<[String; 5]> = page.messages.iter().map(row).collect();
    let mut out = layout(["SEQUENCE", "ACCEPTED (UTC)", "TOPIC", "BYTES", "PAYLOAD"], &rows, &[2, 4]);
    let count = page.count.map_or(String::new(), |count| format!(" of {count}"));
    let more = page.next.map_or(String::new(), |next| format!("; --from {next} goes on"));
    let _ = writeln!(out, "{}{count} {what}{more}", page.messages.len());
    out
}

fn row(line: &Line) -> [String; 5] {
    let payload = line.payload().unwrap_or_default();
    [
        line.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string()),
        line.time.as_deref().map_or_else(|| "-".to_owned(), short_time),
        printable(&line.topic),
        size(&json!(payload.len())),
        preview(&payload),
    ]
}

/// The beginning of a payload: text as it may be shown, or bytes.
fn preview(payload: &[u8]) -> String {
    let head = &payload[..payload.len().min(PREVIEW_BYTES)];
    let more = if payload.len() > head.len() { ".." } else { "" };
    match std::str::from_utf8(head) {
        Ok(text) => printable(text) + more,
        // A character that is cut in two is none to be afraid of.
        Err(error) if more == ".." && error.error_len().is_none() => {
            printable(std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()) + more
        }
        Err(_) => head.iter().fold("0x".to_owned(), |out, byte| format!("{out}{byte:02x}")) + more,
    }
}

fn payload(arguments: &Arguments, mut source: Source, sequence: u64) -> Result<(), Trouble> {
    let part = if arguments.kept { Part::Kept } else { Part::Backlog };
    let page = source.messages(&arguments.stream, Range { part, from: sequence, to: sequence }, 1)?;
    let line = page.messages.first().filter(|line| line.sequence == Some(sequence));
    let line = line.ok_or_else(|| {
        let hint = if arguments.kept { "" } else { "; it may have left: --kept looks among those that are kept" };
        anyhow!("the stream `{}` has no message {sequence}{hint}", arguments.stream)
    })?;
    let payload = line.payload().map_err(|what| anyhow!(what))?;
    Ok(write(arguments, &payload)?)
}

fn write(arguments: &Arguments, payload: &[u8]) -> anyhow::Result<()> {
    if let Some(path) = &arguments.output {
        let written = File::create(path).and_then(|mut file| file.write_all(payload).and_then(|()| file.sync_all()));
        return written.with_context(|| format!("cannot write {}", path.display()));
    }
    if io::stdout().is_terminal() {
        match std::str::from_utf8(payload) {
            Ok(text) if text.lines().all(|line| printable(line) == line) => print(&format!("{text}\n")),
            Ok(_) | Err(_) => bail!("the payload is nothing that a terminal can show; give -o FILE, or a pipe"),
        }
        return Ok(());
    }
    match io::stdout().lock().write_all(payload) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_text_or_as_bytes() {
        assert_eq!(preview(b"21.5"), "21.5");
        assert_eq!(preview("{\"t\":\n1}\u{1b}[2J".as_bytes()), "{\"t\":\\n1}\\u{1b}[2J");
        assert_eq!(preview(b"\xff\x00\x10"), "0xff0010");
        let long = "é".repeat(400);
        assert_eq!(preview(long.as_bytes()), "é".repeat(256) + "..");
        let odd = format!("a{long}");
        assert_eq!(preview(odd.as_bytes()), format!("a{}..", "é".repeat(255)));
    }
}
