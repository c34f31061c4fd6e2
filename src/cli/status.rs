//! `tidegate status` and `tidegate streams`: the running gateway at a glance.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use super::{
    gateway::{Door, Trouble, outcome},
    source::Where,
    table::{Cell, layout, wrapped},
    terminal::{Tone, columns},
    words::{duration, facts_text, printable, rate, size, text},
};

/// Begins the lines of what somebody should do something about.
const ALARM: &str = "ALARM  ";

/// Before the second and further lines of an error.
const INDENT: &str = "    ";

/// Shows the running gateway at a glance.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    door: Door,
}

/// Shows the backlog of every stream, its age, rates and time to drain; also of a stopped gateway.
#[derive(Debug, Args)]
pub(super) struct Streams {
    #[command(flatten)]
    place: Where,
}

pub(super) fn status(arguments: &Status) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let gateway = arguments.door.open()?;
        let answer = gateway.get("/api/v1/status")?;
        let words = if arguments.door.json {
            String::new()
        } else {
            let not_ready = if answer["ready"] == true { Vec::new() } else { gateway.not_ready()? };
            status_words(&answer, &gateway.get("/api/v1/streams")?, &not_ready)
        };
        arguments.door.show(&answer, |_| words);
        Ok(())
    };
    outcome(run())
}

pub(super) fn streams(arguments: &Streams) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let answer = arguments.place.open()?.streams()?;
        arguments.place.door.show(&answer, streams_words);
        Ok(())
    };
    outcome(run())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn status_words(status: &Value, streams: &Value, not_ready: &[String]) -> String {
    let mut out = alarms(status, streams, not_ready);
    let store = &status["store"];
    let synced = if status["clock"]["synced"] == true { "" } else { " (not set yet)" };
    let facts = [
        ("gateway", format!("{}, version {}", text(&status["gateway_id"]), text(&status["version"]))),
        ("up for", duration(&status["uptime_seconds"])),
        ("ready", if status["ready"] == true { "yes".to_owned() } else { Tone::Bad.paint("NO") }),
        ("clock", format!("{}{synced}", text(&status["clock"]["now"]))),
        ("store", format!("{}, {} free on its disk", size(&store["bytes"]), size(&store["free_bytes"]))),
        ("backlog", backlog(items(&streams["streams"]))),
    ];
    out.push_str(&facts_text(&facts));
    let row = |uplink: &Value| -> [Cell; 5] {
        let connected = uplink["state"] == "connected";
        [
            text(&uplink["name"]).into(),
            (if connected { Tone::Good } else { Tone::Bad }).cell(text(&uplink["state"])),
            duration(&uplink["since_seconds"]).into(),
            text(&uplink["in_flight"]).into(),
            text(&uplink["connects"]).into(),
        ]
    };
    let rows: Vec<_> = items(&status["uplinks"]).iter().map(row).collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&layout(["UPLINK", "STATE", "FOR", "IN FLIGHT", "CONNECTS"], &rows, &[0]));
        for uplink in items(&status["uplinks"]) {
            if let Some(error) = uplink["last_error"].as_str() {
                let line = format!("last error of {}: {}", text(&uplink["name"]), printable(error));
                out.push_str(&wrapped(&line, columns() - INDENT.len(), INDENT));
                out.push('\n');
            }
        }
    }
    let row = |listener: &Value| [text(&listener["name"]), text(&listener["bind"]), text(&listener["connections"])];
    let rows: Vec<_> = items(&status["listeners"]).iter().map(row).collect();
    out.push('\n');
    out.push_str(&layout(["LISTENER", "ADDRESS", "CLIENTS"], &rows, &[0, 1]));
    out
}

/// What somebody should do something about, one a line, most urgent first; nothing where all is well.
fn alarms(status: &Value, streams: &Value, not_ready: &[String]) -> String {
    let store = &status["store"];
    let refusing = store["refusing"].as_str().map(|why| format!("messages are refused: {}", printable(why)));
    let down = items(&status["uplinks"]).iter().filter(|uplink| uplink["state"] != "connected").map(|uplink| {
        let why = uplink["last_error"].as_str().map_or(String::new(), |why| format!(": {}", printable(why)));
        let since = duration(&uplink["since_seconds"]);
        format!("the uplink {} is not connected ({} for {since}){why}", text(&uplink["name"]), text(&uplink["state"]))
    });
    let said = items(&store["alarms"]).iter().filter_map(Value::as_str).map(printable);
    let paused = items(&streams["streams"]).iter().filter(|stream| stream["paused"] == true);
    let paused = paused.map(|stream| format!("the stream {} is paused", text(&stream["name"])));
    let mut out = String::new();
    let mut told: Vec<String> = Vec::new();
    for alarm in not_ready.iter().cloned().chain(refusing).chain(said).chain(down).chain(paused) {
        // The same may be a reason and an alarm.
        if !told.contains(&alarm) {
            let line = wrapped(&alarm, columns() - ALARM.len(), &" ".repeat(ALARM.len()));
            let _ = writeln!(out, "{}{line}", Tone::Bad.paint(ALARM));
            told.push(alarm);
        }
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// All streams together, in a line.
fn backlog(streams: &[Value]) -> String {
    let sum = |of: &dyn Fn(&Value) -> &Value| streams.iter().filter_map(|stream| of(stream).as_f64()).sum::<f64>();
    let messages: u64 = streams.iter().filter_map(|stream| stream["backlog"]["messages"].as_u64()).sum();
    let bytes = json!(sum(&|stream| &stream["backlog"]["bytes"]));
    let (comes, goes) =
        (json!(sum(&|stream| &stream["rate_in_per_s"])), json!(sum(&|stream| &stream["rate_out_per_s"])));
    format!("{messages} messages, {}; in {}, out {}", size(&bytes), rate(&comes), rate(&goes))
}

fn streams_words(answer: &Value) -> String {
    let streams = items(&answer["streams"]);
    if streams.is_empty() {
        return "no streams\n".to_owned();
    }
    let rows: Vec<_> = streams.iter().map(row).collect();
    let head = ["STREAM > TO", "BACKLOG", "BYTES", "OLDEST", "IN", "OUT", "DRAINED", "STATE"];
    layout(head, &rows, &[0, 7])
}

fn row(stream: &Value) -> [Cell; 8] {
    let backlog = &stream["backlog"];
    let to = stream["to"].as_str().map_or(String::new(), |to| format!(" > {}", printable(to)));
    let said = state(stream);
    let tone = if said == "-" { Tone::Plain } else { Tone::Notable };
    [
        (text(&stream["name"]) + &to).into(),
        text(&backlog["messages"]).into(),
        size(&backlog["bytes"]).into(),
        duration(&backlog["oldest_age_seconds"]).into(),
        rate(&stream["rate_in_per_s"]).into(),
        rate(&stream["rate_out_per_s"]).into(),
        duration(&stream["seconds_to_drain"]).into(),
        tone.cell(said),
    ]
}

/// What is out of the ordinary with a stream.
fn state(stream: &Value) -> String {
    let mut said = Vec::new();
    if stream["configured"] == false {
        said.push("not configured".to_owned());
    }
    if stream["paused"] == true {
        said.push("paused".to_owned());
    }
    if let Some(left) = stream["replay"]["left"].as_u64() {
        said.push(format!("replay, {left} left"));
    }
    let counts = [("dead", &stream["dead"]), ("kept", &stream["kept"]["messages"])];
    said.extend(
        counts.iter().filter_map(|(word, count)| {
            count.as_u64().filter(|count| *count > 0).map(|count| format!("{count} {word}"))
        }),
    );
    if said.is_empty() { "-".to_owned() } else { said.join(", ") }
}

/// One stream after an order, in a line.
pub(super) fn stream_line(stream: &Value) -> String {
    let backlog = &stream["backlog"];
    format!(
        "{}: backlog {} messages, {}; {}\n",
        text(&stream["name"]),
        text(&backlog["messages"]),
        size(&backlog["bytes"]),
        match &*state(stream) {
            "-" => "running",
            said => said,
        }
    )
}
