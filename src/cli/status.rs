//! `tidegate status` and `tidegate streams`: the running gateway at a glance.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{
    gateway::{Door, Trouble, outcome},
    table::layout,
    words::{duration, facts_text, printable, rate, size, text},
};

/// Shows the running gateway at a glance.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    door: Door,
}

/// Shows the backlog of every stream, its age, rates and time to drain.
#[derive(Debug, Args)]
pub(super) struct Streams {
    #[command(flatten)]
    door: Door,
}

pub(super) fn status(arguments: &Status) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let answer = arguments.door.open()?.get("/api/v1/status")?;
        arguments.door.show(&answer, status_words);
        Ok(())
    };
    outcome(run())
}

pub(super) fn streams(arguments: &Streams) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let answer = arguments.door.open()?.get("/api/v1/streams")?;
        arguments.door.show(&answer, streams_words);
        Ok(())
    };
    outcome(run())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn status_words(status: &Value) -> String {
    let store = &status["store"];
    let refusing =
        store["refusing"].as_str().map_or(String::new(), |why| format!(", REFUSING MESSAGES: {}", printable(why)));
    let synced = if status["clock"]["synced"] == true { "" } else { " (not set yet)" };
    let facts = [
        ("gateway", format!("{}, version {}", text(&status["gateway_id"]), text(&status["version"]))),
        ("up for", duration(&status["uptime_seconds"])),
        ("ready", if status["ready"] == true { "yes".to_owned() } else { "NO: see /health/ready".to_owned() }),
        ("clock", format!("{}{synced}", text(&status["clock"]["now"]))),
        ("store", format!("{}, {} free on its disk{refusing}", size(&store["bytes"]), size(&store["free_bytes"]))),
    ];
    let mut out = facts_text(&facts);
    let row = |uplink: &Value| {
        [
            text(&uplink["name"]),
            text(&uplink["state"]),
            duration(&uplink["since_seconds"]),
            text(&uplink["in_flight"]),
            text(&uplink["connects"]),
            text(&uplink["last_error"]),
        ]
    };
    let rows: Vec<_> = items(&status["uplinks"]).iter().map(row).collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&layout(["UPLINK", "STATE", "FOR", "IN FLIGHT", "CONNECTS", "LAST ERROR"], &rows));
    }
    let row = |listener: &Value| [text(&listener["name"]), text(&listener["bind"]), text(&listener["connections"])];
    let rows: Vec<_> = items(&status["listeners"]).iter().map(row).collect();
    out.push('\n');
    out.push_str(&layout(["LISTENER", "ADDRESS", "CLIENTS"], &rows));
    out
}

fn streams_words(answer: &Value) -> String {
    let streams = items(&answer["streams"]);
    if streams.is_empty() {
        return "no streams\n".to_owned();
    }
    let rows: Vec<_> = streams.iter().map(row).collect();
    layout(["STREAM", "TO", "BACKLOG", "BYTES", "OLDEST", "IN", "OUT", "DRAINED IN", "DEAD", "KEPT", "STATE"], &rows)
}

fn row(stream: &Value) -> [String; 11] {
    let backlog = &stream["backlog"];
    [
        text(&stream["name"]),
        text(&stream["to"]),
        text(&backlog["messages"]),
        size(&backlog["bytes"]),
        duration(&backlog["oldest_age_seconds"]),
        rate(&stream["rate_in_per_s"]),
        rate(&stream["rate_out_per_s"]),
        duration(&stream["seconds_to_drain"]),
        text(&stream["dead"]),
        text(&stream["kept"]["messages"]),
        state(stream),
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
