//! `tidegate import`: lines of JSON become messages of a stream.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, Seek as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{
    complain,
    gateway::{Door, Gateway, Trouble, outcome, stream_name},
    progress,
    words::printable,
};
use crate::{admin::IMPORT_BYTES_MAX, record::Line};

/// Bytes of lines sent at a time; one longer line goes alone.
const BATCH_BYTES: usize = 1 << 20;

/// Lines sent at a time: one commit.
const BATCH_LINES: usize = 4000;

/// Bad lines that are told.
const TOLD_MAX: u64 = 20;

/// Stores lines of `tidegate export` as new messages of a stream of the running gateway.
///
/// They come behind what is there, in the order of the lines, each with the id and time that it had: upstream they are `tg-id` and
/// `tg-time`. A message comes in once: what was imported before, or is still there, is passed over and counted, so after a
/// broken connection or a full disk the same command goes on where it stopped. A file is checked whole before the first message is taken; standard input is
/// checked batch by batch.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    /// The file [default: standard input]
    file: Option<PathBuf>,
    /// Also what was imported before: messages that were purged since, or numbers that began anew
    #[arg(long)]
    again: bool,
    /// Passes over lines that cannot be read, and counts them
    #[arg(long)]
    skip_bad: bool,
    /// Reads and checks the lines, and imports nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    door: Door,
}

/// How far it got.
#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    skipped: u64,
    bad: u64,
    good: u64,
    without_id: u64,
}

/// Lines on their way.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Their numbers in the file.
    numbers: Vec<u64>,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    outcome(import(arguments))
}

fn import(arguments: &Arguments) -> Result<(), Trouble> {
    let gateway = if arguments.check { None } else { Some(arguments.door.open()?) };
    let path = arguments.file.as_deref().filter(|path| path.as_os_str() != "-");
    let mut tally = Tally::default();
    let done = match path {
        None => pass(arguments, io::stdin().lock(), gateway.as_ref(), &mut tally, &ProgressBar::hidden()),
        Some(path) => file(arguments, path, gateway.as_ref(), &mut tally),
    };
    if let Err(error) = done {
        let Tally { accepted, skipped, .. } = tally;
        let how_far = if gateway.is_none() || accepted + skipped == 0 {
            "nothing was imported".to_owned()
        } else {
            format!("{accepted} messages were imported and {skipped} skipped before; the same command goes on there")
        };
        return Err(error.context(how_far).into());
    }
    report(arguments, &tally);
    Ok(())
}

fn file(arguments: &Arguments, path: &Path, gateway: Option<&Gateway>, tally: &mut Tally) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let known = file.metadata().with_context(cannot)?;
    if !known.is_file() {
        return pass(arguments, BufReader::new(file), gateway, tally, &ProgressBar::hidden());
    }
    if let Some(gateway) = gateway {
        let bar = progress::bytes(known.len());
        bar.set_message("checked");
        let mut checked = Tally::default();
        pass(arguments, BufReader::new(&file), None, &mut checked, &bar)?;
        file.rewind().with_context(cannot)?;
        bar.set_position(0);
        bar.set_message("imported");
        let done = pass(arguments, BufReader::new(file), Some(gateway), tally, &bar);
        bar.finish_and_clear();
        return done;
    }
    pass(arguments, BufReader::new(file), None, tally, &progress::bytes(known.len()))
}

/// Reads and checks all lines, and sends them where there is a gateway.
fn pass(
    arguments: &Arguments,
    mut input: impl BufRead,
    gateway: Option<&Gateway>,
    tally: &mut Tally,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let now_unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let now_unix_ms = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
    // What is sent was told already where the file was checked before.
    let tells = gateway.is_none() || arguments.file.as_deref().is_none_or(|path| !path.is_file());
    let mut batch = Batch::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = read_line(&mut input, &mut line).with_context(|| format!("line {number} cannot be read"))?;
        if read == 0 {
            break;
        }
        bar.inc(read);
        if line.trim_ascii().is_empty() {
            continue;
        }
        match check(&line, now_unix_ms) {
            Ok(has_id) => {
                tally.good += 1;
                tally.without_id += u64::from(!has_id);
            }
            Err(what) => {
                tally.bad += 1;
                if tells && tally.bad <= TOLD_MAX {
                    bar.suspend(|| complain(&format!("tidegate: line {number}: {}\n", printable(&what))));
                }
                // Of a stream nothing behind a bad line is taken: whoever mends it gives all of it again.
                if gateway.is_some() && !arguments.skip_bad {
                    break;
                }
                continue;
            }
        }
        if let Some(gateway) = gateway {
            if batch.is_full_with(&line) {
                send(arguments, gateway, &mut batch, tally)?;
            }
            batch.push(&line, number);
        }
    }
    if tally.bad > 0 && !arguments.skip_bad {
        let more = tally.bad.saturating_sub(TOLD_MAX);
        let more = if more > 0 { format!(", {more} more than told") } else { String::new() };
        return Err(anyhow!("{} bad lines{more}; --skip-bad takes the others", tally.bad));
    }
    if let Some(gateway) = gateway {
        send(arguments, gateway, &mut batch, tally)?;
    }
    Ok(())
}

/// A line with its end, at most a little longer than may be; the number of its bytes.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let most = IMPORT_BYTES_MAX as u64 + 1;
    let read = io::Read::take(&mut *input, most).read_until(b'\n', line)?;
    let mut all = read as u64;
    if all == most && line.last() != Some(&b'\n') {
        // Too long: it is told as that, and the rest of it is no other line.
        loop {
            let (used, ends) = {
                let buffer = input.fill_buf()?;
                match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(at) => (at + 1, true),
                    None => (buffer.len(), buffer.is_empty()),
                }
            };
            input.consume(used);
            all += used as u64;
            if ends {
                break;
            }
        }
    }
    Ok(all)
}

/// Whether a line has an id, or what is wrong with it.
fn check(line: &[u8], now_unix_ms: i64) -> Result<bool, String> {
    if line.len() > IMPORT_BYTES_MAX {
        return Err(format!("longer than {IMPORT_BYTES_MAX} bytes, which no import takes"));
    }
    let line = Line::parse(line)?;
    line.message(now_unix_ms).map(|_| line.id.is_some())
}

impl Batch {
    fn is_full_with(&self, line: &[u8]) -> bool {
        self.numbers.len() >= BATCH_LINES || (!self.numbers.is_empty() && self.bytes.len() + line.len() > BATCH_BYTES)
    }

    fn push(&mut self, line: &[u8], number: u64) {
        self.bytes.extend_from_slice(line.trim_ascii());
        self.bytes.push(b'\n');
        self.numbers.push(number);
    }
}

/// Sends a batch and waits until it is on the gateway's disk.
fn send(arguments: &Arguments, gateway: &Gateway, batch: &mut Batch, tally: &mut Tally) -> anyhow::Result<()> {
    let Batch { bytes, numbers } = std::mem::take(batch);
    let Some(&first) = numbers.first() else { return Ok(()) };
    let again = if arguments.again { "?again=true" } else { "" };
    let path = format!("/api/v1/streams/{}/messages{again}", arguments.stream);
    let (status, answer) = gateway.post_lines(&path, bytes.into()).with_context(|| format!("line {first}"))?;
    let count = |name: &str| answer[name].as_u64().unwrap_or(0);
    let (accepted, skipped) = (count("accepted"), count("skipped"));
    tally.accepted += accepted;
    tally.skipped += skipped;
    if status == 200 {
        return Ok(());
    }
    let stopped = usize::try_from(accepted + skipped).ok().and_then(|at| numbers.get(at)).unwrap_or(&first);
    let why = answer["error"]["message"].as_str().unwrap_or("it was refused");
    Err(anyhow!("line {stopped}: {}", printable(why)))
}

fn report(arguments: &Arguments, tally: &Tally) {
    let Tally { accepted, skipped, bad, good, without_id } = tally;
    let answer: Value = if arguments.check {
        json!({ "stream": arguments.stream, "lines": good, "bad": bad, "without_id": without_id })
    } else {
        json!({
            "stream": arguments.stream, "accepted": accepted, "skipped": skipped, "bad": bad, "without_id": without_id,
        })
    };
    arguments.door.show(&answer, |_| {
        let mut out = if arguments.check {
            format!("{good} lines can be imported\n")
        } else {
            format!("{accepted} messages imported into {}\n", arguments.stream)
        };
        if *skipped > 0 {
            let _ = writeln!(out, "{skipped} skipped: imported before, or still there (--again takes them, too)");
        }
        if *bad > 0 {
            let _ = writeln!(out, "{bad} bad lines passed over");
        }
        if *without_id > 0 {
            let _ = writeln!(out, "{without_id} have no id: imported again they would come in again");
        }
        out
    });
}
