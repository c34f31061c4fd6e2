//! `tidegate pause`, `resume`, `purge`, `replay`: what an operator does to a stream.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::{
    gateway::{Door, Gateway, Trouble, in_query, outcome, stream_name},
    progress,
    status::stream_line,
    words::text,
};

/// Forwards nothing new of a stream until `resume`, also across restarts; it goes on taking messages.
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    #[command(flatten)]
    door: Door,
}

/// Lets a paused stream forward again.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    #[command(flatten)]
    door: Door,
}

/// Removes everything that waits in a stream now, for good, and counts it as purged.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    /// The last sequence number that goes, such as the last of an export; what came in behind it stays
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    #[command(flatten)]
    door: Door,
}

/// Sends kept messages of a stream again (`retain_sent`), marked with `tg-replay`, beside what is new.
///
/// Times are those at which messages were accepted: RFC 3339 such as 2026-11-21T10:00:00Z, or how long ago, such as 2h. On a terminal it
/// shows how far the replay is until it is done; Ctrl-C ends the watching, not the replay. That goes on across restarts; `tidegate streams` shows what is left.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["since", "until", "stop"])]
pub(super) struct Replay {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    /// Messages accepted from this time on
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Messages accepted before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Ends the replay that runs
    #[arg(long, conflicts_with_all = ["since", "until"])]
    stop: bool,
    /// Waits until it is done, also where stderr is no terminal
    #[arg(long, conflicts_with_all = ["stop", "no_wait"])]
    wait: bool,
    /// Does not wait until it is done
    #[arg(long, conflicts_with = "stop")]
    no_wait: bool,
    #[command(flatten)]
    door: Door,
}

/// Between two looks at a replay.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn replay(arguments: &Replay) -> ExitCode {
    let query = if arguments.stop {
        "stop=true".to_owned()
    } else {
        let part = |name: &str, time: &Option<String>| time.as_ref().map(|time| format!("{name}={}", in_query(time)));
        let parts = [part("since", &arguments.since), part("until", &arguments.until)];
        parts.into_iter().flatten().collect::<Vec<_>>().join("&")
    };
    let run = || -> Result<(), Trouble> {
        let gateway = arguments.door.open()?;
        let mut answer = gateway.post(&format!("/api/v1/streams/{}/replay?{query}", arguments.stream))?;
        if !arguments.stop && !arguments.no_wait && (arguments.wait || io::stderr().is_terminal()) {
            let messages = answer["messages"].take();
            answer = watch(&gateway, &arguments.stream, messages.as_u64())?;
            answer["messages"] = messages;
            arguments.door.show(&answer, |answer| {
                format!("{} messages were sent again, at most\n{}", text(&answer["messages"]), stream_line(answer))
            });
            return Ok(());
        }
        let what = if arguments.stop { "messages are not sent again" } else { "messages are sent again, at most" };
        arguments.door.show(&answer, |answer| format!("{} {what}\n{}", text(&answer["messages"]), stream_line(answer)));
        Ok(())
    };
    outcome(run())
}

/// Shows how far a replay is until it has ended; the stream as it is then.
fn watch(gateway: &Gateway, stream: &str, count: Option<u64>) -> anyhow::Result<Value> {
    let bar = progress::bar(count, "messages sent again");
    loop {
        let answer = gateway.get(&format!("/api/v1/streams/{stream}"))?;
        let Some(left) = answer["replay"]["left"].as_u64() else {
            bar.finish_and_clear();
            return Ok(answer);
        };
        bar.set_position(count.unwrap_or(left).saturating_sub(left));
        std::thread::sleep(LOOK_EVERY);
    }
}

pub(super) fn pause(arguments: &Pause) -> ExitCode {
    outcome(order(&arguments.door, &arguments.stream, "pause"))
}

pub(super) fn resume(arguments: &Resume) -> ExitCode {
    outcome(order(&arguments.door, &arguments.stream, "resume"))
}

pub(super) fn purge(arguments: &Purge) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let to = arguments.to.map_or(String::new(), |last| format!("?to={last}"));
        let answer = arguments.door.open()?.post(&format!("/api/v1/streams/{}/purge{to}", arguments.stream))?;
        arguments
            .door
            .show(&answer, |answer| format!("{} messages purged\n{}", text(&answer["messages"]), stream_line(answer)));
        Ok(())
    };
    outcome(run())
}

fn order(door: &Door, stream: &str, what: &str) -> Result<(), Trouble> {
    let answer = door.open()?.post(&format!("/api/v1/streams/{stream}/{what}"))?;
    door.show(&answer, stream_line);
    Ok(())
}
